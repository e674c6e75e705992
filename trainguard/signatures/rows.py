"""The rows of signatures: how they are read and what is refused."""

import functools
import re
from enum import Enum
from pathlib import Path

import msgspec
import regex
import yaml

from trainguard.crash_types import CAUSES, TYPES

FOLDER = Path(__file__).parent
SIZE_LIMIT = 1 << 20
# Processor time; a sound row takes microseconds, and milliseconds for a line that was written against it.
SEARCH_SECONDS = 0.5
_NEXT_TO_NOTHING = ("", " ", "x", "E", "0", "-", ":")


class Role(str, Enum):
    """What a line that matches is in the story of a crash."""

    ROOT = "root"  # may be what failed first
    CASCADE = "cascade"  # set off by something earlier; a root only where nothing earlier is found
    TEARDOWN = "teardown"  # the noise of ending; never a root
    ADVICE = "advice"  # looks like a failure and is none; it silences other rows on its line
    START = "start"  # a run begins here
    END = "end"  # a run has ended well here


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row.

    `pattern` is searched in one line and must be both a Python and a hyperscan expression: no look-around, no
    back-reference, and long enough in fixed text. Named groups become values for the advice. Of `type` and
    `cause` one is enough; rows of the other roles than root and cascade may have neither. `fatal`: whoever
    printed this line has ended or is about to, traceback or not. `source` is where the text comes from.
    """

    name: str
    pattern: str
    role: Role
    source: str
    sample: str
    near_miss: str
    type: str | None = None
    cause: str | None = None
    fatal: bool = False

    @property
    def crash_type(self) -> str | None:
        """The type, by itself or through the cause."""
        return self.type if self.type is not None or self.cause is None else CAUSES[self.cause].type

    def search(self, text: str) -> "regex.Match[str] | None":
        """Where the pattern matches in one line. Raises TimeoutError after SEARCH_SECONDS."""
        return _compiled(self.pattern).search(text, timeout=SEARCH_SECONDS)

    def facts_in(self, text: str) -> dict[str, str]:
        """What the pattern's named groups hold in one line; nothing where that takes too long to find."""
        try:
            match = self.search(text)
        except TimeoutError:
            return {}
        return {} if match is None else {name: held for name, held in match.groupdict().items() if held}


class SignatureError(ValueError):
    """A file of signatures that cannot be used; the text says which row and why."""


def load_signatures(user_file: Path | None = None) -> tuple[Signature, ...]:
    """All rows: the user's first, since the first row that fits a line wins. Raises SignatureError, OSError."""
    files = [] if user_file is None else [user_file]
    files += sorted(FOLDER.glob("*.yaml"))
    found: dict[str, tuple[str, Signature]] = {}
    for file in files:
        for number, row in enumerate(read_rows(file), 1):
            if row.name in found:
                other, _ = found[row.name]
                raise SignatureError(
                    f"{other} ({row.name}): two rows have this name; {file}: row {number} too"
                )
            found[row.name] = f"{file}: row {number}", row
    return tuple(row for _, row in found.values())


def read_rows(file: Path) -> list[Signature]:
    """The rows of one file. Raises SignatureError, OSError."""
    with file.open("rb") as stream:
        content = stream.read(SIZE_LIMIT + 1)
    if len(content) > SIZE_LIMIT:
        raise SignatureError(f"{file}: larger than {SIZE_LIMIT} bytes")
    try:
        listed = yaml.load(content, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise SignatureError(f"{file}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(listed, list):
        raise SignatureError(f"{file}: a list of rows is expected")
    return [_row(file, number, one) for number, one in enumerate(listed, 1)]


@functools.cache
def _compiled(pattern: str) -> "regex.Pattern[str]":
    # Python's own `re` searches without a limit: a pattern such as `(x|xx)+y` could take years for one line.
    return regex.compile(pattern)


def _row(file: Path, number: int, one: object) -> Signature:
    try:
        row = msgspec.convert(one, Signature)
    except msgspec.ValidationError as error:
        raise SignatureError(f"{file}: row {number}: {error}") from None
    where = f"{file}: row {number} ({row.name})"
    try:
        re.compile(row.pattern)
        _compiled(row.pattern)
    except (re.error, regex.error) as error:
        raise SignatureError(f"{where}: pattern: {error}") from None
    if row.cause is not None and row.cause not in CAUSES:
        raise SignatureError(f"{where}: there is no cause {row.cause}")
    if row.type is not None and row.type not in TYPES:
        raise SignatureError(f"{where}: there is no crash type {row.type}")
    if row.crash_type is None and row.role in (Role.ROOT, Role.CASCADE) and row.cause is None:
        raise SignatureError(f"{where}: a type or a cause is missing")
    try:
        if any(row.search(text) is not None for text in _NEXT_TO_NOTHING):
            raise SignatureError(f"{where}: pattern: it matches next to nothing, and so nearly every line")
        if row.search(row.sample) is None:
            raise SignatureError(f"{where}: its sample does not match")
        if row.search(row.near_miss) is not None:
            raise SignatureError(f"{where}: its near miss matches")
    except TimeoutError:
        raise SignatureError(f"{where}: pattern: takes too long to search even one line") from None
    return row
