"""Zips, as torch.save writes them: entries that are stored as they are, and a directory at the end.

Read without the standard library's reader, which loads what the directory claims and knows no limits. The
format: PKWARE's APPNOTE.TXT, 4.3.
"""

import os
import struct

import msgspec

from trainguard.checkpoints.effort import Effort
from trainguard.checkpoints.verdicts import incomplete, suspect

DIRECTORY_LIMIT = 32 << 20
ENTRY_LIMIT = 200_000
LOCAL = b"PK\x03\x04"
_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_COMMENT_LIMIT = 1 << 16
_LARGE = 0xFFFFFFFF


class Entry(msgspec.Struct, frozen=True):
    """One entry: its name, its size in bytes, where its local header is, how it is compressed, its CRC-32."""

    name: str
    size: int
    header: int
    method: int
    checksum: int


def read_entries(descriptor: int, start: int, end: int, effort: Effort) -> list[Entry]:
    """The entries of the zip that lies in a file from `start` to `end`. Raises FaultError and OSError."""
    if end - start < _END.size or os.pread(descriptor, 4, start) != LOCAL:
        raise incomplete("does not begin as a torch file") if end - start < 4 else suspect("is no torch file")
    tail_start = max(start, end - _END.size - _COMMENT_LIMIT)
    # torch writes no comment, so the record is the very last in all but strange files.
    at, tail = end - _END.size, os.pread(descriptor, _END.size, end - _END.size)
    if len(tail) < _END.size or tail[:4] != b"PK\x05\x06":
        tail = os.pread(descriptor, end - tail_start, tail_start)
        place = tail.rfind(b"PK\x05\x06")
        if place < 0 or len(tail) - place < _END.size:
            raise incomplete(f"is cut off: the directory at its end is missing ({end - start} bytes)")
        at, tail = tail_start + place, tail[place : place + _END.size]
    _, _, _, _, count, size, offset, comment = _END.unpack(tail)
    if at + _END.size + comment != end:
        raise incomplete("is cut off: the directory at its end is damaged")
    directory_end = at
    locator = os.pread(descriptor, _LOCATOR.size, at - _LOCATOR.size) if at - start >= _LOCATOR.size else b""
    if len(locator) == _LOCATOR.size and locator[:4] == b"PK\x06\x07":
        _, _, place, _ = _LOCATOR.unpack(locator)
        record = os.pread(descriptor, _END_64.size, start + place) if start + place < at else b""
        if len(record) < _END_64.size or record[:4] != b"PK\x06\x06":
            raise incomplete("is cut off: the directory at its end is damaged")
        _, _, _, _, _, _, _, count, size, offset = _END_64.unpack(record)
        directory_end = start + place
    if size > DIRECTORY_LIMIT or count > ENTRY_LIMIT:
        raise suspect(f"claims a directory of {count} entries and {size} bytes")
    if start + offset + size != directory_end:
        raise incomplete("is damaged: its directory does not lie where it should")
    return _parse(effort.read(descriptor, size, start + offset), count, start, start + offset)


def _parse(directory: bytes, count: int, start: int, end: int) -> list[Entry]:
    entries = []
    at = 0
    for _ in range(count):
        if len(directory) - at < _ENTRY.size or directory[at : at + 4] != b"PK\x01\x02":
            raise incomplete("is damaged in the directory at its end")
        fields = _ENTRY.unpack_from(directory, at)
        method, packed, size = fields[4], fields[8], fields[9]
        name_length, extra_length, comment_length, header = fields[10], fields[11], fields[12], fields[16]
        name_at = at + _ENTRY.size
        extra_at = name_at + name_length
        at = extra_at + extra_length + comment_length
        if at > len(directory):
            raise incomplete("is damaged in the directory at its end")
        if _LARGE in (packed, size, header):
            size, packed, header = _large(directory[extra_at : extra_at + extra_length], size, packed, header)
        name = directory[name_at:extra_at].decode("utf-8", "replace")
        if method == 0 and packed != size:
            raise suspect(f"has an entry whose two sizes disagree: {name[:80]!r}")
        if start + header + _LOCAL.size + packed > end:
            raise incomplete(f"is damaged: {name[:80]!r} does not lie within it")
        entries.append(Entry(name, size, start + header, method, fields[7]))
    if at != len(directory):
        raise incomplete("is damaged in the directory at its end")
    return entries


def _large(extra: bytes, size: int, packed: int, header: int) -> tuple[int, int, int]:
    """Sizes and place above 4 GiB, from the extra field with tag 1, which holds only those that need it."""
    at = 0
    while at + 4 <= len(extra):
        tag, length = struct.unpack_from("<2H", extra, at)
        if tag == 1:
            words = [
                int.from_bytes(extra[place : place + 8], "little")
                for place in range(at + 4, min(at + 4 + length, len(extra)) - 7, 8)
            ]
            values = []
            for value in (size, packed, header):
                values.append(words.pop(0) if value == _LARGE and words else value)
            return values[0], values[1], values[2]
        at += 4 + length
    return size, packed, header


def start_of(descriptor: int, entry: Entry) -> int:
    """Where an entry's bytes begin. Raises FaultError where its local header is not there, and OSError."""
    header = os.pread(descriptor, _LOCAL.size, entry.header)
    if len(header) < _LOCAL.size or header[:4] != LOCAL:
        raise incomplete(f"is damaged at the beginning of {entry.name[:80]!r}")
    fields = _LOCAL.unpack(header)
    return entry.header + _LOCAL.size + int(fields[9]) + int(fields[10])
