"""While the daemon runs: its progress, its standstill."""

from trainguard.health import Status
from trainguard.policy.beginning import adopt_if_alive, meet
from trainguard.policy.ending import ended
from trainguard.policy.stopping import begin_stopping
from trainguard.policy.turn import Turn, in_words, open_incident
from trainguard.policy.values import STOP_FOR_HANG, Alive, Gone


def when_running(turn: Turn) -> None:
    daemon, run = turn.seen.daemon, turn.state.run
    if isinstance(daemon, Gone):
        ended(turn, daemon.ending)
    if not isinstance(daemon, Alive):
        return
    if run is None or (run.ending is not None):
        adopt_if_alive(turn)
    elif run.identity != daemon.identity:
        same = run.identity is not None and run.identity.pid == daemon.identity.pid
        turn.change_run(identity=daemon.identity)
        if not same:
            turn.tell("handed_over", Status.OK, f"the command handed over to pid {daemon.identity.pid}")
    elif daemon.adopted and turn.seen.first:
        meet(turn)
    turn.change(descendants=tuple(leftover.identity for leftover in turn.seen.leftovers))
    note_standing(turn)
    notice_hang(turn)


def note_standing(turn: Turn) -> None:
    run, seen, standing = turn.state.run, turn.seen, turn.seen.standing
    if run is None:
        return
    further = standing.step is not None and run.step is not None and standing.step > run.step
    advanced = standing.advances > run.advances
    moved = further or advanced or standing.signs > run.signs
    gap = 0.0 if seen.first else seen.now - turn.state.looked_at
    unseen = max(0.0, gap - 2 * turn.settings.watchdog.poll_interval - 10)
    moved_at = seen.now if moved else (None if run.moved_at is None else run.moved_at + unseen)
    turn.change_run(
        first_step=standing.step if run.first_step is None else run.first_step,
        step=standing.step if standing.step is not None else run.step,
        total=standing.total if standing.total is not None else run.total,
        loss=standing.loss,
        source=standing.source or run.source,
        stepped=run.stepped or further or advanced,
        moved_at=moved_at,
        began=run.began if moved_at is not None else run.began + unseen,
        advances=standing.advances,
        signs=standing.signs,
        ended=run.ended or standing.ended,
        told_hung=run.told_hung and not moved,
    )
    if moved and run.told_hung:
        turn.tell("recovered", Status.OK, "the daemon makes steps again")
        turn.change(reason="running")
    if standing.step is not None or standing.advances:
        turn.change(has_source=True)
    note_new_step(turn, further or advanced)


def note_new_step(turn: Turn, moved: bool) -> None:
    """A step beyond every earlier one ends the rounds and closes the incident; a repeated one does neither."""
    run, highest, incident = turn.state.run, turn.state.highest_step, turn.state.incident
    if run is None:
        return
    if run.step is None:
        # Where nobody counts steps, a run that lives as long as a parked one waits has recovered.
        if turn.state.rounds and turn.seen.now - run.began >= turn.settings.restart.parked_retry:
            turn.change(rounds=0)
        return
    if moved and (highest is None or run.step > highest):
        turn.change(rounds=0)
    if highest is None or run.step > highest:
        turn.change(highest_step=run.step)
    if incident is None or incident.closed or incident.next_run_id != run.id:
        return
    if moved and (incident.step is None or run.step > incident.step):
        start, end = run.resumed_from, incident.step
        # Where only checkpoints told the step, nobody knows how far beyond the newest one the run was.
        known = start is not None and end is not None and incident.source != "checkpoint"
        lost = max(0, (end or 0) - (start or 0)) if known else None
        turn.change_incident(
            closed=True,
            first_new_step=run.step,
            seconds_to_new_step=turn.seen.now - incident.at,
            steps_lost=lost,
        )
        turn.record()
        repeated = "" if lost is None else f"; {lost} were lost and repeated"
        turn.tell("new_step", Status.OK, f"step {run.step}: beyond where it ended{repeated}")


def notice_hang(turn: Turn) -> None:
    run, now, limits = turn.state.run, turn.seen.now, turn.settings.progress
    if run is None:
        return
    quiet = now - (run.moved_at if run.moved_at is not None else run.began)
    limit = limits.timeout if run.stepped else limits.startup_timeout
    if quiet < limit:
        return
    if not turn.state.has_source:
        if not run.told_silent:
            turn.change_run(told_silent=True)
            turn.tell(
                "no_progress_source",
                Status.ATTENTION,
                f"nothing has told a step in {in_words(quiet)}: a hang cannot be noticed; "
                "name progress.status_file or progress.heartbeat_file",
            )
        return
    after = "its last step" if run.stepped else "its start"
    text = f"no new step for {in_words(quiet)} since {after} (limit {limit:g} s)"
    if limits.mode == "observe" or turn.state.paused:
        if not run.told_hung:
            turn.change_run(told_hung=True)
            turn.change(reason=text)
            turn.tell(
                "hung",
                Status.BAD,
                f"{text}; nothing is done ({'paused' if turn.state.paused else 'observe'})",
            )
        return
    turn.tell("hung", Status.BAD, f"{text}; it is stopped and started again")
    open_incident(turn, "hang", None, f"{text}; the daemon is stopped, then restarted")
    begin_stopping(turn, STOP_FOR_HANG)
