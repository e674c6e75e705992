"""History: which crashes were seen before, and how far each log was read. Nothing here is needed for an answer."""

import contextlib
import errno
import hashlib
import math
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import msgspec

from trainguard import files

if TYPE_CHECKING:
    import sqlite3

# Kept in the database's header: whose it is ("TGch"), and the form of its tables.
APPLICATION = 0x54476368
SCHEMA = 1
HEAD = 4096
ANCHOR = 256
# What logrotate and compressors put behind a log's name.
_SUFFIXES = re.compile(r"(?:\.(?:gz|bz2|xz|zst)|\.\d{1,3}|-\d{8}(?:-\d+)?)+$")
# A line that is longer is taken as finished.
LINE_LIMIT = 64 << 10
# Seconds. The ranks of a run fail within fewer; who starts a run again takes longer.
REST = 15.0
TEXT_LIMIT = 2000
FOLDER_LIMIT = 100_000
BUSY_SECONDS = 3.0
WEEK = 7 * 86_400.0
# Fewer failures than this in two weeks never differ by more than chance.
ENOUGH_FOR_A_TREND = 5

# In the run folder.
HISTORY_FILE = "crash_history.sqlite3"
T = TypeVar("T")

_TABLES = (
    """CREATE TABLE crash (
        identity TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, type TEXT NOT NULL, cause TEXT, rank INTEGER,
        time REAL NOT NULL, text TEXT NOT NULL, source TEXT NOT NULL, position INTEGER)""",
    "CREATE INDEX crash_by_fingerprint ON crash (fingerprint)",
    "CREATE TABLE position (path TEXT PRIMARY KEY, told TEXT NOT NULL)",
)
# The time that was known first stays: the same crash, read again from an untimed log, is no newer for it.
_INSERT = """INSERT INTO crash (identity, fingerprint, type, cause, rank, time, text, source, position)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (identity) DO UPDATE SET fingerprint = excluded.fingerprint, type = excluded.type,
        cause = excluded.cause, rank = excluded.rank, text = excluded.text"""
_COUNT = "SELECT count(*), min(time), max(time) FROM crash WHERE fingerprint = ? AND typeof(time) = 'real'"
_CORRUPT = ("malformed", "not a database", "no such table", "no such column", "unsupported file format")


class CrashRow(msgspec.Struct, frozen=True):
    """One crash to remember: `time` in seconds since 1970, `text` the root line, `source` where it stands.

    `identity` (see `identify`) is what makes it the same crash when it is read again. Where the log
    tells no time, its modification time is a better `time` than none, which is taken as now.
    """

    fingerprint: str
    type: str
    identity: str
    cause: str | None = None
    rank: int | None = None
    time: float | None = None
    text: str = ""
    source: str = ""
    position: int | None = None


class Counted(msgspec.Struct, frozen=True):
    """How often crashes of one fingerprint were seen, this one included, and when first and last."""

    count: int
    first_seen: float
    last_seen: float


class Seen(msgspec.Struct, frozen=True):
    """All crashes of one fingerprint; `text` is the root line of the last one."""

    fingerprint: str
    type: str
    cause: str | None
    count: int
    first_seen: float
    last_seen: float
    text: str


class Trend(msgspec.Struct, frozen=True):
    """Failures per day of the last seven days and of the seven before, and what that says."""

    per_day: float
    per_day_before: float
    verdict: str


class HistorySummary(msgspec.Struct, frozen=True):
    """The whole history; types and fingerprints stand in the order of their counts, most frequent first."""

    count: int
    by_type: dict[str, int]
    seen: tuple[Seen, ...]
    first_seen: float | None
    last_seen: float | None
    mean_seconds_between: float | None
    trend: Trend


class Position(msgspec.Struct, frozen=True):
    """How far a log was read: `offset` bytes, where line number `line` begins (None: it was not counted).

    The first and the last bytes of what was read are kept as hashes, so that another content is noticed. A
    compressed file is remembered `whole`, as long as its compressed bytes. The last `unfinished` bytes were of a
    line that had no end yet; the log was `at_rest` where nobody had written to it for a while.
    """

    path: str
    device: int
    inode: int
    offset: int
    line: int | None
    head_length: int
    head_hash: str
    anchor_hash: str
    whole: bool = False
    unfinished: int = 0
    at_rest: bool = False


class Resumption(msgspec.Struct, frozen=True):
    """Where to go on reading a log, and why from its beginning, where that is so.

    What stands before offset `fresh` was read as whole lines; `at_rest` is as in the position.
    """

    offset: int
    line: int | None
    note: str | None = None
    fresh: int = 0
    at_rest: bool = False


# --- pure ------------------------------------------------------------------------------------------------------


def judge_trend(times: Sequence[float], now: float) -> Trend:
    """Failures of the last week against those of the week before; `times` are all failures that are known.

    They differ when the difference is over twice its standard deviation, were both of one Poisson rate.
    """
    last = sum(1 for moment in times if moment > now - WEEK)
    before = sum(1 for moment in times if now - 2 * WEEK < moment <= now - WEEK)
    # Nothing from before the last week: there may have been no failures, or no history.
    unknown = not any(moment <= now - WEEK for moment in times)
    if unknown or last + before < ENOUGH_FOR_A_TREND:
        verdict = "too few to tell"
    elif abs(last - before) > 2 * math.sqrt(last + before):
        verdict = "rising" if last > before else "falling"
    else:
        verdict = "steady"
    return Trend(last / 7, before / 7, verdict)


def identify(path: str, head: bytes, offset: int) -> str:
    """The identity of the crash whose root line begins at `offset` of a log that begins with `head`.

    `head` is decompressed. The log may grow, be rotated or compressed meanwhile: of its head only what stands
    before the root line counts, of its name what stands before the suffixes of these.
    """
    folder, _, name = path.rpartition("/")
    return _hash(
        os.fsencode(f"{folder}/{_SUFFIXES.sub('', name)}"), head[: min(HEAD, offset)], str(offset).encode()
    )


# --- files -----------------------------------------------------------------------------------------------------


def take_position(
    file: Path | int, path: Path, offset: int, line: int | None, whole: bool = False
) -> Position:
    """Remember that `offset` bytes of the log at `path` were read. Raises OSError.

    `file` is the path, or better the descriptor that was read: the path may have another file by now.
    """
    with _opened(file) as descriptor:
        about = os.fstat(descriptor)
        length = min(HEAD, about.st_size if whole else offset)
        offset = about.st_size if whole else offset
        return Position(
            unfinished=0 if whole else _unfinished(descriptor, offset),
            at_rest=time.time() - about.st_mtime > REST,
            path=_key(path),
            device=about.st_dev,
            inode=about.st_ino,
            offset=offset,
            line=None if whole else line,
            head_length=length,
            head_hash=_hash(os.pread(descriptor, length, 0)),
            anchor_hash=_anchor(descriptor, offset),
            whole=whole,
        )


def resume_at(path: Path, position: Position | None) -> Resumption:
    """Where to go on in a log that was read up to `position`. Raises OSError.

    From its beginning, with a note, where it is another file (rotated), is shorter (truncated), or begins or
    goes on differently (truncated and grown again).
    """
    if position is None:
        return Resumption(0, 1)
    with _opened(path) as descriptor:
        about = os.fstat(descriptor)
        if about.st_ino != position.inode:
            note = "is another file than at the last scan (rotated?); read from its beginning"
        elif position.whole and about.st_size != position.offset:
            note = "has changed since the last scan; read again"
        elif about.st_size < position.offset:
            note = "is shorter than at the last scan (truncated?); read from its beginning"
        elif not _same_content(descriptor, position):
            note = "has other content than at the last scan (truncated and grown again?); read from its beginning"
        else:
            fresh = position.offset - position.unfinished
            return Resumption(position.offset, position.line, None, fresh, position.at_rest)
    return Resumption(0, 1, f"{path} {note}")


def find_rotated(path: Path, position: Position) -> Path | None:
    """Where the log went on that was read up to `position` and was then renamed or copied away (`train.log.1`).

    None where there is none, or where all of it was read. Compressed ones are left out.
    """
    try:
        with os.scandir(path.parent) as entries:
            found = [(entry.name, entry.inode()) for entry in islice(entries, FOLDER_LIMIT)]
    except OSError:
        return None
    renamed = [name for name, inode in found if inode == position.inode and name != path.name]
    copies = [name for name, _ in found if name.startswith(path.name) and name not in (*renamed, path.name)]
    for name in [*sorted(renamed), *sorted(copies)]:
        try:
            with _opened(path.parent / name) as descriptor:
                size = os.fstat(descriptor).st_size
                # Every file is a copy of nothing.
                known = position.offset > 0 or name in renamed
                if known and size > position.offset and _same_content(descriptor, position):
                    return path.parent / name
        except OSError:
            continue
    return None


def _same_content(descriptor: int, position: Position) -> bool:
    head = os.pread(descriptor, position.head_length, 0)
    return _hash(head) == position.head_hash and _anchor(descriptor, position.offset) == position.anchor_hash


def _unfinished(descriptor: int, offset: int) -> int:
    start = max(0, offset - LINE_LIMIT)
    content = os.pread(descriptor, offset - start, start)
    length = len(content) - 1 - content.rfind(b"\n")
    return length if length < LINE_LIMIT else 0


def _anchor(descriptor: int, offset: int) -> str:
    start = max(0, offset - ANCHOR)
    return _hash(os.pread(descriptor, offset - start, start))


@contextlib.contextmanager
def _opened(file: Path | int) -> Iterator[int]:
    if isinstance(file, int):
        yield file
        return
    with files.opened(file) as descriptor:
        yield descriptor


def _hash(*parts: bytes) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _key(path: Path) -> str:
    # A name need not be UTF-8, but SQLite's texts are.
    return os.fsencode(path.absolute()).decode("utf-8", "backslashreplace")


# --- the database ----------------------------------------------------------------------------------------------


class History:
    """The crash history in one SQLite file. No method raises for what the file or the disk does.

    What went wrong is told in `notes`, and the answer is then made of what is known without it. The file is
    created by the first thing that is worth writing; with `writable` false it is only read.
    """

    def __init__(self, path: Path, writable: bool = True) -> None:
        self.path = path
        self.notes: list[str] = []
        self._writable = writable
        self._usable = True
        self._opened: tuple[sqlite3.Connection, int] | None = None
        self._found_sound: sqlite3.Connection | None = None

    def add(self, crashes: Sequence[CrashRow], now: float | None = None) -> list[Counted]:
        """Remember crashes, each once however often it is read; what is known of each one's fingerprint.

        `now` (seconds since 1970) is when those without a time happened.
        """
        if not crashes:
            return []
        moment = time.time() if now is None else now
        rows = [_clean(crash, moment) for crash in crashes]
        counted: list[Counted] | None = None
        if self._writable:
            counted = self._attempt(lambda database: self._insert(self._sound(database), rows), create=True)
        return counted if counted is not None else self._count_without_writing(rows)

    def summary(self, now: float | None = None) -> HistorySummary:
        """What the history tells as a whole."""
        moment = time.time() if now is None else now
        rows = self._attempt(_read_crashes) or []
        return _summarize(rows, moment)

    def position(self, path: Path) -> Position | None:
        """How far this log was read, None where that is not known."""
        told = self._attempt(
            lambda database: database.execute(
                "SELECT told FROM position WHERE path = ?", (_key(path),)
            ).fetchone()
        )
        return _decode_position(told)

    def remember(self, positions: Iterable[Position]) -> None:
        """Remember how far logs were read; writes only what is new."""
        known = (
            self._attempt(lambda database: dict(database.execute("SELECT path, told FROM position"))) or {}
        )
        told = {one.path: msgspec.json.encode(one).decode() for one in positions}
        news = [(path, text) for path, text in told.items() if known.get(path) != text]
        if not news or not self._writable:
            return

        def write(database: "sqlite3.Connection") -> None:
            with _transaction(self._sound(database)):
                database.executemany("INSERT OR REPLACE INTO position (path, told) VALUES (?, ?)", news)

        self._attempt(write, create=True)

    def forget_all(self) -> None:
        """Forget how far the logs were read; the crashes stay."""
        if not self._writable:
            return

        def write(database: "sqlite3.Connection") -> None:
            if database.execute("SELECT 1 FROM position LIMIT 1").fetchone():
                with _transaction(self._sound(database)):
                    database.execute("DELETE FROM position")

        self._attempt(write)

    def close(self) -> None:
        """Let go of the file."""
        if self._opened is not None:
            self._opened[0].close()
            self._opened = None

    def _insert(self, database: "sqlite3.Connection", rows: Sequence[CrashRow]) -> list[Counted]:
        with _transaction(database):
            database.executemany(_INSERT, [_values(row) for row in rows])
            told = [database.execute(_COUNT, (row.fingerprint,)).fetchone() for row in rows]
        return [Counted(int(count), float(first), float(last)) for count, first, last in told]

    def _count_without_writing(self, rows: Sequence[CrashRow]) -> list[Counted]:
        known = self._attempt(_read_crashes) or []
        together = {row.identity: row for row in known}
        for row in rows:
            together.setdefault(row.identity, row)
        counted = []
        for row in rows:
            times = [one.time or 0.0 for one in together.values() if one.fingerprint == row.fingerprint]
            # A crash that is known by another fingerprint is none of its own.
            times = times or [row.time or 0.0]
            counted.append(Counted(len(times), min(times), max(times)))
        return counted

    def _attempt(self, work: "Callable[[sqlite3.Connection], T]", create: bool = False) -> T | None:
        """What `work` gives, None where there is no file or it failed; a damaged file is set aside once."""
        import sqlite3

        for is_last in (False, True):
            inode = None
            try:
                if not self._usable or (database := self._open(create)) is None:
                    return None
                inode = self._opened[1] if self._opened else None
                return work(database)
            except sqlite3.Error as error:
                self.close()
                if not _is_corrupt(error):
                    self._note(_because(error))
                    return None
                if is_last or not self._writable or not self._set_aside(inode, error):
                    self._note(f"is damaged ({error})")
                    return None
            except (OSError, ValueError, OverflowError, TypeError, MemoryError) as error:
                self.close()
                self._note(_because(error))
                return None
        return None

    def _open(self, create: bool) -> "sqlite3.Connection | None":
        import sqlite3

        inode = None
        try:
            about = self.path.stat()
            inode = about.st_ino
            # Opening a FIFO would wait for its other end.
            if not stat.S_ISREG(about.st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
        except FileNotFoundError:
            pass
        if self._opened is not None:
            # Another process may have set the file aside: what is written to it then is lost.
            if self._opened[1] == inode:
                return self._opened[0]
            self.close()
        if inode is None:
            if not create:
                return None
            self.path.parent.mkdir(parents=True, exist_ok=True)
        mode = "rwc" if create else "rw" if self._writable else "ro"
        database = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode={mode}",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,
        )
        # Set before anything is read, so that a failure closes it.
        self._opened = (database, self.path.stat().st_ino)
        database.text_factory = lambda raw: raw.decode(errors="replace")
        database.execute("PRAGMA trusted_schema = OFF")
        if not self._is_ours(database, create):
            self.close()
            return None
        return database

    def _is_ours(self, database: "sqlite3.Connection", create: bool) -> bool:
        """Whether the tables are there in a form that is known here; makes them in a file without content."""
        import sqlite3

        # In one transaction: between two looks another process may make the tables.
        with _transaction(database, "DEFERRED"):
            (application,) = database.execute("PRAGMA application_id").fetchone()
            (schema,) = database.execute("PRAGMA user_version").fetchone()
            names = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
        if application == APPLICATION:
            if schema > SCHEMA:
                self._usable = False
                self._note(f"is of a newer version of this program (form {schema}): it is left as it is")
            return bool(schema <= SCHEMA)
        if {"crash", "position"} <= names:
            raise sqlite3.DatabaseError("malformed header")
        if names:
            self._usable = False
            self._note("is a database of something else: it is left as it is")
            return False
        if not create:
            return False
        with _transaction(database):
            # Another process may have made them in the meantime.
            if not _has_content(database):
                for statement in _TABLES:
                    database.execute(statement)
                database.execute(f"PRAGMA application_id = {APPLICATION}")
                database.execute(f"PRAGMA user_version = {SCHEMA}")
        return True

    def _sound(self, database: "sqlite3.Connection") -> "sqlite3.Connection":
        """The database, once it was found whole: what is damaged is set aside as it is, not written to."""
        import sqlite3

        if self._found_sound is not database:
            (verdict,) = database.execute("PRAGMA integrity_check(1)").fetchone()
            if verdict != "ok":
                raise sqlite3.DatabaseError(f"malformed: {verdict}")
            self._found_sound = database
        return database

    def _set_aside(self, inode: int | None, error: Exception) -> bool:
        """Rename a damaged file, unless another process did so already; whether the name is free or good now."""
        import fcntl

        try:
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            # A network file system may have no lock for a folder.
            with contextlib.suppress(OSError):
                fcntl.flock(folder, fcntl.LOCK_EX)
            if not self.path.exists() or (inode is not None and self.path.stat().st_ino != inode):
                return True
            stamp = time.strftime("%Y%m%dT%H%M%S")
            target = files.free_name(self.path.with_name(f"{self.path.name}.corrupt-{stamp}"))
            self.path.rename(target)
        except OSError:
            return False
        finally:
            os.close(folder)
        self._note(f"was damaged ({error}) and set aside as {target.name}: counting begins anew")
        return True

    def _note(self, fact: str) -> None:
        note = f"the crash history {self.path} {fact}"
        if note not in self.notes:
            self.notes.append(note)


@contextlib.contextmanager
def _transaction(database: "sqlite3.Connection", kind: str = "IMMEDIATE") -> Iterator[None]:
    """All or nothing. To write, the lock is taken at once: one that must be raised later can fail without waiting."""
    import sqlite3

    database.execute(f"BEGIN {kind}")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        # A full disk has rolled it back already.
        with contextlib.suppress(sqlite3.Error):
            database.execute("ROLLBACK")
        raise


def _has_content(database: "sqlite3.Connection") -> bool:
    return bool(database.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone())


def _is_corrupt(error: Exception) -> bool:
    return any(words in str(error) for words in _CORRUPT)


def _because(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if "locked" in text:
        text = "another process keeps it locked"
    return f"could not be used: {text[:1].lower()}{text[1:]}"


def _clean(crash: CrashRow, now: float) -> CrashRow:
    known = crash.time is not None and math.isfinite(crash.time)
    rank = crash.rank if crash.rank is None or abs(crash.rank) < 1 << 31 else None
    return msgspec.structs.replace(
        crash,
        fingerprint=_text(crash.fingerprint),
        type=_text(crash.type),
        cause=None if crash.cause is None else _text(crash.cause),
        identity=_text(crash.identity),
        text=_text(crash.text),
        source=_text(crash.source),
        rank=rank,
        time=crash.time if known else now,
    )


def _text(text: str) -> str:
    """Text as SQLite takes it: without halves of characters, and of a size to show."""
    return text[:TEXT_LIMIT].encode("utf-8", "backslashreplace").decode()


def _values(row: CrashRow) -> tuple[object, ...]:
    return (
        row.identity,
        row.fingerprint,
        row.type,
        row.cause,
        row.rank,
        row.time,
        row.text,
        row.source,
        row.position,
    )


def _read_crashes(database: "sqlite3.Connection") -> list[CrashRow]:
    rows = []
    for identity, fingerprint, type_, cause, moment, text in database.execute(
        "SELECT identity, fingerprint, type, cause, time, text FROM crash ORDER BY time"
    ):
        # A damaged page may hold anything; a row that is none is not counted.
        if isinstance(moment, int | float) and math.isfinite(moment):
            rows.append(
                CrashRow(
                    fingerprint=str(fingerprint),
                    type=str(type_),
                    identity=str(identity),
                    cause=None if cause is None else str(cause),
                    time=float(moment),
                    text=str(text),
                )
            )
    return rows


def _summarize(rows: Sequence[CrashRow], now: float) -> HistorySummary:
    times = [cast(float, row.time) for row in rows]
    by_type: dict[str, int] = {}
    groups: dict[str, list[CrashRow]] = {}
    for row in rows:
        by_type[row.type] = by_type.get(row.type, 0) + 1
        groups.setdefault(row.fingerprint, []).append(row)
    seen = [
        Seen(
            fingerprint=fingerprint,
            type=group[-1].type,
            cause=group[-1].cause,
            count=len(group),
            first_seen=cast(float, group[0].time),
            last_seen=cast(float, group[-1].time),
            text=group[-1].text,
        )
        for fingerprint, group in groups.items()
    ]
    return HistorySummary(
        count=len(rows),
        by_type=dict(sorted(by_type.items(), key=lambda item: (-item[1], item[0]))),
        seen=tuple(sorted(seen, key=lambda one: (-one.count, -one.last_seen, one.fingerprint))),
        first_seen=times[0] if times else None,
        last_seen=times[-1] if times else None,
        mean_seconds_between=(times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else None,
        trend=judge_trend(times, now),
    )


def _decode_position(told: object) -> Position | None:
    if not isinstance(told, tuple) or not told or not isinstance(told[0], str):
        return None
    try:
        return msgspec.json.decode(told[0], type=Position)
    except (msgspec.DecodeError, UnicodeError):
        return None
