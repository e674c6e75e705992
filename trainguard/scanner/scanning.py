"""Scanning: a file runs through memory in blocks, and what the database finds in them is kept."""

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from trainguard.scanner import reading
from trainguard.scanner.database import Database
from trainguard.scanner.finders import Finders, threads_for
from trainguard.scanner.finding import CELL, OVERLAP, Hits
from trainguard.scanner.pieces import LOOK_LAST, Keeper, Piece, Scan, Window
from trainguard.scanner.reading import Readable

BLOCK = 256 << 10
_HISTORY = LOOK_LAST + (64 << 10)
# More blocks than are looked through at once, so that no change of the window waits for them.
_BUFFER = 3 << 19


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
        window = Window(bytearray(_BUFFER), start, torn)
        holes = reading.has_holes(about)
        regions = _regions(stream, start, stop) if holes else iter([(start, stop)])
        with Finders(database, threads_for(stop - start)) as finders:
            scanner = _Scanner(window, finders, Keeper(start, is_progress), progress)
            notes = scanner.run(regions, stream)
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
    window = Window(bytearray(_BUFFER), 0, False)
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
    keeper = Keeper(window.base, is_progress, newlines)
    scanner = _Scanner(window, Finders(database), keeper, progress, compressed)
    if not notes:
        notes += scanner.run([(window.base, end)], source)
    return scanner.scan(name, window.end, tuple(notes), None)


class _Scanner:
    """One file that is being scanned."""

    def __init__(
        self,
        window: Window,
        finders: Finders,
        keeper: Keeper,
        progress: Callable[[int], None] | None,
        compressed: bool = False,
    ) -> None:
        self._window = window
        self._finders = finders
        self._keeper = keeper
        self._progress = progress
        self._compressed = compressed
        self._start = window.base
        self._scanned = window.base
        self._cut_in_line = False
        self._whole = False
        # Up to where each block reaches that is looked through, in order, and its window.
        self._asked: deque[tuple[Window, int, Callable[[], Hits]]] = deque()
        self._spare = bytearray()

    def run(self, regions: Iterable[tuple[int, int | None]], source: Readable) -> tuple[str, ...]:
        """Read and scan the regions; the sentences on what could not be read."""
        try:
            for start, stop in regions:
                if start > self._window.end:
                    self._scan_rest()
                    self._keeper.leave(self._window)
                    self._window.jump(start)
                    self._scanned = start
                    self._cut_in_line = False
                    source.seek(start)  # type: ignore[attr-defined]
                while stop is None or self._window.end < stop:
                    if not self._read_block(source, stop):
                        return ()
        except reading.damage_errors() as error:
            return (_damage(error, self._window.end, self._compressed),)
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
        if self._window.room() < BLOCK:
            self._change_window()
        window = self._window
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

    def _change_window(self) -> None:
        """Go on in the other buffer: blocks of this window may still be looked through."""
        window = self._window
        while self._asked and self._asked[0][0] is not window:
            self._take_next()
        spare = self._spare or bytearray(_BUFFER)
        self._window = window.continued(self._scanned - _HISTORY, spare)
        self._spare = window.buffer

    def _scan_rest(self) -> None:
        if self._scanned < self._window.end:
            self._scan_to(self._window.end)
        while self._asked:
            self._take_next()

    def _scan_to(self, cut: int) -> None:
        window = self._window
        start = self._scanned
        if self._cut_in_line:
            start = max(window.base, window.first, start - OVERLAP)
        self._asked.append((window, cut, self._finders.look_through(window, start, cut)))
        self._scanned = cut
        if len(self._asked) > self._finders.ahead:
            self._take_next()

    def _take_next(self) -> None:
        window, cut, hits = self._asked.popleft()
        self._keeper.look_from(cut - self._start)
        self._keeper.take(window, cut, hits())


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
