"""Matching: the rows that fit one line, in the order of the rows."""

import re
from collections.abc import Sequence

from trainguard.scanner.database import Database
from trainguard.signatures import Signature


class Matcher:
    """Finds the rows of a line: the database says which may fit, Python's own expression whether one does."""

    def __init__(self, database: Database, signatures: Sequence[Signature]) -> None:
        self._database = database
        self._signatures = tuple(signatures)
        self._expressions: dict[int, re.Pattern[str]] = {}

    def __call__(self, text: str) -> list[Signature]:
        """The rows that fit `text`, one line without its end."""
        found = self._database.find(text.encode("utf-8", "replace"))
        numbers = range(len(self._signatures)) if found is None else sorted({number for _, number in found})
        return [self._signatures[number] for number in numbers if self._fits(number, text)]

    def _fits(self, number: int, text: str) -> bool:
        if number >= len(self._signatures):
            return False
        expression = self._expressions.get(number)
        if expression is None:
            expression = self._expressions[number] = re.compile(self._signatures[number].pattern)
        return expression.search(text) is not None
