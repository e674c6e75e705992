"""What is kept of a log: pieces around hits, its end, and what is known of the gaps between them."""

import re
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

LINES_BEFORE = 60
BYTES_BEFORE = 16 << 10
LINES_AFTER = 120
BYTES_AFTER = 32 << 10
TRACEBACK_BYTES = 96 << 10
LAST_LINES = 200
LAST_BYTES = 64 << 10
EARLY_LIMIT = 1 << 20
LATE_LIMIT = 3 << 20
# Hits of one pattern after which a further one is nothing new.
FRESH_HITS = 100

LOOK_FIRST = 512 << 10
LOOK_LAST = 128 << 10
# Looking for progress is slow, so that it may take this, and a part of what is read.
LOOK_ALWAYS = 8 << 20
LOOK_PART = 32
SHAPES = 4096

# Windows of hits that are this near to one another all but touch.
_NEAR = 12 << 10
_CHUNK = 32 << 10
# A line in a traceback that goes on, maybe behind a rank's name: source, `File`, or a frame drawn by rich.
_BODY = re.compile(rb'(?:\[[a-z0-9:]+\]:? ?)?(?: {4}| *File "|\xe2\x94\x82|\|  )')
_DIGITS = re.compile(rb"[0-9]+")


class Piece(msgspec.Struct, frozen=True):
    """Consecutive bytes of a file, cut at line ends.

    `start` is the offset of its first byte in the (decompressed) file and `line` the number of the first line,
    from 1 and counting `\\n`, None while unknown. `torn`: that line began earlier.
    """

    start: int
    content: bytes
    line: int | None = None
    torn: bool = False

    @property
    def end(self) -> int:
        """The offset behind its last byte."""
        return self.start + len(self.content)


class Gap(msgspec.Struct, frozen=True):
    """Bytes that are not handed over. `went_on`: training made progress in them, as far as was looked."""

    start: int
    end: int
    went_on: bool


class Scan(msgspec.Struct, frozen=True):
    """What the bytes from `start` to `end` of a file hold: the pieces in order, and the gaps around them.

    `size` is the file's when the scan began. `hits` are places where a pattern matched (where they are dense,
    two for some lines together), `dropped` those of them whose text is in a gap. `notes` are sentences on what
    could not be read whole. `compressed`: all offsets are those of the decompressed text.
    """

    file: str
    pieces: tuple[Piece, ...]
    gaps: tuple[Gap, ...]
    size: int
    start: int
    end: int
    hits: int = 0
    dropped: int = 0
    notes: tuple[str, ...] = ()
    compressed: bool = False


class Window:
    """The part of a file that is in memory: `filled` bytes of `buffer`, of which the first is at `base`."""

    def __init__(self, buffer: bytearray, base: int, torn: bool) -> None:
        self.buffer = buffer
        self.view = memoryview(buffer)
        self.base = base
        self.filled = 0
        self.torn = torn  # the byte at `first` is not the first of a line
        self.first = base

    @property
    def end(self) -> int:
        """The offset behind the last byte in memory."""
        return self.base + self.filled

    def room(self) -> int:
        """How many bytes may still be added."""
        return len(self.buffer) - self.filled

    def continued(self, start: int, buffer: bytearray) -> "Window":
        """A window that goes on in another buffer, with the bytes from offset `start`; this one stays as it is."""
        window = Window(buffer, max(start, self.base), self.torn)
        window.first = self.first
        window.filled = self.end - window.base
        window.view[: window.filled] = self.view[window.base - self.base : self.filled]
        return window

    def jump(self, offset: int) -> None:
        """Go on at a later offset, as if behind the middle of a line: a hole is skipped."""
        self.base = self.first = offset
        self.filled = 0
        self.torn = True

    def text(self, start: int, end: int) -> bytes:
        """A copy of the bytes between two offsets."""
        return bytes(self.view[max(0, start - self.base) : max(0, end - self.base)])

    def count(self, start: int, end: int) -> int:
        """How many `\\n` stand between two offsets."""
        return self.buffer.count(b"\n", start - self.base, end - self.base)

    def find(self, what: bytes, start: int, end: int) -> int:
        """The first offset of a byte between two offsets, -1 without."""
        at = self.buffer.find(what, start - self.base, end - self.base)
        return at if at < 0 else at + self.base

    def find_last(self, what: bytes, start: int, end: int) -> int:
        """The last offset of a byte between two offsets, -1 without."""
        at = self.buffer.rfind(what, start - self.base, end - self.base)
        return at if at < 0 else at + self.base

    def last_line_end(self, start: int, end: int) -> int:
        """The offset behind the last line end in between, -1 without; a `\\n` is preferred to a later `\\r`."""
        at = self.find_last(b"\n", start, end)
        if at < 0:
            at = self.find_last(b"\r", start, end)
        return at if at < 0 else at + 1

    def end_of_lines(self, start: int, end: int, lines: int) -> tuple[int, int]:
        """The offset behind so many lines, or `end` where there are fewer, and how many are missing."""
        parts = self.text(start, end).split(b"\n", lines)
        missing = lines + 1 - len(parts)
        return (end if missing else end - len(parts[-1])), missing

    def is_torn(self, offset: int) -> bool:
        """Whether no line begins at an offset."""
        if offset == self.first:
            return self.torn
        return offset > self.base and self.buffer[offset - 1 - self.base] not in b"\r\n"

    def start_of_lines(self, offset: int, lines: int, limit: int) -> int:
        """Where the last `lines` lines before the line of `offset` begin, at most `limit` bytes back."""
        low = max(self.base, self.first, offset - limit)
        parts = self.text(low, offset).rsplit(b"\n", lines + 1)
        if len(parts) == lines + 2:
            return low + len(parts[0]) + 1
        if low == self.first:
            return low
        for line_end in (b"\n", b"\r"):
            if (found := self.find(line_end, low, offset)) >= 0:
                return found + 1
        return low


class _Chunk(msgspec.Struct):
    """A part of a piece; `went_on` is about the gap before it."""

    start: int
    content: bytes
    line: int | None
    torn: bool
    fresh: bool
    hits: int
    went_on: bool = False

    @property
    def end(self) -> int:
        return self.start + len(self.content)


class Keeper:
    """Keeps the pieces while a file runs past: the latest, and of the earlier ones those with something new."""

    def __init__(
        self, start: int, is_progress: Callable[[bytes], bool] | None, newlines: int | None = None
    ) -> None:
        """`newlines` is how many stand before `start`; without, the pieces get no line numbers."""
        self.hits = 0
        self.dropped = 0
        self.newlines = newlines
        self._newlines_at = start
        self._begin = start
        self._counts: dict[int, int] = {}
        self._early: list[_Chunk] = []
        self._early_bytes = 0
        self._late: deque[_Chunk] = deque()
        self._late_bytes = 0
        self._lost: _Chunk | None = None
        self._lost_looked = 0
        # The piece that grows, or grew last.
        self._kept_to = start
        self._any = False
        self._open = False
        self._hit = start
        self._lines = 0
        self._limit = 0
        self._counted = start
        self._new_hits = 0
        self._fresh = False
        # The gap behind it.
        self._went_on = False
        self._looked_to = start
        self._look = Look(is_progress) if is_progress is not None else None

    # --- while the file runs past -----------------------------------------------------------------------------

    def take(self, window: Window, cut: int, hits: Sequence[tuple[int, int]]) -> None:
        """Go on to the offset `cut`; each hit is an offset in a line that matched, and the pattern's number."""
        for offset, number in hits:
            self._take_hit(window, offset, number)
        if self._open:
            self._extend(window, cut)
        if not self._open and self._any:
            self._look_at_gap(window, cut)
        if self.newlines is not None:
            self._move_newlines(window, cut)

    def leave(self, window: Window) -> None:
        """A hole follows: what is open ends here."""
        if self._open:
            self._extend(window, window.end)
            self._open = False

    def finish(self, window: Window, end: int) -> tuple[tuple[Piece, ...], tuple[Gap, ...]]:
        """The file ends at `end`, maybe with a hole: keep its last lines, and give all that was kept."""
        self.leave(window)
        last = window.end
        if self._kept_to < last and window.filled:
            at_end = window.find(b"\n", last - 1, last) >= 0
            start = window.start_of_lines(last - 1 if at_end else last, LAST_LINES - 1, LAST_BYTES)
            self._begin_piece(window, start)
            self._append(window, last)
        return self._assemble(end)

    def look_from(self, scanned: int) -> None:
        """So much was read; looking for progress may take a part of it."""
        if self._look is not None:
            self._look.allowed = LOOK_ALWAYS + scanned // LOOK_PART

    def _take_hit(self, window: Window, offset: int, number: int) -> None:
        self.hits += 1
        if self._open and offset - self._hit > _NEAR:
            self._extend(window, window.last_line_end(max(self._counted, window.base), offset))
        if not self._open:
            self._begin_piece(window, window.start_of_lines(offset, LINES_BEFORE, BYTES_BEFORE))
        elif offset - self._kept_to > _CHUNK:
            # In small parts, so that something new does not keep much that is old.
            self._append(window, window.last_line_end(self._kept_to, offset))
        count = self._counts.get(number, 0)
        self._counts[number] = count + 1
        self._fresh |= count < FRESH_HITS
        self._new_hits += 1
        self._open = True
        self._hit = offset
        self._lines = LINES_AFTER
        self._limit = offset + BYTES_AFTER
        self._counted = max(offset, self._kept_to)

    def _begin_piece(self, window: Window, start: int) -> None:
        if self._any and start <= self._kept_to:
            return
        if self._any:
            self._look_at_gap(window, start)
            if self._look is not None and not self._went_on:
                low = max(self._looked_to, start - LOOK_LAST, window.base)
                self._went_on = self._look.at(window.text(low, start))
        self._any = True
        self._kept_to = start

    def _extend(self, window: Window, upto: int) -> None:
        """Let the open piece grow to `upto`, or to the end of its window and close it."""
        position = self._counted
        if upto < position:
            return
        while True:
            stop = min(upto, self._limit)
            if self._lines and position < stop:
                position, self._lines = window.end_of_lines(position, stop, self._lines)
            if position >= upto:
                # What follows is not known yet.
                self._counted = upto
                self._append(window, upto)
                return
            if self._lines:
                line_end = window.last_line_end(max(self._hit, self._kept_to), position)
                position = line_end if line_end >= 0 else position
            if position - self._hit >= TRACEBACK_BYTES or not _BODY.match(
                window.buffer, position - window.base, upto - window.base
            ):
                break
            following = window.find(b"\n", position, upto)
            if following < 0:
                break
            position, self._lines = following + 1, 0
            self._limit = self._hit + TRACEBACK_BYTES
        self._append(window, position)
        self._open = False

    def _append(self, window: Window, end: int) -> None:
        if end <= self._kept_to:
            return
        content = window.text(self._kept_to, end)
        line = self._line_at(window, self._kept_to)
        chunk = _Chunk(
            self._kept_to,
            content,
            line,
            window.is_torn(self._kept_to),
            self._fresh,
            self._new_hits,
            self._went_on,
        )
        self._kept_to = self._looked_to = end
        self._fresh = self._went_on = False
        self._new_hits = 0
        self._late.append(chunk)
        self._late_bytes += len(content)
        while self._late_bytes > LATE_LIMIT and len(self._late) > 1:
            self._move_on(self._late.popleft())

    def _move_on(self, chunk: _Chunk) -> None:
        """What is late no more is kept among the early if it has something new, else let go."""
        self._late_bytes -= len(chunk.content)
        if chunk.fresh and self._early_bytes + len(chunk.content) <= EARLY_LIMIT:
            self._early.append(chunk)
            self._early_bytes += len(chunk.content)
            self._lost, self._lost_looked = None, 0
            return
        self.dropped += chunk.hits
        following = self._late[0]
        following.went_on |= chunk.went_on
        if self._look is not None and not following.went_on:
            if self._lost_looked < LOOK_FIRST:
                following.went_on = self._look.at(chunk.content)
                self._lost_looked += len(chunk.content)
            elif following.fresh:
                following.went_on = self._look.at(chunk.content[-LOOK_LAST:])
        self._lost = chunk

    # --- gaps and line numbers --------------------------------------------------------------------------------

    def _look_at_gap(self, window: Window, upto: int) -> None:
        if self._look is None or self._went_on:
            return
        stop = min(upto, self._kept_to + LOOK_FIRST)
        if self._looked_to < stop:
            self._went_on = self._look.at(window.text(self._looked_to, stop))
            self._looked_to = stop

    def _line_at(self, window: Window, offset: int) -> int | None:
        if self.newlines is None:
            return None
        if offset >= self._newlines_at:
            self._move_newlines(window, offset)
            return self.newlines + 1
        return self.newlines - window.count(offset, self._newlines_at) + 1

    def _move_newlines(self, window: Window, offset: int) -> None:
        if self.newlines is not None and offset > self._newlines_at:
            self.newlines += window.count(self._newlines_at, offset)
            self._newlines_at = offset

    # --- at the end -------------------------------------------------------------------------------------------

    def _assemble(self, end: int) -> tuple[tuple[Piece, ...], tuple[Gap, ...]]:
        chunks = [*self._early, *self._late]
        if self._lost is not None and self._look is not None and self._late and not self._late[0].went_on:
            self._late[0].went_on = self._look.at(self._lost.content[-LOOK_LAST:])
        pieces: list[Piece] = []
        gaps: list[Gap] = []
        at = self._begin
        first = 0
        for number, chunk in enumerate(chunks):
            following = chunks[number + 1] if number + 1 < len(chunks) else None
            if chunk.start > at:
                gaps.append(Gap(at, chunk.start, chunk.went_on))
            at = chunk.end
            if following is None or following.start != at:
                content = b"".join(one.content for one in chunks[first : number + 1])
                begun = chunks[first]
                pieces.append(Piece(begun.start, content, begun.line, begun.torn))
                first = number + 1
        if at < end:
            gaps.append(Gap(at, end, False))
        return tuple(pieces), tuple(gaps)


class Look:
    """Looks for progress in text, and remembers the shapes of lines that were none."""

    def __init__(self, is_progress: Callable[[bytes], bool]) -> None:
        self.allowed = LOOK_ALWAYS
        self._is_progress = is_progress
        self._done = 0
        self._shapes: set[bytes] = set()

    def at(self, content: bytes) -> bool:
        """Whether a line in it, ended by `\\n` or `\\r`, is progress."""
        if self._done >= self.allowed:
            return False
        for segment in content.replace(b"\r", b"\n").split(b"\n"):
            self._done += len(segment)
            # A line that differs only in its numbers from one that was no progress is none either.
            shape = _DIGITS.sub(b"0", segment[:512])
            if not segment or shape in self._shapes:
                continue
            if self._is_progress(segment):
                return True
            if len(self._shapes) < SHAPES and len(segment) <= 512:
                self._shapes.add(shape)
        return False
