"""Judging: from the facts of a checkpoint, and of those before it, to whether a run can resume from it."""

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from trainguard.checkpoints.contents import Contents, list_files, read_checkpoint
from trainguard.checkpoints.layouts import Part, find
from trainguard.checkpoints.listing import find_folder, is_loose, list_saves
from trainguard.checkpoints.ranks import judge_ranks, judge_shards
from trainguard.checkpoints.verdicts import SEVERITY, Fault, Judgement, Verdict

# Seconds without a change after which a save is over; slow storage gets three times its last save.
SETTLE_SECONDS = 30.0
SETTLE_FACTOR = 3.0
# A save that lacks its last file may pause, between the shards of a slow upload for instance.
PAUSE_SECONDS = 600.0
PAUSE_FACTOR = 20.0
DURATION_LIMIT = 3600.0
# A clock that was set back must not keep a checkpoint "writing" for ever.
CLOCK_SKEW_SECONDS = 60.0
REASON_LIMIT = 400
# Folders of which the sizes and ranks are compared; how far back an optimizer is looked for.
SIBLINGS = 3

# State that a run wrote before and reads when it resumes. Settings, tokenizers and training_args.bin it does not
# read, and which of them are written changes with versions and settings.
STATE = ("*.bin", "*.pkl", "*.pt", "*.pth", "*.safetensors")
NO_STATE = "*training_args.bin"
_SCHEDULER = re.compile(r"scheduler(?:_[0-9]+)?\.(?:pt|bin)")


def judge_newest(directory: Path, living: bool, now_wall: float, below: int | None = None) -> list[Judgement]:
    """The checkpoints in a run's folder, newest first, down to and including the first that is as it should be.

    Where Lightning's last.ckpt or another without a step lies beside numbered ones, those without a number
    follow, down to their first complete one. With `below`, only those of earlier steps. Raises OSError where the
    folder cannot be read.
    """
    saves = list_saves(find_folder(directory))
    limit = math.inf if below is None else below
    judgements: list[Judgement] = []
    for group in (
        [save for save in saves if 0 <= save.step < limit and not is_loose(save)],
        [save for save in saves if save.step < 0 or is_loose(save)],
    ):
        for place in range(len(group) - 1, -1, -1):
            siblings = [list_files(save) for save in group[max(0, place - SIBLINGS) : place]]
            judgement = judge_checkpoint(read_checkpoint(group[place]), siblings, living, now_wall)
            judgements.append(judgement)
            if judgement.verdict is Verdict.COMPLETE or is_meant(judgement):
                break
    return judgements


def is_meant(judgement: Judgement) -> bool:
    """Whether it holds weights alone because this run saves nothing else."""
    return judgement.verdict is Verdict.WEIGHTS_ONLY and not judgement.spoils


def judge_checkpoint(
    contents: Contents, siblings: Sequence[Contents], living: bool, now_wall: float
) -> Judgement:
    """Whether a run can resume from a checkpoint, given those before it in numeric order.

    `living`: processes of the run may still write. Then one that changed lately, or that lacks what is written
    last, is `writing`; once they are gone nothing is.
    """
    own = [*contents.faults, *_shape_faults(contents, ())]
    faults = [*contents.faults, *_shape_faults(contents, siblings)]
    worst = min(
        faults,
        key=lambda fault: SEVERITY.index(fault.verdict),
        default=Fault(Verdict.COMPLETE, _praise(contents), spoils=False),
    )
    verdict, reason, spoils = worst.verdict, worst.reason, worst.spoils
    compared = verdict not in {fault.verdict for fault in own}
    if living and (change := _change(contents, siblings, verdict, now_wall)):
        verdict, reason, spoils = Verdict.WRITING, change, False
    # A file may be called anything.
    shown = reason[:REASON_LIMIT] if reason.isprintable() else ascii(reason[:REASON_LIMIT])[1:-1]
    return Judgement(
        contents.checkpoint,
        verdict,
        shown,
        contents.step,
        contents.size_bytes,
        contents.newest_mtime,
        spoils,
        compared,
    )


def _shape_faults(contents: Contents, siblings: Sequence[Contents]) -> Iterable[Fault]:
    """What is missing of a checkpoint as a whole."""
    layout, names = contents.layout, contents.names
    if layout is None:
        yield Fault(Verdict.SUSPECT, f"{contents.checkpoint.path.name} fits no known layout", spoils=False)
        return
    if not contents.is_folder:
        return
    if not names:
        yield Fault(Verdict.INCOMPLETE, f"{contents.checkpoint.path.name} holds no files")
    like = [sibling for sibling in siblings if sibling.layout == layout and sibling.is_folder]
    commit = layout.commit
    if commit and find(names, *commit.patterns) is None:
        yield Fault(Verdict.INCOMPLETE, f"{commit.name}, which is written last, is missing")
    for folder in sorted({name[: name.rfind("/") + 1] for name in names if name.endswith(".distcp")}):
        if find(names, f"{folder}.metadata", f"{folder}__*.metadata") is None:
            yield Fault(Verdict.INCOMPLETE, f"{folder}.metadata, which is written last, is missing")
    for part in layout.parts:
        if _is_lacking(part, names):
            yield _missing(part, like)
    shards = judge_shards(names)
    # The nearest: the number of processes, or what is saved, may have changed long before.
    nearest = like[-1].names if like else []
    ranks = judge_ranks(names, nearest, contents.world)
    for reason in (shards, ranks, _lost(contents, nearest)):
        if reason:
            is_scheduler = _SCHEDULER.match(reason) is not None
            yield Fault(Verdict.WEIGHTS_ONLY if is_scheduler else Verdict.INCOMPLETE, reason)
    step = contents.checkpoint.step
    if layout.name in STEPS_AGREE and contents.step is not None and contents.step != step:
        yield Fault(
            Verdict.SUSPECT, f"{contents.checkpoint.path.name} holds the state of step {contents.step}"
        )
    if reason := _uncommitted(contents, siblings):
        # A framework that goes by its pointer does not see what was saved since.
        yield Fault(Verdict.INCOMPLETE, reason, spoils=False)


# Where the number in the name and the step in the content are the same by the framework's own code.
STEPS_AGREE = ("Hugging Face", "LLaMA-Factory v1", "Megatron", "Megatron torch_dist")


def _missing(part: Part, siblings: Sequence[Contents]) -> Fault:
    if not part.is_state:
        return Fault(Verdict.INCOMPLETE, f"{part.name} is missing")
    having = [sibling for sibling in siblings if find(sibling.names, *part.patterns) is not None]
    if having:
        other = having[-1].checkpoint.path.name
        reason = f"{part.name} is missing, which {other} has: its state would be lost in silence"
        return Fault(Verdict.WEIGHTS_ONLY, reason)
    # Where no checkpoint before had more than weights, that is how this run saves.
    return Fault(Verdict.WEIGHTS_ONLY, f"{part.name} is missing: only the weights were saved", spoils=False)


def _lost(contents: Contents, sibling: Sequence[str]) -> str | None:
    """A file of state that the checkpoint before has and this one has not, numbers aside."""
    names, layout = contents.names, contents.layout
    if layout is None:
        return None
    # What something else stands for, and what is told more exactly.
    known = [group for group in layout.alike if find(names, *group)]
    known += [part.patterns for part in layout.parts if part.is_state and _is_lacking(part, names)]
    patterns = [pattern for group in known for pattern in group]
    kept = {_key(name) for name in names}
    for name in sibling:
        is_state = find([name], *STATE) and not find([name], NO_STATE, *patterns) and "-of-" not in name
        if is_state and _key(name) not in kept:
            return f"{name} is missing, which the checkpoint before has"
    return None


def _is_lacking(part: Part, names: Sequence[str]) -> bool:
    return find(names, part.given) is not None and find(names, *part.patterns) is None


def _key(name: str) -> str:
    """A file's name without its numbers; a single process writes rng_state.pth, several rng_state_0.pth."""
    return re.sub(r"[0-9]+", "#", name).replace("rng_state_#.pth", "rng_state.pth")


def _uncommitted(contents: Contents, siblings: Sequence[Contents]) -> str | None:
    """Whether the pointer beside shows that a save was not finished."""
    layout, pointer, checkpoint = contents.layout, contents.pointer, contents.checkpoint
    if layout is None or layout.pointer is None:
        return None
    if pointer is None:
        # With several and no pointer, this run uses none: DeepSpeed's save_latest=False.
        return None if siblings else f"{layout.pointer}, which is written last, is missing"
    if pointer.target is None or pointer.target == checkpoint.path:
        return None
    step = next((int(digits) for digits in re.findall(r"[0-9]{1,16}$", pointer.target.name)), None)
    if step is not None and step < checkpoint.step:
        return f"{layout.pointer}, which is written last, still names {pointer.target.name}"
    return None


def _change(
    contents: Contents, siblings: Sequence[Contents], verdict: Verdict, now_wall: float
) -> str | None:
    newest = contents.newest_mtime
    if newest is None or newest > now_wall + CLOCK_SKEW_SECONDS:
        return None
    duration = min(siblings[-1].duration if siblings else 0.0, DURATION_LIMIT)
    age = max(0.0, now_wall - newest)
    last = max(contents.files, key=lambda file: file.changed)
    if age < max(SETTLE_SECONDS, SETTLE_FACTOR * duration):
        return f"{last.name} changed {age:.0f} s ago"
    is_unfinished = verdict is Verdict.INCOMPLETE and _lacks_commit(contents, siblings)
    if is_unfinished and age < max(PAUSE_SECONDS, PAUSE_FACTOR * duration):
        return f"what is written last is missing, and {last.name} changed {age:.0f} s ago"
    return None


def _lacks_commit(contents: Contents, siblings: Sequence[Contents]) -> bool:
    commit = contents.layout.commit if contents.layout else None
    is_missing = commit is not None and contents.is_folder and find(contents.names, *commit.patterns) is None
    return is_missing or _uncommitted(contents, siblings) is not None


def _praise(contents: Contents) -> str:
    count = len(contents.files)
    return f"{count} file{'s' if count != 1 else ''} of {contents.layout.name if contents.layout else '?'} verified"
