"""Asking: the child that finds out what a start needs, and its answer."""

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from trainguard import files
from trainguard.inquiries import Desk, Inquiry
from trainguard.policy import Prepared
from trainguard.policy.turn import PREPARE_SECONDS

ANSWER = "preparation.json"
IN_VAIN = "what the start needs could not be found out"
_LIMIT = 8 << 20


class Preparation:
    """Asks once for each start. No answer, or one that cannot be understood, is an answer too."""

    def __init__(self, folder: Path, helpers: set[int]) -> None:
        """The answer goes through a file in `folder`; `helpers` is where the child's number is kept meanwhile."""
        self._answer = folder / ANSWER
        self._desk = Desk(helpers)
        self._subject = ""
        self._found: Prepared | None = None

    def ask(self, config: Path, subject: str) -> None:
        """Begin to find out what is asked for, see policy.Prepare."""
        self.stop()
        self._found = None
        command = [sys.executable, "-m", "trainguard.preparations.finding", str(config), subject]
        self._subject = subject
        try:
            self._desk.ask(command, self._answer, PREPARE_SECONDS)
        except OSError as error:
            self._found = Prepared(subject, notes=(f"{IN_VAIN} ({error.strerror or error})",))

    def look(self, now: float) -> Prepared | None:
        """What was found out, None as long as nothing was. Raises OSError."""
        if self._desk.inquiry is not None and self._desk.has_ended(now):
            words = self._desk.inquiry.last_words()
            self.stop()
            self._found = self._read(words)
        return self._found

    def _read(self, words: str) -> Prepared:
        try:
            found = msgspec.json.decode(files.read_small(self._answer, _LIMIT), type=Prepared)
        except (msgspec.DecodeError, UnicodeDecodeError):
            found = None
        finally:
            self._answer.unlink(missing_ok=True)
        if found is None or found.subject != self._subject:
            return Prepared(self._subject, notes=(f"{IN_VAIN} ({words})" if words else IN_VAIN,))
        return found

    def stop(self) -> None:
        """End the child, if there is one."""
        self._desk.clear()

    def wake_sources(self) -> Sequence[Inquiry]:
        """The child, whose end is worth a look at once."""
        return self._desk.wake_sources()
