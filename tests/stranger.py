"""With STRANGER_RECORD in its environment: records every signal that it gets. Without it: the stub daemon.

So a stranger can have exactly the daemon's command line.
"""

import os
import signal
import sys
from pathlib import Path

from stub_daemon import append, main

UNCATCHABLE = (signal.SIGKILL, signal.SIGSTOP)


def record_signals(record: Path) -> None:
    for number in signal.valid_signals() - set(UNCATCHABLE):
        # The handler itself only notes: one write, so that no signal interrupts another's record.
        signal.signal(number, lambda got, _frame: append(record, str(got)))
    record.with_suffix(".ready").touch()
    while True:
        signal.pause()


if __name__ == "__main__":
    if "STRANGER_RECORD" in os.environ:
        record_signals(Path(os.environ["STRANGER_RECORD"]))
    sys.exit(main())
