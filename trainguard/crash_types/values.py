"""Crash types and their finer causes: what each is, whether a restart helps, and what a person does about it.

A type says what the watchdog should do, a cause what the person should do; a cause's verdict beats its type's.
"""

from enum import Enum

import msgspec


class Blame(str, Enum):
    """Whose fault a crash is; `class` in the JSON."""

    HARDWARE = "hardware"
    INFRASTRUCTURE = "infrastructure"
    RESOURCE = "resource"
    SOFTWARE = "software"
    CONFIGURATION = "configuration"
    DATA = "data"
    EXTERNAL = "external"


class Retry(str, Enum):
    """Whether a restart helps."""

    YES = "yes"  # transient: restart
    CLEAN = "clean"  # restart after the remedy
    NO = "no"  # deterministic or unsafe: a person is needed


HELPS = {
    Retry.YES: "a restart helps",
    Retry.CLEAN: "a restart helps after the remedy",
    Retry.NO: "a restart does not help",
}


class Verdict(str, Enum):
    """What is right for a cause."""

    RESTART = "restart"
    FIX = "fix"  # fix first, then restart
    PARK = "park"  # park and alert
    REPAIR = "repair"  # reboot, reset or replace
    EARLIER = "earlier"  # a root cause only if nothing earlier is found


class CrashType(msgspec.Struct, frozen=True):
    """One type. `what`, `signs` and `steps` are what --explain prints; steps stand cheapest first."""

    name: str
    blame: Blame
    retry: Retry
    what: str
    signs: str
    steps: tuple[str, ...]
    sources: tuple[str, ...] = ()


class Cause(msgspec.Struct, frozen=True):
    """One finer cause. `type` is None where it is never a crash by itself.

    `verdicts` stand in the order of occurrences: the first for the first time, the last for all later ones.
    A step may name what its signature's pattern captured, as in `{tried}`; a step whose name was not captured
    is left out.
    """

    name: str
    type: str | None
    verdicts: tuple[Verdict, ...]
    what: str
    steps: tuple[str, ...]
    sources: tuple[str, ...] = ()
