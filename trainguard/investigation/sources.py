"""Sources: which parts of which logs are to be read, and what is known of the runs that wrote them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from trainguard import files
from trainguard.config import Settings
from trainguard.history import History, Resumption, find_rotated, resume_at
from trainguard.incidents import IncidentRecord, facts_of

if TYPE_CHECKING:  # it takes a while to load, and a scan with nothing new does without
    from trainguard.diagnosis import Facts

FOLDER_PATTERNS = ("*.log", "*.out", "*.err")
FOLDER_LIMIT = 2000
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
# So much before a position is read again, so that a failure that was being written then is seen whole.
OVERLAP = 256 << 10
# So many lines a traceback may have before the last lines of a log that are asked for.
TRACEBACK_LINES = 100
_RANK_PART = re.compile(
    r"(?i)(?:/\d+)?/std(?:out|err)(?:\.log)?$|[._-]?(?:local_?)?(?:rank|worker|node|task|proc)[._-]?\d+|\.(?:out|err)$"
)


class Source(msgspec.Struct, frozen=True):
    """A log, or a part of it, to investigate: bytes `start` to `end` of the file at `path` (`-`: stdin).

    Failures before offset `fresh` were told before, and the log was `at_rest` then. `facts` are what is known of
    the run that wrote this part, `text` is what is left of a part whose file is gone, `inode` the file's as it was
    found.
    """

    path: str
    start: int = 0
    end: int | None = None
    fresh: int = 0
    at_rest: bool = False
    facts: Facts | None = None
    incident: str | None = None
    text: bytes | None = None
    inode: int | None = None


def list_logs(settings: Settings) -> list[Path]:
    """The logs that config.yaml names: the daemon's, that with its steps, and the detector's own list."""
    told = [settings.daemon.log, settings.progress.log_file, *settings.detector.logs]
    return list(dict.fromkeys(path for path in told if path is not None))


def expand(paths: Iterable[Path], notes: list[str]) -> list[Path]:
    """Files and, for each folder, the logs in it and below, in order of their names."""
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        logs = sorted({log for pattern in FOLDER_PATTERNS for log in path.rglob(pattern) if log.is_file()})
        if not logs:
            notes.append(f"{path}: no {', '.join(FOLDER_PATTERNS)} in this folder")
        elif len(logs) > FOLDER_LIMIT:
            notes.append(f"{path}: of its {len(logs)} logs the first {FOLDER_LIMIT} are read")
        found += logs[:FOLDER_LIMIT]
    return found


def plan(
    settings: Settings,
    history: History | None,
    records: Sequence[IncidentRecord],
    notes: list[str],
) -> list[Source]:
    """What the logs of config.yaml hold that was not read before, cut where the watchdog saw a run end.

    Without `history` that is all of them. A log that was rotated away since is read to its end first.
    """
    sources: list[Source] = []
    for path in expand(list_logs(settings), notes):
        position = None if history is None else history.position(path)
        try:
            resumption = resume_at(path, position)
            about = path.stat()
        except OSError as error:
            if path == settings.daemon.log or path in settings.detector.logs:
                notes.append(f"{path}: {error.strerror or error}")
            continue
        if resumption.note is not None:
            notes.append(resumption.note)
        switched = position is not None and resumption.note is not None
        old = find_rotated(path, position) if switched and position is not None else None
        if old is not None and position is not None:
            fresh = position.offset - position.unfinished
            sources.append(Source(str(old), max(0, fresh - OVERLAP), None, fresh, position.at_rest))
        if resumption.offset < about.st_size or position is None:
            mine = [one for one in records if one.log.get("file") == str(path)]
            parts = _cut(path, resumption, about.st_size, mine)
            sources += [msgspec.structs.replace(part, inode=about.st_ino) for part in parts]
    return sources


def _cut(path: Path, read: Resumption, size: int, records: Sequence[IncidentRecord]) -> list[Source]:
    """The part of a log that was not read: each run that ended in an incident for itself, with what is known."""
    ranges = [(int(one.log["start"]), int(one.log["end"]), one) for one in records]
    ranges = sorted(
        (one for one in ranges if read.offset < one[1] <= size and one[0] < one[1]), key=lambda one: one[0]
    )
    sources = []
    if not ranges or read.offset < ranges[0][0]:
        end = ranges[0][0] if ranges else None
        sources.append(Source(str(path), max(0, read.fresh - OVERLAP), end, read.fresh, read.at_rest))
    for start, end, record in ranges:
        facts = facts_of(record)
        sources.append(Source(str(path), start, end, read.fresh, False, facts, record.id))
    if ranges and ranges[-1][1] < size:
        sources.append(Source(str(path), ranges[-1][1]))
    return sources


def source_of(record: IncidentRecord) -> Source:
    """The part of the daemon's log that one incident is about; what the incident kept of it, if it is gone."""
    path, start, end = str(record.log["file"]), int(record.log["start"]), int(record.log["end"])
    try:
        whole = Path(path).stat().st_size >= end
    except OSError:
        whole = False
    text = None if whole else "\n".join(record.last_lines).encode()
    return Source(path, start, end, facts=facts_of(record), incident=record.id, text=text)


def shortened(source: Source, count: int) -> Source:
    """The last `count` lines of a source only; of what cannot be measured, or is compressed, all of it.

    Where they begin inside a traceback, it is read from its own beginning, if that is near.
    """
    path = Path(source.path)
    if path.suffix in COMPRESSED:
        return source
    try:
        start = files.start_of_last_lines(path, count, source.end)
        before = files.start_of_last_lines(path, count + TRACEBACK_LINES, source.end)
        content = files.read_range(path, max(before, start - OVERLAP), start)
    except OSError:
        return source
    start = _start_of_open_traceback(content, start)
    return msgspec.structs.replace(source, start=max(source.start, start))


def _start_of_open_traceback(content: bytes, end: int) -> int:
    """Where the report begins that has not come to its final line in these bytes, which end at offset `end`."""
    from trainguard.diagnosis import cut_lines  # it takes a while to load

    opened: dict[str, int] = {}
    for line in cut_lines(content, "", end - len(content), None):
        if line.body.endswith("Traceback (most recent call last):"):
            opened[line.stream] = line.offset
        elif not line.body.startswith((" ", "\t")):
            opened.pop(line.stream, None)
    return min(opened.values(), default=end)


def size_of(sources: Iterable[Source]) -> int:
    """How many bytes are to be read, as far as that is known."""
    total = 0
    for source in sources:
        try:
            end = Path(source.path).stat().st_size if source.end is None else source.end
        except OSError:
            continue
        total += max(0, end - source.start)
    return total


def name_of_run(source: Source) -> str:
    """What the logs of one run have in common: their path without rank and without out or err.

    Which torchrun's --log-dir (`<attempt>/<rank>/stdout.log`), `rank3.log` and a batch system's pair of
    `job_17.out` and `job_17.err` differ in; any two other logs are of two runs.
    """
    return f"{_RANK_PART.sub('', source.path)}:{source.start}:{source.incident or ''}"
