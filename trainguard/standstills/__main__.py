"""The child that gathers a standstill: a line of JSON for each thing that it comes to know."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from trainguard import processes
from trainguard.standstills import SECONDS
from trainguard.standstills.gathering import gather

_LEAST_SECONDS = 1.0


def main(arguments: Sequence[str]) -> int:
    """Print the standstill of these processes, again and again as it grows. Raises SystemExit, OSError."""
    parser = argparse.ArgumentParser(prog="trainguard.standstills", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="gets stacks.txt")
    parser.add_argument("--checkpoints", type=Path, action="append", default=[], metavar="DIR")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="from birth to the last line")
    parser.add_argument("processes", nargs="+", type=_process, metavar="PID[:START_TIME]")
    chosen = parser.parse_args(arguments)
    seconds = max(_LEAST_SECONDS, chosen.seconds - _age())
    for standstill in gather(dict(chosen.processes), chosen.folder, chosen.checkpoints, seconds):
        sys.stdout.buffer.write(msgspec.json.encode(standstill) + b"\n")
        sys.stdout.buffer.flush()
    return os.EX_OK


def _age() -> float:
    """Seconds since this process was born: on a machine whose processors are all busy Python starts slowly."""
    itself = processes.read_process(os.getpid())
    if itself is None:
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - itself.identity.start_time / os.sysconf("SC_CLK_TCK")


def _process(word: str) -> tuple[int, int | None]:
    pid, colon, start_time = word.partition(":")
    return int(pid), int(start_time) if colon else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
