"""The cgroups of a process: how much memory, CPU and how many tasks they allow, and the kernel's kills in them."""

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

_PROC = Path("/proc")
_COUNT = re.compile(rb"^oom_kill (\d+)$", re.MULTILINE)
_INACTIVE = re.compile(rb"^(?:total_)?inactive_file (\d+)$", re.MULTILINE)
# Without a limit, v1 tells the largest number of whole pages.
_NO_LIMIT = 1 << 62


class Allowance(msgspec.Struct, frozen=True):
    """What a cgroup may use and uses: bytes of memory, without what files hold and can be dropped, or threads."""

    limit: int
    used: int


def read_allowance(pid: int | str = "self", proc: Path = _PROC) -> Allowance | None:
    """The tightest limit of a process's memory cgroup and of the groups above it; None where there is none."""
    place, is_first = _find_group(pid, proc, "memory")
    limit_file, used_file = (
        ("memory.limit_in_bytes", "memory.usage_in_bytes") if is_first else ("memory.max", "memory.current")
    )
    found = []
    for group in _and_above(place):
        try:
            limit = int((group / limit_file).read_bytes())
            inactive = _INACTIVE.findall((group / "memory.stat").read_bytes())
            used = int((group / used_file).read_bytes()) - int(inactive[-1] if inactive else 0)
        except (OSError, ValueError):  # `max` is no limit, the root group has no files
            continue
        if limit < _NO_LIMIT:
            found.append(Allowance(limit, max(0, used)))
    return min(found, key=lambda one: one.limit - one.used, default=None)


def read_cpu_quota(pid: int | str = "self", proc: Path = _PROC) -> float | None:
    """How many CPUs' time the tightest cgroup of a process allows; None where none limits it.

    `cpu.max` is `quota period` (cgroup v2), in v1 they are two files; a quota of -1 or `max` is no limit.
    """
    place, is_first = _find_group(pid, proc, "cpu")
    found = []
    for group in _and_above(place):
        try:
            if is_first:
                words = [(group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")]
            else:
                words = (group / "cpu.max").read_text().split()
            quota, period = map(int, words)
        except (OSError, ValueError):
            continue
        if quota > 0 and period > 0:
            found.append(quota / period)
    return min(found, default=None)


def read_tasks(pid: int | str = "self", proc: Path = _PROC) -> Allowance | None:
    """The tightest limit of how many threads a process's cgroup and those above it may have; None without one."""
    found = []
    for group in _and_above(_find_group(pid, proc, "pids")[0]):
        try:
            found.append(
                Allowance(int((group / "pids.max").read_bytes()), int((group / "pids.current").read_bytes()))
            )
        except (OSError, ValueError):
            continue
    return min(found, key=lambda one: one.limit - one.used, default=None)


def read_oom_kills(pid: int | str = "self", proc: Path = _PROC) -> int | None:
    """How many processes of this process's memory cgroup were killed for memory, None where that is unknown.

    `oom_kill` of memory.events (cgroup v2, with the groups below), or of memory.oom_control (v1, that group
    alone, Linux 4.13). The root group of v2 has no such file.
    """
    place, is_first = _find_group(pid, proc, "memory")
    if place is None:
        return None
    try:
        found = _COUNT.search((place / ("memory.oom_control" if is_first else "memory.events")).read_bytes())
    except OSError:
        return None
    return int(found[1]) if found else None


def _and_above(place: Path | None) -> Iterator[Path]:
    """A group's folder and those of the groups above it, as far as they are seen here."""
    while place is not None and (place / "cgroup.procs").exists():
        yield place
        place = place.parent


def _find_group(pid: int | str, proc: Path, controller: str) -> tuple[Path | None, bool]:
    """The folder of the cgroup in which a controller counts a process, and whether it is one of v1."""
    try:
        # Read to the end: one read of a file under /proc gives no more than a page.
        groups = (proc / str(pid) / "cgroup").read_bytes().decode(errors="surrogateescape")
        mounts = (proc / "self" / "mountinfo").read_bytes().decode(errors="surrogateescape")
    except OSError:
        return None, False
    for is_first in (True, False):
        if (place := _group_folder(groups, mounts, controller, is_first)) is not None:
            return place, is_first
    return None, False


def _group_folder(groups: str, mounts: str, controller: str, is_first: bool) -> Path | None:
    """Where a controller's group is mounted: in the hierarchy of v1 that holds it, or in v2 (cgroups(7))."""
    path = None
    for line in groups.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if (controller in controllers.split(",")) if is_first else (number == "0" and not controllers):
            path = name
    # A group outside of this process's namespace begins with `/..`: it is mounted nowhere here.
    if path is None or path.startswith("/.."):
        return None
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields, told = before.split(" "), after.split(" ")
        if len(fields) < 5 or len(told) < 3:
            continue
        is_it = told[0] == "cgroup" and controller in told[2].split(",") if is_first else told[0] == "cgroup2"
        root = fields[3].rstrip("/")
        if is_it and (path == root or path.startswith(root + "/")):
            return Path(_unescape(fields[4])) / path[len(root) :].lstrip("/")
    return None


def _unescape(path: str) -> str:
    """mountinfo writes blanks and backslashes in octal."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)
