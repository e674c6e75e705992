"""Status and finding: the words in which every room and script tells how something is."""

import os
from enum import IntEnum
from typing import TextIO

import msgspec


class Status(IntEnum):
    """How something is; also the exit code of all four scripts (Nagios' four codes, in its order)."""

    OK = 0
    ATTENTION = 1
    BAD = 2
    UNKNOWN = 3


COLOURS = {Status.OK: "32", Status.ATTENTION: "33", Status.BAD: "31", Status.UNKNOWN: "35"}
MARKS = {Status.OK: "OK", Status.ATTENTION: "WARN", Status.BAD: "BAD", Status.UNKNOWN: "UNKNOWN"}


class Finding(msgspec.Struct, frozen=True):
    """One thing that was noticed: which object, what is the case, and what to do about it."""

    status: Status
    subject: str
    fact: str
    remedy: str = ""

    def __str__(self) -> str:
        sentence = f"{self.subject}: {self.fact}"
        return f"{sentence}; {self.remedy}" if self.remedy else sentence


def in_colour(stream: TextIO | None) -> bool:
    """Whether `stream` is a terminal that shows colours, and the user wants them (https://no-color.org)."""
    if stream is None or stream.closed or not stream.isatty():
        return False
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


def painted(status: Status, stream: TextIO | None, width: int = 0) -> str:
    """The mark of a status, at least `width` wide, in colour where the stream shows it."""
    mark = f"{MARKS[status]:<{width}}"
    return f"\x1b[{COLOURS[status]}m{mark}\x1b[0m" if in_colour(stream) else mark
