"""Judging a start by the causes of the ends before it: start, wait, or park.

A false stop costs without bound, a false restart is bounded by the window: only what is known to be in vain, or to
do harm, is not tried at once, and what is parked is tried now and then all the same.
"""

from collections.abc import Iterator, Mapping
from enum import Enum

import msgspec

from trainguard.config import RestartSettings
from trainguard.policy.values import Cause, Past, Prepared
from trainguard.quantities import size_text

DAY = 86_400.0
# Where nobody says how large the next checkpoint is, a full disk is one with less than this.
ROOM = 256 << 20
# These may hit any run at any time: the same one twice proves nothing about the run.
CHANCE = frozenset({"unknown", "process_killed", "preempted"})
REPAIR = "repair"
# Of this one the remedy is known: a higher limit of open files.
FILES = "fd_exhausted"


class Course(Enum):
    """What to do about the next start."""

    START = "start"
    WAIT = "wait"  # until there is room on the disk
    PARK = "park"


class Judgement(msgspec.Struct, frozen=True):
    """The course, why (the end of a sentence), and the cause whose remedy the start is to have."""

    course: Course
    why: str = ""
    remedy: str | None = None


def judge_start(
    prepared: Prepared,
    settings: RestartSettings,
    now_wall: float,
    forgiven_wall: float,
    trial: bool = False,
    tried: str | None = None,
) -> Judgement:
    """Whether a daemon whose run ended so is to be started now. On `trial` it is, unless the disk is full.

    `tried` is the remedy that the ended run was started with.
    """
    cause = prepared.cause
    if cause is not None and cause.type == "disk_full" and _is_full(prepared):
        return Judgement(Course.WAIT, f"the disk is full{_room(prepared)}")
    if prepared.needed is not None and prepared.free is not None and prepared.free < prepared.needed:
        return Judgement(Course.WAIT, f"the next checkpoint would not fit{_room(prepared)}")
    series = [cause, *(past.cause for past in _series(prepared.past, forgiven_wall))]
    remedy = remedy_for(cause, series, settings.on_crash)
    if trial:
        return Judgement(Course.START, remedy=remedy)
    why = (
        _hardware(series)
        or _twice_in_vain(series, remedy, tried)
        or _over_budget(prepared, settings, now_wall, forgiven_wall)
    )
    return Judgement(Course.START, remedy=remedy) if why is None else Judgement(Course.PARK, why)


def remedy_for(cause: Cause | None, series: list[Cause | None], on_crash: Mapping[str, object]) -> str | None:
    """The cause whose remedy a start gets: one of our own at once, one that the user configured the second time.

    A user's remedy has the name of the cause, else of its type.
    """
    if cause is None:
        return None
    if cause.cause == FILES:
        return FILES
    again = sum(1 for one in series if one is not None and one.cause == cause.cause) > 1
    name = next((name for name in (cause.cause, cause.type) if name in on_crash), None)
    return name if again else None


def _series(past: tuple[Past, ...], forgiven_wall: float) -> Iterator[Past]:
    """The earlier ends after which no new step was made, the newest first."""
    for one in past:
        if one.stepped or one.at_wall <= forgiven_wall:
            return
        yield one


def _hardware(series: list[Cause | None]) -> str | None:
    """The full diagnosis of the end before may have come after its restart."""
    for one in series[:2]:
        if one is not None and one.verdicts[:1] == (REPAIR,):
            return f"{one.cause}: the machine needs a person, not a restart"
    return None


def _twice_in_vain(series: list[Cause | None], remedy: str | None, tried: str | None) -> str | None:
    """The same again without a new step between, or a second end that no restart helps."""
    newest = series[0]
    if newest is None or newest.type in CHANCE:
        return None
    same = sum(1 for one in series if one is not None and one.fingerprint == newest.fingerprint)
    # The second time is the remedy's; only the third shows that it was in vain too.
    allowed = 2 if remedy not in (None, FILES, tried) else 1
    if same > allowed:
        return f"{newest.cause} ended it {same} times at the same place without a new step"
    alike = sum(1 for one in series if one is not None and one.type == newest.type)
    if newest.retry == "no" and alike > allowed:
        return f"{newest.type}, which no restart helps, ended it {alike} times without a new step"
    return None


def _over_budget(
    prepared: Prepared, settings: RestartSettings, now_wall: float, forgiven_wall: float
) -> str | None:
    cause = prepared.cause
    if cause is None or cause.type in CHANCE:
        return None
    since = max(forgiven_wall, now_wall - DAY)
    count = 1 + sum(
        1
        for past in prepared.past
        if past.at_wall > since and past.cause is not None and past.cause.cause == cause.cause
    )
    if count <= settings.same_cause:
        return None
    return f"{cause.cause} ended it {count} times within a day (restart.same_cause is {settings.same_cause})"


def _is_full(prepared: Prepared) -> bool:
    return prepared.free is not None and prepared.free < (prepared.needed or ROOM)


def _room(prepared: Prepared) -> str:
    free = "" if prepared.free is None else f": {size_text(prepared.free)} are free"
    needed = "" if not prepared.needed else f", the last checkpoint has {size_text(prepared.needed)}"
    return free + needed
