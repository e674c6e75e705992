"""Finding out, in a child of the watchdog: why the run ended, where to resume, and what stands in the way."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from trainguard import files, incidents
from trainguard.config import Settings, load_settings
from trainguard.crash_types import CAUSES, TYPES, Verdict
from trainguard.gpu import Gpus, ask_gpus
from trainguard.incidents import IncidentRecord, quick_facts
from trainguard.moments import seconds_of
from trainguard.observer import log_of, places_of
from trainguard.policy import Cause, Past, Prepared, Run, State
from trainguard.preparations.resuming import with_checkpoints
from trainguard.progress import Role, parse_segment
from trainguard.quantities import size_text
from trainguard.run_folder import RunFolder

if TYPE_CHECKING:
    from trainguard.diagnosis import Crash

# So much of a log's end says at once what a whole reading would mostly say as well.
LOOK_BYTES = 64 << 10
PAST = 64
# As NVIDIA's resiliency extension does before it starts ranks again.
DRAIN_SECONDS = 50.0
DRAINED_BYTES = 512 << 20
_DRIVER = Path("/proc/driver/nvidia/version")


def find_out(settings: Settings, state: State, subject: str, cache: Path | None) -> Prepared:
    """All that is known before the start that `subject` is about, see policy.Prepare.

    `cache` is a folder for what the scanner makes of the signatures, None where nothing may be written.
    """
    notes: list[str] = []
    run_id = subject.partition("#")[0]
    run = state.run if state.run is not None and state.run.id == run_id else None
    crash = None if run is None else look_at_end(settings, state, run, cache, notes)
    prepared = Prepared(
        subject=subject,
        cause=None if crash is None else cause_of(crash, provisional=True),
        past=list_past(settings, state),
        holders=() if run is None else wait_for_gpus(),
    )
    if run is not None and state.incident is not None and state.incident.step is None:
        prepared = msgspec.structs.replace(prepared, last_step=find_last_step(settings, run))
    lost = None if crash is None else find_lost_step(crash)
    prepared = with_checkpoints(prepared, settings, state.were_aside, lost, notes, writes=cache is not None)
    if prepared.holders:
        notes.append(f"GPU memory is held by {', '.join(prepared.holders)}")
    return msgspec.structs.replace(prepared, notes=tuple(notes))


# --- why it ended ----------------------------------------------------------------------------------------------


def look_at_end(
    settings: Settings, state: State, run: Run, cache: Path | None, notes: list[str]
) -> Crash | None:
    """What the exit status, the end of the log and the kernel tell of how the run ended."""
    try:
        from trainguard.investigation import evidence
        from trainguard.investigation.investigating import investigate, open_knowledge
        from trainguard.investigation.sources import Source
    except ImportError as error:
        # The checkpoints are verified all the same.
        notes.append(f"how the run ended cannot be read: {error}; install requirements.txt")
        return None
    log = log_of(settings)
    try:
        start = max(run.log_start, log.stat().st_size - LOOK_BYTES)
    except OSError:
        start = run.log_start
    facts = quick_facts(state.incident, run)
    knowledge = open_knowledge(settings.detector.signatures, cache, notes)
    known = evidence.gather(None, False, None, True, [], places_of(settings))
    report = investigate([Source(str(log), start, None, facts=facts)], knowledge, known)
    return report.crashes[0] if report.crashes else None


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
        from trainguard.diagnosis import Crash

        return cause_of(msgspec.convert(told, Crash))
    except (ImportError, msgspec.ValidationError):
        return record.cause


def _has_recovered(record: IncidentRecord, lived: float, enough: float) -> bool:
    """Whether a new step was made after it; where nobody counts steps, whether its successor lived long."""
    return record.first_new_step is not None or (record.step is None and lived >= enough)


def find_last_step(settings: Settings, run: Run) -> int | None:
    """The last step that the log of a run tells, in the part that is read."""
    log = log_of(settings)
    try:
        size = log.stat().st_size
        content = files.read_range(log, max(run.log_start, size - LOOK_BYTES), size)
    except OSError:
        return None
    return next(iter(reversed(steps_in(content))), None)


def find_lost_step(crash: Crash) -> int | None:
    """The step at which a loss was no number for the first time: by that line, else by what was told before it."""
    if crash.type != "numerical":
        return None
    if steps := steps_in(crash.root.text.encode()):
        return steps[0]
    end = crash.root.offset
    try:
        before = files.read_range(Path(crash.root.file), max(0, end - LOOK_BYTES), end)
    except OSError:
        return None
    return next(iter(reversed(steps_in(before))), None)


def steps_in(content: bytes) -> list[int]:
    """The training steps that lines tell, in order."""
    marks = (mark for line in re.split(rb"[\r\n]", content) for mark in parse_segment(line))
    return [mark.step for mark in marks if mark.step is not None and mark.role in (Role.TRAINING, Role.BAR)]


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
                held = f"pid {process.pid} with {size_text(process.memory_used)} on GPU {one.index}"
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
