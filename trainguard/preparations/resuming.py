"""Resuming: from which checkpoint the next run starts, what would spoil that, and the room for the next save."""

import re
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from trainguard import checkpoints
from trainguard.checkpoints.contents import list_files, read_checkpoint
from trainguard.checkpoints.judging import is_meant, judge_checkpoint, judge_newest
from trainguard.checkpoints.pointers import Pointer, best_of, read_pointers
from trainguard.checkpoints.verdicts import FaultError
from trainguard.config import Settings
from trainguard.copies import keeping
from trainguard.files import free_bytes
from trainguard.policy import Aside, Misled, Prepared, Spoilt
from trainguard.policy.causes import ROOM

# So many whole checkpoints are never deleted for room.
KEPT = 2
# With the wait for the GPUs' memory it must be over before the watchdog waits no longer (PREPARE_SECONDS).
STAGE_SECONDS = 45.0


def with_checkpoints(
    prepared: Prepared,
    settings: Settings,
    known: Sequence[Aside],
    lost: int | None,
    notes: list[str],
    writes: bool,
) -> Prepared:
    """The checkpoint to resume from, those that would spoil it, and the room for the next one.

    `known` was set aside before; `lost` is the step at which the loss was no number for the first time.
    """
    directory = settings.checkpoints.directory
    if directory is None:
        return prepared
    try:
        folder = checkpoints.find_folder(directory)
        judgements = judge_newest(directory, living=False, now_wall=time.time(), below=lost)
        spoilt = list_lost(folder, lost)
        pointers = read_pointers(folder)
        free = free_bytes(directory) if directory.exists() else None
    except OSError as error:
        notes.append(f"{directory}: the checkpoints cannot be verified ({error.strerror or error})")
        return prepared
    kept = []
    has_whole = any(is_whole(one) for one in judgements)
    for one in judgements:
        step = step_told(one)
        if lost is not None and step is not None and step >= lost:
            spoilt.append(lost_one(one.checkpoint, lost))
            continue
        tolerated = is_tolerable(one, has_whole, known)
        if one.spoils and not tolerated:
            path = str(one.checkpoint.path)
            spoilt.append(Spoilt(path, one.checkpoint.step, one.verdict.value, one.reason))
            continue
        kept.append(one)
    resume = choose_resume(kept, pointers)
    notes += [
        f"{one.checkpoint.path.name} is {one.verdict.value}: {one.reason}; it is used all the same"
        for one in kept
        if one.spoils or (one is resume and one.verdict is not checkpoints.Verdict.COMPLETE)
    ]
    try:
        notes += list_unverified(folder, judgements, pointers)
    except OSError as error:
        notes.append(f"{folder} cannot be read ({error.strerror or error})")
    whole = next((one for one in judgements if is_whole(one)), None)
    named = {str(pointer.target) for pointer in pointers}
    newest = -1 if resume is None else resume.checkpoint.step
    chosen = [one for one in spoilt if resume is None or one.step > newest or one.path in named]
    if settings.checkpoints.keep_copy and settings.checkpoints.set_aside:
        if writes:
            keeping.tidy(settings.logs.directory, directory, notes)
        chosen = with_copies(spoilt, chosen, settings.logs.directory, lost, writes)
    notes += [
        f"{one.path} is {one.verdict}: {one.reason}; it is left, and a run that is told to resume from it would "
        "end: name another"
        for one in spoilt
        if one.step < 0 and one not in chosen
    ]
    copied = next((one.path for one in chosen if one.copy), None)
    needed = None if whole is None else whole.size_bytes
    return msgspec.structs.replace(
        prepared,
        spoilt=tuple(chosen),
        resume=copied if resume is None else str(resume.checkpoint.path),
        resume_step=0 if resume is None else step_told(resume),
        verified=True,
        free=free,
        needed=needed,
        misled=misled(pointers, resume),
        prunable=list_prunable(directory, free, needed) if settings.checkpoints.prune else (),
    )


def with_copies(
    spoilt: Sequence[Spoilt], chosen: Sequence[Spoilt], run_folder: Path, lost: int | None, writes: bool
) -> list[Spoilt]:
    """What is set aside, with the copies that take its place, which lie beside it then.

    A trainer that writes over one file reads just that one: also one that is not `chosen` gets its copy back.
    """
    found = []
    for one in spoilt:
        path, notes = Path(one.path), list[str]()
        copy = keeping.find_copy(run_folder, path, lost, notes)
        try:
            if copy is not None and writes:
                keeping.stage(copy, path, STAGE_SECONDS)
        except (OSError, FaultError) as error:
            notes.append(f"its copy {copy.path if copy else ''} cannot be put back: {error}")
            copy = None
        if copy is not None or one in chosen:
            reason = "; ".join((one.reason, *notes))
            found.append(msgspec.structs.replace(one, reason=reason, copy=str(copy.path) if copy else ""))
    return found


def step_told(judgement: checkpoints.Judgement) -> int | None:
    """The step of a checkpoint: by its name, and where that has none by its content."""
    return judgement.checkpoint.step if judgement.checkpoint.step >= 0 else judgement.step


def list_lost(folder: Path, lost: int | None) -> list[Spoilt]:
    """The checkpoints that were saved once the loss was no number any more."""
    if lost is None:
        return []
    return [lost_one(one, lost) for one in reversed(checkpoints.list_saves(folder)) if one.step >= lost]


def lost_one(one: checkpoints.Checkpoint, lost: int) -> Spoilt:
    """A checkpoint from after that step."""
    reason = f"it was saved at or after step {lost}, where the loss was no number any more"
    return Spoilt(str(one.path), one.step, checkpoints.Verdict.SUSPECT.value, reason)


def choose_resume(
    kept: Sequence[checkpoints.Judgement], pointers: Sequence[Pointer]
) -> checkpoints.Judgement | None:
    """The one that a trainer will resume from: what a pointer names, else the newest."""
    if not pointers:
        return next(iter(kept), None)
    named = [one for one in kept if any(one.checkpoint.path == pointer.target for pointer in pointers)]
    whole = [one for one in kept if is_whole(one)]
    return next(iter([*named, *whole, *kept]), None)


def list_unverified(
    folder: Path, judgements: Sequence[checkpoints.Judgement], pointers: Sequence[Pointer]
) -> list[str]:
    """What no verdict says: numbers and layouts that are not known, a pointer that is not there. Raises OSError."""
    # transformers trainer_utils.py, _re_checkpoint, takes digits of any script and number.
    odd = [one.name for one in checkpoints.entries(folder) if re.fullmatch(r"checkpoint-\d+", one.name)]
    if strange := [name for name in odd if checkpoints.parse_name(name) is None]:
        return [
            f"{folder}: {strange[0]!r} is no step's name, and the Trainer would take it for its newest; rename it"
        ]
    if not judgements:
        found = checkpoints.find_weights(folder)
        told = f"{found} is in no layout that is known; what the run resumes from is not verified"
        return [f"{folder}: {told}"] if found else []
    layout = list_files(judgements[0].checkpoint).layout
    if layout is None or layout.pointer is None or pointers:
        return []
    told = (
        f"no {layout.pointer} names the checkpoint to resume from; a framework that is not told begins anew"
    )
    return [f"{folder}: {told}"]


def misled(pointers: Sequence[Pointer], resume: checkpoints.Judgement | None) -> tuple[Misled, ...]:
    """The pointers that name no checkpoint, where there is one that they could name."""
    if resume is None:
        return ()
    return tuple(Misled(str(one.path), one.problem) for one in pointers if one.problem is not None)


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


def is_tolerable(one: checkpoints.Judgement, has_whole: bool, known: Sequence[Aside]) -> bool:
    """Whether to resume from it all the same.

    Weights alone are better than a beginning anew; what differs from the checkpoint before for the second time was
    changed on purpose; and what was set aside before and lies there again was put back by a person.
    """
    if one.verdict is checkpoints.Verdict.WEIGHTS_ONLY and not has_whole:
        return True
    path, reason = str(one.checkpoint.path), without_numbers(one.reason)
    may_differ = one.compared or one.verdict is checkpoints.Verdict.WEIGHTS_ONLY
    return any(
        (may_differ and reason == without_numbers(earlier.reason))
        or (path == earlier.path and one.newest_mtime is not None and one.newest_mtime < earlier.at_wall)
        for earlier in known
    )


def without_numbers(reason: str) -> str:
    """A reason with `#` in place of its numbers."""
    return re.sub(r"[0-9]+", "#", reason)
