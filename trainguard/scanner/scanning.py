"""Scanning: a file runs through memory in blocks, and what the database finds in them is kept."""

import io
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from trainguard.scanner import reading
from trainguard.scanner.database import Database
from trainguard.scanner.pieces import LOOK_LAST, Keeper, Piece, Scan, Window
from trainguard.scanner.reading import Readable

BLOCK = 256 << 10
# Where hits are dense, one is enough to keep so much.
CELL = 8 << 10
# A line longer than a block is cut; a message that stands across the cut is found in the overlap.
OVERLAP = 4 << 10
_HISTORY = LOOK_LAST + (64 << 10)
_BUFFER = 1 << 20
# Hits in cells that are so few mean that the hits are no longer dense.
_SPARSE_CELLS = 8

# The rest of an escape sequence behind its ESC, as in trainguard.progress.
_ESCAPE = re.compile(rb"\[[0-?]*[ -/]*[@-~]|\][^\x07\r\n]*\x07?|[@-Z\\^_]")


def scan_file(
    path: Path,
    database: Database,
    start: int = 0,
    end: int | None = None,
    progress: Callable[[int], None] | None = None,
    is_progress: Callable[[bytes], bool] | None = None,
) -> Scan:
    """Scan the bytes `start` to `end` (default: its size now) of a file; offsets are of the decompressed text.

    `progress` is told how many bytes were read each time; `is_progress` says whether a line of a gap shows that
    training went on. Raises OSError for what is no regular file or cannot be opened.
    """
    stream, about = reading.open_log(path)
    with stream:
        source, compressed = reading.decompressed(stream)
        if compressed:
            return _scan_stream(source, str(path), database, start, end, progress, is_progress, True)
        size = about.st_size
        stop = size if end is None else min(end, size)
        start = min(start, stop)
        torn = _is_torn(stream, start)
        stream.seek(start)
        window = Window(_BUFFER, start, torn)
        scanner = _Scanner(window, database, Keeper(start, is_progress), progress)
        notes = scanner.run(
            _regions(stream, start, stop) if reading.has_holes(about) else [(start, stop)], stream
        )
        return scanner.scan(str(path), size, notes, stop)


def scan_stream(
    stream: BinaryIO,
    name: str,
    database: Database,
    start: int = 0,
    end: int | None = None,
    progress: Callable[[int], None] | None = None,
    is_progress: Callable[[bytes], bool] | None = None,
) -> Scan:
    """Like `scan_file`, for a stream that is read to its end once, compressed or not; lines are numbered."""
    source, compressed = reading.decompressed(stream)  # type: ignore[arg-type]
    return _scan_stream(source, name, database, start, end, progress, is_progress, compressed)


def number_lines(scan: Scan, path: Path) -> Scan:
    """The same scan with each piece's line number; as it was where the file cannot be counted any more."""
    if not scan.pieces or scan.pieces[0].line is not None or scan.compressed:
        return scan
    numbered: list[Piece] = []
    newlines, at = 0, 0
    try:
        stream, about = reading.open_log(path)
        with stream:
            holes = reading.has_holes(about)
            for piece in scan.pieces:
                newlines += _count(stream, at, piece.start, holes)
                numbered.append(msgspec.structs.replace(piece, line=newlines + 1))
                newlines += piece.content.count(b"\n")
                at = piece.end
    except OSError:
        return scan
    return msgspec.structs.replace(scan, pieces=tuple(numbered))


def _scan_stream(
    source: Readable,
    name: str,
    database: Database,
    start: int,
    end: int | None,
    progress: Callable[[int], None] | None,
    is_progress: Callable[[bytes], bool] | None,
    compressed: bool,
) -> Scan:
    window = Window(_BUFFER, 0, False)
    notes: list[str] = []
    newlines = 0
    last = b"\n"
    try:
        while window.base < start:
            count = source.readinto(window.view[: min(BLOCK, start - window.base)])
            if not count:
                break
            newlines += window.buffer.count(b"\n", 0, count)
            last = bytes(window.view[count - 1 : count])
            window.base += count
    except reading.damage_errors() as error:
        notes.append(_damage(error, window.base, compressed))
    window.first, window.torn = window.base, last not in (b"\n", b"\r")
    scanner = _Scanner(window, database, Keeper(window.base, is_progress, newlines), progress, compressed)
    if not notes:
        notes += scanner.run([(window.base, end)], source)
    return scanner.scan(name, window.end, tuple(notes), None)


class _Scanner:
    """One file that is being scanned."""

    def __init__(
        self,
        window: Window,
        database: Database,
        keeper: Keeper,
        progress: Callable[[int], None] | None,
        compressed: bool = False,
    ) -> None:
        self._window = window
        self._database = database
        self._keeper = keeper
        self._progress = progress
        self._compressed = compressed
        self._start = window.base
        self._scanned = window.base
        self._cut_in_line = False
        self._dense = False
        self._whole = False

    def run(
        self, regions: "Iterator[tuple[int, int]] | list[tuple[int, int | None]]", source: Readable
    ) -> tuple[str, ...]:
        """Read and scan the regions; the sentences on what could not be read."""
        window = self._window
        try:
            for start, stop in regions:
                if start > window.end:
                    self._scan_rest()
                    self._keeper.leave(window)
                    window.jump(start)
                    self._scanned = start
                    self._cut_in_line = False
                    source.seek(start)  # type: ignore[attr-defined]
                while stop is None or window.end < stop:
                    if not self._read_block(source, stop):
                        return ()
        except reading.damage_errors() as error:
            return (_damage(error, window.end, self._compressed),)
        self._whole = True
        return ()

    def scan(self, name: str, size: int, notes: tuple[str, ...], expected: int | None) -> Scan:
        """What was found, once all was read."""
        self._scan_rest()
        end = expected if expected is not None and self._whole else self._window.end
        pieces, gaps = self._keeper.finish(self._window, end)
        if expected is not None and end < expected and not notes:
            notes = (f"it became shorter while it was read: it ends at byte {end} instead of {expected}",)
        return Scan(
            file=name,
            pieces=pieces,
            gaps=gaps,
            size=size if expected is not None else end,
            start=self._start,
            end=end,
            hits=self._keeper.hits,
            dropped=self._keeper.dropped,
            notes=notes,
            compressed=self._compressed,
        )

    def _read_block(self, source: Readable, stop: int | None) -> bool:
        window = self._window
        if window.room() < BLOCK:
            window.forget(self._scanned - _HISTORY)
        wanted = BLOCK if stop is None else min(BLOCK, stop - window.end)
        count = source.readinto(window.view[window.filled : window.filled + wanted])
        if not count:
            return False
        window.filled += count
        cut = window.last_line_end(max(self._scanned, window.end - CELL), window.end)
        if cut < 0:
            cut = window.last_line_end(self._scanned, window.end)
        if cut >= 0:
            self._scan_to(cut)
            self._cut_in_line = False
        elif window.end - self._scanned >= BLOCK:
            self._scan_to(window.end)
            self._cut_in_line = True
        if self._progress is not None:
            self._progress(count)
        return True

    def _scan_rest(self) -> None:
        if self._scanned < self._window.end:
            self._scan_to(self._window.end)

    def _scan_to(self, cut: int) -> None:
        window = self._window
        start = self._scanned
        if self._cut_in_line:
            start = max(window.base, window.first, start - OVERLAP)
        hits = self._find(start, cut)
        self._keeper.look_from(cut - self._start)
        self._keeper.take(window, cut, hits)
        self._scanned = cut

    def _find(self, start: int, cut: int) -> list[tuple[int, int]]:
        """The hits between two offsets: for each the offset of a byte in its line, and the pattern's number."""
        window = self._window
        if not self._dense:
            text, offsets = self._text(start, cut)
            found = self._database.find(text)
            if found is not None:
                return [(offsets(end - 1), number) for end, number in found]
        hits: list[tuple[int, int]] = []
        cells = dirty = 0
        while start < cut:
            stop = cut
            if cut - start > CELL:
                stop = window.last_line_end(start, start + CELL)
            text, _ = self._text(start, stop if stop > 0 else min(start + CELL + OVERLAP, cut))
            stop = stop if stop > 0 else start + CELL
            cells += 1
            if (number := self._database.find_any(text)) is not None:
                dirty += 1
                # Which line it is in is not known, so that the cell is kept whole.
                hits += [(start, number), (stop - 1, number)]
            start = stop
        self._dense = dirty > _SPARSE_CELLS
        return hits

    def _text(self, start: int, end: int) -> tuple[memoryview | bytes, Callable[[int], int]]:
        """The text between two offsets as it is scanned, and from a place in it the offset in the file."""
        window = self._window
        if window.find(b"\x1b", start, end) < 0:
            view = window.view[start - window.base : end - window.base]
            return view, lambda place: start + place
        parts = window.text(start, end).split(b"\x1b")
        kept = [parts[0]]
        places, offsets = [0], [start]
        place, offset = len(parts[0]), start + len(parts[0])
        for part in parts[1:]:
            match = _ESCAPE.match(part)
            left = part[match.end() :] if match else part
            offset += 1 + len(part)
            places.append(place)
            offsets.append(offset - len(left))
            kept.append(left)
            place += len(left)

        def offset_of(at: int) -> int:
            number = bisect_right(places, at) - 1
            return offsets[number] + at - places[number]

        return b"".join(kept), offset_of


def _damage(error: Exception, at: int, compressed: bool) -> str:
    what = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if compressed:
        return f"the compressed file is damaged or cut short; {at} decompressed bytes were read ({what})"
    return f"cannot be read further than byte {at} ({what})"


def _is_torn(stream: io.FileIO, offset: int) -> bool:
    if offset == 0:
        return False
    stream.seek(offset - 1)
    return stream.read(1) not in (b"\n", b"\r", b"")


def _regions(stream: io.FileIO, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The parts of a file with holes that were written."""
    while start < end:
        begin, stop = reading.next_data(stream, start)
        if begin >= end or stop <= begin:
            return
        stream.seek(max(begin, start))
        yield max(begin, start), min(stop, end)
        start = stop


def _count(stream: io.FileIO, start: int, end: int, holes: bool) -> int:
    newlines = 0
    buffer = bytearray(BLOCK)
    view = memoryview(buffer)
    for begin, stop in _regions(stream, start, end) if holes else [(start, end)]:
        stream.seek(begin)
        while begin < stop and (count := stream.readinto(view[: min(BLOCK, stop - begin)])):
            newlines += buffer.count(b"\n", 0, count)
            begin += count
    return newlines
