"""A run has ended: how it is judged, and the incident that it becomes."""

from trainguard.health import Status
from trainguard.policy.turn import Turn, describe_ending, open_incident
from trainguard.policy.values import STOP_BY_PERSON, STOP_FOR_HANG, Ending, How, Phase


def ended(turn: Turn, ending: Ending) -> None:
    """The daemon is gone: judge it once, then clear what it left."""
    run, seen = turn.state.run, turn.seen
    # What the last look at the log told of an adopted daemon still counts: its exit status may be unknown.
    if run is not None and run.ending is None:
        standing = seen.standing
        turn.change_run(
            ending=ending,
            step=standing.step if standing.step is not None else run.step,
            total=standing.total if standing.total is not None else run.total,
            ended=run.ended or standing.ended,
        )
        finished = is_finished(turn)
        if turn.state.stop_reason == STOP_BY_PERSON:
            turn.tell("ended", Status.OK, f"the daemon has {describe_ending(ending)}")
        elif not finished:
            tell_crash(turn, ending)
    turn.enter(Phase.CLEARING, "the daemon has ended")


def is_finished(turn: Turn) -> bool:
    """Whether the run did all that it was meant to do.

    Exit 0 says so, unless we had told it to stop; where no status is known, the last step or the log's end.
    """
    run = turn.state.run
    if run is None or run.ending is None or turn.settings.restart.after_success:
        return False
    by_evidence = run.ended or (run.step is not None and run.total is not None and run.step >= run.total > 0)
    if run.ending.how is How.EXIT and run.ending.code == 0:
        return turn.state.stop_reason is None or by_evidence
    return run.ending.how in (How.UNKNOWN, How.REBOOT) and by_evidence


def tell_crash(turn: Turn, ending: Ending) -> None:
    run = turn.state.run
    where = "" if run is None or run.step is None else f", last seen at step {run.step}"
    pid = "" if run is None or run.identity is None else f" (pid {run.identity.pid})"
    if turn.state.stop_reason == STOP_FOR_HANG:
        turn.change_incident(ending=ending)
        turn.tell("ended", Status.ATTENTION, f"the hung daemon{pid} has {describe_ending(ending)}")
        turn.record()
        return
    succeeded = ending.how is How.EXIT and ending.code == 0
    kind = "ended" if succeeded else "crashed"
    turn.tell(
        kind,
        Status.ATTENTION if succeeded else Status.BAD,
        f"the daemon{pid} {describe_ending(ending)}{where}",
    )
    open_incident(turn, "exit" if succeeded else "crash", ending, "", seconds_unnoticed(turn))


def seconds_unnoticed(turn: Turn) -> float | None:
    """How long the end went unnoticed, at most; a watchdog that runs is woken by it."""
    if not turn.seen.first:
        return 0.0
    looked = turn.state.looked_wall
    return max(0.0, turn.seen.wall - looked) if looked else None
