"""What the kernel modules of the GPUs wrote into the kernel log since the boot, and what the catalogue says of it."""

import functools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from trainguard.signatures import Signature

# A look at the catalogue for every line of a chatty driver would take seconds.
_HINT = re.compile(r"Xid \(|(?:amdgpu|i915|\bxe ).*(?:error|fault|timeout|reset|failed|HANG|CRITICAL)")
# What alone decides which row of the catalogue an Xid is of, but for 154, whose words matter.
XID = "NVRM: Xid "
_XID = re.compile(r"NVRM: Xid \([^)]*\): (?!154,)\d+,")
_BUS = re.compile(r"(?:PCI:)?(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([0-9a-f]{2})", re.IGNORECASE)
_KEPT_TEXT = 200
_KINDS_LIMIT = 200


class Xid(msgspec.Struct, frozen=True):
    """One kind of message of one GPU: how often, when last (wall seconds), and what the catalogue says of it.

    `code` is the number of NVIDIA's catalogue, None for another vendor. `harmless` needs nothing; `hardware` is
    that it lies in the device. `verdicts` stand in the order of occurrences, `what` and `action` are sentences.
    """

    name: str
    code: int | None
    bus: str | None
    count: int
    last: float | None
    text: str
    harmless: bool
    hardware: bool
    verdicts: tuple[str, ...]
    what: str
    action: str

    @property
    def verdict(self) -> str:
        """What is right after the last occurrence: `restart`, `fix`, `park`, `repair`, or nothing known."""
        return self.verdicts[min(self.count, len(self.verdicts)) - 1] if self.verdicts else ""


class XidLog(msgspec.Struct, frozen=True):
    """The kernel's messages of GPUs; `problem` is why the kernel log cannot be read.

    `has_driver` is whether a GPU's kernel module is loaded, so that there could be messages.
    """

    xids: tuple[Xid, ...] = ()
    lines: int = 0
    problem: str | None = None
    has_driver: bool = False


def has_driver(module: Path = Path("/sys/module")) -> bool:
    """Whether a kernel module of a GPU for computing is loaded."""
    return any((module / name).exists() for name in ("nvidia", "amdgpu"))


def parse_xids(lines: Iterable[tuple[float | None, str]]) -> XidLog:
    """The messages of GPUs in the kernel's lines (wall seconds, text), by kind and GPU, in their order."""
    found: dict[tuple[str, int | None, str | None], Xid] = {}
    count = 0
    for moment, text in lines:
        count += 1
        if not _HINT.search(text) or (told := _understood(text)) is None:
            continue
        row, facts = told
        code = int(facts["xid"]) if facts.get("xid", "").isdigit() else None
        key = row.name, code, facts.get("bus")
        before = found.get(key)
        if before is not None:
            found[key] = msgspec.structs.replace(
                before, count=before.count + 1, last=moment, text=_kept(text)
            )
        elif len(found) < _KINDS_LIMIT:
            found[key] = _first(row, code, facts, moment, text)
    return XidLog(tuple(found.values()), count)


def same_bus(first: str | None, second: str | None) -> bool:
    """Whether two names are of one PCI device: the kernel's `PCI:0000:5e:00`, NVML's `00000000:5E:00.0`."""
    one, other = (None if bus is None else _BUS.match(bus) for bus in (first, second))
    if one is None or other is None:
        return False
    return [int(part or "0", 16) for part in one.groups()] == [
        int(part or "0", 16) for part in other.groups()
    ]


def _first(row: "Signature", code: int | None, facts: dict[str, str], moment: float | None, text: str) -> Xid:
    from trainguard.crash_types import CAUSES, TYPES
    from trainguard.signatures import Role

    cause = CAUSES.get(row.cause or "")
    kind = TYPES.get(row.crash_type or "")
    harmless = row.role is Role.ADVICE or row.cause == "gpu_benign"
    steps = cause.steps if cause is not None else kind.steps if kind is not None else ()
    return Xid(
        name=row.name,
        code=code,
        bus=facts.get("bus"),
        count=1,
        last=moment,
        text=_kept(text),
        harmless=harmless,
        hardware=row.crash_type == "gpu_hardware",
        verdicts=() if cause is None else tuple(one.value for one in cause.verdicts),
        what=cause.what if cause is not None else kind.what if kind is not None else "",
        action=next((step for step in (_filled(one, facts) for one in steps) if step), ""),
    )


def _filled(step: str, facts: dict[str, str]) -> str:
    """A step with what the line holds; empty where the line does not hold what the step names."""
    try:
        return step.format(**facts)
    except (KeyError, IndexError, ValueError):
        return ""


def _understood(text: str) -> "tuple[Signature, dict[str, str]] | None":
    head = _XID.search(text)
    rows = _catalogue(XID in text) if head is None else _rows_of(head[0])
    for row in rows:
        try:
            match = row.search(text)
        except TimeoutError:
            continue
        if match is not None:
            return row, {name: held for name, held in match.groupdict().items() if held}
    return None


@functools.lru_cache(_KINDS_LIMIT)
def _rows_of(head: str) -> "tuple[Signature, ...]":
    """The row of an Xid, by the beginning of its line: a storm of one kind is looked up once."""
    return next(((row,) for row in _catalogue(True) if row.search(head) is not None), ())


@functools.cache
def _catalogue(nvidia: bool) -> "tuple[Signature, ...]":
    """The rows of Xids, or all others."""
    from trainguard.signatures.rows import FOLDER, read_rows

    return tuple(row for row in read_rows(FOLDER / "xid.yaml") if row.pattern.startswith(XID) is nvidia)


def _kept(text: str) -> str:
    return text.strip()[:_KEPT_TEXT]
