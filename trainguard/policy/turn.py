"""One turn of deciding, and the words that several rules use."""

from collections.abc import Iterable

import msgspec

from trainguard.config import Settings
from trainguard.health import Status
from trainguard.policy.values import (
    Action,
    Ending,
    Fork,
    How,
    Incident,
    Phase,
    Prepare,
    Record,
    Release,
    Seen,
    State,
    Tell,
)

# Within this what must be known before a start is found out, or the start is made without it.
PREPARE_SECONDS = 120.0


class Turn:
    """One call of `decide`: the state as it becomes, and the actions so far."""

    def __init__(self, state: State, seen: Seen, settings: Settings) -> None:
        self.state = state
        self.seen = seen
        self.settings = settings
        self.actions: list[Action] = []

    def change(self, **fields: object) -> None:
        self.state = msgspec.structs.replace(self.state, **fields)

    def change_run(self, **fields: object) -> None:
        if self.state.run is not None:
            self.change(run=msgspec.structs.replace(self.state.run, **fields))

    def change_incident(self, **fields: object) -> None:
        if self.state.incident is not None:
            self.change(incident=msgspec.structs.replace(self.state.incident, **fields))

    def enter(self, phase: Phase, reason: str) -> None:
        self.change(
            phase=phase, reason=reason, deadline=None, next_try=None, told="", hold_until=None, signalled=()
        )

    def end(self, phase: Phase, reason: str) -> None:
        """Enter a phase in which nothing is watched any more."""
        self.enter(phase, reason)
        self.change(watching=False, stop_reason=None)

    def tell(self, event: str, status: Status, text: str) -> None:
        self.actions.append(Tell(event, status, text))

    def tell_all(self, notes: Iterable[str]) -> None:
        """Say what could not be found out."""
        for text in notes:
            self.tell("note", Status.ATTENTION, text)

    def tell_once(self, event: str, status: Status, text: str) -> None:
        """Say it unless it was the last thing said in this phase."""
        if self.state.told != f"{event}: {text}":
            self.change(told=f"{event}: {text}", reason=text)
            self.tell(event, status, text)

    def prepare(self, counted: bool, trial: bool = False) -> None:
        """Find out what must be known before the next start."""
        self.enter(Phase.PREPARING, "preparing the start")
        deadline, asked = self.seen.now + PREPARE_SECONDS, self.state.asked + 1
        self.change(counted=counted, trial=trial, deadline=deadline, asked=asked)
        self.actions.append(Prepare(self.subject))

    @property
    def subject(self) -> str:
        """What the last preparation was asked for."""
        run = self.state.run
        return f"{'' if run is None or run.ending is None else run.id}#{self.state.asked}"

    def has_asked(self) -> bool:
        """Whether a start is being prepared since this turn."""
        return any(isinstance(action, Prepare) for action in self.actions)

    def gave_birth(self) -> bool:
        return any(isinstance(action, Fork | Release) for action in self.actions)

    def record(self) -> None:
        if self.state.incident is not None:
            self.actions.append(Record(self.state.incident))


def open_incident(
    turn: Turn, kind: str, ending: Ending | None, decision: str, unnoticed: float | None
) -> None:
    run, seen = turn.state.run, turn.seen
    if run is None:
        return
    if turn.state.incident is not None and not turn.state.incident.closed:
        turn.change_incident(closed=True)
        turn.record()
    incident = Incident(
        id=f"{int(seen.wall)}-{run.number}",
        kind=kind,
        at=seen.now,
        at_wall=seen.wall,
        run_id=run.id,
        run_number=run.number,
        pid=None if run.identity is None else run.identity.pid,
        ending=ending,
        step=run.step,
        total=run.total,
        loss=run.loss,
        source=run.source,
        checkpoint=seen.checkpoint,
        checkpoint_step=seen.checkpoint_step,
        log_start=run.log_start,
        log_end=max(run.log_start, seen.log_size),
        decision=decision,
        seconds_unnoticed=unnoticed,
    )
    turn.change(incident=incident)
    turn.record()


SIGNAL_NAMES = {
    1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 4: "SIGILL", 5: "SIGTRAP", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE",
    9: "SIGKILL", 10: "SIGUSR1", 11: "SIGSEGV", 12: "SIGUSR2", 13: "SIGPIPE", 14: "SIGALRM", 15: "SIGTERM",
    24: "SIGXCPU", 25: "SIGXFSZ", 31: "SIGSYS",
}  # fmt: skip


def describe_ending(ending: Ending) -> str:
    """An ending as the end of a sentence whose subject is the daemon."""
    if ending.how is How.EXIT:
        return f"ended with exit code {ending.code}"
    if ending.how is How.SIGNAL:
        return f"died of {SIGNAL_NAMES.get(ending.code or 0, f'signal {ending.code}')}"
    if ending.how is How.NOT_STARTED:
        return f"could not be started: {ending.text}"
    if ending.how is How.REBOOT:
        return "ended with the machine: it was started again"
    return "ended in an unknown way (nobody kept its exit status)"
