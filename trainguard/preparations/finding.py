"""Finding out, in a child of the watchdog: why the run ended, where to resume, and what stands in the way."""

import os
import re
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import msgspec

from trainguard import checkpoints, incidents
from trainguard.checkpoints.contents import list_files, read_checkpoint
from trainguard.checkpoints.judging import is_meant, judge_checkpoint, judge_newest
from trainguard.checkpoints.pointers import best_of
from trainguard.command_line import error_sentence
from trainguard.config import ExpectedError, Settings, load_settings
from trainguard.crash_types import CAUSES, TYPES, Verdict
from trainguard.diagnosis import Crash
from trainguard.gpu import Gpus, ask_gpus
from trainguard.incidents import IncidentRecord, quick_facts
from trainguard.investigation import evidence
from trainguard.investigation.investigating import investigate, open_knowledge
from trainguard.investigation.sources import Source
from trainguard.moments import seconds_of
from trainguard.observer import log_of
from trainguard.policy import Cause, Past, Prepared, Run, Spoilt, State
from trainguard.policy.causes import ROOM
from trainguard.progress import parse_segment
from trainguard.run_folder import RunFolder

# So much of a log's end says at once what a whole reading would mostly say as well.
LOOK_BYTES = 64 << 10
PAST = 64
# As NVIDIA's resiliency extension does before it starts ranks again.
DRAIN_SECONDS = 50.0
DRAINED_BYTES = 512 << 20
# So many whole checkpoints are never deleted for room.
KEPT = 2
_DRIVER = Path("/proc/driver/nvidia/version")


def find_out(settings: Settings, state: State, subject: str, cache: Path | None) -> Prepared:
    """All that is known before the start that `subject` is about, see policy.Prepare.

    `cache` is a folder for what the scanner makes of the signatures, None where nothing may be written.
    """
    notes: list[str] = []
    run_id = subject.partition("#")[0]
    run = state.run if state.run is not None and state.run.id == run_id else None
    cause = None if run is None else look_at_end(settings, state, run, cache, notes)
    prepared = Prepared(
        subject=subject,
        cause=cause,
        past=list_past(settings, state),
        holders=() if run is None else wait_for_gpus(),
    )
    prepared = with_checkpoints(prepared, settings, notes)
    if prepared.holders:
        notes.append(f"GPU memory is held by {', '.join(prepared.holders)}")
    return msgspec.structs.replace(prepared, notes=tuple(notes))


# --- why it ended ----------------------------------------------------------------------------------------------


def look_at_end(
    settings: Settings, state: State, run: Run, cache: Path | None, notes: list[str]
) -> Cause | None:
    """What the exit status, the end of the log and the kernel tell of how the run ended."""
    log = log_of(settings)
    try:
        start = max(run.log_start, log.stat().st_size - LOOK_BYTES)
    except OSError:
        start = run.log_start
    facts = quick_facts(state.incident, run)
    try:
        knowledge = open_knowledge(settings.detector.signatures, cache, notes)
    except (ExpectedError, OSError) as error:
        notes.append(error_sentence(error))
        knowledge = open_knowledge(None, cache, notes)
    known = evidence.gather(None, False, None, True, [])
    report = investigate([Source(str(log), start, None, facts=facts)], knowledge, known)
    return cause_of(report.crashes[0], provisional=True) if report.crashes else None


def cause_of(crash: Crash, provisional: bool = False) -> Cause:
    """What a diagnosis says that matters for the next start."""
    return Cause(
        crash.type,
        crash.cause,
        crash.retry.value,
        crash.fingerprint,
        crash.root.text[:1000],
        verdicts_of(crash.cause, crash.type),
        provisional,
    )


def verdicts_of(cause: str, crash_type: str) -> tuple[str, ...]:
    """What is right for the first time, the second and all later ones; the cause's where it has any."""
    known = CAUSES.get(cause)
    told = () if known is None else tuple(one.value for one in known.verdicts if one is not Verdict.EARLIER)
    return told or ((Verdict.PARK.value,) if TYPES[crash_type].retry.value == "no" else ())


def list_past(settings: Settings, state: State) -> tuple[Past, ...]:
    """The earlier ends of this daemon, the newest first; the one at hand is left out."""
    current = None if state.incident is None or state.incident.closed else state.incident.id
    records = incidents.list_records(settings.logs.directory / "incidents")
    records = [one for one in records if one.id != current][-PAST:]
    now = state.looked_wall
    ends = [seconds_of(one.time) or 0.0 for one in records] + [now]
    lived = [later - earlier for earlier, later in pairwise(ends)]
    past = [
        Past(at, past_cause(one), _has_recovered(one, after, settings.restart.parked_retry))
        for one, at, after in zip(records, ends[:-1], lived, strict=True)
    ]
    return tuple(reversed(past))


def past_cause(record: IncidentRecord) -> Cause | None:
    """The cause that an incident's record tells: by the full diagnosis, else by the look before the restart."""
    told = record.diagnosis
    if told is None or told.get("provisional"):
        return record.cause
    try:
        return cause_of(msgspec.convert(told, Crash))
    except msgspec.ValidationError:
        return record.cause


def _has_recovered(record: IncidentRecord, lived: float, enough: float) -> bool:
    """Whether a new step was made after it; where nobody counts steps, whether its successor lived long."""
    return record.first_new_step is not None or (record.step is None and lived >= enough)


# --- where to resume -------------------------------------------------------------------------------------------


def with_checkpoints(prepared: Prepared, settings: Settings, notes: list[str]) -> Prepared:
    """The checkpoint to resume from, those that would spoil it, and the room for the next one."""
    directory = settings.checkpoints.directory
    if directory is None:
        return prepared
    try:
        judgements = judge_newest(directory, living=False, now_wall=time.time())
        about = os.statvfs(directory) if directory.exists() else None
    except OSError as error:
        notes.append(f"{directory}: the checkpoints cannot be verified ({error.strerror or error})")
        return prepared
    lost = step_of(prepared.cause)
    spoilt: list[Spoilt] = []
    kept = []
    has_whole = any(is_whole(one) for one in judgements)
    known = reasons_known(settings)
    for one in judgements:
        step, path = one.checkpoint.step, str(one.checkpoint.path)
        if lost is not None and step >= lost:
            reason = f"it was saved at or after step {lost}, where the loss was no number any more"
            spoilt.append(Spoilt(path, step, checkpoints.Verdict.SUSPECT.value, reason))
        elif one.spoils and not is_tolerable(one, has_whole, known):
            spoilt.append(Spoilt(path, step, one.verdict.value, one.reason))
        else:
            kept.append(one)
    resume = next((one for one in kept if is_whole(one)), next(iter(kept), None))
    whole = next((one for one in judgements if is_whole(one)), None)
    free = None if about is None else about.f_bavail * about.f_frsize
    needed = None if whole is None else whole.size_bytes
    return msgspec.structs.replace(
        prepared,
        spoilt=tuple(one for one in spoilt if resume is None or one.step > resume.checkpoint.step),
        resume=None if resume is None else str(resume.checkpoint.path),
        resume_step=0 if resume is None else max(0, resume.checkpoint.step),
        verified=True,
        free=free,
        needed=needed,
        prunable=list_prunable(directory, free, needed) if settings.checkpoints.prune else (),
    )


def list_prunable(directory: Path, free: int | None, needed: int | None) -> tuple[str, ...]:
    """The oldest whole checkpoints that must go so that the next one fits; never the newest two or the best."""
    lacking = max(ROOM, needed or 0) - (free or 0)
    if free is None or lacking <= 0:
        return ()
    saves = [one for one in checkpoints.list_saves(checkpoints.find_folder(directory)) if one.is_step]
    best = best_of(directory)
    whole = []
    for place, save in enumerate(saves):
        siblings = [list_files(one) for one in saves[max(0, place - 1) : place]]
        judged = judge_checkpoint(read_checkpoint(save), siblings, living=False, now_wall=time.time())
        if is_whole(judged):
            whole.append(judged)
    chosen: list[str] = []
    for one in whole[:-KEPT]:
        if lacking > 0 and (best is None or one.checkpoint.path != best.path):
            chosen.append(str(one.checkpoint.path))
            lacking -= one.size_bytes
    return tuple(chosen)


def is_whole(one: checkpoints.Judgement) -> bool:
    """Whether it holds all that this run saves."""
    return one.verdict is checkpoints.Verdict.COMPLETE or is_meant(one)


def is_tolerable(one: checkpoints.Judgement, has_whole: bool, known: set[str]) -> bool:
    """Whether to resume from it all the same: weights alone are better than a beginning anew, and what differs
    from the checkpoint before for the second time was changed on purpose."""
    if one.verdict is checkpoints.Verdict.WEIGHTS_ONLY and not has_whole:
        return True
    return one.compared and without_numbers(one.reason) in known


def reasons_known(settings: Settings) -> set[str]:
    """Why checkpoints were set aside before."""
    records = incidents.list_records(settings.logs.directory / "incidents")
    return {without_numbers(str(one.get("reason"))) for record in records for one in record.set_aside}


def without_numbers(reason: str) -> str:
    """A reason with `#` in place of its numbers."""
    return re.sub(r"[0-9]+", "#", reason)


def step_of(cause: Cause | None) -> int | None:
    """The step at which a loss was no number for the first time."""
    if cause is None or cause.type != "numerical":
        return None
    steps = [mark.step for mark in parse_segment(cause.text.encode()) if mark.step is not None]
    return steps[0] if steps else None


# --- what stands in the way ------------------------------------------------------------------------------------


def wait_for_gpus(seconds: float = DRAIN_SECONDS) -> tuple[str, ...]:
    """Wait until the GPUs' memory of dead processes is free again; who still holds some in the end."""
    if not _DRIVER.exists():
        return ()
    deadline = time.monotonic() + seconds
    while True:
        answer = ask_gpus(min(10.0, seconds))
        dead, living = _holders(answer)
        if not dead or time.monotonic() >= deadline:
            return (*dead, *living)
        time.sleep(1.0)


def _holders(answer: Gpus) -> tuple[list[str], list[str]]:
    dead: list[str] = []
    living: list[str] = []
    for one in answer.gpus:
        for process in one.processes or ():
            if process.memory_used is not None and process.memory_used >= DRAINED_BYTES:
                held = f"pid {process.pid} with {process.memory_used / (1 << 30):.1f} GiB on GPU {one.index}"
                (dead if process.lives is False else living).append(held)
    return dead, living


def main(arguments: Sequence[str]) -> int:
    """Print what was found out, as JSON."""
    settings = load_settings(Path(arguments[0]))
    state, _ = RunFolder(settings.logs.directory).load_state()
    sys.stdout.buffer.write(
        msgspec.json.encode(find_out(settings, state, arguments[1], settings.logs.directory))
    )
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
