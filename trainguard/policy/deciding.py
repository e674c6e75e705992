"""Deciding: a person's request first, then the rule of the phase, until the phase stays."""

from collections.abc import Callable

import msgspec

from trainguard.config import Settings
from trainguard.health import Status
from trainguard.policy.beginning import adopt_if_alive, when_new, when_starting
from trainguard.policy.preparing import when_preparing
from trainguard.policy.restarting import when_waiting
from trainguard.policy.running import patience_ends, when_running
from trainguard.policy.stopping import begin_stopping, when_clearing, when_stopping
from trainguard.policy.turn import Turn
from trainguard.policy.values import (
    OVER,
    STOP_BY_PERSON,
    Action,
    Alive,
    AtGate,
    Dismiss,
    Phase,
    Request,
    Seen,
    Standing,
    State,
)

RULES: dict[Phase, Callable[[Turn], None]] = {
    Phase.NEW: when_new,
    Phase.STARTING: when_starting,
    Phase.RUNNING: when_running,
    Phase.STOPPING: when_stopping,
    Phase.CLEARING: when_clearing,
    Phase.PREPARING: when_preparing,
    Phase.COOLING: when_waiting,
    Phase.PARKED: when_waiting,
}


def decide(state: State, seen: Seen, settings: Settings) -> tuple[State, tuple[Action, ...]]:
    """The next state and what to do, in order, after it is saved."""
    if not state.watching:
        return state, ()
    turn = Turn(in_this_boot(state, seen), seen, settings)
    obey(turn)
    for _ in Phase:
        before = turn.state.phase
        # A birth ends the turn: what was seen is about the run before it.
        if not turn.state.watching or turn.gave_birth():
            break
        RULES[before](turn)
        if turn.state.phase is before:
            break
    turn.change(looked_at=seen.now, looked_wall=seen.wall, boot=seen.boot)
    return turn.state, tuple(turn.actions)


def pause(state: State, seen: Seen, settings: Settings) -> float:
    """Seconds until the next look, unless something wakes the watchdog before."""
    if state.phase is Phase.STARTING:
        return 0.0
    poll = settings.watchdog.poll_interval
    moments = [seen.now + poll]
    if state.phase is Phase.RUNNING and not seen.proven:
        moments.append(seen.now + 0.02)  # it has ended, and how will be known in a moment
    if state.phase is Phase.RUNNING and state.run is not None:
        # A young run is looked at more often, so that its workers are on record should the watchdog die.
        moments.append(seen.now + max(1.0, seen.now - state.run.began))
        ends = patience_ends(state.run, settings.progress)
        if ends is not None and ends > seen.now:
            moments.append(max(ends, seen.now + 0.02))
    if state.phase in (Phase.STOPPING, Phase.CLEARING):
        moments.append(seen.now + min(poll, 1.0 if seen.proven else 0.02))
        if state.deadline is not None:
            moments.append(max(state.deadline, seen.now + 0.02))
    if state.next_try is not None and state.phase in (Phase.COOLING, Phase.PARKED):
        moments.append(max(state.next_try, seen.now + 0.02))
    return min(moments) - seen.now


def start_again(state: State) -> State:
    """A person said --start: what had ended may begin anew; the window of restarts stays as it is."""
    if state.phase in OVER:
        kept = state.run if state.phase is Phase.STOPPED else None
        state = msgspec.structs.replace(state, phase=Phase.NEW, run=kept, stop_reason=None, highest_step=None)
    return msgspec.structs.replace(
        state,
        watching=True,
        paused=False,
        rounds=0,
        why_parked="",
        next_try=None,
        reason="started by a person",
    )


def learn_last_words(state: State, standing: Standing) -> State:
    """What the log of an ended run told last; it is read only after the restart, which it need not delay."""
    incident = state.incident
    if incident is None or incident.closed or standing.step is None:
        return state
    step = max(standing.step, incident.step or 0)
    total = standing.total if standing.total is not None else incident.total
    incident = msgspec.structs.replace(
        incident, step=step, total=total, loss=standing.loss, source=standing.source
    )
    highest = max(step, state.highest_step or 0)
    return msgspec.structs.replace(state, incident=incident, highest_step=highest)


def in_this_boot(state: State, seen: Seen) -> State:
    if state.boot == seen.boot or not state.boot:
        return state
    shift = -state.looked_at
    run, incident = state.run, state.incident
    if run is not None:
        moved = None if run.moved_at is None else run.moved_at + shift
        run = msgspec.structs.replace(run, began=run.began + shift, moved_at=moved)
    if incident is not None:
        incident = msgspec.structs.replace(incident, at=incident.at + shift)
    return msgspec.structs.replace(
        state,
        boot=seen.boot,
        run=run,
        incident=incident,
        descendants=(),
        signalled=(),
        restarts=tuple(stamp + shift for stamp in state.restarts),
        next_try=None if state.next_try is None else state.next_try + shift,
        deadline=None,
        hold_until=None,
        room_wanted_at=None,
        looked_at=0.0,
    )


def obey(turn: Turn) -> None:
    request = turn.seen.request
    if request is Request.LEAVE:
        send_away_newborn(turn)
        turn.change(watching=False)
        turn.tell("left", Status.OK, f"the watchdog ends; {what_stays(turn)}")
    elif request is Request.STOP:
        send_away_newborn(turn)
        turn.tell("stopped", Status.OK, f"stopped by a person; {what_stays(turn)}")
        turn.end(Phase.STOPPED, "stopped by a person; --start begins again")
    elif request is Request.STOP_WITH_DAEMON:
        turn.change(paused=False)
        send_away_newborn(turn)
        if turn.state.phase is Phase.STOPPING and turn.state.stop_reason == STOP_BY_PERSON:
            return  # asked twice: the ladder goes on from where it is
        if isinstance(turn.seen.daemon, Alive):
            if turn.state.run is None or turn.state.run.ending is not None:
                adopt_if_alive(turn)
            begin_stopping(turn, STOP_BY_PERSON)
        else:
            turn.change(stop_reason=STOP_BY_PERSON)
            turn.enter(Phase.CLEARING, "stopping what is left of the run")
    elif request is Request.PAUSE:
        turn.change(paused=True)
        turn.tell(
            "paused", Status.ATTENTION, "paused by a person: it is watched, nothing is started or stopped"
        )
    elif request is Request.RESUME:
        turn.change(paused=False)
        turn.tell("resumed", Status.OK, "resumed by a person")
        forgive(turn)
    elif request is Request.START:
        turn.change(paused=False)
        turn.tell("resumed", Status.OK, "a person said --start")
        forgive(turn)


def forgive(turn: Turn) -> None:
    """A person takes the matter in hand: the rounds are forgotten, the window is not."""
    turn.change(rounds=0, why_parked="", forgiven_wall=turn.seen.wall)
    if turn.state.phase in (Phase.COOLING, Phase.PARKED):
        turn.enter(Phase.COOLING, "asked for by a person")
        turn.change(next_try=turn.seen.now)


def what_stays(turn: Turn) -> str:
    daemon = turn.seen.daemon
    return (
        f"the daemon (pid {daemon.identity.pid}) goes on" if isinstance(daemon, Alive) else "no daemon runs"
    )


def send_away_newborn(turn: Turn) -> None:
    if isinstance(turn.seen.daemon, AtGate) and turn.state.phase is Phase.STARTING:
        turn.actions.append(Dismiss())
