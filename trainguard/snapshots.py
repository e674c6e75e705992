"""Snapshots: memory, disks and GPUs of the machine at one moment, as JSON that is whole at any time it may end."""

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from trainguard import disks, files, memory

SECONDS = 10.0
UNANSWERED = {"error": f"no answer within {SECONDS:g} s"}


class Host(msgspec.Struct, frozen=True):
    """Memory in bytes, load averages over 1, 5 and 15 minutes, disks by path.

    `oom_kills` is how many processes the kernel has killed for memory in this process's own memory cgroup.
    """

    memory_total: int
    memory_available: int
    swap_used: int
    load: tuple[float, float, float]
    disks: tuple[disks.Disk, ...]
    oom_kills: int | None = None


def read_snapshot(file: Path) -> dict[str, object] | None:
    """A snapshot: `host`, and `gpu`, which tells an error where the driver did not answer."""
    try:
        lines = files.read_small(file).splitlines()
        parts = [msgspec.json.decode(line, type=dict[str, object]) for line in lines]
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    return (
        {"gpu": UNANSWERED} | {name: value for part in parts for name, value in part.items()}
        if parts
        else None
    )


def read_host(paths: Iterable[Path]) -> Host:
    """Ask the machine now. May hang on a network file system that does not answer: call it in a child.

    Raises OSError where /proc does not tell its memory.
    """
    now = memory.read_memory()
    return Host(
        now.total,
        now.available,
        now.swap_total - now.swap_free,
        os.getloadavg(),
        tuple(map(disks.read_disk, paths)),
        now.oom_kills,
    )


def main(arguments: Sequence[str]) -> int:
    """Print a snapshot, a line a part: what is quick first, so that a driver that hangs costs only its own."""
    from trainguard.gpu import read_gpus  # costs memory, and only the child needs it

    _say({"host": read_host([Path(path) for path in arguments])})
    _say({"gpu": read_gpus()})
    return os.EX_OK


def _say(part: dict[str, object]) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(part) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
