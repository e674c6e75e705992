"""The restart limit: so many in any window, however often the watchdog or the machine began anew."""

import msgspec

from trainguard.config import Settings
from trainguard.policy.values import State


def restarts_left(state: State, now: float, settings: Settings) -> int:
    """How many restarts the window still allows at `now`."""
    return max(0, settings.restart.max_restarts - len(counted_in_window(state, now, settings)))


def counted_in_window(state: State, now: float, settings: Settings) -> tuple[float, ...]:
    """The counted starts less than a window ago. A stamp from the future (a broken file) counts as now."""
    window = settings.restart.window
    return tuple(min(stamp, now) for stamp in state.restarts if now - min(stamp, now) < window)


def counted_anew(state: State, now: float) -> State:
    """The state in which the start of the run that is not through the gate yet counts from `now`, if it counts.

    What the window limits is daemons let through, and between intention and gate a watchdog may have died.
    """
    run = state.run
    if run is None:
        return state
    restarts = tuple(now if stamp == run.began else stamp for stamp in state.restarts)
    return msgspec.structs.replace(state, restarts=restarts, run=msgspec.structs.replace(run, began=now))


def window_opens(state: State, now: float, settings: Settings) -> float:
    """When the next restart is allowed: once fewer than max_restarts counted starts are left in the window."""
    counted = sorted(counted_in_window(state, now, settings))
    excess = len(counted) - settings.restart.max_restarts
    return now if excess < 0 else counted[excess] + settings.restart.window
