"""The database: all patterns compiled into one, saved so that a start needs neither YAML nor a compiler."""

import platform
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import hyperscan
import msgspec

from trainguard import files
from trainguard.signatures import Signature, SignatureError, load_signatures

DATABASE_FILE = "patterns.cache"
SIGNATURES_FILE = "signatures.cache"
SIZE_LIMIT = 64 << 20
# More hits than this in one block, and it is looked at in cells instead.
HITS_PER_BLOCK = 32

# What every log has in common, whatever failed. Each is anchored in long fixed text: a word that stands on every
# line of a log (`loss`, `error`) costs half of the speed.
STRUCTURE = (
    r"Traceback \(most recent call last\)",
    r"[A-Za-z_](?:Error|Exception|Interrupt|Exit|Abort|Timeout|Expired)(?:: |:?\s*$)",
    r"During handling of the above exception",
    r"The above exception was the direct cause",
    # A loss that is no number, one that Transformers does not show, and one in a column of Ultralytics.
    r"(?i)loss(?:=|: {0,2}| ?= ?| : ?|['\"]: ?['\"]?| )(?:tensor\(|array\()?-?(?:nan|inf)\b",
    r"grad_norm['\"]: ?['\"]?nan\b",
    r"[0-9]G {6,8}nan ",
    r"exitcode\s*: -?[0-9]+ +\(pid: ",
)

# Parts of patterns whose words stand on many healthy lines, and what is scanned for instead, which matches no less:
# the rest of the pattern tells lines apart better, and each such word costs speed in a log that is full of it.
_WEAK_PARTS = (
    (r"[Ee]xit(?:ed with)?[ _-]?(?:[Cc]ode|[Ss]tatus)", r"(?:ode|tatus)"),
    (r"\b(?:node|VM|[Ww]orker|TPU|[Cc]luster|job|[Jj]ob \S+) (?:\S+ )?", ""),
    (r"\b(?:mkdir|touch|cp|mv|tee|rm|ln|chmod|chown|ls|cat|tar|install): [^\n]*", ""),
    (r"(?:it/s|s/it|B/s)[^\]\n]*\]\s*", r"\]\s*"),
    (r"(?i:error|failure)", r"[A-Za-z]{5,7}"),
    (r"[Tt]rying|[Tt]ry|[Tt]esting|[Dd]ecreasing|[Rr]educing|[Hh]alving", r"[A-Za-z]{3,10}"),
    (
        r"(?:CUDA|HIP)(?: driver)? error(?: \([^)]*\)| \S+:\d+)?: '?invalid argument"
        r"|Cuda error \S+:\d+ 'invalid argument'",
        r" '?invalid argument",
    ),
)

_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", re.DOTALL)
# Behind these a line may begin in earnest: a rank, a host or a stream was named before, or a bar not ended.
_LINE_START = r"(?:^|[\r\])>:|] ?)"
_LINE_END = r"(?:$|\r)"
_ANY_CHARACTER = r"(?:[^\n]{1,4})"
_FLAGS = hyperscan.HS_FLAG_MULTILINE
_COARSE_FLAGS = _FLAGS | hyperscan.HS_FLAG_PREFILTER


class _Saved(msgspec.Struct, frozen=True):
    """A cache file: what it was made from in full, so that no two can be mistaken, and what was made."""

    made_from: list[str]
    check: int
    content: bytes


class Database:
    """The compiled patterns. `notes` says what went wrong with its cache; it works all the same."""

    def __init__(self, compiled: hyperscan.Database, notes: Sequence[str] = ()) -> None:
        self.notes = tuple(notes)
        self._compiled = compiled
        self._scratch = compiled.scratch
        self._found: list[tuple[int, int]] = []

    def sibling(self) -> "Database":
        """The same patterns for another thread."""
        sibling = Database(self._compiled)
        sibling._scratch = self._scratch.clone()
        return sibling

    def find(self, text: memoryview | bytes) -> list[tuple[int, int]] | None:
        """The ends of all matches with their pattern's number, in order; None where there are too many."""
        return None if self._scan(text, self._collect) else sorted(self._found)

    def find_any(self, text: memoryview | bytes) -> int | None:
        """The number of one pattern that matches somewhere in the text, None where none does."""
        self._scan(text, self._collect_one)
        return self._found[0][1] if self._found else None

    def _scan(
        self, text: memoryview | bytes, handler: Callable[[int, int, int, int, object], bool | None]
    ) -> bool:
        self._found.clear()
        try:
            self._compiled.scan(text, handler, scratch=self._scratch)  # type: ignore[type-var]
        except hyperscan.ScanTerminated:
            return True
        return False

    def _collect(self, number: int, _start: int, end: int, _flags: int, _context: object) -> bool:
        self._found.append((end, number))
        return len(self._found) > HITS_PER_BLOCK

    def _collect_one(self, number: int, _start: int, end: int, _flags: int, _context: object) -> bool:
        self._found.append((end, number))
        return True


def open_database(
    signatures: Sequence[Signature], folder: Path | None = None, writable: bool = True
) -> Database:
    """The patterns of all rows and the scanner's own, from the cache in `folder` or compiled now.

    The cache is only read unless `writable`. Raises SignatureError for a row whose pattern cannot be scanned for.
    """
    rows = [(row.name, for_blocks(row.pattern)) for row in signatures]
    rows += [(f"structure {number}", for_blocks(pattern)) for number, pattern in enumerate(STRUCTURE, 1)]
    made_from = [
        f"hyperscan {getattr(hyperscan, '__version__', '')} {platform.machine()} {hyperscan.Database.__module__}",
        hyperscan.__file__,
        f"flags {_FLAGS} or {_COARSE_FLAGS}",
        *(expression.decode("latin-1") for _, expression in rows),
    ]
    notes: list[str] = []
    if folder is not None and (content := _read_cache(folder / DATABASE_FILE, made_from)) is not None:
        try:
            compiled = hyperscan.loadb(content, hyperscan.HS_MODE_BLOCK)
            compiled.scratch = hyperscan.Scratch(compiled)
            return Database(compiled, notes)
        except hyperscan.error:
            # Made on another machine: this one's processor lacks what it needs.
            pass
    compiled = _compile(rows)
    if folder is not None and writable:
        notes += _write_cache(folder / DATABASE_FILE, made_from, hyperscan.dumpb(compiled))
    return Database(compiled, notes)


def open_signatures(
    user_file: Path | None = None, folder: Path | None = None, writable: bool = True
) -> tuple[tuple[Signature, ...], tuple[str, ...]]:
    """The rows of `load_signatures`, from the cache in `folder` while no file of them has changed; and notes.

    The cache is only read unless `writable`. Raises SignatureError, OSError.
    """
    from trainguard.signatures import rows

    listed = sorted(rows.FOLDER.glob("*.yaml")) + ([user_file] if user_file is not None else [])
    about = [(file, file.stat()) for file in [Path(rows.__file__), *listed]]
    made_from = [f"{file} {seen.st_mtime_ns} {seen.st_size} {seen.st_ino}" for file, seen in about]
    if folder is not None and (content := _read_cache(folder / SIGNATURES_FILE, made_from)) is not None:
        try:
            return msgspec.msgpack.decode(content, type=tuple[Signature, ...]), ()
        except msgspec.DecodeError:
            pass
    signatures = load_signatures(user_file)
    if folder is None or not writable:
        return signatures, ()
    return signatures, _write_cache(folder / SIGNATURES_FILE, made_from, msgspec.msgpack.encode(signatures))


def for_blocks(pattern: str) -> bytes:
    """A row's pattern, which is searched in one line, as one for a block of many lines of bytes.

    It may match more than the row does and never less: `\\r` ends a line too, `^` also stands behind a prefix
    such as `[rank0]: `, a letter beyond ASCII is any bytes beyond it, and weak parts are coarser.
    """
    for part, instead in _WEAK_PARTS:
        pattern = pattern.replace(part, instead)
    return "".join(map(_rewrite, _TOKEN.findall(pattern))).encode("latin-1")


def _rewrite(token: str) -> str:
    if token in ("^", r"\A"):
        return _LINE_START
    if token in ("$", r"\Z"):
        return _LINE_END
    if token == r"\w":
        return r"[\w\x80-\xff]"
    if not token.isascii():
        if token.startswith("["):
            return _ANY_CHARACTER
        bytes_of = "".join(f"\\x{byte:02x}" for byte in token.removeprefix("\\").encode())
        return f"(?:{bytes_of})"
    if token.startswith("[") and not token.startswith("[^") and r"\w" in token and len(token) > 1:
        return token[:-1] + r"\x80-\xff]"
    return token


def _compile(rows: Sequence[tuple[str, bytes]]) -> hyperscan.Database:
    try:
        return _compile_with(rows, [_FLAGS] * len(rows))
    except hyperscan.error:
        return _compile_with(rows, [_flags_of(name, expression) for name, expression in rows])


def _flags_of(name: str, expression: bytes) -> int:
    """How one expression compiles; look-around and the like only as a coarser one, which will do."""
    for flags in (_FLAGS, _COARSE_FLAGS):
        try:
            _compile_with([(name, expression)], [flags])
            return flags
        except hyperscan.error as error:
            problem = str(error)
    raise SignatureError(f"{name}: its pattern cannot be scanned for: {problem}")


def _compile_with(rows: Sequence[tuple[str, bytes]], flags: list[int]) -> hyperscan.Database:
    compiled = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
    compiled.compile(
        expressions=[expression for _, expression in rows],
        ids=list(range(len(rows))),
        elements=len(rows),
        flags=flags,
    )
    return compiled


def _read_cache(file: Path, made_from: list[str]) -> bytes | None:
    """What was made from the same, None where there is nothing of use."""
    try:
        saved = msgspec.msgpack.decode(files.read_small(file, SIZE_LIMIT), type=_Saved)
    except (OSError, msgspec.DecodeError):
        return None
    if saved.made_from != made_from or zlib.crc32(saved.content) != saved.check:
        return None
    return saved.content


def _write_cache(file: Path, made_from: list[str], content: bytes) -> tuple[str, ...]:
    """Save it for the next start; a note where that cannot be done."""
    saved = msgspec.msgpack.encode(_Saved(made_from, zlib.crc32(content), content))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write_whole(file, saved, durable=False)
    except OSError as error:
        return (f"{file}: cannot be written ({error.strerror or error}), so that each start takes longer",)
    return ()
