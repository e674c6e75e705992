"""Acknowledgements: faults that a person knows of, which are shown and do not count until they are over."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from trainguard import files
from trainguard.moments import text_of

FILE = "acknowledged.json"


class Acknowledgement(msgspec.Struct, frozen=True):
    """Said at `at_wall` in the boot `boot`; over with that boot, and at `until_wall` at the latest (wall seconds).

    It is of the faults of these `subjects` alone: another one of the same check counts.
    """

    at_wall: float
    boot: str
    until_wall: float | None = None
    subjects: tuple[str, ...] = ()

    def __str__(self) -> str:
        until = "the next boot" if self.until_wall is None else text_of(self.until_wall)
        return f"known until {until}"


def read_acknowledgements(directory: Path, boot: str, now_wall: float) -> dict[str, Acknowledgement]:
    """Those of a run folder that still hold, by check.

    Raises OSError, and msgspec.DecodeError for a damaged file: then nothing is known.
    """
    try:
        content = files.read_small(directory / FILE)
    except FileNotFoundError:
        return {}
    try:
        known = msgspec.json.decode(content, type=dict[str, Acknowledgement])
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(str(error)) from error
    return {name: one for name, one in known.items() if holds(one, boot, now_wall)}


def holds(one: Acknowledgement, boot: str, now_wall: float) -> bool:
    """Whether it is not over yet."""
    return one.boot == boot and (one.until_wall is None or now_wall < one.until_wall)


def acknowledge(
    directory: Path,
    known: Mapping[str, Acknowledgement],
    faults: Mapping[str, Sequence[str]],
    boot: str,
    until_wall: float | None,
) -> None:
    """Add these checks, each with the subjects of its faults, to what is `known`. Raises OSError.

    What is over is forgotten.
    """
    now = time.time()
    added = {
        name: Acknowledgement(now, boot, until_wall, tuple(subjects)) for name, subjects in faults.items()
    }
    directory.mkdir(parents=True, exist_ok=True)
    files.write_whole(directory / FILE, msgspec.json.format(msgspec.json.encode({**known, **added})) + b"\n")
