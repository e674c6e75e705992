"""Matching: the rows that fit one line, in the order of the rows."""

import time
from collections.abc import Sequence

from trainguard.scanner.database import Database
from trainguard.signatures import Signature

# Processor seconds. So much may one row spend on slow searches, and then it is not asked any more. A sound row takes
# less than that for the longest line, even if it was written against it.
PATIENCE = 5.0
SLOW = 0.02


class Matcher:
    """Finds the rows of a line: the database says which may fit, each row's own expression whether it does.

    `notes` says of which rows it has lost patience.
    """

    def __init__(
        self, database: Database, signatures: Sequence[Signature], patience: float = PATIENCE
    ) -> None:
        self.notes: list[str] = []
        self._database = database
        self._signatures = tuple(signatures)
        self._patience = [patience] * len(self._signatures)

    def __call__(self, text: str) -> list[Signature]:
        """The rows that fit `text`, one line without its end."""
        found = self._database.find(text.encode("utf-8", "replace"))
        numbers = range(len(self._signatures)) if found is None else sorted({number for _, number in found})
        return [self._signatures[number] for number in numbers if self._fits(number, text)]

    def _fits(self, number: int, text: str) -> bool:
        if number >= len(self._signatures):
            return False
        if self._patience[number] <= 0:
            return False
        row = self._signatures[number]
        began = time.process_time()
        try:
            fits = row.search(text) is not None
        except TimeoutError:
            fits, self._patience[number] = False, 0.0
        spent = time.process_time() - began
        if spent >= SLOW:
            self._patience[number] -= spent
            if self._patience[number] <= 0:
                self.notes.append(
                    f"signature {row.name}: its pattern takes too long to search; it is left out"
                )
        return fits
