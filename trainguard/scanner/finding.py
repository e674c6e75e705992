"""Finding: where in a block of lines a pattern matches, with the escape sequences taken out."""

import re
from bisect import bisect_right

from trainguard.scanner.database import Database
from trainguard.scanner.pieces import Window

# Where hits are dense, one is enough to keep so much.
CELL = 8 << 10
# A line longer than a block is cut; a message that stands across the cut is found in the overlap.
OVERLAP = 4 << 10

# An escape sequence, as in trainguard.progress; one that is not known is the ESC alone.
_ESCAPE = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\r\n\x1b]*\x07?|[@-Z\\^_])?")

# The search of an expression is slower than that for a byte, and faster for very many.
_FEW_ESCAPES = 32

Hits = list[tuple[int, int]]


def find_hits(database: Database, window: Window, start: int, end: int) -> Hits:
    """The hits between two offsets: for each the offset of a byte in its line, and the pattern's number.

    It depends on nothing but these bytes, so that blocks may be looked through in any order.
    """
    found = database.find(_text(window, start, end))
    if found is not None:
        return _in_file(window, start, end, found)
    hits: Hits = []
    while start < end:
        stop = end
        if end - start > CELL:
            stop = window.last_line_end(start, start + CELL)
        text = _text(window, start, stop if stop > 0 else min(start + CELL + OVERLAP, end))
        stop = stop if stop > 0 else start + CELL
        if (number := database.find_any(text)) is not None:
            # Which line it is in is not known, so that the cell is kept whole.
            hits += [(start, number), (stop - 1, number)]
        start = stop
    return hits


def _text(window: Window, start: int, end: int) -> memoryview | bytes:
    """The bytes between two offsets as they are scanned."""
    base = window.base
    escape = window.find(b"\x1b", start, end)
    if escape < 0:
        return window.view[start - base : end - base]
    kept: list[memoryview | bytes] = []
    while escape >= 0 and len(kept) < _FEW_ESCAPES:
        kept.append(window.view[start - base : escape - base])
        sequence = _ESCAPE.match(window.buffer, escape - base, end - base)
        start = sequence.end() + base if sequence else escape + 1
        escape = window.find(b"\x1b", start, end)
    rest = window.view[start - base : end - base]
    kept.append(rest if escape < 0 else _ESCAPE.sub(b"", rest))
    return b"".join(kept)


def _in_file(window: Window, start: int, end: int, found: Hits) -> Hits:
    """The same hits with offsets in the file for the ends of their texts."""
    if not found or window.find(b"\x1b", start, end) < 0:
        return [(start + place - 1, number) for place, number in found]
    places, offsets = [0], [start]
    taken = start
    for sequence in _ESCAPE.finditer(window.view[start - window.base : end - window.base]):
        taken += len(sequence[0])
        offsets.append(start + sequence.end())
        places.append(offsets[-1] - taken)
    hits: Hits = []
    for place, number in found:
        part = bisect_right(places, place - 1) - 1
        hits.append((offsets[part] + place - 1 - places[part], number))
    return hits
