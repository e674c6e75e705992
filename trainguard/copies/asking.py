"""Asking: when a copy is due, and the child that keeps it."""

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from trainguard import files
from trainguard.checkpoints import Footprint, has_grown
from trainguard.health import Finding, Status
from trainguard.inquiries import Inquiry

ANSWER = "copying.json"
COPY_SECONDS = 600.0
# After it has copied it rests four times as long, so that a trainer that always saves is not slowed down by it.
REST = 4.0
_LIMIT = 1 << 20
_SUBJECT = "copies of checkpoints"


class Asked(msgspec.Struct, frozen=True):
    """When a child was asked last (monotonic seconds), what lay there then, and when it was over."""

    footprint: Footprint
    began: float
    ended: float


def is_due(footprint: Footprint | None, last: Asked | None, now: float) -> bool:
    """Whether a copy is to be made: something was written since the last one was begun.

    That a save has ended is for the child to see: a trainer may save at every look.
    """
    if footprint is None or not footprint.files:
        return False
    if last is None:
        return True
    return now >= last.ended + REST * (last.ended - last.began) and has_grown(last.footprint, footprint)


class Copying:
    """Has copies kept, one child at a time."""

    def __init__(self, folder: Path, helpers: set[int]) -> None:
        """The answer goes through a file in `folder`; `helpers` is where the child's number is kept meanwhile."""
        self._answer = folder / ANSWER
        self._helpers = helpers
        self._inquiry: Inquiry | None = None
        self._last: Asked | None = None

    def collect(self, now: float) -> Sequence[Finding]:
        """What the child has told, once it is over."""
        if self._inquiry is None or not self._inquiry.is_over(now):
            return ()
        self.stop(now)
        return self._read()

    def keep_up(self, config: Path, footprint: Footprint | None, now: float) -> None:
        """Begin to copy where that is due. Raises OSError."""
        if self._inquiry is not None or footprint is None or not is_due(footprint, self._last, now):
            return
        self._last = Asked(footprint, now, now)
        command = [sys.executable, "-m", "trainguard.copies.keeping", str(config)]
        self._inquiry = Inquiry(command, self._answer, COPY_SECONDS)
        self._helpers.add(self._inquiry.pid)

    def _read(self) -> Sequence[Finding]:
        try:
            return msgspec.json.decode(files.read_small(self._answer, _LIMIT), type=list[Finding])
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return [Finding(Status.ATTENTION, _SUBJECT, f"none was made within {COPY_SECONDS:.0f} s")]
        finally:
            self._answer.unlink(missing_ok=True)

    def stop(self, now: float) -> None:
        """End the child, if there is one; the copies made before stay."""
        inquiry, self._inquiry = self._inquiry, None
        if inquiry is None:
            return
        if self._last is not None:
            self._last = msgspec.structs.replace(self._last, ended=now)
        try:
            is_gone = inquiry.end()
        except OSError:  # its answer has no place any more
            is_gone = True
        if is_gone:
            self._helpers.discard(inquiry.pid)

    def wake_sources(self) -> Sequence[Inquiry]:
        """The child, which must be collected once it has ended."""
        return [] if self._inquiry is None else [self._inquiry]
