#!/usr/bin/env python3
"""A small launcher: it starts a command in a session of its own, as torchrun starts its workers, and waits.

    $ python examples/launcher.py python examples/training_daemon.py

SIGTERM and Ctrl-C are handed on. A launcher that is killed with -9 can hand on nothing: the command goes on
without it, and whoever restarts only the launcher has two trainings in one folder. `make demo` shows it.
"""

import signal
import subprocess
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """The command's exit code, or 1 where a signal ended it."""
    command = list(sys.argv[1:] if argv is None else argv)
    if not command:
        print("usage: launcher.py COMMAND [WORD ...]", file=sys.stderr)
        return 2
    child = subprocess.Popen(command, start_new_session=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _frame: child.send_signal(number))
    code = child.wait()
    if code < 0:
        print(f"launcher: {command[0]} (pid {child.pid}) died of signal {-code}", file=sys.stderr, flush=True)
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main())
