"""Snapshots: memory, disks and GPUs of the machine at one moment, as JSON that is whole at any time it may end."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from trainguard import files

SECONDS = 10.0
UNANSWERED = {"error": f"no answer within {SECONDS:g} s"}


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


def main(arguments: Sequence[str]) -> int:
    """Print a snapshot, a line a part: what is quick first, so that a driver that hangs costs only its own."""
    from trainguard.gpu import read_gpus  # costs memory, and only the child needs it
    from trainguard.host import read_host

    _say({"host": read_host([Path(path) for path in arguments])})
    _say({"gpu": read_gpus()})
    return os.EX_OK


def _say(part: dict[str, object]) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(part) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
