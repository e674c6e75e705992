"""Deciding what the watchdog does about what it saw. Pure: no clock, no file, no process.

`decide(state, seen, settings)` gives the next state, which is saved, and the actions, which come after that.
All times are seconds of the monotonic clock unless the name says `wall`. A state outlives the watchdog and
the machine's boot: monotonic stamps of an earlier boot are moved as if this boot had begun when they were
saved, so that a window never looks emptier than it was.
"""

from trainguard.policy.deciding import decide, learn_last_words, pause, start_again
from trainguard.policy.limits import restarts_left
from trainguard.policy.patience import WAITING, Doing, Work
from trainguard.policy.turn import describe_ending
from trainguard.policy.values import (
    OVER,
    Action,
    Alive,
    AtGate,
    Cause,
    Dismiss,
    Ending,
    Examine,
    Fork,
    Gone,
    How,
    Incident,
    Leftover,
    Past,
    Phase,
    Prepare,
    Prepared,
    Prune,
    Record,
    Release,
    Request,
    Run,
    Seen,
    SetAside,
    Signal,
    Spoilt,
    Standing,
    State,
    Tell,
)

__all__ = [
    "OVER",
    "WAITING",
    "Action",
    "Alive",
    "AtGate",
    "Cause",
    "Dismiss",
    "Doing",
    "Ending",
    "Examine",
    "Fork",
    "Gone",
    "How",
    "Incident",
    "Leftover",
    "Past",
    "Phase",
    "Prepare",
    "Prepared",
    "Prune",
    "Record",
    "Release",
    "Request",
    "Run",
    "Seen",
    "SetAside",
    "Signal",
    "Spoilt",
    "Standing",
    "State",
    "Tell",
    "Work",
    "decide",
    "describe_ending",
    "learn_last_words",
    "pause",
    "restarts_left",
    "start_again",
]
