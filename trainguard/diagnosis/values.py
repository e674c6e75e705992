"""The values of a diagnosis: lines, what is observed in them, and the crashes that come out. All frozen."""

from collections.abc import Callable, Mapping, Sequence
from enum import Enum

import msgspec

from trainguard.crash_types import Blame, Retry
from trainguard.signatures import Signature


class Line(msgspec.Struct, frozen=True):
    """One segment of a log, between two line ends (`\\n` or `\\r`), without escapes.

    `number` counts `\\n` from 1 and is None where it is unknown; `offset` is in bytes from the file's start.
    `body` is the text without what launchers and loggers put before it; `rank` and `stream` come from there:
    lines of one stream were printed by one process. `time` is wall time in seconds as the line tells it, read
    as local time.
    """

    file: str
    number: int | None
    offset: int
    text: str
    body: str
    rank: int | None = None
    stream: str = ""
    time: float | None = None


class Gap(msgspec.Struct, frozen=True):
    """Lines that were not kept; `went_on` where they show that training advanced."""

    went_on: bool = False


class Origin(Enum):
    """Where an observation comes from."""

    TRACEBACK = "traceback"
    LINE = "line"
    KERNEL = "kernel"
    STATUS = "status"  # the exit status that the watchdog saw
    LOSS = "loss"  # a loss that is no number


class Observation(msgspec.Struct, frozen=True):
    """One failure that a log, or the machine, tells of: an observation, not yet a verdict.

    `strength` ranks the candidates for the root, see `judging`. `fatal`: its process ended by it.
    `place` is the innermost function of the user's own code in a traceback. `chained` is the final line of the
    exception that this one followed, `caused` whether as its direct cause. `order` counts the lines before it,
    `spoken` those of them that tell of no failure, `advances` the advances of training before it.
    """

    line: Line
    origin: Origin
    type: str
    cause: str
    strength: int
    fatal: bool
    signature: str | None = None
    exception: str | None = None
    place: str = ""
    rank: int | None = None
    facts: Mapping[str, str] = msgspec.field(default_factory=dict)
    time: float | None = None
    order: int = 0
    spoken: int = 0
    advances: int = 0
    chained: Line | None = None
    caused: bool = False


class Advance(msgspec.Struct, frozen=True):
    """Training did something: what it said, so that a repetition is told from an advance."""

    line: Line
    key: str
    step: float | None
    loss: float | None


class Begin(msgspec.Struct, frozen=True):
    """A run begins here."""

    line: Line


class Rest(msgspec.Struct, frozen=True):
    """Nothing was written here for a while, as an earlier look at the log has seen."""


class End(msgspec.Struct, frozen=True):
    """A run has ended well here."""

    line: Line


class Stop(msgspec.Struct, frozen=True):
    """The log stops here, after so many lines."""

    order: int


Event = Observation | Advance | Begin | Rest | End | Gap | Stop

Matcher = Callable[[str], Sequence[Signature]]


class Evidence(msgspec.Struct, frozen=True):
    """A line as it is shown: `line` counts `\\n` from 1, None where that is unknown; `offset` in bytes."""

    file: str
    line: int | None
    text: str
    offset: int = 0


class Consequence(msgspec.Struct, frozen=True):
    """A failure that the root cause set off."""

    type: str
    file: str
    line: int | None
    text: str
    rank: int | None = None


class Facts(msgspec.Struct, frozen=True):
    """What is known beyond the log. None is unknown.

    `exit_code` and `signal` (its name) of the daemon exclude each other; `hang` is the watchdog's reason where
    it found one; `free_bytes` by path, `oom_kills` the cgroup's counter since the run began; `gpu_foreign` names
    processes of others on the GPUs; `time` is the wall time of the end.
    """

    exit_code: int | None = None
    signal: str | None = None
    hang: str | None = None
    time: float | None = None
    free_bytes: Mapping[str, int] = msgspec.field(default_factory=dict)
    memory_available: int | None = None
    oom_kills: int | None = None
    gpu_foreign: tuple[str, ...] = ()
    scheduler_state: str | None = None
    pids: frozenset[int] = frozenset()


class Crash(msgspec.Struct, frozen=True, rename={"blame": "class"}):
    """One crash: its root cause, what that set off, what shows it, and what to do.

    `time` is ISO 8601 in local time; `count`, `first_seen` and `last_seen` are of all crashes with the same
    fingerprint in the history, this one included.
    """

    type: str
    cause: str
    blame: Blame
    retry: Retry
    root: Evidence
    rank: int | None
    exception: str | None
    consequences: tuple[Consequence, ...]
    evidence: tuple[Evidence, ...]
    advice: tuple[str, ...]
    fingerprint: str
    time: str | None
    count: int = 1
    first_seen: str | None = None
    last_seen: str | None = None
