"""Holders: the processes that a driver names, as the machine knows them."""

import os
from pathlib import Path

from trainguard import processes
from trainguard.gpu.values import GpuProcess

# include/linux/proc_ns.h: the inode of the first PID namespace, in which every process has a number.
_FIRST_PID_NAMESPACE = 0xEFFFFFFC


def holder_of(pid: int, memory_used: int | None) -> GpuProcess:
    """Who has this number: whether it lives, whose it is, and which run it belongs to."""
    try:
        process = processes.read_process(pid)
        ancestors = () if process is None else tuple(processes.ancestors(pid))
    except OSError:
        return GpuProcess(pid, memory_used)
    if process is None:
        return GpuProcess(pid, memory_used, _hidden_lives(pid))
    mark = processes.read_mark(pid)
    run = None if mark is None else mark.run
    lives, uid = not processes.is_gone(process), process.identity.uid
    return GpuProcess(pid, memory_used, lives, uid, process.name, run, ancestors)


def sees_all_processes() -> bool | None:
    """Whether this process is in the first PID namespace; None where that is not told."""
    try:
        return Path("/proc/self/ns/pid").stat().st_ino == _FIRST_PID_NAMESPACE
    except OSError:
        return None


def _hidden_lives(pid: int) -> bool | None:
    """Whether a process that /proc does not show lives: it may be hidden (hidepid), or outside a container."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False if sees_all_processes() else None
    return True
