"""Memory: what the machine and this process's cgroup have, what is swapped, and how long processes wait for it."""

import re
from pathlib import Path

import msgspec

from trainguard import cgroup

_PROC = Path("/proc")
_ROW = re.compile(r"^(\w+(?:\(\w+\))?):\s+(\d+)", re.MULTILINE)
_FULL = re.compile(r"^full avg10=[0-9.]+ avg60=([0-9.]+)", re.MULTILINE)


class Memory(msgspec.Struct, frozen=True):
    """Sizes in bytes, shares in percent; None where the kernel does not tell.

    `stalled` is the share of the last minute in which every process waited for memory (PSI, Linux 4.20).
    `committed` is what was promised, `commit_limit` what can be where `overcommit` is 2 (proc(5)).
    """

    total: int
    available: int
    swap_total: int
    swap_free: int
    huge_pages_free: int
    huge_page_size: int
    committed: int
    commit_limit: int
    overcommit: int | None
    stalled: float | None
    allowance: cgroup.Allowance | None
    oom_kills: int | None


def parse_meminfo(text: str) -> dict[str, int]:
    """The rows of /proc/meminfo: in bytes, or a plain count for HugePages_*."""
    return {
        name: int(number) * (1 if name.startswith("HugePages_") else 1024)
        for name, number in _ROW.findall(text)
    }


def parse_stalled(text: str) -> float | None:
    """The `full avg60` of a file under /proc/pressure, in percent."""
    found = _FULL.search(text)
    return float(found[1]) if found else None


def read_memory(proc: Path = _PROC) -> Memory:
    """Memory now. Raises OSError where /proc does not tell it."""
    rows = parse_meminfo((proc / "meminfo").read_text())
    if "MemTotal" not in rows or "MemAvailable" not in rows:
        raise OSError(None, "tells no MemTotal or no MemAvailable", str(proc / "meminfo"))
    overcommit = _told(proc / "sys" / "vm" / "overcommit_memory")
    pressure = _told(proc / "pressure" / "memory")
    return Memory(
        total=rows["MemTotal"],
        available=rows["MemAvailable"],
        swap_total=rows.get("SwapTotal", 0),
        swap_free=rows.get("SwapFree", 0),
        huge_pages_free=rows.get("HugePages_Free", 0),
        huge_page_size=rows.get("Hugepagesize", 0),
        committed=rows.get("Committed_AS", 0),
        commit_limit=rows.get("CommitLimit", 0),
        overcommit=int(overcommit) if overcommit.strip().isdigit() else None,
        stalled=parse_stalled(pressure),
        allowance=cgroup.read_allowance(proc=proc),
        oom_kills=cgroup.read_oom_kills(proc=proc),
    )


def _told(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
