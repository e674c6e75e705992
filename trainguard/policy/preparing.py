"""Preparing a start: what must be known is found out first, spoilt checkpoints are set aside, the cause is judged."""

from collections.abc import Sequence

from trainguard.health import Status
from trainguard.policy.beginning import adopt_if_alive, begin, clear_if_needed
from trainguard.policy.causes import Course, Judgement, judge_start
from trainguard.policy.restarting import decided, park, wait_until
from trainguard.policy.turn import PREPARE_SECONDS, Turn
from trainguard.policy.values import Aside, Lead, Misled, Prepared, Prune, SetAside, Spoilt
from trainguard.quantities import duration_text

DISK_SECONDS = 60.0
# So many checkpoints that were set aside are known again.
REMEMBERED = 64


def when_preparing(turn: Turn) -> None:
    state, seen = turn.state, turn.seen
    if adopt_if_alive(turn) or clear_if_needed(turn):
        return
    if state.paused:
        wait_until(turn, seen.now, "paused by a person; nothing is started")
        return
    prepared = seen.prepared
    if prepared is not None and prepared.subject == turn.subject:
        go_on(turn, prepared)
    elif turn.has_asked():
        return
    elif state.deadline is None or seen.first:
        # The watchdog that asked has died, or the machine: it is asked again.
        if state.aside:
            names = ", ".join(path.rpartition("/")[2] for path in state.aside)
            text = (
                f"the watchdog before died while it set aside {names}; what is not there any more was renamed"
            )
            turn.tell("set_aside", Status.BAD, text)
        turn.change(aside=())
        turn.prepare(state.counted, state.trial)
    elif seen.now >= state.deadline:
        turn.tell(
            "unprepared",
            Status.ATTENTION,
            f"what the start needs was not found out within {duration_text(PREPARE_SECONDS)}; "
            "it is started all the same",
        )
        go_on(turn, Prepared(turn.subject))


def go_on(turn: Turn, prepared: Prepared) -> None:
    """All is known that will be: start, wait, or park."""
    seen, settings = turn.seen, turn.settings
    if settings.checkpoints.set_aside:
        fresh = [one for one in prepared.spoilt if one.path not in turn.state.aside]
        pointers = [one for one in prepared.misled if one.path not in turn.state.aside]
        if fresh or pointers:
            turn.change(noted=prepared.notes)
            # Whether it could be done shows when it is looked again.
            set_aside(turn, fresh, prepared)
            lead(turn, pointers, prepared.resume)
            turn.prepare(turn.state.counted, turn.state.trial)
            return
    # Some of what the first look noted is not there any more at the second.
    turn.tell_all(dict.fromkeys((*turn.state.noted, *prepared.notes)))
    turn.change(noted=())
    for one in prepared.spoilt:
        left = "could not be set aside" if settings.checkpoints.set_aside else "is left as it is"
        turn.tell("spoilt", Status.BAD, f"{name_of(one)} is {one.verdict}: {one.reason}; it {left}")
    incident = turn.state.incident
    if incident is not None and not incident.closed:
        turn.change_incident(cause=prepared.cause)
        if incident.step is None and prepared.last_step is not None:
            # It ended before anybody looked.
            highest = max(prepared.last_step, turn.state.highest_step or 0)
            turn.change_incident(step=prepared.last_step, source="log")
            turn.change(highest_step=highest)
        turn.record()
    # Nor is the end itself held against it, where a person has said --resume since.
    forgiven = incident is not None and incident.at_wall <= turn.state.forgiven_wall
    trial = turn.state.trial or forgiven
    former = turn.state.run.remedy if turn.state.run is not None else None
    judged = judge_start(prepared, settings.restart, seen.wall, turn.state.forgiven_wall, trial, former)
    if judged.course is Course.WAIT and has_waited_long(turn):
        judged = Judgement(Course.START, remedy=judged.remedy)
    prunable = [path for path in prepared.prunable if path not in turn.state.pruned]
    if judged.course is Course.WAIT and settings.checkpoints.prune and prunable:
        prune(turn, prunable, judged.why)
    elif judged.course is Course.WAIT:
        text = f"waiting for room: {judged.why}; it is looked again every {duration_text(DISK_SECONDS)}"
        is_news = turn.state.room_wanted_at is None
        turn.change(room_wanted_at=turn.state.room_wanted_at or seen.now)
        wait_until(turn, seen.now + DISK_SECONDS, text)
        if is_news:
            turn.tell("disk", Status.BAD, text)
            decided(turn, text)
    elif judged.course is Course.PARK:
        turn.change(rounds=settings.restart.rounds + 1, why_parked=judged.why)
        park(turn, judged.why)
    else:
        if judged.remedy is not None and judged.remedy != former:
            decided(turn, f"with the remedy for {judged.remedy}")
            turn.tell("remedy", Status.ATTENTION, f"it is started with the remedy for {judged.remedy}")
        is_known = prepared.verified and not prepared.spoilt
        resumed = prepared.resume_step if is_known else seen.checkpoint_step
        turn.change(room_wanted_at=None, aside=())
        # What has helped goes on helping, until a person begins anew.
        begin(turn, turn.state.counted, resumed, judged.remedy or former)


def has_waited_long(turn: Turn) -> bool:
    """Whether room was waited for as long as a parked daemon waits: then it is tried all the same."""
    since = turn.state.room_wanted_at
    return since is not None and turn.seen.now - since >= turn.settings.restart.parked_retry


def set_aside(turn: Turn, spoilt: Sequence[Spoilt], prepared: Prepared) -> None:
    """Rename what would spoil the resume."""
    for one in spoilt:
        instead = (
            "from the beginning" if prepared.resume is None else f"at {prepared.resume.rpartition('/')[2]}"
        )
        put_back = "its verified copy is put back, " if one.copy else ""
        turn.actions.append(SetAside(one, prepared.resume))
        turn.tell(
            "set_aside",
            Status.BAD,
            f"{name_of(one)} is {one.verdict}: {one.reason}; it is set aside, {put_back}the run resumes {instead}",
        )
    if spoilt:
        news = tuple(Aside(one.path, one.reason, turn.seen.wall) for one in spoilt)
        turn.change(
            aside=(*turn.state.aside, *(one.path for one in spoilt)),
            were_aside=(*turn.state.were_aside, *news)[-REMEMBERED:],
        )
        note(turn, tuple(spoilt))


def lead(turn: Turn, pointers: Sequence[Misled], resume: str | None) -> None:
    """Have the pointers that name no checkpoint name the one to resume from."""
    for one in pointers if resume is not None else ():
        turn.actions.append(Lead(one.path, resume or ""))
        turn.tell(
            "pointer", Status.BAD, f"{one.problem}; it is set to name {(resume or '').rpartition('/')[2]}"
        )
    turn.change(aside=(*turn.state.aside, *(one.path for one in pointers)))


def name_of(spoilt: Spoilt) -> str:
    """What it is called in its folder."""
    return spoilt.path.rpartition("/")[2]


def prune(turn: Turn, paths: Sequence[str], why: str) -> None:
    """Delete old checkpoints for room, each only once, and look again."""
    names = ", ".join(path.rpartition("/")[2] for path in paths)
    turn.actions += [Prune(path) for path in paths]
    turn.change(pruned=tuple(paths))
    turn.tell("pruned", Status.ATTENTION, f"{why}; deleted, as checkpoints.prune says: {names}")
    decided(turn, f"{names} deleted for room")
    turn.prepare(turn.state.counted, turn.state.trial)


def note(turn: Turn, spoilt: tuple[Spoilt, ...]) -> None:
    incident = turn.state.incident
    if incident is not None and not incident.closed:
        turn.change_incident(set_aside=(*incident.set_aside, *spoilt))
        turn.record()
