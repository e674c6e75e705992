"""Observing: lines in order become events: failures, progress, the beginning and the end of a run."""

import re
from collections.abc import Iterable, Iterator, Sequence

from msgspec.structs import replace

from trainguard.crash_types import CAUSE_OF_TYPE, CAUSES, EXCEPTIONS, POINTERS, type_of_exception
from trainguard.diagnosis import advancing, tracebacks
from trainguard.diagnosis.tracebacks import Traceback
from trainguard.diagnosis.values import (
    Begin,
    End,
    Event,
    Gap,
    Line,
    Matcher,
    Observation,
    Origin,
    Rest,
    Stop,
)
from trainguard.signatures import Role, Signature

# How good a candidate for the root an observation is: what the kernel, the driver and an out-of-memory killer
# say; a process's own failure; a death without a word; a collective that waited or failed; what only passes on
# another's failure; an abort, which follows from one of these; what a launcher sums up.
MACHINE, OWN, DEATH, COLLECTIVE, CASCADE, ABORT, SUMMARY = 7, 6, 5, 4, 3, 2, 1

# So many lines may an exception's message have.
MESSAGE_LINES = 12
# So many lines without a time of their own may follow one that has it.
TIME_LINES = 300

_SAMPLE = re.compile(r"^Caught \w+ in (?:DataLoader worker process|replica|pin memory thread)")
_ABORTED = re.compile(r"(?i)abort|terminate called|SIGABRT|signal 6\b")
# What torchelastic's agent says of a process at once, before its summary.
_FAILED = re.compile(r"\bfailed \(exitcode: -\d+\) local_rank: \d+ \(pid: (?P<pid>\d+)\)")
_EXIT_CODE = re.compile(r"^\s*exitcode\s*: (?P<code>-?\d+) +\(pid: (?P<pid>\d+)\)")
_RANK_OF_SUMMARY = re.compile(r"^\s*rank\s*: (?P<rank>\d+)")
_OS_ERROR = re.compile(r"^\[Errno (?P<number>\d+)\]")
_ERRNO = {
    "1": "permission_error",
    "2": "file_not_found",
    "5": "storage_error",
    "11": "too_many_files",
    "12": "host_oom",
    "13": "permission_error",
    "23": "too_many_files",
    "24": "too_many_files",
    "28": "disk_full",
    "30": "storage_error",
    "98": "connection_error",
    "104": "connection_error",
    "107": "storage_error",
    "110": "timeout",
    "111": "connection_error",
    "113": "connection_error",
    "116": "storage_error",
    "122": "disk_full",
}


# How torchelastic's summary tells a death by a signal. It sends SIGTERM itself.
_DEATHS = {
    -9: ("process_killed", "process_killed", DEATH),
    -11: ("segfault", "native_crash", DEATH),
    -7: ("segfault", "native_crash", DEATH),
    -4: ("segfault", "native_crash", DEATH),
    -8: ("segfault", "native_crash", DEATH),
    -6: ("segfault", "native_crash", ABORT),
    -2: ("interrupted", "external_term", ABORT),
    -1: ("interrupted", "external_term", ABORT),
}


class Observer:
    """Turns the lines of one log into events; a matcher finds the signatures of a line."""

    def __init__(self, matcher: Matcher) -> None:
        self._matcher = matcher
        self._reports = tracebacks.Reader()
        self._training = advancing.Reader()
        self._blamed = False
        self._blamed_rank: int | None = None
        self._failed: dict[str, Line] = {}
        self._time: float | None = None
        self._since_time = 0
        self._order = self._spoken = 0
        self._pending: Observation | None = None

    def observe(self, lines: Iterable[Line | Gap | Rest]) -> Iterator[Event]:
        """The events, in the order of the lines."""
        for line in lines:
            if isinstance(line, Gap | Rest):
                yield from self._settled()
                yield line
                continue
            self._keep_time(line)
            self._order += 1
            within, ended = self._reports.read(line)
            for report in ended:
                yield from self._settled()
                yield from self._of_report(report)
            if not within:
                yield from self._of_line(line)
        yield from self._settled()
        for report in self._reports.end():
            yield from self._of_report(report)
        yield from self._settled()
        yield Stop(self._order)

    def _settled(self) -> Iterator[Observation]:
        """An exception whose message may have gone on: nothing more was said of it."""
        if self._pending is not None:
            yield self._pending
            self._pending = None

    def _told(self, one: Observation) -> Observation:
        """A failure with its place in the log; its time is its line's, or the last one told not long before."""
        last = self._time if self._since_time <= TIME_LINES else None
        time = one.line.time if one.line.time is not None else last
        return replace(one, order=self._order, spoken=self._spoken, time=time)

    def _keep_time(self, line: Line) -> None:
        self._since_time += 1
        if line.time is not None:
            self._time, self._since_time = line.time, 0

    def _of_summary(self, line: Line) -> Observation | None:
        """A death that torchelastic's summary tells: of the rank that failed first, which said nothing itself."""
        body = line.body
        if match := _FAILED.search(body):
            self._failed[match["pid"]] = line
        elif body.startswith("Root Cause (first observed failure)"):
            self._blamed, self._blamed_rank = True, None
        elif self._blamed and (match := _RANK_OF_SUMMARY.match(body)):
            self._blamed_rank = int(match["rank"])
        elif self._blamed and (match := _EXIT_CODE.match(body)):
            self._blamed = False
            if (death := _DEATHS.get(int(match["code"]))) is not None:
                kind, cause, strength = death
                return Observation(
                    self._failed.pop(match["pid"], line),
                    Origin.LINE,
                    kind,
                    cause,
                    strength,
                    True,
                    rank=self._blamed_rank,
                    facts={"pid": match["pid"]},
                )
        return None

    def _of_line(self, line: Line) -> Iterator[Event]:
        pending = self._pending
        if pending is not None and self._order - pending.order > MESSAGE_LINES:
            yield from self._settled()
            pending = None
        if (death := self._of_summary(line)) is not None:
            yield from self._settled()
            yield self._told(death)
            return
        row = _first(self._matcher(line.text))
        if row is None or row.role in (Role.ADVICE, Role.TEARDOWN):
            self._spoken += row is None
            if row is None and (advance := self._training.read(line)) is not None:
                yield from self._settled()
                yield advance
            return
        if row.role is Role.ROOT and pending is not None and pending.line.stream == line.stream:
            # The exception's message goes on in this line, and says more than its class.
            more = _observation(line, row, Origin.TRACEBACK, pending.fatal)
            self._pending = None
            yield replace(
                pending,
                type=more.type,
                cause=more.cause,
                strength=more.strength,
                signature=row.name,
                facts=more.facts,
            )
            return
        yield from self._settled()
        if row.role is Role.START:
            yield Begin(line)
        elif row.role is Role.END:
            yield End(line)
        else:
            yield self._told(_observation(line, row, Origin.LINE, fatal=row.fatal))
        if (advance := self._training.read(line)) is not None:
            yield advance

    def _of_report(self, report: Traceback) -> Iterator[Event]:
        row = _first(self._matcher(report.final.text))
        if report.ignored or (row is not None and row.role is Role.TEARDOWN):
            return
        if row is not None and row.role is Role.ADVICE and not report.uncaught:
            return
        known = row is not None and row.role in (Role.ROOT, Role.CASCADE) and row.crash_type is not None
        if row is not None and known:
            found = _observation(report.final, row, Origin.TRACEBACK, report.uncaught, report)
        else:
            found = _exception(report)
        if report.before is not None:
            found = replace(found, chained=report.before.final, caused=report.caused)
        if known:
            yield self._told(found)
        else:
            self._pending = self._told(found)


def observe_kernel(lines: Iterable[Line], matcher: Matcher, pids: frozenset[int]) -> list[Observation]:
    """What the kernel told that may be of this run.

    A line that names a process is proof if that is one of `pids`, and of no interest if those are known and it
    is none of them. Every other line is circumstance, and not fatal: it counts only beside what it explains.
    """
    found = []
    for line in lines:
        row = _first(matcher(line.text))
        if row is None or row.role not in (Role.ROOT, Role.CASCADE) or row.crash_type is None:
            continue
        one = replace(_observation(line, row, Origin.KERNEL, fatal=False), time=line.time)
        pid = one.facts.get("pid", "")
        proven = pid.isdigit() and int(pid) in pids
        if proven or not (pids and pid.isdigit()):
            strength = MACHINE if row.role is Role.ROOT else one.strength
            found.append(replace(one, strength=strength, fatal=proven))
    return found


def _first(rows: Sequence[Signature]) -> Signature | None:
    return rows[0] if rows else None


def _observation(
    line: Line, row: Signature, origin: Origin, fatal: bool, report: Traceback | None = None
) -> Observation:
    crash_type = row.crash_type or "unknown"
    return Observation(
        line,
        origin,
        crash_type,
        row.cause or crash_type,
        _strength(crash_type, row, origin, line.text),
        fatal,
        signature=row.name,
        exception=None if report is None else report.name,
        place="" if report is None else report.place,
        rank=line.rank,
        facts=row.facts_in(line.text),
    )


def _strength(crash_type: str, row: Signature, origin: Origin, text: str) -> int:
    if row.role is Role.CASCADE:
        return SUMMARY if row.cause == "child_failed_summary" else CASCADE
    if crash_type in ("collective_timeout", "collective_error"):
        return COLLECTIVE
    if crash_type == "segfault":
        return ABORT if _ABORTED.search(text) else DEATH
    if crash_type == "host_oom" and origin is Origin.LINE and row.fatal:
        return MACHINE
    if crash_type == "gpu_hardware":
        return MACHINE
    return OWN


def _exception(report: Traceback) -> Observation:
    """An exception that no signature knows: its class says what it is."""
    crash_type = type_of_exception(report.name)
    if crash_type == "os_error" and (match := _OS_ERROR.match(report.message)):
        crash_type = _ERRNO.get(match["number"], crash_type)
    last = report.name.rpartition(".")[2]
    own = CAUSE_OF_TYPE.get(crash_type)
    if own is None and last in EXCEPTIONS and crash_type in CAUSES:
        own = crash_type
    strength = OWN
    if last == "ChildFailedError":
        crash_type, own, strength = "unknown", "child_failed_summary", SUMMARY
    elif _SAMPLE.match(report.message) or last in POINTERS:
        strength = SUMMARY
    elif crash_type in ("collective_timeout", "collective_error"):
        strength = COLLECTIVE
    elif crash_type in ("connection_error", "timeout") and last in (
        "BrokenPipeError",
        "ConnectionResetError",
        "EOFError",
        "ConnectionAbortedError",
    ):
        strength = CASCADE
    return Observation(
        report.final,
        Origin.TRACEBACK,
        crash_type,
        own or "python_exception",
        strength,
        report.uncaught,
        exception=report.name,
        place=report.place,
        rank=report.final.rank,
    )
