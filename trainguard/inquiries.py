"""Inquiries: children that find something out beside the watchdog, within a time limit, and write it to a file.

What they ask may hang in the kernel or take its time; the watchdog waits for none of them.
"""

import contextlib
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
# Behind the daemon, which wants the processors for itself.
NICENESS = 10
GRACE_SECONDS = 0.05


class Inquiry:
    """One child and the file that its output goes to, which is there only once the child has ended."""

    def __init__(
        self, command: Sequence[str], answer: Path, seconds: float, niceness: int = NICENESS
    ) -> None:
        """Start it. Raises OSError."""
        self.answer = answer
        self._part = answer.with_name(f".{answer.name}.part")
        self._deadline = time.monotonic() + seconds
        answer.parent.mkdir(parents=True, exist_ok=True)
        # The child of a watchdog that died may still write to the former one.
        self._part.unlink(missing_ok=True)
        with self._part.open("wb") as output:
            self._child = subprocess.Popen(
                list(command),
                cwd=PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.DEVNULL,
            )
        self.pid = self._child.pid
        self._descriptor = os.pidfd_open(self.pid)
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, self.pid, niceness)

    def fileno(self) -> int:
        """Readable once the child has ended."""
        return self._descriptor

    def is_over(self, now: float) -> bool:
        """Whether it has answered, or its time is over; then it is killed, and left behind if it cannot die."""
        if self._child.poll() is not None:
            return True
        if now < self._deadline:
            return False
        self._child.kill()
        return True

    def end(self) -> bool:
        """Put what it has said in its place, and stop asking; whether the child is gone for good.

        One that hangs in the kernel is left to itself. Raises OSError.
        """
        if self._child.poll() is None:
            self._child.kill()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        try:
            self._child.wait(timeout=GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            return False
        finally:
            self._part.replace(self.answer)
        return True
