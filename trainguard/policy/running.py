"""While the daemon runs: its progress, its standstill."""

import msgspec

from trainguard.config import ProgressSettings
from trainguard.health import Status
from trainguard.policy.beginning import adopt_if_alive, meet
from trainguard.policy.ending import ended
from trainguard.policy.patience import (
    Pace,
    Work,
    add,
    describe_standstill,
    judge_patience,
    judge_work,
    learn_pace,
)
from trainguard.policy.stopping import begin_stopping
from trainguard.policy.turn import Turn, open_incident
from trainguard.policy.values import STOP_FOR_HANG, Alive, Gone, Run
from trainguard.quantities import duration_text


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
    note_work(turn)
    notice_hang(turn)


def note_standing(turn: Turn) -> None:
    run, seen, standing = turn.state.run, turn.seen, turn.seen.standing
    if run is None:
        return
    further = standing.step is not None and run.step is not None and standing.step > run.step
    back = standing.step is not None and run.step is not None and standing.step < run.step
    advanced = standing.advances > run.advances
    moved = further or advanced or standing.signs > run.signs
    gap = 0.0 if seen.first else seen.now - turn.state.looked_at
    unseen = max(0.0, gap - 2 * turn.settings.watchdog.poll_interval - 10)
    moved_at = seen.now if moved else later(run.moved_at, unseen)
    turn.change_run(
        first_step=standing.step if run.first_step is None else run.first_step,
        step=standing.step if standing.step is not None else run.step,
        total=standing.total if standing.total is not None else run.total,
        loss=standing.loss,
        source=standing.source or run.source,
        # A step that goes back is a beginning anew: the workers may have been started again.
        stepped=(run.stepped or further or advanced) and not back,
        moved_at=moved_at,
        elsewhere_at=later(run.elsewhere_at, unseen),
        pace=pace_after(turn, run, unseen, further or advanced, moved or back),
        still=None if moved else add(run.still, seen.doing),
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


def later(stamp: float | None, seconds: float) -> float | None:
    """A moment moved by time that nobody watched."""
    return None if stamp is None else stamp + seconds


def pace_after(turn: Turn, run: Run, unseen: float, advanced: bool, changed: bool) -> Pace:
    """What is known of the run's pace after this look; of the time before a watchdog came nothing is."""
    seen, standing = turn.seen, turn.seen.standing
    since = later(run.pace.since, unseen)
    pace = msgspec.structs.replace(run.pace, since=None if seen.first else since)
    begun = run.step is None and standing.step is not None
    if advanced:
        gained = max((standing.step or 0) - (run.step or 0), standing.advances - run.advances)
        return learn_pace(pace, seen.now, gained, since is None or since < turn.state.looked_at + unseen)
    return msgspec.structs.replace(pace, since=seen.now) if changed or begun else pace


def note_work(turn: Turn) -> None:
    """What the run is at. Patience while training begins anew when it comes back from something else."""
    run, seen = turn.state.run, turn.seen
    if run is None:
        return
    said, ended = seen.standing.said, seen.standing.ended
    work = judge_work(said, ended, run.stepped, seen.saving, seen.doing, run.still, run.pace)
    turn.change_run(work=work, elsewhere_at=run.elsewhere_at if work is Work.TRAINING else seen.now)
    if work in (Work.EVALUATING, Work.SAVING):
        # How long that takes has its own limit, and is nothing to learn for steps.
        turn.change_run(pace=msgspec.structs.replace(run.pace, since=seen.now))


def patience_ends(run: Run, limits: ProgressSettings) -> float | None:
    """When the run will be called hung unless something moves (monotonic seconds), None for never."""
    patience = judge_patience(run.work, run.pace, limits)
    if patience is None:
        return None
    return quiet_since(run) + patience


def quiet_since(run: Run) -> float:
    """The moment from which the run's patience counts."""
    since = run.began if run.moved_at is None else run.moved_at
    elsewhere = run.elsewhere_at if run.work is Work.TRAINING else None
    return since if elsewhere is None else max(since, elsewhere)


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
        turn.change(rounds=0, why_parked="")
    if highest is None or run.step > highest:
        turn.change(highest_step=run.step)
    if incident is None or incident.closed or incident.next_run_id != run.id:
        return
    if moved and incident.seconds_to_first_step is None:
        turn.change_incident(seconds_to_first_step=turn.seen.now - incident.at)
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
    since, ends = quiet_since(run), patience_ends(run, limits)
    if ends is None or now < ends:
        return
    quiet = now - since
    if not turn.state.has_source:
        if not run.told_silent:
            turn.change_run(told_silent=True)
            turn.tell(
                "no_progress_source",
                Status.ATTENTION,
                f"nothing has told a step in {duration_text(quiet)}: a hang cannot be noticed; "
                "name progress.status_file or progress.heartbeat_file",
            )
        return
    after = "its start" if run.moved_at is None else "its last step"
    unmoved = now - (run.began if run.moved_at is None else run.moved_at)
    text = f"no new step for {duration_text(unmoved)} since {after}"
    # What it was at before has a patience of its own.
    text += f", the last {duration_text(quiet)} of it while {run.work.value}"
    text += f" (limit {ends - since:.4g} s)"
    frozen = isinstance(turn.seen.daemon, Alive) and turn.seen.daemon.frozen
    if standstill := describe_standstill(run.still, frozen):
        text += f"; {standstill}"
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
    open_incident(turn, "hang", None, f"{text}; the daemon is stopped, then restarted", quiet)
    begin_stopping(turn, STOP_FOR_HANG)
