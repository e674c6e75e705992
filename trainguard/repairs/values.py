"""The values of repairs: a row of their table, a plan, a record of what was done, and what came of it."""

from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from trainguard.config import Settings
from trainguard.repairs.steps import UNDONE_BY_NOBODY, Step


class Left(msgspec.Struct, frozen=True):
    """Something that wants mending and is left as it is, and why."""

    why: str


Planned = Step | Left


class Repair(msgspec.Struct, frozen=True):
    """One row. `plan` looks at the world at `now_wall` (wall seconds) and acts on nothing.

    Where it `needs_lock` it is carried out only while no watchdog holds the run folder; `meanwhile` is what to say
    where one does. `undoable` is false where all its steps are for good.
    """

    id: str
    explain: str
    plan: Callable[[Settings, float], Iterator[Planned]]
    needs_lock: bool = True
    undoable: bool = True
    meanwhile: str = "stop it first: daemon_watchdog.py --stop"
    seconds: float = 10.0


class Plan(msgspec.Struct, frozen=True):
    """What a repair would do now, step by step, and what it leaves."""

    repair: str
    now_wall: float
    steps: tuple[Step, ...] = ()
    left: tuple[str, ...] = ()


class Outcome(msgspec.Struct, frozen=True):
    """What came of a plan; `record` is the id that `undo` takes, None where nothing was done."""

    repair: str
    record: str | None = None
    done: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


class Record(msgspec.Struct, frozen=True):
    """What is kept of a repair, written before it acts: the steps tell what was there and how to put it back.

    `cut`: whoever carried it out was killed, and what was not done was given up.
    """

    id: str
    repair: str
    at_wall: float
    status: Literal["open", "done", "cut", "undone"]
    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()

    @property
    def undoable(self) -> bool:
        """Whether any of its steps can be put back."""
        return self.status != "undone" and any(not isinstance(step, UNDONE_BY_NOBODY) for step in self.steps)
