"""Log files: what the daemon, the watchdog and the checks write, how long each is, and when it grew last."""

import os
import re
import stat
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec

from trainguard import files, probes
from trainguard.config import Settings, kind, may

FILE_SECONDS = 2.0
AGAIN_SECONDS = 0.05
TAIL = 64 << 10
_NOT_A_NUMBER = re.compile(rb"(?<=[\[:,\s])(-?Infinity|NaN)(?=\s*[,\]}])")

Json = Literal["object", "other", "partial", "unread"]


class LogFile(msgspec.Struct, frozen=True):
    """One file: `kind` is what it is, None where there is nothing; sizes in bytes, `free` of its file system.

    `json` is what a status file's content is. `torn` is how many of the last lines of a .jsonl file are no JSON.
    `problem` is why nothing is known of it.
    """

    role: str
    path: str
    kind: str | None = None
    size: int = 0
    wall: float | None = None
    device: int = 0
    inode: int = 0
    writable: bool = False
    free: int | None = None
    json: Json = "unread"
    lines: int = 0
    torn: int = 0
    problem: str | None = None


class LogFiles(msgspec.Struct, frozen=True):
    """All that are configured or belong to the run folder, by role: `daemon.log`, `events.jsonl`, and so on."""

    rows: tuple[LogFile, ...]

    def of(self, role: str) -> LogFile | None:
        """The file of this role, None where none is configured."""
        return next((row for row in self.rows if row.role == role), None)


def files_of(settings: Settings) -> Iterator[tuple[str, Path]]:
    """Each file with its role; the run folder itself is `logs.directory`."""
    folder, progress = settings.logs.directory, settings.progress
    yield "daemon.log", settings.daemon.log
    yield "logs.directory", folder
    for name in ("watchdog.log", "events.jsonl", "health.jsonl", "crash_history.sqlite3"):
        yield name, folder / name
    named = {
        "progress.status_file": progress.status_file,
        "progress.log_file": progress.log_file,
        "progress.heartbeat_file": progress.heartbeat_file,
    }
    yield from ((role, path) for role, path in named.items() if path is not None)


def read_log_files(settings: Settings) -> LogFiles:
    """All of them, each in a child of its own. Raises OSError where no child can be made."""
    rows = dict(files_of(settings))
    asked = [
        probes.Probe(role, partial(read_log_file, role, path), LogFile, FILE_SECONDS)
        for role, path in rows.items()
    ]
    answers = probes.ask(asked)
    return LogFiles(tuple(_row(role, path, answers[role]) for role, path in rows.items()))


def _row(role: str, path: Path, answer: probes.Answer) -> LogFile:
    if isinstance(answer.value, LogFile):
        return answer.value
    return LogFile(role, str(path), problem=answer.problem or "cannot be looked at")


def read_log_file(role: str, path: Path) -> LogFile:
    """What is known of one file, whose content is looked at where it has a form. Raises OSError."""
    try:
        about = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return LogFile(role, str(path))
    is_file = stat.S_ISREG(about.st_mode)
    told = os.statvfs(path)
    lines, torn = _read_lines(path) if is_file and path.suffix == ".jsonl" else (0, 0)
    return LogFile(
        role=role,
        path=str(path),
        kind=kind(about.st_mode),
        size=about.st_size,
        wall=about.st_mtime,
        device=about.st_dev,
        inode=about.st_ino,
        writable=may(path, os.W_OK | os.X_OK if stat.S_ISDIR(about.st_mode) else os.W_OK),
        free=told.f_frsize * told.f_bavail,
        json=read_json(path) if is_file and role == "progress.status_file" else "unread",
        lines=lines,
        torn=torn,
    )


def read_json(path: Path) -> Json:
    """What the content of a status file is; NaN, as Python's json writes it, counts as JSON. Raises OSError.

    One that is written over in place is half there for a moment: it is read again before that is told.
    """
    for is_last in (False, False, True):
        content = _NOT_A_NUMBER.sub(rb"null", files.read_small(path))
        try:
            return "object" if isinstance(msgspec.json.decode(content), dict) else "other"
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            if not is_last:
                time.sleep(AGAIN_SECONDS)
    return "partial"


def _read_lines(path: Path) -> tuple[int, int]:
    """How many of the last lines there are, and how many of them are no JSON; the first may be cut."""
    size = path.stat().st_size
    start = max(0, size - TAIL)
    lines = files.read_range(path, start, size).split(b"\n")
    lines = [line for line in (lines[1:] if start else lines) if line.strip()]
    return len(lines), sum(not _is_json(line) for line in lines)


def _is_json(line: bytes) -> bool:
    try:
        msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True
