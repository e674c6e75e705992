"""Finding a daemon that lives, or beginning a run where none does."""

import msgspec

from trainguard.health import Status
from trainguard.identity import Identity
from trainguard.policy.ending import ended
from trainguard.policy.limits import counted_anew, counted_in_window
from trainguard.policy.turn import Turn
from trainguard.policy.values import Alive, AtGate, Dismiss, Fork, Gone, Phase, Release, Run, Seen, Tell
from trainguard.quantities import duration_text


def when_new(turn: Turn) -> None:
    if adopt_if_alive(turn) or clear_if_needed(turn):
        return
    if turn.state.paused:
        turn.tell_once("paused", Status.ATTENTION, "paused by a person; nothing is started")
        return
    turn.prepare(counted=False)


def when_starting(turn: Turn) -> None:
    daemon, run = turn.seen.daemon, turn.state.run
    if turn.state.paused and not isinstance(daemon, Alive | Gone):
        if isinstance(daemon, AtGate):
            turn.actions.append(Dismiss())
        turn.enter(Phase.COOLING, "paused by a person; nothing is started")
    elif isinstance(daemon, AtGate) and run is not None:
        release(turn, daemon.identity)
    elif isinstance(daemon, Gone):
        ended(turn, daemon.ending)
    elif not (adopt_if_alive(turn) or clear_if_needed(turn)) and run is not None:
        # The watchdog died between intention and birth: nothing ran, the start counts once, and what it had found
        # out may be done only in part.
        turn.change(aside=())
        turn.prepare(counted=run.began in turn.state.restarts, trial=turn.state.trial)


def release(turn: Turn, identity: Identity) -> None:
    seen = turn.seen
    turn.enter(Phase.RUNNING, "running")
    turn.state = counted_anew(turn.state, seen.now)
    turn.change_run(identity=identity, moved_at=None)
    turn.change(descendants=())
    run, incident = turn.state.run, turn.state.incident
    if run is None:
        return
    turn.actions.append(Release(run))
    place = {None: "", 0: ", from the beginning"}.get(run.resumed_from, f", at checkpoint {run.resumed_from}")
    if incident is None or incident.closed or incident.next_run_id is not None:
        turn.tell("started", Status.OK, f"started as pid {identity.pid}{place}")
        return
    waited = seen.now - incident.at
    turn.change_incident(next_run_id=run.id, seconds_to_new_process=waited)
    used = len(counted_in_window(turn.state, seen.now, turn.settings))
    limit = turn.settings.restart
    turn.tell(
        "restarted",
        Status.ATTENTION,
        f"restarted as pid {identity.pid}{place}, {duration_text(waited)} after the end was noticed "
        f"(restart {used} of {limit.max_restarts} in {limit.window:g} s)",
    )
    turn.record()


def adopt_if_alive(turn: Turn) -> bool:
    daemon, seen = turn.seen.daemon, turn.seen
    if not isinstance(daemon, Alive):
        return False
    run = turn.state.run
    if run is None or run.id != daemon.run_id or run.ending is not None:
        number = turn.state.runs + 1
        run = Run(
            id=daemon.run_id or run_id(seen, number),
            number=number,
            began=seen.now,
            began_wall=seen.wall,
            log_start=seen.log_size,
            marked=daemon.run_id is not None,
        )
        turn.change(runs=number)
    run = msgspec.structs.replace(run, identity=daemon.identity, adopted=daemon.adopted)
    turn.enter(Phase.RUNNING, "running")
    turn.change(run=run, stop_reason=None)
    meet(turn)
    return True


def meet(turn: Turn) -> None:
    """Begin to watch a daemon that ran before: what it did unseen is not held against it."""
    turn.change_run(moved_at=turn.seen.now, told_hung=False, adopted=True, advances=0, signs=0)
    run, said = turn.state.run, any(isinstance(one, Tell) and one.event == "adopted" for one in turn.actions)
    if run is not None and run.identity is not None and not said:
        how = "" if run.marked else ", which its PID file names"
        turn.tell("adopted", Status.OK, f"adopted the daemon that runs as pid {run.identity.pid}{how}")


def clear_if_needed(turn: Turn) -> bool:
    if not turn.seen.leftovers and turn.seen.proven:
        return False
    turn.enter(Phase.CLEARING, "processes of an earlier run may still live")
    return True


def begin(turn: Turn, counted: bool, resumed_from: int | None, remedy: str | None = None) -> None:
    """Put a child at the gate; it is to resume at the step `resumed_from`."""
    seen, number = turn.seen, turn.state.runs + 1
    run = Run(
        id=run_id(seen, number),
        number=number,
        began=seen.now,
        began_wall=seen.wall,
        log_start=seen.log_size,
        resumed_from=resumed_from,
        remedy=remedy,
    )
    former = turn.state.run
    if former is not None and former.identity is None and former.ending is None:
        # That start came to nothing: this one is counted in its place.
        counted = counted or former.began in turn.state.restarts
        turn.change(restarts=tuple(stamp for stamp in turn.state.restarts if stamp != former.began))
    restarts = counted_in_window(turn.state, seen.now, turn.settings)
    turn.enter(Phase.STARTING, "starting")
    turn.change(
        run=run, runs=number, restarts=(*restarts, seen.now) if counted else restarts, stop_reason=None
    )
    turn.actions.append(Fork(run))


def run_id(seen: Seen, number: int) -> str:
    return f"{int(seen.wall)}-{number}-{seen.token}"
