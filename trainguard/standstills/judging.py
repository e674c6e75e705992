"""What a standstill is: from readings of its processes and GPUs to a kind, an odd one out, and a sentence."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from enum import Enum

import msgspec

from trainguard.gpu import Gpus
from trainguard.standstills.readings import Frame, Reading, Thread

# Of one processor: a thread above works, one below stands.
WORKS = 0.5
STANDS = 0.1
# Percent of a GPU's time: a collective that waits shows 100, the display of a desktop a few.
GPU_BUSY = 80
GPU_IDLE = 20
# Two cannot be told apart: each differs from the other.
_FEWEST_PEERS = 3
_FREEZER = frozenset({"do_freezer_trap", "__refrigerator"})


class Kind(str, Enum):
    """Why no step comes, as far as can be seen from outside."""

    GPU_BUSY = "gpu_busy"
    CPU_BUSY = "cpu_busy"
    ALL_IDLE = "all_idle"
    DISK_SLEEP = "disk_sleep"
    FROZEN = "frozen"
    UNKNOWN = "unknown"


class Standstill(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was gathered. `skipped` says of a process why nothing was; `left_out` are those without stacks.

    `odd_one_out` is the pid that stands elsewhere than all its peers. `seconds` is how long gathering took.
    """

    kind: Kind
    sentence: str
    processes: tuple[Reading, ...]
    seconds: float
    skipped: dict[str, str] = {}
    left_out: tuple[int, ...] = ()
    odd_one_out: int | None = None
    gpus: Gpus | None = None
    notes: tuple[str, ...] = ()


def judge_standstill(readings: Sequence[Reading], gpus: Gpus | None = None) -> Kind:
    """The kind of a standstill. A stopped process outweighs all else, since its peers may spin for it.

    `gpus` is None while they were not asked. GPUs that do not answer leave open what an idle processor means.
    """
    living = [reading for reading in readings if lives(reading)]
    if not living:
        return Kind.UNKNOWN
    if any(is_frozen(reading) for reading in living):
        return Kind.FROZEN
    if any(disk_sleepers(reading) for reading in living):
        return Kind.DISK_SLEEP
    uses = _uses(living, gpus)
    use = _utilization(uses, gpus)
    busy = use is not None and use >= GPU_BUSY
    working = [reading for reading in living if _works(reading)]
    if busy and all(_may_wait_for_gpu(reading, uses) for reading in working):
        return Kind.GPU_BUSY
    if any(len(_busy_threads(reading)) > 1 for reading in working):
        return Kind.CPU_BUSY
    if use is None or GPU_IDLE <= use < GPU_BUSY:
        return Kind.UNKNOWN
    if working:
        return Kind.CPU_BUSY
    if any(reading.share is None for reading in living):
        return Kind.UNKNOWN
    return Kind.ALL_IDLE


def lives(reading: Reading) -> bool:
    """Whether it ran at both moments, as far as they were read."""
    return (reading.state_later or reading.state) not in "ZXx"


def is_frozen(reading: Reading) -> bool:
    """Whether a signal, a debugger or the freezer of its cgroup has stopped it (kernel/cgroup/freezer.c)."""
    if (reading.state_later or reading.state) in "Tt":
        return True
    return bool(reading.threads) and all(thread.wait_channel in _FREEZER for thread in reading.threads)


def disk_sleepers(reading: Reading) -> list[Thread]:
    """Threads that were in the kernel's keeping at both moments, and did nothing between them."""
    return [
        thread
        for thread in reading.threads
        if thread.state == thread.state_later == "D"
        and thread.share is not None
        and thread.share < STANDS
        and thread.wait_channel not in _FREEZER
    ]


def odd_one_out(frames: Mapping[int, Frame | None]) -> int | None:
    """The one of at least three that stands in another line, or else in another function, than all the others.

    One whose frame is unknown is not counted.
    """
    known = {pid: frame for pid, frame in frames.items() if frame is not None}
    lines: dict[int, Hashable] = dict(known)
    functions: dict[int, Hashable] = {pid: (frame.file, frame.function) for pid, frame in known.items()}
    return _odd_one(lines) or _odd_one(functions)


def _odd_one(places: Mapping[int, Hashable]) -> int | None:
    counts = Counter(places.values())
    if len(places) < _FEWEST_PEERS or sorted(counts.values()) != [1, len(places) - 1]:
        return None
    return next(pid for pid, place in places.items() if counts[place] == 1)


def peers(readings: Sequence[Reading]) -> list[Reading]:
    """The processes that do the same: the first of each rank, else the most siblings whose frame is known."""
    parents = {reading.pid: reading for reading in readings}
    ranked = {
        reading.rank: reading
        for reading in reversed(readings)
        if reading.rank is not None and _rank_of_parent(reading, parents) != reading.rank
    }
    if len(ranked) > 1:
        return [ranked[rank] for rank in sorted(ranked)]
    families: dict[int, list[Reading]] = {}
    for reading in readings:
        if reading.frame is not None:
            families.setdefault(reading.parent, []).append(reading)
    return max(families.values(), key=len, default=[])


def _rank_of_parent(reading: Reading, parents: Mapping[int, Reading]) -> int | None:
    parent = parents.get(reading.parent)
    return None if parent is None else parent.rank


def find_odd_one_out(readings: Sequence[Reading]) -> int | None:
    """The pid of the peer that stands elsewhere."""
    return odd_one_out({reading.pid: _place(reading) for reading in peers(readings)})


def describe_standstill(
    kind: Kind, readings: Sequence[Reading], gpus: Gpus | None = None, odd: int | None = None
) -> str:
    """One sentence: what stands, which process tells most about it, and where that one is."""
    living = [reading for reading in readings if lives(reading)]
    told = _most_telling(kind, living, odd)
    if told is None:
        return "no process of the run was left to look at"
    rank = (
        f"process {told.pid} ({told.name})" if told.rank is None else f"rank {told.rank} (process {told.pid})"
    )
    sentence = f"{_BEGINNINGS[kind]}: {rank} {_does(kind, told)}{_where(told)}"
    others = {_place(reading) for reading in peers(living) if reading.pid != odd} - {None}
    if told.pid == odd and others:
        sentence += f", while all its peers stand in {' or '.join(sorted(map(str, others))[:2])}"
    if gpus is not None and gpus.hung:
        sentence += "; the GPU driver does not answer"
    return sentence


_BEGINNINGS = {
    Kind.GPU_BUSY: "the GPUs are busy without a step",
    Kind.CPU_BUSY: "the processors are busy without a step",
    Kind.ALL_IDLE: "nothing works",
    Kind.DISK_SLEEP: "the kernel waits, and no signal gets through",
    Kind.FROZEN: "the run is frozen",
    Kind.UNKNOWN: "why no step comes is unknown",
}


def _does(kind: Kind, reading: Reading) -> str:
    if is_frozen(reading):
        return f"is stopped (state {reading.state_later or reading.state})"
    sleeping = disk_sleepers(reading)
    if sleeping:
        channel = sleeping[0].wait_channel
        return "waits in state D" + (f" ({channel})" if channel else "")
    if _works(reading):
        return "spins" if kind is Kind.GPU_BUSY else "works"
    return "waits"


def _where(reading: Reading) -> str:
    place, frame = reading.own_frame, reading.frame
    if place is None and frame is None:
        main = next((thread for thread in reading.threads if thread.number == reading.pid), None)
        if main is None or main.wait_channel is None or disk_sleepers(reading):
            return ""
        return f" in the kernel's {main.wait_channel}"
    if place is None or frame is None or place == frame:
        return f" in {place or frame}"
    return f" in {frame}, called from {place}"


def _most_telling(kind: Kind, living: Sequence[Reading], odd: int | None) -> Reading | None:
    if kind is Kind.FROZEN:
        candidates = [reading for reading in living if is_frozen(reading)]
    elif kind is Kind.DISK_SLEEP:
        candidates = [reading for reading in living if disk_sleepers(reading)]
    elif kind is Kind.CPU_BUSY:
        candidates = sorted(living, key=lambda reading: -(reading.share or 0.0))
    else:
        candidates = sorted(peers(living), key=_waits_for_peers)
    stranger = [reading for reading in candidates if reading.pid == odd]
    known = [reading for reading in (*candidates, *living) if reading.frame is not None]
    if kind in (Kind.FROZEN, Kind.DISK_SLEEP, Kind.CPU_BUSY):
        known = []
    return next(iter([*stranger, *known, *candidates, *living]), None)


def _waits_for_peers(reading: Reading) -> bool:
    """Whether it stands in a collective: one that does not, beside it, is what it waits for."""
    return reading.frame is not None and "/torch/distributed/" in reading.frame.file


def _place(reading: Reading) -> Frame | None:
    return reading.own_frame or reading.frame


def _works(one: Reading | Thread) -> bool:
    """Also one that ran at both moments, and got little of a processor that many want."""
    return one.share is not None and (one.share >= WORKS or one.state == one.state_later == "R")


def _busy_threads(reading: Reading) -> list[Thread]:
    return [thread for thread in reading.threads if _works(thread)]


def _may_wait_for_gpu(reading: Reading, uses: Mapping[int, int]) -> bool:
    """Whether its work may be one thread that asks its own GPU again and again whether it is done.

    `uses` is the utilization of each process's GPU, empty where it is unknown whose a GPU is.
    """
    if len(_busy_threads(reading)) > 1 or (reading.share or 0.0) > 1 + WORKS:
        return False
    return not uses or uses.get(reading.pid, 0) >= GPU_BUSY


def _uses(readings: Sequence[Reading], gpus: Gpus | None) -> dict[int, int]:
    """The utilization of the busiest GPU of each of these, in percent; a container may show none of them."""
    pids = {reading.pid for reading in readings}
    uses: dict[int, int] = {}
    for gpu in () if gpus is None else gpus.gpus:
        for process in gpu.processes or ():
            if process.pid in pids and gpu.utilization is not None:
                uses[process.pid] = max(gpu.utilization, uses.get(process.pid, 0))
    return uses


def _utilization(uses: Mapping[int, int], gpus: Gpus | None) -> int | None:
    """Of the busiest GPU of these processes, or of all where it is unknown whose they are; 0 without a GPU."""
    if gpus is None or gpus.hung:
        return None
    if not gpus.gpus:
        # Without the driver's module there is no GPU; with it, one that does not answer is unknown.
        return 0 if gpus.kernel_module is None else None
    told = list(uses.values()) or [gpu.utilization for gpu in gpus.gpus if gpu.utilization is not None]
    return max(told, default=None)
