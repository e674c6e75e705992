"""Finders: threads that look through blocks while the next ones are read, or none where a log is small."""

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue

from trainguard.scanner.database import Database
from trainguard.scanner.finding import Hits, find_hits
from trainguard.scanner.pieces import Window

# Starting threads takes as long as scanning a megabyte, and small logs are many.
LARGE = 32 << 20
THREADS = 4
# For each hit a thread waits for its turn in Python: with more in a block, threads only hinder one another.
DENSE = 16

_Answer = Hits | BaseException


class Finders:
    """Looks through blocks in `count` threads; without any, where a block is given.

    hyperscan lets other threads run while it scans. As a context, it ends the threads.
    """

    def __init__(self, database: Database, count: int = 0) -> None:
        self._database = database
        self._blocks: SimpleQueue[tuple[Window, int, int, SimpleQueue[_Answer]] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._dense = False
        for _ in range(count):
            thread = threading.Thread(target=self._work, args=(database.sibling(),), daemon=True)
            try:
                thread.start()
            except RuntimeError:
                # The system allows no further one.
                break
            self._threads.append(thread)

    @property
    def ahead(self) -> int:
        """How many blocks should be given before the first answer is waited for."""
        return len(self._threads) + 2 if self._threads else 0

    def look_through(self, window: Window, start: int, end: int) -> Callable[[], Hits]:
        """Have a block looked through; what is returned waits for its hits, or raises what went wrong.

        The window must not change before that.
        """
        if self._dense or not self._threads:
            hits = self._noted(find_hits(self._database, window, start, end))
            return lambda: hits
        answer: SimpleQueue[_Answer] = SimpleQueue()
        self._blocks.put((window, start, end, answer))
        return lambda: self._noted(answer.get())

    def _noted(self, answer: _Answer) -> Hits:
        if isinstance(answer, BaseException):
            raise answer
        self._dense = len(answer) > DENSE
        return answer

    def __enter__(self) -> "Finders":
        return self

    def __exit__(self, *_: object) -> None:
        for _thread in self._threads:
            self._blocks.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self, database: Database) -> None:
        while (block := self._blocks.get()) is not None:
            window, start, end, answer = block
            try:
                answer.put(find_hits(database, window, start, end))
            except BaseException as error:
                answer.put(error)


def threads_for(size: int) -> int:
    """In how many threads so many bytes are best looked through."""
    if size < LARGE:
        return 0
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, THREADS) if usable > 1 else 0
