"""The values of the health check: what a check is, what it is given, and what it tells."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, TypeVar

import msgspec

from trainguard.config import Settings
from trainguard.health import Finding, Status
from trainguard.vitals import Past

T = TypeVar("T")


class Limit(msgspec.Struct, frozen=True):
    """A limit of a check, which `health.limits` may set otherwise: where its default is from, and its unit."""

    name: str
    default: float
    unit: str
    origin: str


class Measure(msgspec.Struct, frozen=True):
    """A number that a check has read, for monitoring and for its own past.

    `name` is in snake case with its unit at the end (`disk_free_bytes`), `subject` tells several of a name apart
    (`/data`). At `attention` and `bad` the number begins to be that; below them where `low_is_bad`.
    """

    name: str
    value: float
    subject: str = ""
    attention: float | None = None
    bad: float | None = None
    low_is_bad: bool = False


class Absent(msgspec.Struct, frozen=True):
    """A check that does not apply here: why not, as one clause."""

    why: str


class Undecided(msgspec.Struct, frozen=True):
    """A check that has nothing to judge, for a reason that another one answers for: why, as one clause."""

    why: str


Told: TypeAlias = Finding | Measure | Absent | Undecided


class Reading(msgspec.Struct, frozen=True):
    """What several checks look at: a value of the type `gives`, read once in a child with a deadline in seconds.

    `read` gets the settings and whether whole files may be read (`--deep`, then within `deep_seconds`).
    """

    name: str
    gives: Any
    read: Callable[[Settings, bool], object]
    seconds: float
    deep_seconds: float | None = None


class Facts:
    """What the judgements are given: the settings, what was read, its past, and the moment (wall seconds)."""

    def __init__(
        self, settings: Settings, values: Iterable[object], past: Past, now_wall: float, deep: bool = False
    ) -> None:
        self.settings = settings
        self.past = past
        self.now_wall = now_wall
        self.deep = deep
        self._values = {type(value): value for value in values}

    def of(self, kind: type[T]) -> T:
        """What was read of this type; a check names all that it wants in `reads`."""
        value = self._values[kind]
        assert isinstance(value, kind)
        return value


class Check(msgspec.Struct, frozen=True):
    """One row: what is looked at, how it is judged, and all else that is known of it.

    `reads` are the names of readings; where one of them gives nothing, the check could not be decided, and only the
    check that is `answers_for` that reading tells a hang of it as bad. `judge` is pure; it gets the facts and the
    limits by name, and tells at least one Finding, or Absent. `worst` is how bad its findings can be. `fix` names
    the repair that mends it. It `gates` where a start would be in vain, or do harm, without it.
    """

    id: str
    component: str
    explain: str
    reads: tuple[Reading, ...]
    judge: Callable[[Facts, Mapping[str, float]], Iterable[Told]]
    worst: Status = Status.BAD
    limits: tuple[Limit, ...] = ()
    fix: str | None = None
    gates: bool = False
    answers_for: tuple[Reading, ...] = ()

    @property
    def seconds(self) -> float:
        """Its deadline: that of the slowest reading."""
        return max((reading.seconds for reading in self.reads), default=0.0)


class Result(msgspec.Struct, frozen=True):
    """What a check has told: its findings, the worst first, its measures, or why it does not apply.

    `undecided` is why the reading gave nothing, where another check answers for that.
    """

    check: Check
    findings: tuple[Finding, ...]
    measures: tuple[Measure, ...] = ()
    absent: str | None = None
    undecided: str | None = None
    acknowledged: str | None = None
    seconds: float = 0.0

    @property
    def status(self) -> Status:
        """Its worst finding; OK where it does not apply."""
        return max((one.status for one in self.findings), key=severity, default=Status.OK)


def severity(status: Status) -> int:
    """BAD is worse than what could not be decided, and that is no better than what wants attention."""
    return (Status.OK, Status.ATTENTION, Status.UNKNOWN, Status.BAD).index(status)


def ok(subject: str, fact: str) -> Finding:
    return Finding(Status.OK, subject, fact)


def attention(subject: str, fact: str, remedy: str) -> Finding:
    return Finding(Status.ATTENTION, subject, fact, remedy)


def bad(subject: str, fact: str, remedy: str) -> Finding:
    return Finding(Status.BAD, subject, fact, remedy)


def unknown(subject: str, fact: str, remedy: str = "") -> Finding:
    return Finding(Status.UNKNOWN, subject, fact, remedy)


def grade(
    value: float, limits: Mapping[str, float], subject: str, fact: str, remedy: str, low_is_bad: bool = False
) -> Finding:
    """What a number comes to: bad from the limit `bad` on, attention from `attention` on, where there are such.

    Where `low_is_bad`, below them. A number at the limit is still fine where low is bad, and beyond it where high is.
    """

    def is_beyond(name: str) -> bool:
        limit = limits.get(name)
        return limit is not None and (value < limit if low_is_bad else value >= limit)

    for name, made in (("bad", bad), ("attention", attention)):
        if is_beyond(name):
            return made(subject, fact, remedy)
    return ok(subject, fact)
