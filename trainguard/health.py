"""Status and finding: the words in which every room and script tells how something is."""

from enum import IntEnum

import msgspec


class Status(IntEnum):
    """How something is; also the exit code of all four scripts (Nagios' four codes, in its order)."""

    OK = 0
    ATTENTION = 1
    BAD = 2
    UNKNOWN = 3


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
