"""Whole reading: every byte of a checkpoint, against the checksums and for numbers that are none.

Files in torch's zip format have a CRC-32 for each tensor; safetensors and torch's old format have none, so that of
these every number is looked at and every byte is read, and a flipped bit that leaves a number is not seen.
"""

import bisect
import math
import os
import time
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from trainguard import probes
from trainguard.checkpoints.contents import Contents, list_files
from trainguard.checkpoints.dcp import STORAGE_INFO
from trainguard.checkpoints.effort import Effort
from trainguard.checkpoints.layouts import find
from trainguard.checkpoints.listing import Checkpoint
from trainguard.checkpoints.pickles import PICKLE_LIMIT, ExhaustedError, Thing, read_pickle
from trainguard.checkpoints.safetensors import read_regions
from trainguard.checkpoints.torch_files import STORAGES
from trainguard.checkpoints.verdicts import FaultError, suspect
from trainguard.checkpoints.verifying import MOMENTS, WEIGHTS
from trainguard.checkpoints.zips import LOCAL, Entry, read_entries, start_of
from trainguard.files import opened

CHUNK = 16 << 20
# What is looked at between two looks into memory fits into a processor's second cache.
BLOCK = 256 << 10
FAULTS_AT_MOST = 20


class Format(msgspec.Struct, frozen=True):
    """A floating-point format by its bits: numpy's name of as wide a whole number, all but the sign, and the first
    of these magnitudes that is NaN or infinite. `real` is numpy's name of the format, where it has one."""

    bits: str
    magnitude: int
    strange: int
    real: str | None = None


# IEEE 754; for the eight bits Micikevicius et al., "FP8 Formats for Deep Learning" (2022), table 1.
FORMATS = {
    "F64": Format("<u8", 0x7FFF_FFFF_FFFF_FFFF, 0x7FF0_0000_0000_0000, "<f8"),
    "F32": Format("<u4", 0x7FFF_FFFF, 0x7F80_0000, "<f4"),
    "F16": Format("<u2", 0x7FFF, 0x7C00, "<f2"),
    "BF16": Format("<u2", 0x7FFF, 0x7F80),
    "F8_E5M2": Format("u1", 0x7F, 0x7C),
    "F8_E4M3": Format("u1", 0x7F, 0x7F),
    "C64": Format("<u4", 0x7FFF_FFFF, 0x7F80_0000, "<f4"),
    "C128": Format("<u8", 0x7FFF_FFFF_FFFF_FFFF, 0x7FF0_0000_0000_0000, "<f8"),
}
NO_INFINITY = "F8_E4M3"


class Piece(msgspec.Struct, frozen=True):
    """A stretch of a file: an entry of a zip with its CRC-32, or a tensor with its format; None where it has none."""

    name: str
    start: int
    size: int
    dtype: str | None = None
    crc: int | None = None

    @property
    def end(self) -> int:
        return self.start + self.size


class FileRead(msgspec.Struct, frozen=True):
    """What reading one file to its end has shown.

    `checked` bytes were held against a checksum, `tensors` looked at number by number, and `largest` is the largest
    magnitude in them. `faults` are clauses without the file's name; `changed` if somebody wrote to it meanwhile.
    """

    name: str
    size: int
    checked: int = 0
    tensors: int = 0
    largest: float | None = None
    faults: tuple[str, ...] = ()
    changed: bool = False


class DeepRead(msgspec.Struct, frozen=True):
    """What reading one checkpoint whole has shown; `vanished` if it was rotated away meanwhile."""

    path: str
    files: tuple[FileRead, ...] = ()
    problems: tuple[str, ...] = ()
    vanished: bool = False
    seconds: float = 0.0

    @property
    def size(self) -> int:
        return sum(one.size for one in self.files)

    @property
    def largest(self) -> float | None:
        return max((one.largest for one in self.files if one.largest is not None), default=None)


def read_whole(checkpoint: Checkpoint, seconds: float, workers: int | None = None) -> DeepRead:
    """Read a checkpoint to its last byte, a process per core. Raises OSError where no child can be made."""
    began = time.monotonic()
    contents = list_files(checkpoint)
    shares = share_out(contents, workers or len(os.sched_getaffinity(0)))
    asked = [
        probes.Probe(str(number), partial(_read_files, contents, share), tuple[FileRead | None, ...], seconds)
        for number, share in enumerate(shares)
    ]
    files: list[FileRead] = []
    problems = [fault.reason for fault in contents.faults]
    gone = 0
    for answer in probes.ask(asked).values():
        if not isinstance(answer.value, tuple):
            problems.append(answer.problem or "could not be read")
            continue
        files += [one for one in answer.value if one is not None]
        gone += answer.value.count(None)
    vanished = (gone > 0 or not contents.files) and not os.path.lexists(checkpoint.path)
    if gone and not vanished:
        problems.append(f"{gone} of its files vanished while it was read")
    files.sort(key=lambda one: one.name)
    took = time.monotonic() - began
    return DeepRead(str(checkpoint.path), tuple(files), tuple(problems), vanished, took)


def share_out(contents: Contents, workers: int) -> list[list[str]]:
    """The files in as many shares, the largest first to who has least; no share is empty."""
    shares: list[tuple[int, list[str]]] = [(0, []) for _ in range(max(1, workers))]
    for file in sorted(contents.files, key=lambda file: -file.size):
        least = min(range(len(shares)), key=lambda place: shares[place][0])
        size, names = shares[least]
        shares[least] = (size + file.size, [*names, file.name])
    return [names for _, names in shares if names]


def _read_files(contents: Contents, names: Sequence[str]) -> tuple[FileRead | None, ...]:
    buffer = bytearray(CHUNK)
    return tuple(_read_one(contents, name, buffer) for name in names)


def _read_one(contents: Contents, name: str, buffer: bytearray) -> FileRead | None:
    """One file; None where it is not there any more."""
    path = contents.checkpoint.path / name if contents.is_folder else contents.checkpoint.path
    try:
        return read_file(path, name, not contents.is_folder, buffer)
    except FileNotFoundError:
        return None
    except OSError as error:
        return FileRead(name, 0, faults=(f"cannot be read: {error.strerror or error}",))


def read_file(path: Path, name: str, is_single: bool, buffer: bytearray | None = None) -> FileRead:
    """Read one file of a checkpoint to its end; `is_single`: it is the checkpoint. Raises OSError."""
    buffer = buffer or bytearray(CHUNK)
    with opened(path) as descriptor:
        before = os.fstat(descriptor)
        faults: list[str] = []
        pieces: list[Piece] = []
        try:
            pieces = list_pieces(descriptor, before.st_size, path, name, is_single)
        except FaultError as fault:
            faults.append(str(fault))
        except ExhaustedError:
            pass  # a metadata that is too large to follow: the bytes are read all the same
        reader = _Reader(pieces, faults)
        reader.read(descriptor, before.st_size, buffer)
        after = os.fstat(descriptor)
    changed = (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns)
    return FileRead(
        name,
        before.st_size,
        reader.checked,
        reader.tensors,
        reader.largest,
        tuple(faults[:FAULTS_AT_MOST]),
        changed,
    )


# --- what lies where -------------------------------------------------------------------------------------------


def list_pieces(descriptor: int, size: int, path: Path, name: str, is_single: bool) -> list[Piece]:
    """The pieces of a file of this name, in its order; none where nothing is known of what lies in it.

    Raises FaultError where it is not what its name says, ExhaustedError, OSError.
    """
    has_numbers = is_single or find([name], *WEIGHTS, *MOMENTS) is not None
    if name.endswith(".safetensors"):
        regions = read_regions(descriptor, size, Effort())
        return [Piece(one.name, one.start, one.size, one.dtype) for one in regions]
    if name.endswith(".distcp"):
        return _list_shard(descriptor, size, path)
    if size >= 4 and os.pread(descriptor, 4, 0) == LOCAL:
        return _list_zip(descriptor, 0, size, has_numbers)
    return []


def _list_zip(descriptor: int, start: int, end: int, has_numbers: bool) -> list[Piece]:
    entries = read_entries(descriptor, start, end, Effort())
    dtypes = _list_dtypes(descriptor, entries) if has_numbers else {}
    pieces = [
        Piece(entry.name, start_of(descriptor, entry), entry.size, dtypes.get(entry.name), entry.checksum)
        for entry in entries
        if entry.method == 0
    ]
    if len(pieces) < len(entries):
        raise suspect("has compressed entries, which torch does not write")
    pieces.sort(key=lambda piece: piece.start)
    ends = [start, *(piece.end for piece in pieces)]
    if ends[-1] > end or any(piece.start < before for piece, before in zip(pieces, ends, strict=False)):
        raise suspect("has entries that lie over each other, or end beyond it")
    return pieces


def _list_dtypes(descriptor: int, entries: Sequence[Entry]) -> dict[str, str]:
    """The format of each storage, by the name of its entry. Raises FaultError, OSError."""
    by_name = {entry.name.partition("/")[2]: entry for entry in entries}
    entry = by_name.get("data.pkl")
    if entry is None or entry.size > PICKLE_LIMIT:
        return {}
    order = by_name.get("byteorder")
    if order is not None and os.pread(descriptor, 16, start_of(descriptor, order))[: order.size] != b"little":
        return {}
    try:
        effort = Effort()
        pickle = read_pickle(effort.read(descriptor, entry.size, start_of(descriptor, entry)), effort)
    except ExhaustedError:
        return {}
    folder = entry.name.partition("/")[0]
    dtypes = {}
    for identity in pickle.persistent:
        match identity:
            case ["storage", Thing(name=name), str(key), *_]:
                dtype = STORAGES.get(name.rpartition(".")[2], (None, 0))[0]
                if dtype is not None:
                    dtypes[f"{folder}/data/{key}"] = dtype
            case _:
                continue
    return dtypes


def _list_shard(descriptor: int, size: int, path: Path) -> list[Piece]:
    """The pieces of a shard of torch's distributed checkpoint, each a zip at a place that `.metadata` tells."""
    pieces: list[Piece] = []
    end = 0
    for start, length in sorted(_list_places(path.parent, path.name)):
        if start < end or start + length > size:
            raise suspect(f"does not have the {length} bytes of their own at {start} that .metadata tells of")
        if length >= 4 and os.pread(descriptor, 4, start) == LOCAL:
            pieces += _list_zip(descriptor, start, start + length, True)
        end = start + length
    return pieces


def _list_places(folder: Path, shard: str) -> set[tuple[int, int]]:
    """Where the pieces of a shard begin, and how long they are. Raises FaultError, ExhaustedError, OSError."""
    places = set()
    for metadata in sorted(folder.glob("*.metadata")):
        with opened(metadata) as descriptor:
            size = os.fstat(descriptor).st_size
            if size > PICKLE_LIMIT:
                raise ExhaustedError
            effort = Effort()
            pickle = read_pickle(effort.read(descriptor, size, 0), effort, wanted=STORAGE_INFO)
        for thing in pickle.things:
            match thing.state:
                case {"relative_path": str(name), "offset": int(offset), "length": int(length)}:
                    if name == shard and offset >= 0 and length >= 0:
                        places.add((offset, length))
                case _:
                    continue
    return places


# --- the bytes -------------------------------------------------------------------------------------------------


class _Reader:
    """Reads a file once, from its beginning to its end, and holds each piece against what is known of it."""

    def __init__(self, pieces: Sequence[Piece], faults: list[str]) -> None:
        self.pieces = pieces
        self.faults = faults
        self.checked = 0
        self.tensors = len([one for one in pieces if one.dtype in FORMATS and one.size])
        self._ends = [one.end for one in pieces]
        self._sums = [0] * len(pieces)
        self._strange: set[int] = set()
        self._magnitudes: dict[str, int] = {}
        self._scratch: dict[str, Any] = {}

    @property
    def largest(self) -> float | None:
        """The largest finite magnitude of all; None without a number whose format numpy or its bits tell."""
        found = (_number_of(dtype, bits) for dtype, bits in self._magnitudes.items())
        return max((number for number in found if number is not None), default=None)

    def read(self, descriptor: int, size: int, buffer: bytearray) -> None:
        """Raises OSError, also for a file that ends early."""
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        view = memoryview(buffer)
        at = 0
        while at < size:
            # So that the disk works while this chunk is looked at.
            os.posix_fadvise(descriptor, at + len(buffer), len(buffer), os.POSIX_FADV_WILLNEED)
            wanted = min(len(buffer), size - at)
            if _fill(descriptor, view[:wanted], at) < wanted:
                self.faults.append(f"ends before its {size} bytes")
                return
            at += self._look(view[:wanted], at, at + wanted == size)
        for place, piece in enumerate(self.pieces):
            if piece.crc is not None:
                if self._sums[place] != piece.crc:
                    self.faults.append(f"does not fit its checksum (CRC-32) in {_shown(piece)}")
                self.checked += piece.size

    def _look(self, chunk: memoryview, start: int, is_last: bool) -> int:
        """Look at a chunk that begins at `start`; how many of its bytes are done with."""
        end = start + len(chunk)
        for place in range(bisect.bisect_right(self._ends, start), len(self.pieces)):
            piece = self.pieces[place]
            if piece.start >= end:
                break
            first, last = max(piece.start, start), min(piece.end, end)
            if last < piece.end and not is_last:
                # A number that is cut in two is looked at with the next chunk.
                last -= (last - piece.start) % 16
                end = last
            part = chunk[first - start : last - start]
            if piece.crc is not None:
                self._sums[place] = zlib.crc32(part, self._sums[place])
            if piece.dtype in FORMATS and place not in self._strange:
                self._look_at_numbers(place, part)
        return end - start

    def _look_at_numbers(self, place: int, part: memoryview) -> None:
        piece = self.pieces[place]
        dtype = piece.dtype or ""
        form = FORMATS[dtype]
        width = int(form.bits[-1])
        numbers = np.frombuffer(part[: len(part) - len(part) % width], form.bits)
        scratch = self._scratch.setdefault(form.bits, np.empty(BLOCK // width, form.bits))
        step = len(scratch)
        for first in range(0, len(numbers), step):
            block = numbers[first : first + step]
            magnitudes = np.bitwise_and(block, form.magnitude, out=scratch[: len(block)])
            largest = int(magnitudes.max())
            if largest >= form.strange:
                if not _is_mask(dtype, block, magnitudes):
                    self._strange.add(place)
                    self.faults.append(f"holds NaN or infinity in {_shown(piece)}")
                    return
            elif largest > self._magnitudes.get(dtype, -1):
                self._magnitudes[dtype] = largest


def _fill(descriptor: int, view: memoryview, at: int) -> int:
    """Read so many bytes, which may take several calls; how many there were."""
    done = 0
    while done < len(view) and (got := os.preadv(descriptor, [view[done:]], at + done)):
        done += got
    return done


def _is_mask(dtype: str, block: Any, magnitudes: Any) -> bool:
    """Whether there is nothing but zeros and minus infinity, as in a mask of attention."""
    form = FORMATS[dtype]
    if dtype == NO_INFINITY:
        return False
    infinite = magnitudes == form.strange
    negative = block > form.magnitude
    return bool(np.all((magnitudes == 0) | (infinite & negative)))


def _number_of(dtype: str, bits: int) -> float | None:
    form = FORMATS[dtype]
    if form.real is not None:
        return float(np.array([bits], form.bits).view(form.real)[0])
    if dtype == "BF16":
        return float(np.array([bits << 16], "<u4").view("<f4")[0])
    if dtype == "F8_E5M2":
        return float(np.array([bits << 8], "<u2").view("<f2")[0])
    exponent, fraction = bits >> 3, bits & 7  # e4m3: a bias of 7
    return math.ldexp(fraction + (8 if exponent else 0), (exponent or 1) - 10)


def _shown(piece: Piece) -> str:
    return repr(piece.name[:80]) if piece.name.isprintable() else ascii(piece.name[:80])


def faults_of(read: DeepRead) -> list[str]:
    """All that is wrong with a checkpoint, a clause each; not what may be wrong because it changed meanwhile."""
    return [f"{one.name} {fault}" for one in read.files if not one.changed for fault in one.faults]
