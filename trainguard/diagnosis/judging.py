"""Judging: events in order become crashes, each with one root cause and what that set off.

The run is followed as it went. A failure after which training went on, or which the run survived to its good
end, was overcome and is none. What is left when a new run begins, or the log ends, is one crash.
"""

import math
from collections.abc import Iterable, Sequence

import msgspec
from msgspec.structs import replace

from trainguard.crash_types import CAUSES, TYPES, Retry, Verdict
from trainguard.diagnosis.advising import advise
from trainguard.diagnosis.fingerprints import fingerprint, normalised
from trainguard.diagnosis.gpu_memory import find_foreign, parse_size
from trainguard.diagnosis.observing import ABORT, CASCADE, COLLECTIVE, DEATH, MACHINE, OWN, SUMMARY
from trainguard.diagnosis.values import (
    Advance,
    Begin,
    Consequence,
    Crash,
    End,
    Event,
    Evidence,
    Facts,
    Gap,
    Line,
    Observation,
    Origin,
    Rest,
    Stop,
)
from trainguard.moments import text_of

# So many new words of progress after a failure show that the run survived it. A peer of a rank that died
# still prints what it had under way.
ADVANCES = 3
# Who went on for so long after an exception that was caught, or up to its good end, was alone with it.
ADVANCES_ALONE = 2
# So many lines without a failure between two exceptions: the process has lived on after the first one.
SPOKE_ON = 3
# A failure that stands so near to the end of a log is how it ended.
LAST_WORDS = 12
# Ranks are a step or two apart; who is further behind has begun again.
BEHIND, WENT_BACK = 2, 2
# So many losses in a row that are no numbers, up to the end.
NAN_LINES = 3
# So many good losses of other lines show that they did not mean the model.
GOOD_LOSSES = 6
CONSEQUENCES = 20
EVIDENCE = 12
# How far above its limit a collective must have run for the clock that watched it to have stood still itself.
LATE = 2.0
FRAGMENTED = 0.2

# A run whose loss is no number dies of these sooner or later.
_NAN_DIES_OF = {"value_error", "runtime_error", "assertion_error", "index_error", "zero_division_error"}
# What a process dies of while it is cleared away, its work done.
_AFTERMATH = {"segfault", "interrupted"}
# Types that an exception handler brings about on its way: in a chain the later exception says more.
_LOOKED_UP = {
    "key_error",
    "attribute_error",
    "index_error",
    "type_error",
    "value_error",
    "name_error",
    "python_exception",
    "runtime_error",
    "assertion_error",
    "not_implemented_error",
    "os_error",
    "file_not_found",
}
_SIGNALS = {
    "SIGKILL": ("process_killed", "process_killed"),
    "SIGTERM": ("interrupted", "external_term"),
    "SIGINT": ("interrupted", "external_term"),
    "SIGHUP": ("interrupted", "external_term"),
    "SIGSEGV": ("segfault", "native_crash"),
    "SIGABRT": ("segfault", "native_crash"),
    "SIGBUS": ("segfault", "native_crash"),
    "SIGILL": ("segfault", "native_crash"),
    "SIGFPE": ("segfault", "native_crash"),
    "SIGXFSZ": ("disk_full", "quota"),
}
# What a line of the kernel that names none of our processes can explain.
_EXPLAINS = {
    "host_oom": {"host_oom", "process_killed", "multiprocessing_error"},
    "gpu_hardware": {
        *("gpu_hardware", "cuda_error", "gpu_driver", "collective_timeout", "collective_error"),
        *("segfault", "hang", "unknown"),
    },
    "cuda_error": {"cuda_error", "collective_timeout", "collective_error", "segfault"},
    "storage_error": {"storage_error", "disk_full", "checkpoint_corrupt", "os_error", "hang", "unknown"},
    "segfault": {"segfault"},
    "node_failure": {"node_failure", "hang", "unknown"},
}
_SCHEDULER = {
    "OUT_OF_MEMORY": ("host_oom", "host_oom_cgroup", MACHINE),
    "NODE_FAIL": ("node_failure", "node_failure", MACHINE),
    "BOOT_FAIL": ("node_failure", "node_failure", MACHINE),
    "PREEMPTED": ("preempted", "preemption", OWN),
    "TIMEOUT": ("preempted", "time_limit", OWN),
    "DEADLINE": ("preempted", "time_limit", OWN),
    "CANCELLED": ("interrupted", "external_term", OWN),
}
# A shell and a container tell a signal as 128 and its number.
_CODES = {130: "SIGINT", 129: "SIGHUP", 134: "SIGABRT", 135: "SIGBUS", 136: "SIGFPE", 137: "SIGKILL"}
_CODES |= {132: "SIGILL", 139: "SIGSEGV", 143: "SIGTERM"}
_RETRIES = {
    Verdict.RESTART: Retry.YES,
    Verdict.FIX: Retry.CLEAN,
    Verdict.PARK: Retry.NO,
    Verdict.REPAIR: Retry.NO,
}


class Episode:
    """One run of the daemon as far as the events tell: the failures that nothing has overcome yet."""

    def __init__(self) -> None:
        self.failures: list[Observation] = []
        self.advances: set[tuple[str, float | None]] = set()
        self.advanced = 0
        self.bad_losses: dict[str, BadLosses] = {}
        self.ended = False
        self.worked = 0  # advances before its good end
        self.begun = False
        self.went_back = 0
        self.stop: int | None = None

    def is_over(self) -> bool:
        """Whether its failures have ended it, as far as they tell."""
        return any(one.fatal for one in self.failures)

    def needed(self) -> int:
        """How many words of progress show that its failures were overcome."""
        caught = all(_is_caught(one) for one in self.failures)
        return ADVANCES_ALONE if caught else ADVANCES

    def fail(self, failure: Observation) -> None:
        """Add a failure, which the one that it was chained to may outrank or give way to."""
        failure = replace(failure, advances=self.advanced)
        self.advances, self.went_back = set(), 0
        earlier = next((one for one in self.failures if one.line is failure.chained), None)
        if earlier is not None:
            self.failures.remove(earlier)
            if _says_more(earlier, failure):
                self.failures.append(replace(earlier, fatal=earlier.fatal or failure.fatal))
                failure = replace(failure, strength=min(failure.strength, CASCADE))
        self.failures.append(failure)
        self.begun = False

    def end(self) -> None:
        """The run has ended well, unless a failure that nothing came after has ended it."""
        self.ended, self.worked = True, self.advanced
        alone = len(self.advances) >= ADVANCES_ALONE
        self.failures = (
            [] if alone else [one for one in self.failures if one.fatal and one.strength > SUMMARY]
        )

    def is_aftermath(self, failure: Observation) -> bool:
        """Whether it befell a run that had ended well: a death while it was cleared away."""
        quiet = self.ended and not self.failures and self.advanced == self.worked
        return quiet and failure.origin is Origin.LINE and failure.type in _AFTERMATH

    def lose(self, event: Advance) -> None:
        """Count losses that are no numbers, as long as no others come."""
        if event.loss is None:
            return
        if not math.isfinite(event.loss):
            bad = self.bad_losses.setdefault(event.key, BadLosses(event.line))
            bad.count, bad.since = bad.count + 1, 0
            bad.proven = event.line if bad.count == NAN_LINES else bad.proven
            return
        self.bad_losses.pop(event.key, None)
        for key, bad in list(self.bad_losses.items()):
            bad.since += 1
            if bad.since >= max(GOOD_LOSSES, bad.count):
                del self.bad_losses[key]


class BadLosses(msgspec.Struct):
    """Losses of one kind of line that were no numbers: the first, how many, and the one that proved it.

    `since` counts the good losses that lines of other kinds have told after the last of them.
    """

    first: Line
    count: int = 0
    since: int = 0
    proven: Line | None = None


def _is_caught(one: Observation) -> bool:
    """Whether an exception was caught, as far as its report tells, by a process that has no peers."""
    return one.origin is Origin.TRACEBACK and not one.fatal and one.rank is None and not one.line.stream


def _says_more(earlier: Observation, later: Observation) -> bool:
    if later.strength != earlier.strength:
        return later.strength < earlier.strength
    if later.caused:
        return True
    if earlier.signature is not None and earlier.strength >= COLLECTIVE:
        return True
    return earlier.type not in _LOOKED_UP and later.signature is None


def split(events: Iterable[Event]) -> list[Episode]:
    """The runs that the events tell of, each with the failures that it did not overcome."""
    episodes = [Episode()]
    steps: dict[str, float | None] = {}
    for event in events:
        now = episodes[-1]
        if isinstance(event, Observation):
            if now.begun and now.is_over() and event.strength >= OWN:
                now = Episode()
                episodes.append(now)
            if not now.is_aftermath(event):
                now.fail(event)
        elif isinstance(event, Begin | Rest):
            now.begun = bool(now.failures)
            now.ended = now.ended and isinstance(event, Rest)
        elif isinstance(event, Stop):
            now.stop = event.order
        elif isinstance(event, End):
            if now.begun and now.is_over():
                now = Episode()
                episodes.append(now)
            now.end()
        elif isinstance(event, Gap):
            if event.went_on and now.failures:
                if now.is_over() and now.begun:
                    episodes.append(Episode())
                else:
                    now.failures = []
        else:
            _advance(episodes, event, steps)
    return episodes


def _advance(episodes: list[Episode], event: Advance, steps: dict[str, float | None]) -> None:
    now = episodes[-1]
    now.lose(event)
    now.advanced += 1
    former = steps.get(event.key)
    if now.failures:
        if former is not None and event.step is not None and event.step <= former - BEHIND and now.is_over():
            now.went_back += 1
        now.advances.add((event.key, event.step if event.step is not None else event.loss))
        if now.went_back < WENT_BACK and len(now.advances) < now.needed():
            return
        counted = [step for key, step in now.advances if key == event.key and step is not None]
        anew = event.key not in steps or (former is not None and min(counted, default=former) < former)
        if now.is_over() and (anew or now.begun):
            episodes.append(Episode())
        else:
            now.failures = []
            now.advances = set()
    steps[event.key] = event.step


class Failures(msgspec.Struct, frozen=True):
    """What one crash consists of, in the order in which it was told: its root, and all of its failures.

    `overcome`: a later run in the same log has ended well. `proven` is the line up to which the log has to be
    read to know of it.
    """

    root: Observation
    all: tuple[Observation, ...]
    facts: Facts
    proven: Line
    overcome: bool = False


def find_failures(
    events: Iterable[Event], facts: Facts | None = None, machine: Sequence[Observation] = ()
) -> list[Failures]:
    """The crashes that the events of one log tell of, the oldest first.

    `facts` and what the `machine` told (its kernel log) are about the last run.
    """
    episodes = split(events)
    last = _failures(episodes[-1], facts, machine)
    found = [one for one in (_failures(one, None, ()) for one in episodes[:-1]) if one is not None]
    if last is not None:
        return [*found, last]
    return [replace(one, overcome=episodes[-1].ended) for one in found]


def combine(parts: Sequence[Failures]) -> Failures:
    """The parts that the logs of one run tell of the same crash, as one."""
    parts = sorted(parts, key=lambda one: one.root.time or 0.0)
    return join([failure for part in parts for failure in part.all], parts[-1].facts)


def join(failures: Sequence[Observation], facts: Facts) -> Failures:
    """One crash that consists of these failures."""
    root = choose_root(failures)
    return Failures(root, tuple(failures), facts, root.line)


def _failures(episode: Episode, facts: Facts | None, machine: Sequence[Observation]) -> Failures | None:
    failures = _with_silent_deaths(episode.failures)
    status = None
    if facts is not None:
        if facts.exit_code == 0 and facts.hang is None and facts.scheduler_state not in _SCHEDULER:
            return None
        status = _status(facts)
        failures += [] if status is None else [status]
    types = {one.type for one in failures}
    failures += [one for one in machine if one.fatal or types & _EXPLAINS.get(one.type, set())]
    bad = _numerical(episode, failures)
    if bad is not None:
        line = bad[0]
        numerical = Observation(
            line, Origin.LOSS, "numerical", "nan_loss", OWN, True, rank=line.rank, time=line.time
        )
        failures = [numerical, *(replace(one, strength=min(one.strength, CASCADE)) for one in failures)]
    if status is None:
        if not any(
            one.fatal or one.origin is not Origin.LINE or _is_last_word(one, episode) for one in failures
        ):
            return None
        if episode.ended and not any(one.fatal for one in failures):
            return None
    if not failures:
        return None
    root = choose_root(failures)
    return Failures(root, tuple(failures), facts or Facts(), root.line if bad is None else bad[1])


def _is_last_word(one: Observation, episode: Episode) -> bool:
    """Whether the log ends with this failure: who says that last has not gone on."""
    return (
        one.origin is Origin.LINE
        and one.strength >= CASCADE
        and episode.stop is not None
        and episode.stop - one.order <= LAST_WORDS
    )


def _with_silent_deaths(failures: Sequence[Observation]) -> list[Observation]:
    """An abort follows from what its process said; a rank that said nothing has died of the abort itself."""
    speakers = {one.rank for one in failures if one.strength >= CASCADE}
    return [
        replace(one, strength=DEATH)
        if one.strength == ABORT and one.rank is not None and speakers and one.rank not in speakers
        else one
        for one in failures
    ]


def choose_root(failures: Sequence[Observation]) -> Observation:
    """The one that explains the others: the strongest, among equals what is proven, and then the earliest."""
    best = max(one.strength for one in failures)
    candidates = [one for one in failures if one.strength == best]
    fatal = [one for one in candidates if one.fatal]
    proven = [one for one in candidates if one.origin is not Origin.LINE]
    chosen = _last_survived(fatal or proven or candidates)
    # The same failure is often told before it ends the process: by a logger, a tracker, another rank.
    return next(one for one in candidates if _is_same(one, chosen) and not _was_survived(one, chosen))


def _last_survived(candidates: Sequence[Observation]) -> Observation:
    """The first, unless its process lived on and died of another."""
    chosen = candidates[0]
    for one in candidates[1:]:
        alone = chosen.origin is one.origin is Origin.TRACEBACK and not chosen.line.stream + one.line.stream
        if alone and one.type != chosen.type and one.spoken - chosen.spoken >= SPOKE_ON:
            chosen = one
    return chosen


def _was_survived(one: Observation, later: Observation) -> bool:
    return one.origin is Origin.LINE and later.advances - one.advances >= ADVANCES_ALONE


def _is_same(one: Observation, other: Observation) -> bool:
    if one is other or (one.signature is not None and one.cause == other.cause and one.type == other.type):
        return True
    return (
        one.origin is other.origin
        and (one.type, one.exception) == (other.type, other.exception)
        and normalised(one.line.body) == normalised(other.line.body)
    )


def _status(facts: Facts) -> Observation | None:
    """What the machine knows of how the run ended, as a failure like the others."""
    strength = DEATH
    name = facts.signal or _CODES.get(facts.exit_code or 0)
    if facts.scheduler_state in _SCHEDULER:
        kind, cause, strength = _SCHEDULER[facts.scheduler_state]
        text = f"the scheduler says {facts.scheduler_state}"
    elif facts.hang is not None:
        kind, cause, text, strength = "hang", "hang", facts.hang, OWN
    elif name is not None:
        kind, cause = _SIGNALS.get(name, ("process_killed", "process_killed"))
        text = f"the daemon died of {name}"
        if kind == "process_killed" and facts.oom_kills:
            kind, cause, strength = "host_oom", "host_oom_cgroup", MACHINE
            text = f"the daemon died of {name}, and its cgroup counted an out-of-memory kill"
    elif facts.exit_code:
        kind, cause, strength = "unknown", "unknown", SUMMARY - 1
        text = f"the daemon ended with exit code {facts.exit_code}"
    else:
        return None
    line = Line("", None, 0, text, text, time=facts.time)
    return Observation(line, Origin.STATUS, kind, cause, strength, True, time=facts.time)


def _numerical(episode: Episode, failures: Sequence[Observation]) -> tuple[Line, Line] | None:
    """Of losses that were no numbers up to the end the first, and the one that proved it.

    None where something else than that has ended the run.
    """
    bad = [one for one in episode.bad_losses.values() if one.count >= NAN_LINES]
    if not bad:
        return None
    strongest = max((one.strength for one in failures), default=0)
    if strongest >= COLLECTIVE and not any(
        one.type in _NAN_DIES_OF for one in failures if one.strength >= OWN
    ):
        return None
    first = min((one.first for one in episode.bad_losses.values()), key=lambda line: line.offset)
    proven = min((one.proven for one in bad if one.proven is not None), key=lambda line: line.offset)
    return first, proven


def describe(found: Failures) -> Crash:
    """One crash as it is told."""
    failures, facts = found.all, found.facts
    root = replace(found.root, cause=_finer(found.root, failures, facts))
    kind = TYPES[root.type]
    same = [one for one in failures if one.type == root.type and one is not found.root]
    # One failure on many ranks is one crash, and so is what each of its lines says of it.
    others: dict[tuple[str, int | None], Observation] = {}
    for one in failures:
        if one.type != root.type and one.strength <= root.strength:
            others.setdefault((one.type, one.rank), one)
    consequences = tuple(
        Consequence(one.type, one.line.file, one.line.number, one.line.text, one.rank)
        for one in list(others.values())[:CONSEQUENCES]
    )
    shown = [root, *same[: EVIDENCE - 1]]
    at = time_of(found)
    return Crash(
        root.type,
        root.cause,
        kind.blame,
        _retry(root),
        _evidence(root),
        root.rank,
        root.exception,
        consequences,
        tuple(_evidence(one) for one in shown),
        advise(root, facts),
        fingerprint(root),
        None if at is None else text_of(at),
    )


def time_of(found: Failures) -> float | None:
    """When it happened, in seconds since 1970; what the kernel told of others does not say."""
    own = [one for one in (found.root, *found.all) if one.fatal or one.origin is not Origin.KERNEL]
    return next((one.time for one in own if one.time is not None), found.facts.time)


def _evidence(one: Observation) -> Evidence:
    return Evidence(one.line.file, one.line.number, one.line.text, one.line.offset)


def _retry(root: Observation) -> Retry:
    """The cause's verdict for the first time; the type's where the cause has none of its own."""
    cause = CAUSES.get(root.cause)
    verdict = cause.verdicts[0] if cause is not None and cause.verdicts else Verdict.EARLIER
    return _RETRIES.get(verdict, TYPES[root.type].retry)


def _finer(root: Observation, failures: Sequence[Observation], facts: Facts) -> str:
    """The cause, made finer by what the line and the machine tell in numbers."""
    if root.cause == "cuda_oom":
        if facts.gpu_foreign or find_foreign(root.facts) is not None:
            return "cuda_oom_foreign"
        if any(one.cause == "cuda_oom_preallocated" for one in failures):
            return "cuda_oom_preallocated"
        allocated, unallocated = (parse_size(root.facts.get(name)) for name in ("allocated", "unallocated"))
        reserved = parse_size(root.facts.get("reserved"))
        if unallocated is None and reserved is not None and allocated is not None:
            unallocated = reserved - allocated  # as PyTorch wrote it before version 2
        if (
            allocated is not None
            and unallocated is not None
            and unallocated > FRAGMENTED * (allocated + unallocated)
        ):
            return "cuda_oom_fragmentation"
    if root.cause == "nccl_timeout":
        limit, ran = root.facts.get("timeout", ""), root.facts.get("ran", "")
        if limit.isdigit() and ran.isdigit() and int(ran) > LATE * int(limit) > 0:
            return "nccl_late_watchdog"
    return root.cause
