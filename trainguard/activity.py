"""Activity: what the processes of a run do, by their CPU time, their input and output, and their state."""

import os
from collections.abc import Iterable

import msgspec

from trainguard.policy import Doing

PROCESSES_AT_MOST = 1024
# /proc/PID/stat gives at most 15 bytes of a name. Not `make` or `bazel`: they may have started the training.
COMPILERS = {
    "cc", "cc1", "cc1plus", "gcc", "g++", "c++", "clang", "clang++", "collect2", "as", "ld", "ld.bfd", "ld.gold",
    "ld.lld", "lld", "cmake", "ninja", "nvcc", "cicc", "cudafe++", "ptxas", "fatbinary", "nvlink", "tileiras",
    "hipcc", "amdclang", "amdclang++", "llc", "opt", "icpx", "ocloc", "rustc", "neuronx-cc",
}  # fmt: skip
# `x86_64-linux-gnu-g++`, `clang-18`, `g++-13`.
COMPILER_BEGINNINGS = ("x86_64-linux-gn", "aarch64-linux-g", "clang-", "gcc-", "g++-")
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class Doer(msgspec.Struct, frozen=True):
    """One process: its `state` is the letter of proc_pid_stat(5), `io_bytes` None where it may not be asked."""

    name: str
    state: str
    cpu_seconds: float
    io_bytes: int | None


class Activity(msgspec.Struct, frozen=True):
    """What the processes of a run had done by `at` (monotonic seconds), each by its pid and start time."""

    at: float
    doers: dict[tuple[int, int], Doer]


def read_activity(pids: Iterable[int], at: float) -> Activity:
    """What these processes, 1024 at most, have done since they began; one that has ended is left out."""
    doers = {}
    for pid in list(pids)[:PROCESSES_AT_MOST]:
        text = _read(f"/proc/{pid}/stat")
        if text is None:
            continue
        try:
            name, state, cpu_seconds, start_time = parse_doer(text)
        except (ValueError, IndexError):
            continue
        doers[pid, start_time] = Doer(name, state, cpu_seconds, parse_io(_read(f"/proc/{pid}/io")))
    return Activity(at, doers)


def parse_doer(text: bytes) -> tuple[str, str, float, int]:
    """Name, state, CPU time in seconds (utime and stime) and start time in ticks, from /proc/PID/stat.

    The CPU time is that of all threads. Raises ValueError or IndexError for anything else.
    """
    opening, closing = text.index(b"("), text.rindex(b")")
    fields = text[closing + 2 :].split()
    name = text[opening + 1 : closing].decode(errors="replace")
    ticks = int(fields[11]) + int(fields[12])
    return name, fields[0].decode(), ticks / _TICKS_PER_SECOND, int(fields[19])


def parse_io(text: bytes | None) -> int | None:
    """Bytes read and written through system calls, from /proc/PID/io (`rchar`, `wchar`), None if untold.

    Not `read_bytes`: what comes from the page cache, a pipe or a socket is work too.
    """
    rows = dict(line.split(b": ") for line in (text or b"").splitlines() if b": " in line)
    try:
        return int(rows[b"rchar"]) + int(rows[b"wchar"])
    except (KeyError, ValueError):
        return None


def is_compiler(name: str) -> bool:
    """Whether a process of this name builds code."""
    return name in COMPILERS or name.startswith(COMPILER_BEGINNINGS)


def compare(before: Activity, after: Activity) -> Doing:
    """What was done between two readings by the processes that are in both, and who stands still in the later.

    A zombie is left out: it does nothing, and means nothing.
    """
    cpu_seconds, io_bytes, compilers, stopped, stuck = 0.0, None, set(), [], []
    for (pid, start_time), doer in after.doers.items():
        if doer.state in "ZXx":
            continue
        former = before.doers.get((pid, start_time))
        spent = 0.0 if former is None else max(0.0, doer.cpu_seconds - former.cpu_seconds)
        cpu_seconds += spent
        if former is not None and former.io_bytes is not None and doer.io_bytes is not None:
            io_bytes = (io_bytes or 0) + max(0, doer.io_bytes - former.io_bytes)
        if is_compiler(doer.name):
            compilers.add(doer.name)
        if doer.state in "Tt":
            stopped.append(f"pid {pid} ({doer.name})")
        # Every reader of a disk is in state D for a moment: it counts at two looks, without work between them.
        if doer.state == "D" and former is not None and former.state == "D" and not spent:
            stuck.append(f"pid {pid} ({doer.name})")
    seconds = max(0.0, after.at - before.at)
    return Doing(seconds, cpu_seconds, io_bytes, tuple(sorted(compilers)), tuple(stopped), tuple(stuck))


def _read(path: str) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(descriptor, 4096)
    except OSError:
        return None
    finally:
        os.close(descriptor)
