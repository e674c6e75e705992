"""Carrying out: a plan under the run's lock, recorded before it acts; undoing it; and what was cut off."""

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from trainguard import probes
from trainguard.config import ExpectedError, Settings
from trainguard.repairs import records
from trainguard.repairs.folders import Refused
from trainguard.repairs.steps import (
    UNDONE_BY_NOBODY,
    MakeFolder,
    SetLimit,
    SetMode,
    Stand,
    StartWatchdog,
    Step,
    StopProcesses,
)
from trainguard.repairs.table import REPAIRS
from trainguard.repairs.values import Left, Outcome, Plan, Record
from trainguard.run_folder import HeldError, RunFolder

LOCK_SECONDS = 2.0


# How the lines of `undo` begin that say what was not put back.
STAYS = ("not undone", "stays")


class UnknownRecordError(ExpectedError):
    """An id that no record has."""


# --- planning --------------------------------------------------------------------------------------------------


def plan_repairs(
    ids: Iterable[str], settings: Settings, now_wall: float, closing: Sequence[int] = ()
) -> list[Plan]:
    """What these repairs would do now, in the order of the table. Acts on nothing.

    Each looks in a child of its own, which lets go of the descriptors `closing`: one that hangs is told as left, and
    holds up nobody. Raises OSError where no child can be made.
    """
    chosen = [row for row in REPAIRS.values() if row.id in set(ids)]
    asked = [
        probes.Probe(row.id, partial(_look, row.id, settings, now_wall, closing), Plan, row.seconds)
        for row in chosen
    ]
    answers = probes.ask(asked)
    plans = []
    for row in chosen:
        found = answers[row.id]
        cannot = Plan(row.id, now_wall, left=(f"cannot be planned: {found.problem}",))
        plans.append(found.value if isinstance(found.value, Plan) else cannot)
    return plans


def _look(repair: str, settings: Settings, now_wall: float, closing: Sequence[int]) -> Plan:
    for descriptor in closing:
        os.close(descriptor)  # a child that hangs would hold the lock
    told = list(REPAIRS[repair].plan(settings, now_wall))
    steps = tuple(one for one in told if not isinstance(one, Left))
    return Plan(repair, now_wall, steps, tuple(one.why for one in told if isinstance(one, Left)))


# --- carrying out ----------------------------------------------------------------------------------------------


def carry_out(plan: Plan, settings: Settings, now_wall: float) -> Outcome:
    """Do what is planned, as far as the world is still as it was planned for.

    Under the lock it is planned once more, and only what both plans name is done. Never raises for what the
    file system or a process does: that is left, with why.
    """
    try:
        if not plan.steps and not unfinished(settings):
            return Outcome(plan.repair, left=plan.left)
        with _held(settings, REPAIRS[plan.repair].needs_lock, plan) as held:
            (fresh,) = plan_repairs([plan.repair], settings, plan.now_wall, held)
            steps = _agreed(plan, fresh, settings)
            agreed = {_subject_of(step) for step in steps}
            gone = [
                f"{step.describe()}: is not so any more"
                for step in plan.steps
                if _subject_of(step) not in agreed
            ]
            outcome = _do(plan.repair, steps, settings, now_wall)
    except (OSError, Refused, ExpectedError) as error:
        return Outcome(plan.repair, left=(_why(error, plan.repair), *plan.left))
    return replace(outcome, left=(*outcome.left, *gone, *plan.left))


def _agreed(plan: Plan, fresh: Plan, settings: Settings) -> tuple[Step, ...]:
    """What both plans name, as the fresh one has it; of processes whoever is an orphan now."""
    first = tuple(step for step in plan.steps if _is_done_first(step, settings))
    subjects = {_subject_of(step) for step in plan.steps}
    return (*first, *(step for step in fresh.steps if _subject_of(step) in subjects))


def _subject_of(step: Step) -> tuple[str, ...]:
    """What a step is about. How new names are numbered may have changed, as may the processes that are orphans."""
    if isinstance(step, StopProcesses | StartWatchdog):
        return (type(step).__name__,)
    if isinstance(step, SetLimit):
        return (type(step).__name__, str(step.target.pid))
    return (type(step).__name__, step.folder.path, step.name)


def _do(repair: str, steps: Sequence[Step], settings: Settings, now_wall: float) -> Outcome:
    folder = settings.logs.directory
    if not steps:
        return Outcome(repair)
    record = Record(records.new_id(folder, repair, now_wall), repair, now_wall, "open", tuple(steps))
    records.write(folder, record)
    kept = records.kept_by(folder, record.id)
    done: list[str] = []
    left: list[str] = []
    for step in steps:
        # They lean on each other, as a pointer is led away before its checkpoint is renamed.
        if left:
            left.append(f"{step.describe()}: not tried after that")
            continue
        try:
            _advance(step, kept)
            done.append(step.describe())
        except (OSError, Refused, ExpectedError) as error:
            left.append(f"{step.describe()}: {_reason(error)}")
    with contextlib.suppress(OSError):  # what was done is told by the world
        records.write(folder, replace(record, status="done", notes=tuple(left)))
    return Outcome(repair, record.id, tuple(done), tuple(left))


def _advance(step: Step, kept: Path) -> None:
    stand = step.stand(kept)
    if stand is Stand.CHANGED:
        raise Refused("what is there has changed meanwhile")
    if stand is not Stand.DONE:
        step.do(kept)


@contextlib.contextmanager
def _held(settings: Settings, needs_lock: bool, plan: Plan | None) -> Iterator[list[int]]:
    """Be the only one who repairs, and where that is needed the only one in the run folder; the descriptors of both.

    What must be so before anything can be recorded safely is done first. Raises Refused, HeldError, OSError.
    """
    folder = settings.logs.directory
    run = RunFolder(folder)
    if needs_lock and (holder := run.watchdog()) is not None:
        raise HeldError(holder)
    for step in () if plan is None else plan.steps:
        if _is_done_first(step, settings):
            _advance(step, folder)
    real = Path(os.path.realpath(folder))
    about = real.stat()
    if about.st_uid not in (os.geteuid(), 0):
        raise Refused(f"{real} belongs to user {about.st_uid}: run this as that user")
    if about.st_mode & stat.S_IWOTH and not about.st_mode & stat.S_ISVTX:
        raise Refused(f"{real} can be written by every user: open-permissions comes first")
    with records.held(real) as descriptor, contextlib.ExitStack() as stack:
        held = [descriptor]
        if needs_lock:
            held.append(run.lock(LOCK_SECONDS))
            stack.callback(run.leave)
        for record in unfinished(settings):
            records.write(folder, _settled(settings, record))
        yield held


def _is_done_first(step: Step, settings: Settings) -> bool:
    """Whether a record can be kept only after this step: the run folder is made, opened or closed by it."""
    if not isinstance(step, MakeFolder | SetMode):
        return False
    place = Path(step.folder.path, step.name)
    run_folder = Path(os.path.realpath(settings.logs.directory))
    return run_folder == place or (isinstance(step, MakeFolder) and place in run_folder.parents)


# --- what was cut off ------------------------------------------------------------------------------------------


def unfinished(settings: Settings) -> list[Record]:
    """The records whose repair was cut off or is under way. Raises OSError."""
    return [one for one in records.list_records(settings.logs.directory) if one.status == "open"]


def _settled(settings: Settings, record: Record) -> Record:
    """A record of a repair that was cut off, as the world tells it: what was not done is given up, and taken out.

    It is not finished: the world may have moved on since, and who looks anew plans what is still needed.
    """
    kept = records.kept_by(settings.logs.directory, record.id)
    steps: list[Step] = []
    notes = []
    for step in record.steps:
        try:
            stand = step.stand(kept)
            if stand is Stand.HALF:
                step.undo(kept)
        except (OSError, Refused, ExpectedError) as error:
            steps.append(step)  # whether it was done shows when it is undone
            notes.append(f"{step.describe()}: {_reason(error)}")
            continue
        if stand is Stand.DONE:
            steps.append(step)
        else:
            notes.append(f"{step.describe()}: was cut off before")
    return replace(record, status="cut", steps=tuple(steps), notes=tuple(notes))


def list_records(settings: Settings) -> list[Record]:
    """All that was ever repaired here, the oldest first. Raises OSError."""
    return records.list_records(settings.logs.directory)


# --- undoing ---------------------------------------------------------------------------------------------------


def undo(settings: Settings, record_id: str) -> list[str]:
    """Put back what a repair has changed, the last first; a line for each step says how that went.

    May be called again where it was cut off. Raises UnknownRecordError.
    """
    record = records.read(settings.logs.directory, record_id)
    if record is None:
        known = ", ".join(one.id for one in records.list_records(settings.logs.directory)[-5:])
        raise UnknownRecordError(f"{record_id}: no record of that id; the last are: {known or 'none'}")
    if record.status == "undone":
        return [f"{record_id} is undone already"]
    kept = records.kept_by(settings.logs.directory, record_id)
    try:
        with _held(settings, REPAIRS[record.repair].needs_lock, None):
            # What made recording safe stays so to the last.
            first = [step for step in record.steps if _is_done_first(step, settings)]
            others = [step for step in record.steps if step not in first]
            told = [_take_back(step, kept) for step in (*reversed(others), *reversed(first))]
            with contextlib.suppress(OSError):
                kept.rmdir()
            # Only then: cut off before, it is undone once more, and each step tells how far it is.
            if not any(line.startswith(STAYS) for line in told):
                with contextlib.suppress(OSError):
                    notes = (*record.notes, *told)
                    records.write(settings.logs.directory, replace(record, status="undone", notes=notes))
    except (OSError, Refused, ExpectedError) as error:
        hint = "; stop it first: daemon_watchdog.py --stop" if isinstance(error, HeldError) else ""
        return [f"not undone: {_reason(error)}{hint}"]
    return told


def _take_back(step: Step, kept: Path) -> str:
    try:
        if isinstance(step, UNDONE_BY_NOBODY):
            step.undo(kept)
        stand = step.stand(kept)
        if stand is Stand.WAITS:
            return f"was not done, or is undone already: {step.describe()}"
        if stand is Stand.CHANGED:
            return f"stays, as it was changed since: {step.describe()}"
        step.undo(kept)
    except (OSError, Refused, ExpectedError) as error:
        return f"stays: {step.describe()}: {_reason(error)}"
    return f"undone: {step.describe()}"


def _why(error: Exception, repair: str) -> str:
    if isinstance(error, HeldError):
        return f"{error}; {REPAIRS[repair].meanwhile}"
    return _reason(error)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        named = f"{error.filename}: " if error.filename else ""
        return f"{named}{error.strerror or error}"
    return str(error)
