"""After an end: prepare the restart at once, cool down until the window allows, or park."""

from trainguard.health import Status
from trainguard.policy.beginning import adopt_if_alive, clear_if_needed
from trainguard.policy.limits import restarts_left, window_opens
from trainguard.policy.turn import Turn
from trainguard.policy.values import Phase
from trainguard.quantities import duration_text

IN_VAIN = "{} rounds of restarts gave no new step"


def want_restart(turn: Turn) -> None:
    state, now, limits = turn.state, turn.seen.now, turn.settings.restart
    turn.change(stop_reason=None)
    if state.rounds > limits.rounds:
        park(turn, state.why_parked or IN_VAIN.format(limits.rounds))
    elif state.paused:
        wait_until(turn, now, "paused by a person; nothing is started")
        decided(turn, "paused by a person: no restart")
    elif restarts_left(state, now, turn.settings):
        decided(turn, f"restart at once ({restarts_left(state, now, turn.settings)} were left in the window)")
        turn.prepare(counted=True)
    else:
        turn.change(rounds=state.rounds + 1)
        if turn.state.rounds > limits.rounds:
            park(turn, IN_VAIN.format(limits.rounds))
        else:
            cool(turn)


def cool(turn: Turn) -> None:
    state, now, limits = turn.state, turn.seen.now, turn.settings.restart
    next_try = window_opens(state, now, turn.settings)
    text = (
        f"{limits.max_restarts} restarts within {limits.window:g} s are the limit; "
        f"the next try is in {duration_text(next_try - now)} (round {state.rounds} of {limits.rounds})"
    )
    turn.enter(Phase.COOLING, text)
    turn.change(next_try=next_try)
    turn.tell("limit", Status.BAD, text)
    decided(turn, text)


def wait_until(turn: Turn, next_try: float, text: str) -> None:
    """Wait for a moment at which the start is prepared anew."""
    turn.enter(Phase.COOLING, text)
    turn.change(next_try=next_try)


def park(turn: Turn, why: str) -> None:
    """Try only now and then, until a person or a new step helps."""
    now, limits = turn.seen.now, turn.settings.restart
    next_try = max(now + limits.parked_retry, window_opens(turn.state, now, turn.settings))
    text = (
        f"parked: {why}; it is tried again every {duration_text(limits.parked_retry)}; mend the cause, "
        "then say --resume"
    )
    turn.enter(Phase.PARKED, text)
    turn.change(next_try=next_try)
    turn.tell("parked", Status.BAD, text)
    decided(turn, text)


def decided(turn: Turn, text: str) -> None:
    if turn.state.incident is not None and not turn.state.incident.closed:
        earlier = turn.state.incident.decision
        turn.change_incident(decision=f"{earlier}; {text}" if earlier else text)
        turn.record()


def when_waiting(turn: Turn) -> None:
    """Cooling or parked: a daemon that somebody else started is welcome; otherwise the clock decides."""
    state, seen = turn.state, turn.seen
    if adopt_if_alive(turn) or clear_if_needed(turn) or state.paused:
        return
    if state.next_try is not None and seen.now < state.next_try:
        return
    if restarts_left(state, seen.now, turn.settings):
        turn.prepare(counted=True, trial=state.phase is Phase.PARKED)
    else:
        turn.change(next_try=window_opens(state, seen.now, turn.settings))
