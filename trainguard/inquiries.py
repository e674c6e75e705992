"""Inquiries: children that find something out beside the watchdog, within a time limit, and write it to a file.

What they ask may hang in the kernel or take its time; the watchdog waits for none of them.
"""

import contextlib
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from trainguard.files import read_range

PROJECT = Path(__file__).resolve().parent.parent
# Behind the daemon, which wants the processors for itself.
NICENESS = 10
GRACE_SECONDS = 0.05
WORDS_LIMIT = 4096


class Inquiry:
    """One child and the file that its output goes to, which is there only once the child has ended."""

    def __init__(
        self, command: Sequence[str], answer: Path, seconds: float, niceness: int = NICENESS
    ) -> None:
        """Start it. Raises OSError."""
        self.answer = answer
        self._part = answer.with_name(f".{answer.name}.part")
        self._words = answer.with_name(f".{answer.name}.errors")
        self._deadline = time.monotonic() + seconds
        answer.parent.mkdir(parents=True, exist_ok=True)
        # The child of a watchdog that died may still write to the former one.
        self._part.unlink(missing_ok=True)
        self._words.unlink(missing_ok=True)
        with self._part.open("wb") as output, self._words.open("wb") as errors:
            self._child = subprocess.Popen(
                list(command),
                cwd=PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
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

    def last_words(self) -> str:
        """The last line that it wrote to its standard error, before `end`; empty where there is none."""
        try:
            size = self._words.stat().st_size
            content = read_range(self._words, max(0, size - WORDS_LIMIT), size)
        except OSError:
            return ""
        lines = content.decode("utf-8", "replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

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
            self._words.unlink(missing_ok=True)
            self._part.replace(self.answer)
        return True


class Desk:
    """Where one inquiry at a time is under way; the number of its child is among `helpers` while it may live."""

    def __init__(self, helpers: set[int]) -> None:
        self._helpers = helpers
        self.inquiry: Inquiry | None = None

    def ask(self, command: Sequence[str], answer: Path, seconds: float, niceness: int = NICENESS) -> None:
        """Begin an inquiry, where none is under way. Raises OSError."""
        self.inquiry = Inquiry(command, answer, seconds, niceness)
        self._helpers.add(self.inquiry.pid)

    def has_ended(self, now: float) -> bool:
        """Whether there is an inquiry, and it is over."""
        return self.inquiry is not None and self.inquiry.is_over(now)

    def clear(self) -> None:
        """End what is under way, if anything is. A child that hangs in the kernel stays a helper. Raises OSError."""
        inquiry, self.inquiry = self.inquiry, None
        if inquiry is not None and inquiry.end():
            self._helpers.discard(inquiry.pid)

    def wake_sources(self) -> list[Inquiry]:
        """The child, whose end is worth a look at once."""
        return [] if self.inquiry is None else [self.inquiry]
