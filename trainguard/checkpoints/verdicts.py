"""Verdicts: what can be said of a checkpoint, and the value that says it."""

from enum import Enum

import msgspec

from trainguard.checkpoints.listing import Checkpoint


class Verdict(str, Enum):
    """Whether a run can resume from a checkpoint.

    `weights-only` can be loaded, but the optimizer's or the scheduler's state is not in it. `suspect` has the
    shape of a whole one and content that is not: zeros, NaN, another step, or what somebody laid there.
    """

    COMPLETE = "complete"
    WRITING = "writing"
    INCOMPLETE = "incomplete"
    SUSPECT = "suspect"
    WEIGHTS_ONLY = "weights-only"


# What counts first where a checkpoint has several faults.
SEVERITY = (Verdict.SUSPECT, Verdict.INCOMPLETE, Verdict.WEIGHTS_ONLY)


class Fault(msgspec.Struct, frozen=True):
    """What is wrong with a checkpoint: one clause that names the file, and whether it spoils a resume."""

    verdict: Verdict
    reason: str
    spoils: bool = True


class FaultError(Exception):
    """A file of a checkpoint is not what it should be; `str` is the reason without the file's name."""

    def __init__(self, verdict: Verdict, reason: str) -> None:
        super().__init__(reason)
        self.verdict = verdict


class Judgement(msgspec.Struct, frozen=True):
    """What was found out about one checkpoint.

    `step` is the step that its content tells, None where it tells none; `newest_mtime` is wall seconds. It `spoils` a
    resume where that would stop, be poisoned, or lose state in silence; `compared` where only the checkpoint before
    says so, since a run may have been changed on purpose.
    """

    checkpoint: Checkpoint
    verdict: Verdict
    reason: str
    step: int | None
    size_bytes: int
    newest_mtime: float | None
    spoils: bool = False
    compared: bool = False


def incomplete(reason: str) -> FaultError:
    """A file that ends too early, or that is not there."""
    return FaultError(Verdict.INCOMPLETE, reason)


def suspect(reason: str) -> FaultError:
    """A file whose content cannot be trusted."""
    return FaultError(Verdict.SUSPECT, reason)
