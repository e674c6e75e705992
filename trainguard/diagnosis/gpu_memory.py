"""GPU memory: what PyTorch's message of an out-of-memory error tells of who held how much."""

import re
from collections.abc import Mapping

import msgspec

# Less than this a driver's own contexts hold.
FOREIGN_BYTES = 1 << 30
# So much the context, the libraries and the collectives of a process hold beside PyTorch's own memory.
CONTEXT_BYTES = 4 << 30

_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?) ?(?P<unit>[KMGT]i?B|bytes?)", re.IGNORECASE)
_UNITS = {"b": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_PROCESS = re.compile(r"Process (?P<pid>\d+) has (?P<held>[\d.,]+ ?[A-Za-z]+) memory in use")


class Holder(msgspec.Struct, frozen=True):
    """A process that holds memory of a GPU: how much, as it was told and in bytes."""

    pid: str
    held: str
    bytes: float


def parse_size(text: str | None) -> float | None:
    """Bytes, from a size as PyTorch prints it (`1.50 GiB`); None where it is none."""
    match = _SIZE.search(text or "")
    if match is None:
        return None
    base = 1000 if match["unit"][1:2] in ("B", "b") and len(match["unit"]) == 2 else 1024
    return float(match["number"]) * float(base ** _UNITS[match["unit"][0].lower()])


def find_foreign(told: Mapping[str, str]) -> Holder | None:
    """The other process that holds most, None where none holds much.

    A process in a container does not know its own number on the host: then it tells itself among the others.
    """
    holders = [
        Holder(match["pid"], match["held"], parse_size(match["held"]) or 0.0)
        for match in _PROCESS.finditer(told.get("processes", ""))
    ]
    if "used" not in told and (own := _find_own(holders, told)) is not None:
        holders.remove(own)
    largest = max(holders, key=lambda one: one.bytes, default=None)
    return largest if largest is not None and largest.bytes >= FOREIGN_BYTES else None


def _find_own(holders: list[Holder], told: Mapping[str, str]) -> Holder | None:
    """The one that holds what PyTorch had here, and a little more."""
    allocated, unallocated = (parse_size(told.get(name)) for name in ("allocated", "unallocated"))
    if allocated is None:
        return None
    mine = allocated + (unallocated or 0.0)
    # Sizes are told in hundredths of their unit.
    fitting = [one for one in holders if 0.99 * mine <= one.bytes <= mine + CONTEXT_BYTES]
    return min(fitting, key=lambda one: one.bytes, default=None)
