"""Asking: when a copy is due, and the child that keeps it."""

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from trainguard import files
from trainguard.checkpoints import Footprint, has_grown
from trainguard.health import Finding, Status
from trainguard.inquiries import Desk, Inquiry

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
        self._desk = Desk(helpers)
        self._last: Asked | None = None

    def collect(self, now: float) -> Sequence[Finding]:
        """What the child has told, once it is over."""
        if not self._desk.has_ended(now):
            return ()
        self.stop(now)
        return self._read()

    def keep_up(self, config: Path, footprint: Footprint | None, now: float) -> None:
        """Begin to copy where that is due. Raises OSError."""
        if self._desk.inquiry is not None or footprint is None or not is_due(footprint, self._last, now):
            return
        self._last = Asked(footprint, now, now)
        command = [sys.executable, "-m", "trainguard.copies.keeping", str(config)]
        self._desk.ask(command, self._answer, COPY_SECONDS)

    def _read(self) -> Sequence[Finding]:
        try:
            return msgspec.json.decode(files.read_small(self._answer, _LIMIT), type=list[Finding])
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return [Finding(Status.ATTENTION, _SUBJECT, f"none was made within {COPY_SECONDS:.0f} s")]
        finally:
            self._answer.unlink(missing_ok=True)

    def stop(self, now: float) -> None:
        """End the child, if there is one; the copies made before stay."""
        if self._desk.inquiry is None:
            return
        if self._last is not None:
            self._last = msgspec.structs.replace(self._last, ended=now)
        with contextlib.suppress(OSError):  # its answer has no place any more
            self._desk.clear()

    def wake_sources(self) -> Sequence[Inquiry]:
        """The child, which must be collected once it has ended."""
        return self._desk.wake_sources()
