"""Investigating: sources are read, and with the evidence they become crashes."""

import io
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from trainguard import diagnosis, scanner
from trainguard.command_line import counted, error_sentence
from trainguard.config import ExpectedError
from trainguard.diagnosis import Crash, Facts, Failures, Gap, Line, Observation, Rest
from trainguard.investigation import kernel_lines
from trainguard.investigation.evidence import Evidence
from trainguard.investigation.sources import Source, name_of_run
from trainguard.launchers import read_error_file
from trainguard.moments import seconds_of
from trainguard.progress import Role, parse_segment
from trainguard.scanner import (
    Database,
    Matcher,
    Scan,
    number_lines,
    open_database,
    open_signatures,
    scan_file,
    scan_stream,
)
from trainguard.signatures import SignatureError

ERROR_FILES = 16
# Lines are counted at once in a log of this size; in a larger one only if there is something to point at.
SMALL = 32 << 20
_PID = re.compile(r"(?i)\b(?:pid|process)\b[ :=#(]{0,3}(\d{2,7})\b|\b(\d{2,7}) Killed\b")
_ERROR_FILE = re.compile(rb"error_file: (/\S+\.json)")


class Reading(msgspec.Struct, frozen=True):
    """One source as it was read: what crashed in it, oldest first, and how far it was read."""

    source: Source
    failures: tuple[Failures, ...]
    end: int
    whole: bool = False


class Report(msgspec.Struct, frozen=True):
    """What an investigation found: `crashes` newest first, without those told before."""

    readings: tuple[Reading, ...]
    crashes: tuple[Crash, ...]
    files: tuple[str, ...]
    bytes: int
    seconds: float
    notes: tuple[str, ...]

    def was_whole(self, path: str) -> bool:
        """Whether a log was read as one that never grows: a compressed one."""
        return any(one.whole for one in self.readings if one.source.path == path)


class Knowledge(msgspec.Struct, frozen=True):
    """What failures look like: for whole logs, and for single lines."""

    database: Database
    matcher: Matcher


NOTHING = Evidence()


# Made from our rows alone, they are the same for every run folder; Python keeps what it compiles there too.
CACHE = Path(scanner.__file__).parent / "__pycache__"


def open_knowledge(user_file: Path | None, folder: Path | None, notes: list[str]) -> Knowledge:
    """Our signatures and the user's. What is made of them is kept: in `folder`, if there is one.

    Rows of the user's that cannot be used are a note. Raises ExpectedError and OSError for ours.
    """
    try:
        return _open_knowledge(user_file, folder, notes)
    except (ExpectedError, OSError) as error:
        if user_file is None:
            raise
        notes.append(f"{error_sentence(error)}; goes on without detector.signatures")
    return _open_knowledge(None, folder, notes)


def _open_knowledge(user_file: Path | None, folder: Path | None, notes: list[str]) -> Knowledge:
    if user_file is None and _can_be_written(CACHE):
        folder = CACHE
    try:
        signatures, said = open_signatures(user_file, folder)
        database = open_database(signatures, folder)
    except SignatureError as error:
        raise ExpectedError(str(error)) from None
    notes += dict.fromkeys((*said, *database.notes))
    return Knowledge(database, Matcher(database, signatures))


def _can_be_written(folder: Path) -> bool:
    try:
        folder.mkdir(exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def investigate(
    sources: Sequence[Source],
    knowledge: Knowledge,
    evidence: Evidence = NOTHING,
    tell_progress: Callable[[int], None] | None = None,
) -> Report:
    """Read the sources and say what crashed. What cannot be read is a note, never an error."""
    began = time.monotonic()
    notes: list[str] = []
    readings: list[Reading] = []
    read = 0
    for source in sources:
        try:
            scan, failures = _examine(source, knowledge, evidence, tell_progress, notes)
        except OSError as error:
            notes.append(f"{source.path}: {error.strerror or error}")
            continue
        notes += (f"{source.path}: {note}" for note in scan.notes)
        read += scan.end - scan.start
        parts = [part for one in failures if (part := _fresh_part(one, source)) is not None]
        notes += (_overcome(one, source) for one in parts if one.overcome)
        fresh = tuple(one for one in parts if not one.overcome)
        readings.append(Reading(source, fresh, scan.end, scan.compressed))
    files = tuple(dict.fromkeys(one.source.path for one in readings))
    seconds = time.monotonic() - began
    return Report(tuple(readings), tell(readings), files, read, seconds, tuple(dict.fromkeys(notes)))


def since(report: Report, moment: float | None) -> Report:
    """The report without what is known to be older than `moment` (seconds since 1970)."""
    if moment is None:
        return report
    kept = tuple(one for one in report.crashes if _latest(one, moment) >= moment)
    return msgspec.structs.replace(report, crashes=kept)


def _latest(crash: Crash, unknown: float) -> float:
    """When a crash happened, or where its log does not tell, when something was last written there."""
    if (at := seconds_of(crash.time)) is not None:
        return at
    try:
        return Path(crash.root.file).stat().st_mtime
    except OSError:
        return unknown


def tell(readings: Sequence[Reading]) -> tuple[Crash, ...]:
    """The crashes of all that was read, the newest first; what several logs of one run tell is one crash."""
    runs: dict[str, list[list[Failures]]] = {}
    for reading in readings:
        runs.setdefault(name_of_run(reading.source), []).append(list(reading.failures))
    found: list[Failures] = []
    for parts in runs.values():
        last = [part.pop() for part in parts if part]
        found += [one for part in parts for one in part]
        found += [diagnosis.combine(last)] if last else []
    dated = sorted(
        enumerate(found), key=lambda item: (diagnosis.time_of(item[1]) or 0.0, item[0]), reverse=True
    )
    return tuple(diagnosis.describe(one) for _, one in dated)


def _fresh_part(found: Failures, source: Source) -> Failures | None:
    """What of a crash was not told when the log was read before, None where that is nothing.

    Who has died fails no more: if the one that was told fails again, that is another run's crash.
    """
    root = found.root

    def is_fresh(line: Line) -> bool:
        return line.offset >= source.fresh or line.file != source.path

    if is_fresh(found.proven):
        return found
    voice = root.rank, root.line.stream
    news = [one for one in found.all if is_fresh(one.line)]
    again = any(one.strength >= root.strength and (one.rank, one.line.stream) == voice for one in news)
    return diagnosis.join(news, found.facts) if again else None


def _overcome(found: Failures, source: Source) -> str:
    line = found.root.line
    where = f"offset {line.offset}" if line.number is None else f"line {line.number}"
    return f"{source.path}: an earlier run crashed ({found.root.type}, {where}); the last one has ended well"


def _examine(
    source: Source,
    knowledge: Knowledge,
    evidence: Evidence,
    tell_progress: Callable[[int], None] | None,
    notes: list[str],
) -> tuple[Scan, list[Failures]]:
    if source.text is not None:
        scan = scan_stream(io.BytesIO(source.text), source.path, knowledge.database, is_progress=is_progress)
        return scan, _failures(source, scan, knowledge, evidence, notes)
    if source.path == "-":
        scan = scan_stream(os.fdopen(os.dup(0), "rb"), "-", knowledge.database, is_progress=is_progress)
        return scan, _failures(source, scan, knowledge, evidence, notes)
    path = Path(source.path)
    scan = scan_file(
        path, knowledge.database, source.start, source.end, is_progress=is_progress, progress=tell_progress
    )
    if scan.end - scan.start > SMALL and not _failures(source, scan, knowledge, evidence, notes):
        return scan, []
    scan = number_lines(scan, path)
    return scan, _failures(source, scan, knowledge, evidence, notes)


def _failures(
    source: Source, scan: Scan, knowledge: Knowledge, evidence: Evidence, notes: list[str]
) -> list[Failures]:
    facts = _with_evidence(source.facts, evidence)
    observer = diagnosis.Observer(knowledge.matcher)
    events = list(observer.observe(_with_rest(_lines(scan), source)))
    pids = frozenset(int(pid) for event in events for pid in _pids(event)) | (
        facts.pids if facts is not None else frozenset()
    )
    told, left = _of_kernel(source, scan, knowledge, evidence, facts, pids)
    failures = diagnosis.find_failures(events, facts, [*told, *_error_files(scan, knowledge)])
    # The watchdog knows when its run ended, and the machine's own log holds much that is of other times.
    if failures and left and (facts is None or facts.time is None):
        notes.append(
            f"{source.path}: {counted(len(left), 'failure')} that the kernel log tells of at other times than its "
            "end, or of other programs, left out"
        )
    return failures


def _of_kernel(
    source: Source,
    scan: Scan,
    knowledge: Knowledge,
    evidence: Evidence,
    facts: Facts | None,
    pids: frozenset[int],
) -> tuple[list[Observation], list[Observation]]:
    """What the kernel told that may be of this run, and what cannot be."""
    if not evidence.kernel:
        return [], []
    period = kernel_lines.period_of(source.path, _lines(scan), facts)
    chosen, left = kernel_lines.choose(evidence.kernel, period, pids, evidence.devices)
    return (
        diagnosis.observe_kernel(chosen, knowledge.matcher, pids),
        diagnosis.observe_kernel(left, knowledge.matcher, pids),
    )


def _lines(scan: Scan) -> Iterator[Line | Gap]:
    gaps = {gap.end: gap for gap in scan.gaps}
    for piece in scan.pieces:
        gap = gaps.pop(piece.start, None)
        if gap is not None:
            yield Gap(gap.went_on)
        yield from diagnosis.cut_lines(piece.content, scan.file, piece.start, piece.line)
    for gap in gaps.values():
        yield Gap(gap.went_on)


def _with_rest(lines: Iterable[Line | Gap], source: Source) -> Iterator[Line | Gap | Rest]:
    rested = not source.at_rest
    for line in lines:
        if not rested and isinstance(line, Line) and line.offset >= source.fresh:
            rested = True
            yield Rest()
        yield line


def is_progress(line: bytes) -> bool:
    """Whether a line of a log says that training advances."""
    return any(mark.role in (Role.TRAINING, Role.BAR) for mark in parse_segment(line))


def _error_files(scan: Scan, knowledge: Knowledge) -> list[Observation]:
    """What failing workers wrote for torchelastic: its summary names the file, which holds their traceback."""
    found: list[Observation] = []
    names = {match[1] for piece in scan.pieces for match in _ERROR_FILE.finditer(piece.content)}
    for name in sorted(names)[:ERROR_FILES]:
        try:
            told = read_error_file(Path(os.fsdecode(name)))
        except (OSError, ValueError):
            continue  # on another machine, or gone
        text = (told.traceback or told.exception).encode()
        lines = diagnosis.cut_lines(text, os.fsdecode(name), 0, 1)
        events = diagnosis.Observer(knowledge.matcher).observe(lines)
        found += [event for event in events if isinstance(event, Observation)]
    return found


def _with_evidence(facts: Facts | None, evidence: Evidence) -> Facts | None:
    if evidence.scheduler_state is None and not evidence.gpu_foreign:
        return facts
    known = facts if facts is not None else Facts()
    return msgspec.structs.replace(
        known, scheduler_state=evidence.scheduler_state, gpu_foreign=evidence.gpu_foreign
    )


def _pids(event: object) -> Iterator[str]:
    if isinstance(event, Observation):
        for match in _PID.finditer(event.line.text):
            yield match[1] or match[2]
