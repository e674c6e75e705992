"""Patience: what a run is at, how long that may take without a step, and what kind of standstill it is. Pure.

Only while a run trains is the limit short, and learnt from its own pace: a hang that is noticed late costs
minutes, a healthy evaluation that is stopped costs the run.
"""

from enum import Enum

import msgspec

from trainguard.config import ProgressSettings

# Interval maxima are kept by the block, so that a slow save is remembered over hundreds of looks in a few bytes.
BLOCKS = 8
BLOCK_LENGTH = 64
# While fewer intervals are known, a busy processor may as well be compiling: graphs are built at early steps.
YOUNG_INTERVALS = 16
# What was slow once may be this much slower next time, and elsewhere than in training too.
GENEROSITY = 3
BUSY_CORES = 0.25
BUSY_BYTES_PER_SECOND = 1_000_000


class Work(str, Enum):
    """What a run is at."""

    STARTING = "starting"  # loading, tokenising: before its first step, or before the next job's
    COMPILING = "compiling"
    TRAINING = "training"
    EVALUATING = "evaluating"
    SAVING = "saving"
    IDLE = "idle"  # it says that it waits for work
    FINISHED = "finished"  # it says that it is over


WAITING = (Work.IDLE, Work.FINISHED)


class Standstill(str, Enum):
    """What the processes of a run do while it makes no step, by what each look tells anyhow.

    Whether a GPU is busy is not known here; what a hung run is asked before it is stopped tells more.
    """

    FROZEN = "frozen"  # state T: stopped by a signal or a debugger
    DISK_SLEEP = "disk_sleep"  # state D: waits in the kernel, mostly for a disk or a file server
    CPU_BUSY = "cpu_busy"  # data, compiling, or a collective that spins
    IO_BUSY = "io_busy"
    ALL_IDLE = "all_idle"  # a deadlock, or a wait for a peer, a pipe or a GPU
    UNKNOWN = "unknown"


class Doing(msgspec.Struct, frozen=True):
    """What the processes of a run did in some `seconds`. `io_bytes`: read and written, None where untold.

    `compilers` are named, `stopped` (state T) and `stuck` (state D, and no CPU time) are named with their pid.
    """

    seconds: float
    cpu_seconds: float
    io_bytes: int | None = None
    compilers: tuple[str, ...] = ()
    stopped: tuple[str, ...] = ()
    stuck: tuple[str, ...] = ()

    def cores(self) -> float:
        """How many processors were busy, on the average."""
        return self.cpu_seconds / self.seconds if self.seconds > 0 else 0.0

    def bytes_per_second(self) -> float:
        """How fast it read and wrote, on the average."""
        return (self.io_bytes or 0) / self.seconds if self.seconds > 0 else 0.0


class Pace(msgspec.Struct, frozen=True):
    """How long a run takes from step to step, as seen: usually, and at the slowest of each block, newest last.

    `since` is the look that saw the counter move last, or begin anew (monotonic seconds).
    """

    usual: float = 0.0
    slowest: tuple[float, ...] = ()
    intervals: int = 0
    since: float | None = None


def learn_pace(pace: Pace, now: float, gained: int, watched: bool) -> Pace:
    """The pace after an advance of `gained` steps. `watched`: a look since the last one saw none.

    Only a watched silence is known to be one; between looks that both saw an advance the steps are counted.
    """
    if pace.since is None:
        return msgspec.structs.replace(pace, since=now)
    span = max(0.0, now - pace.since)
    interval = span if watched else span / max(1, gained)
    # A line for every k steps, seen at one look and at the next, may yet be silent for two.
    slowest = span if watched else max(interval, 2 * span / GENEROSITY)
    blocks = pace.slowest if pace.intervals % BLOCK_LENGTH else (*pace.slowest, 0.0)[-BLOCKS:]
    usual = pace.usual + (interval - pace.usual) / min(pace.intervals + 1, BLOCK_LENGTH)
    return Pace(usual, (*blocks[:-1], max(blocks[-1], slowest)), pace.intervals + 1, now)


def judge_limit(pace: Pace, limits: ProgressSettings) -> float:
    """How long a run of this pace may train without a step.

    Its usual interval times the factor, for the evaluation or the save that nobody announces; thrice its
    slowest recent one, which was such a pause. Never under `timeout`, and never above `timeout_cap`, unless
    `timeout` itself is.
    """
    learnt = max(limits.timeout_factor * pace.usual, GENEROSITY * max(pace.slowest, default=0.0))
    return max(limits.timeout, min(learnt, limits.timeout_cap))


def judge_patience(work: Work, pace: Pace, limits: ProgressSettings) -> float | None:
    """How long a run may be at this work without a step or a sign, None where it may wait for ever."""
    if work in WAITING:
        return None
    if work is Work.STARTING:
        return limits.startup_timeout
    learnt = judge_limit(pace, limits)
    if work is Work.TRAINING:
        return learnt
    return max(limits.startup_timeout, learnt, min(GENEROSITY * learnt, limits.timeout_cap))


def judge_work(
    said: Work | None,
    ended: bool,
    stepped: bool,
    growing: bool,
    doing: Doing | None,
    still: Doing | None,
    pace: Pace,
) -> Work:
    """What a run is at: by its own words first where it waits, else by what is seen, else by its words.

    `said` is what its lines told last, `ended` that it said it was over, `stepped` that it made a step since
    it began (or began anew), `growing` that files grow where it saves; `doing` is what its processes did
    since the last look, `still` since the last step or sign.
    """
    if ended:
        return Work.FINISHED
    if said in (Work.IDLE, Work.FINISHED):
        return said
    if growing:
        return Work.SAVING
    if doing is not None and doing.compilers:
        return Work.COMPILING
    if said in (Work.EVALUATING, Work.SAVING, Work.COMPILING):
        return said
    if not stepped or said is Work.STARTING:
        return Work.STARTING
    busy = still is not None and still.cores() >= BUSY_CORES
    return Work.COMPILING if busy and pace.intervals < YOUNG_INTERVALS else Work.TRAINING


def add(before: Doing | None, after: Doing | None) -> Doing | None:
    """What was done in two stretches, one after the other; who is stopped or stuck is known of the later one."""
    if before is None or after is None:
        return after or before
    told = [one.io_bytes for one in (before, after) if one.io_bytes is not None]
    return msgspec.structs.replace(
        after,
        seconds=before.seconds + after.seconds,
        cpu_seconds=before.cpu_seconds + after.cpu_seconds,
        io_bytes=sum(told) if told else None,
    )


def judge_standstill(doing: Doing | None, frozen: bool = False) -> Standstill:
    """The kind of a standstill, from all that was done since the last step; `frozen`: the daemon is in state T."""
    if frozen or (doing is not None and doing.stopped):
        return Standstill.FROZEN
    if doing is None or doing.seconds <= 0:
        return Standstill.UNKNOWN
    if doing.stuck:
        return Standstill.DISK_SLEEP
    if doing.cores() >= BUSY_CORES:
        return Standstill.CPU_BUSY
    return Standstill.IO_BUSY if doing.bytes_per_second() >= BUSY_BYTES_PER_SECOND else Standstill.ALL_IDLE


def describe_standstill(doing: Doing | None, frozen: bool = False) -> str:
    """A standstill in words, empty where nothing is known of it."""
    kind = judge_standstill(doing, frozen)
    if kind is Standstill.FROZEN:
        names = ", ".join(doing.stopped[:4]) if doing is not None and doing.stopped else "the daemon"
        return f"frozen: {names} in state T, stopped by a signal"
    if doing is None or kind is Standstill.UNKNOWN:
        return ""
    if kind is Standstill.DISK_SLEEP:
        return f"state D: {', '.join(doing.stuck[:4])} in the kernel, waiting for a disk or a file server"
    if kind is Standstill.CPU_BUSY:
        return f"CPU busy ({doing.cores():.1f} cores): data, compiling, or a collective that spins"
    if kind is Standstill.IO_BUSY:
        return f"all but idle, yet {doing.bytes_per_second() / 1e6:.1f} MB/s are read and written"
    return "all idle: a deadlock, or a wait for a peer, a pipe or the GPU"
