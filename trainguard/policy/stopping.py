"""Stopping a daemon rung by rung, and clearing what a dead one left behind."""

from trainguard.health import Status
from trainguard.policy.beginning import adopt_if_alive
from trainguard.policy.ending import ended, is_finished
from trainguard.policy.restarting import want_restart
from trainguard.policy.turn import Turn
from trainguard.policy.values import STOP_BY_PERSON, STOP_FOR_HANG, Alive, Examine, Gone, Phase, Signal
from trainguard.quantities import duration_text

# Evidence of a hang delays its end by no more than this.
EXAMINE_SECONDS = 10.0


def begin_stopping(turn: Turn, why: str) -> None:
    turn.enter(Phase.STOPPING, f"stopping the daemon: {why}")
    turn.change(stop_reason=why, rung=-1, deadline=turn.seen.now)
    daemon, incident = turn.seen.daemon, turn.state.incident
    if why == STOP_FOR_HANG and isinstance(daemon, Alive) and incident is not None:
        others = (leftover.identity for leftover in turn.seen.leftovers)
        turn.actions.append(Examine(incident.id, (daemon.identity, *others)))
        turn.change(deadline=turn.seen.now + EXAMINE_SECONDS)


def when_stopping(turn: Turn) -> None:
    daemon, seen, state = turn.seen.daemon, turn.seen, turn.state
    if isinstance(daemon, Gone):
        ended(turn, daemon.ending)
    if not isinstance(daemon, Alive):
        return
    turn.change(descendants=tuple(leftover.identity for leftover in seen.leftovers))
    is_examined = state.rung == -1 and state.incident is not None and seen.examined == state.incident.id
    if state.paused or (state.deadline is not None and seen.now < state.deadline and not is_examined):
        return
    ladder = turn.settings.daemon.stop
    rung = state.rung + 1
    if rung >= len(ladder):
        turn.tell_once(
            "stuck", Status.BAD, f"pid {daemon.identity.pid} does not end; nothing is started beside it"
        )
        return
    step = ladder[rung]
    if step.signal == "SIGKILL" and seen.saving:
        hold = (
            state.hold_until
            if state.hold_until is not None
            else seen.now + turn.settings.checkpoints.save_timeout
        )
        turn.change(hold_until=hold)
        if seen.now < hold:
            turn.tell_once(
                "saving", Status.ATTENTION, "SIGKILL is held back: files in the checkpoint folder grow"
            )
            return
    turn.change(rung=rung, deadline=seen.now + step.wait)
    turn.tell("signal", Status.ATTENTION, f"{step.signal} to pid {daemon.identity.pid}: {state.stop_reason}")
    turn.actions.append(Signal(daemon.identity, step.signal))
    if step.signal != "SIGKILL":
        # A stopped process gets to its signal handler only when it is continued.
        turn.actions.append(Signal(daemon.identity, "SIGCONT"))
        # So does one below it to which it passes the signal on: torchrun waits 30 s for a rank that is frozen.
        frozen = (one.identity for one in seen.leftovers if one.state in "Tt")
        turn.actions += [Signal(identity, "SIGCONT") for identity in frozen]


def when_clearing(turn: Turn) -> None:
    seen, state = turn.seen, turn.state
    if isinstance(seen.daemon, Alive):
        # Stopped by a person: whoever lives where nobody was seen before is meant too.
        if state.stop_reason == STOP_BY_PERSON:
            adopt_if_alive(turn)
            begin_stopping(turn, STOP_BY_PERSON)
        else:
            adopt_if_alive(turn)
        return
    turn.change(descendants=tuple(leftover.identity for leftover in seen.leftovers))
    if not seen.leftovers:
        if seen.proven:
            cleared(turn)
        elif not state.told:
            turn.tell_once(
                "unproven", Status.ATTENTION, "processes of the run may still live; nothing is started yet"
            )
        return
    names = ", ".join(f"{leftover.name} (pid {leftover.identity.pid})" for leftover in seen.leftovers[:8])
    more = f" and {len(seen.leftovers) - 8} more" if len(seen.leftovers) > 8 else ""
    if state.paused or turn.settings.watchdog.orphans == "report":
        why = "paused" if state.paused else "orphans: report"
        turn.tell_once(
            "orphans", Status.BAD, f"the run left {names}{more}; nothing is started while they live ({why})"
        )
        note_orphans(turn)
        return
    if state.deadline is None and may_go_on(turn, names + more):
        return
    fresh = [leftover for leftover in seen.leftovers if leftover.identity not in state.signalled]
    if state.deadline is None:
        turn.change(deadline=seen.now + turn.settings.watchdog.orphan_grace, rung=0)
        turn.tell("orphans", Status.ATTENTION, f"the run left {names}{more}; they get SIGTERM")
        note_orphans(turn)
    elif seen.now >= state.deadline:
        kill_leftovers(turn, names + more)
        return
    for leftover in fresh:
        turn.actions += [Signal(leftover.identity, "SIGTERM"), Signal(leftover.identity, "SIGCONT")]
    turn.change(signalled=(*turn.state.signalled, *(leftover.identity for leftover in fresh)))


def may_go_on(turn: Turn, names: str) -> bool:
    """Whether orphans that still train may do so, until they have saved what would be lost."""
    state, seen, incident = turn.state, turn.seen, turn.state.incident
    settings = turn.settings.watchdog
    if settings.orphans != "drain" or state.stop_reason is not None or seen.checkpoint_step is None:
        return False
    if incident is None or incident.closed or incident.checkpoint_step is None:
        return False
    if state.hold_until is None:
        turn.change(hold_until=seen.now + settings.drain_timeout)
        turn.tell(
            "draining",
            Status.ATTENTION,
            f"the run left {names}; they may train on until their next checkpoint, "
            f"{duration_text(settings.drain_timeout)} at most",
        )
        note_orphans(turn)
        return True
    is_newer = seen.checkpoint_step > incident.checkpoint_step
    if is_newer and state.drained_to is None:
        turn.change(drained_to=seen.checkpoint_step)
    # Once another one has followed, or nothing grows any more, it is whole.
    followed = state.drained_to is not None and seen.checkpoint_step > state.drained_to
    has_saved = is_newer and (followed or not seen.saving)
    if seen.now < state.hold_until and not has_saved:
        return True
    turn.change(hold_until=None, drained_to=None)
    return False


def kill_leftovers(turn: Turn, names: str) -> None:
    """The grace is over: SIGKILL at each look until they are gone; that they stay is said after ten seconds."""
    if turn.state.rung == 0:
        turn.change(rung=1, hold_until=turn.seen.now + 10)
        turn.tell("orphans", Status.ATTENTION, f"SIGKILL to {names}")
    elif turn.state.hold_until is not None and turn.seen.now >= turn.state.hold_until:
        states = ", ".join(f"pid {one.identity.pid} in state {one.state}" for one in turn.seen.leftovers[:8])
        turn.tell_once(
            "stuck", Status.BAD, f"SIGKILL has no effect on {states}; nothing is started beside them"
        )
    turn.actions += [Signal(leftover.identity, "SIGKILL") for leftover in turn.seen.leftovers]
    turn.change(deadline=turn.seen.now + 0.25 if turn.state.told == "" else turn.seen.now + 5)


def note_orphans(turn: Turn) -> None:
    incident, run = turn.state.incident, turn.state.run
    if incident is not None and run is not None and incident.run_id == run.id:
        turn.change_incident(orphans=turn.seen.leftovers)
        turn.record()


def cleared(turn: Turn) -> None:
    """Nothing of the former run lives any more: end, or begin again."""
    state, run = turn.state, turn.state.run
    turn.change(descendants=())
    if state.stop_reason == STOP_BY_PERSON:
        turn.tell("stopped", Status.OK, "stopped by a person, with the daemon")
        turn.end(Phase.STOPPED, "stopped by a person, with the daemon; --start begins again")
    elif run is None or run.ending is None:
        turn.enter(Phase.NEW, "nothing of an earlier run is left")
    elif is_finished(turn):
        # A run that resumed at its last step has none left to make.
        last = max(run.step or 0, run.resumed_from or 0)
        step = f" at step {last}" if last else ""
        turn.tell("finished", Status.OK, f"the daemon has finished{step}")
        turn.end(Phase.FINISHED, f"the daemon finished{step}; --start begins again")
    else:
        incident = state.incident
        if incident is not None and not incident.closed and incident.seconds_to_cleared is None:
            turn.change_incident(seconds_to_cleared=turn.seen.now - incident.at)
        want_restart(turn)
