"""Waiting: the one place where the watchdog sleeps, and all that can end its sleep."""

import os
import select
import signal
from collections.abc import Iterable

from trainguard.processes import Pollable

LEAVE_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Wake:
    """Signals and ended processes end a wait at once; signals are collected until somebody asks for them."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._arrived: set[int] = set()
        # A handler of Python's own is also what makes SIGHUP arrive under nohup, which had it ignored.
        for number in (*LEAVE_SIGNALS, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: object) -> None:
        self._arrived.add(number)

    def wants_to_leave(self) -> bool:
        """Whether somebody asked the watchdog to end. Stays true."""
        return any(number in self._arrived for number in LEAVE_SIGNALS)

    def wants_reload(self) -> bool:
        """Whether SIGHUP came since the last call."""
        wanted = signal.SIGHUP in self._arrived
        self._arrived.discard(signal.SIGHUP)
        return wanted

    def wait(self, seconds: float, ending: Iterable[Pollable] = ()) -> None:
        """Sleep until a signal comes, one of the processes ends, or the time is over."""
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        for handle in ending:
            poll.register(handle.fileno(), select.POLLIN)
        try:
            for descriptor, _ in poll.poll(max(0, round(seconds * 1000))):
                if descriptor == self._reader:
                    os.read(self._reader, 4096)
        except BlockingIOError:
            return
