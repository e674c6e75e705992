"""The host: memory and disks as they are at a moment."""

import os
from pathlib import Path

import msgspec
import psutil

from trainguard.cgroup import read_oom_kills


class Disk(msgspec.Struct, frozen=True):
    """The file system that holds a path; sizes in bytes, None where it does not tell."""

    path: str
    total: int | None
    free: int | None
    free_inodes: int | None


class Host(msgspec.Struct, frozen=True):
    """Memory in bytes, load averages over 1, 5 and 15 minutes, disks by path.

    `oom_kills` is how many processes the kernel has killed for memory in this process's own memory cgroup.
    """

    memory_total: int
    memory_available: int
    swap_used: int
    load: tuple[float, float, float]
    disks: tuple[Disk, ...]
    oom_kills: int | None = None


def read_host(paths: list[Path]) -> Host:
    """Ask the machine now. May hang on a network file system that does not answer: call it in a child."""
    memory = psutil.virtual_memory()
    return Host(
        memory.total,
        memory.available,
        psutil.swap_memory().used,
        psutil.getloadavg(),
        tuple(map(read_disk, paths)),
        read_oom_kills(),
    )


def read_disk(path: Path) -> Disk:
    """The file system of a path, or of its nearest parent that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        told = os.statvfs(path)
    except OSError:
        return Disk(str(path), None, None, None)
    return Disk(str(path), told.f_frsize * told.f_blocks, told.f_frsize * told.f_bavail, told.f_favail)
