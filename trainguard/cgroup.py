"""The memory cgroup of a process: how often the kernel has killed for memory in it."""

import re
from pathlib import Path

_PROC = Path("/proc")
_COUNT = re.compile(rb"^oom_kill (\d+)$", re.MULTILINE)


def read_oom_kills(pid: int | str = "self", proc: Path = _PROC) -> int | None:
    """How many processes of this process's memory cgroup were killed for memory, None where that is unknown.

    `oom_kill` of memory.events (cgroup v2, with the groups below), or of memory.oom_control (v1, that group
    alone, Linux 4.13). The root group of v2 has no such file.
    """
    try:
        # Read to the end: one read of a file under /proc gives no more than a page.
        groups = (proc / str(pid) / "cgroup").read_bytes().decode(errors="surrogateescape")
        mounts = (proc / "self" / "mountinfo").read_bytes().decode(errors="surrogateescape")
    except OSError:
        return None
    for is_first, file in ((True, "memory.oom_control"), (False, "memory.events")):
        place = _group_folder(groups, mounts, is_first)
        if place is None:
            continue
        try:
            found = _COUNT.search((place / file).read_bytes())
        except OSError:
            return None
        return int(found[1]) if found else None
    return None


def _group_folder(groups: str, mounts: str, is_first: bool) -> Path | None:
    """Where the memory cgroup is mounted: in the hierarchy of v1 that holds it, or in v2 (cgroups(7))."""
    path = None
    for line in groups.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if ("memory" in controllers.split(",")) if is_first else (number == "0" and not controllers):
            path = name
    # A group outside of this process's namespace begins with `/..`: it is mounted nowhere here.
    if path is None or path.startswith("/.."):
        return None
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields, told = before.split(" "), after.split(" ")
        if len(fields) < 5 or len(told) < 3:
            continue
        is_it = told[0] == "cgroup" and "memory" in told[2].split(",") if is_first else told[0] == "cgroup2"
        root = fields[3].rstrip("/")
        if is_it and (path == root or path.startswith(root + "/")):
            return Path(_unescape(fields[4])) / path[len(root) :].lstrip("/")
    return None


def _unescape(path: str) -> str:
    """mountinfo writes blanks and backslashes in octal."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)
