"""Training: how the run stands by all that it writes: losses, steps, evaluations, its status file, its failures."""

import time
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import msgspec

from trainguard import files, probes, processes
from trainguard.config import Settings
from trainguard.moments import seconds_of
from trainguard.policy import State
from trainguard.run_folder import RunFolder

if TYPE_CHECKING:  # it costs time, and only the child that reads incidents needs it
    from trainguard.accounting import Account

TAIL_BYTES = 256 << 10
LOSSES = 200
PART_SECONDS = 2.0
STATE_LIMIT = 8 << 20
FAILURES_AT_MOST = 200


class StatusFile(msgspec.Struct, frozen=True):
    """The status file: when it was changed, the step and the loss that it tells, and what is wrong with it."""

    path: str
    wall: float | None = None
    step: int | None = None
    loss: float | None = None
    problem: str | None = None


class Schedule(msgspec.Struct, frozen=True):
    """What transformers' own records tell, at step `at`: every how many steps it is evaluated and saved (None: by
    no step), and the steps at which it was evaluated; in `source`."""

    source: str
    at: int
    eval_steps: float | None = None
    save_steps: float | None = None
    evaluated: tuple[int, ...] = ()


class Training(msgspec.Struct, frozen=True):
    """The run as the watchdog saw it last, and what its files say now.

    `now` is monotonic seconds. `losses` are told in the log, the oldest first, with those of before a restart; an
    evaluation's are not among them. `unread` are the parts that gave no answer.
    """

    now: float
    boot: str
    state: State
    lives: bool
    losses: tuple[float, ...] = ()
    log: str = ""
    status_file: StatusFile | None = None
    schedule: Schedule | None = None
    unread: dict[str, str] = {}


class Failure(msgspec.Struct, frozen=True):
    """One crash or hang: when it was noticed (wall seconds), its cause in a word, and the next new step after it."""

    wall: float
    cause: str
    stepped: bool = False


class Spent(msgspec.Struct, frozen=True):
    """What failures have cost: see accounting.Account, of which these are the facts that are judged."""

    failures: int = 0
    observed_seconds: float | None = None
    mean_seconds_between_failures: float | None = None
    effective_training_ratio: float | None = None
    parts: dict[str, float] = {}


class Ledger(msgspec.Struct, frozen=True):
    """The account of this daemon, and its failures, the oldest first."""

    account: Spent = Spent()
    failures: tuple[Failure, ...] = ()


def read_training(settings: Settings) -> Training:
    """How the run stands. Each file is read in a child of its own. Raises OSError where none can be made."""
    state = RunFolder(settings.logs.directory).load_state()[0]
    run = state.run
    identity = None if run is None or run.ending is not None else run.identity
    lives = identity is not None and processes.read_living(identity) is not None
    log, status_file, directory = (
        settings.progress.log_file or settings.daemon.log,
        settings.progress.status_file,
        settings.checkpoints.directory,
    )
    parts = [probes.Probe("log", lambda: read_losses(log), tuple[float, ...], PART_SECONDS)]
    if status_file is not None:
        names = settings.progress.status_names
        parts.append(
            probes.Probe(
                "status file", lambda: read_status_file(status_file, names), StatusFile, PART_SECONDS
            )
        )
    if directory is not None:
        parts.append(
            probes.Probe("trainer state", lambda: read_schedule(directory), Schedule | None, PART_SECONDS)
        )
    answers = probes.ask(parts)
    told = {name: answer.value for name, answer in answers.items()}
    losses, status, schedule = told.get("log"), told.get("status file"), told.get("trainer state")
    return Training(
        now=time.monotonic(),
        boot=processes.boot_id(),
        state=state,
        lives=lives,
        losses=losses if isinstance(losses, tuple) else (),
        log=str(log),
        status_file=status if isinstance(status, StatusFile) else None,
        schedule=schedule if isinstance(schedule, Schedule) else None,
        unread={name: answer.problem for name, answer in answers.items() if answer.problem is not None},
    )


# --- what the run writes ---------------------------------------------------------------------------------------


def read_losses(log: Path) -> tuple[float, ...]:
    """The losses in the end of a log, the oldest first; none where there is no log. Raises OSError."""
    try:
        size = log.stat().st_size
        content = files.read_range(log, max(0, size - TAIL_BYTES), size)
    except FileNotFoundError:
        return ()
    return parse_losses(content)


def parse_losses(content: bytes) -> tuple[float, ...]:
    """The losses of training that these bytes tell; a bar that shows the same one again and again tells it once."""
    from trainguard.progress.lines import Role, parse_segment

    losses: list[float] = []
    former: tuple[str, int | None] | None = None
    for segment in content.replace(b"\r", b"\n").split(b"\n"):
        for mark in parse_segment(segment):
            if mark.loss is None or mark.role not in (Role.TRAINING, Role.BAR):
                continue
            if former == (mark.key, mark.step) and mark.step is not None:
                continue
            former = mark.key, mark.step
            losses.append(mark.loss)
    return tuple(losses[-LOSSES:])


def read_status_file(path: Path, names: dict[str, str]) -> StatusFile:
    """What the status file says, as the watchdog reads it. Raises OSError where it cannot be looked at."""
    from trainguard.progress.sources import Follower

    try:
        wall = path.stat().st_mtime
    except FileNotFoundError:
        return StatusFile(str(path), problem="is not there")
    follower = Follower(path.with_name(".no-log"), 0, began_wall=0.0, status_file=path, status_names=names)
    try:
        progress, findings = follower.look()
    finally:
        follower.close()
    problem = next((one.fact for one in findings if one.subject.startswith("status file")), None)
    return StatusFile(str(path), wall, progress.step, progress.loss, problem)


class _Line(msgspec.Struct):
    step: int | None = None
    current_steps: int | None = None
    eval_loss: float | None = None
    eval_runtime: float | None = None


class _State(msgspec.Struct):
    global_step: int = 0
    eval_steps: float | None = None
    save_steps: float | None = None
    log_history: list[_Line] = []


def read_schedule(directory: Path) -> Schedule | None:
    """What the newest trainer_state.json and trainer_log.jsonl tell; None where there is neither. Raises OSError."""
    from trainguard.checkpoints.listing import find_folder, list_checkpoints

    folder = find_folder(directory)
    newest = next(reversed(list_checkpoints(folder)), None)
    journal = folder / "trainer_log.jsonl"
    state, source = None, str(journal)
    if newest is not None:
        try:
            place = newest.path / "trainer_state.json"
            state = parse_trainer_state(files.read_small(place, STATE_LIMIT))
            source = str(place)
        except OSError:
            state = None
    at, evaluated = _read_journal(journal)
    if state is None and not at:
        return None
    if state is None:
        return Schedule(source, at, evaluated=evaluated)
    together = tuple(sorted({*state.evaluated, *evaluated}))
    return msgspec.structs.replace(state, source=source, at=max(at, state.at), evaluated=together)


def parse_trainer_state(content: bytes) -> Schedule | None:
    """What transformers' trainer_state.json tells (trainer_callback.py, TrainerState); None for no whole one."""
    text = content.replace(b"NaN", b"null").replace(b"-Infinity", b"null").replace(b"Infinity", b"null")
    try:
        state = msgspec.json.decode(text, type=_State)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    evaluated = {one.step for one in state.log_history if one.step is not None and _is_evaluation(one)}

    def known(steps: float | None) -> float | None:
        return steps if steps is not None and steps >= 1 else None

    return Schedule(
        "", state.global_step, known(state.eval_steps), known(state.save_steps), tuple(sorted(evaluated))
    )


def _read_journal(path: Path) -> tuple[int, tuple[int, ...]]:
    """The last step of LLaMA-Factory's trainer_log.jsonl, and the steps at which it evaluated."""
    try:
        size = path.stat().st_size
        content = files.read_range(path, max(0, size - TAIL_BYTES), size)
    except FileNotFoundError:
        return 0, ()
    last, evaluated = 0, set()
    for line in content.split(b"\n"):
        try:
            told = msgspec.json.decode(line.replace(b"NaN", b"null"), type=_Line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        last = max(last, told.current_steps or 0)
        if told.current_steps is not None and _is_evaluation(told):
            evaluated.add(told.current_steps)
    return last, tuple(sorted(evaluated))


def _is_evaluation(line: _Line) -> bool:
    return line.eval_loss is not None or line.eval_runtime is not None


def usual_gap(steps: Iterable[int]) -> float | None:
    """How far apart steps usually lie; None for fewer than three."""
    gaps = [later - earlier for earlier, later in pairwise(steps) if later > earlier]
    return median(gaps) if len(gaps) >= 2 else None


# --- what failures cost ----------------------------------------------------------------------------------------


def read_ledger(settings: Settings) -> Ledger:
    """The account by incidents and events."""
    from trainguard import incidents
    from trainguard.accounting import cause_of, take_account

    folder = RunFolder(settings.logs.directory)
    state = folder.load_state()[0]
    records = incidents.list_records(folder.incidents)
    account = take_account(records, folder.recent_events(), state.looked_wall, state.has_source)
    failures = [
        Failure(seconds_of(one.time) or 0.0, cause_of(one), one.first_new_step is not None)
        for one in records
        if one.kind != "exit"
    ]
    return Ledger(spent_of(account), tuple(failures[-FAILURES_AT_MOST:]))


def spent_of(account: "Account") -> Spent:
    """The facts of an account that are judged."""
    recovery = account.mean_recovery
    parts = {
        name.replace("_", " "): value
        for name in recovery.__struct_fields__
        if name != "total" and (value := getattr(recovery, name)) is not None
    }
    return Spent(
        account.failures,
        account.observed_seconds,
        account.mean_seconds_between_failures,
        account.effective_training_ratio,
        parts,
    )
