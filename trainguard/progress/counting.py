"""Counting: what a run's marks add up to, and how it stands. Pure."""

import math

import msgspec

from trainguard.health import Finding, Status
from trainguard.policy import WAITING, Work
from trainguard.progress.lines import Mark, Role

COUNTER_LIMIT = 64


class Progress(msgspec.Struct, frozen=True):
    """One run as read so far. None is unknown, never zero.

    `step`, in optimizer steps, is the largest that the run's sources last said, and `source` names the one;
    `total`, `loss` and `epoch` are what was said last. `finished`: the run said that it is over and has not
    moved since. `advances` goes up by one with each mark that increased a training counter, a step or an
    epoch, over its former value; `signs` with each that increased another counter (evaluation, tokenising).
    A counter's first value, and one that went back, is a baseline and neither. Compare two looks of one run:
    the numbers themselves mean nothing. `work` is what it is at by what it wrote last: an advance is training,
    another counter that changes is evaluation once there was one; its words count as one sign at most between
    two advances, lest a loop that prints them all night lives by them. `word` is the last one.

    The rest is what `note` remembers: the last value of at most 64 counters, the last step of each training
    counter, the totals that sources other than bars told, and the bar that counts training steps.
    """

    step: int | None = None
    total: int | None = None
    loss: float | None = None
    epoch: float | None = None
    source: str | None = None
    finished: bool = False
    advances: int = 0
    signs: int = 0
    work: Work | None = None
    word: Work | None = None
    counters: dict[str, float] = {}
    steps: dict[str, int] = {}
    totals: dict[str, int] = {}
    bar: str | None = None
    bar_total: int | None = None


def note(progress: Progress, mark: Mark) -> Progress:
    """The progress after one more mark."""
    counters, moved = _counted(progress, mark)
    if mark.role is Role.WORDS:
        return _told(_changed(progress, counters=counters), mark)
    if mark.role is Role.SIGN or (mark.role is Role.BAR and not _counts_steps(progress, mark)):
        changed = mark.step is not None and mark.step != progress.counters.get(mark.key)
        work = Work.EVALUATING if progress.advances else Work.STARTING
        changed_work = work if changed and not mark.stale else progress.work
        return _changed(progress, counters=counters, signs=progress.signs + moved, work=changed_work)
    if mark.role is Role.BEAT:
        moved = moved and progress.step is None
        return _changed(progress, counters=counters, advances=progress.advances + moved)

    totals, steps, bar, bar_total = progress.totals, progress.steps, progress.bar, progress.bar_total
    if mark.role is Role.BAR:
        if mark.key != bar:
            steps = {key: step for key, step in steps.items() if key != bar}
            bar, bar_total = mark.key, mark.total
    elif mark.total is not None:
        totals = {**totals, mark.key: mark.total}
    if mark.stale:
        return _changed(progress, counters=counters, totals=totals)

    if mark.step is not None:
        steps = {**steps, mark.key: mark.step}
    leader = max(steps, key=lambda key: steps[key], default=None)
    step = None if leader is None else steps[leader]
    epoch = progress.epoch if mark.epoch is None else mark.epoch
    standing = (step, epoch) == (progress.step, progress.epoch)
    advanced = Progress(
        step=step,
        total=progress.total if mark.total is None else mark.total,
        loss=progress.loss if mark.loss is None else mark.loss,
        epoch=epoch,
        source="tqdm" if leader is not None and leader == bar else leader or progress.source or mark.source,
        # The last redraw of a bar, and a status file that lags behind, come after the end.
        finished=mark.finished or (progress.finished and standing),
        advances=progress.advances + moved,
        signs=progress.signs,
        work=Work.TRAINING if moved else progress.work,
        counters=counters,
        steps=steps,
        totals=totals,
        bar=bar,
        bar_total=bar_total,
        word=progress.word,
    )
    # A word that stays while steps are made is not about them.
    return advanced if mark.work in (None, progress.word) else _told(advanced, mark)


def judge_progress(progress: Progress, subject: str = "progress") -> Finding:
    """How a run stands by its own word: BAD where the loss is no number, UNKNOWN where it says no step.

    Whether it advances is not in here: that takes two looks and the time between them.
    """
    if progress.loss is not None and not math.isfinite(progress.loss):
        where = "" if progress.step is None else f" at step {progress.step}"
        remedy = "go back to a checkpoint from before it, with a lower learning rate or clipped gradients"
        return Finding(Status.BAD, subject, f"the loss is {progress.loss}{where}", remedy)
    if progress.finished:
        return Finding(Status.OK, subject, "the run says that it is finished")
    if progress.step is None:
        remedy = "name its status file, or let it print one of the known progress lines, unbuffered"
        return Finding(Status.UNKNOWN, subject, "the run has not told a step", remedy)
    of_total = "" if progress.total is None else f" of {progress.total}"
    loss = "" if progress.loss is None else f", loss {progress.loss:.4g}"
    return Finding(Status.OK, subject, f"step {progress.step}{of_total}{loss} ({progress.source})")


def _counted(progress: Progress, mark: Mark) -> tuple[dict[str, float], bool]:
    """All counters after a mark, and whether one of its own went up; the longest silent are forgotten."""
    values = ((mark.key, mark.step), (f"{mark.key} epoch", mark.epoch))
    counters, moved = dict(progress.counters), False
    for name, value in values:
        if value is not None:
            former = counters.pop(name, None)
            counters[name] = value
            moved |= former is not None and value > former
    while len(counters) > COUNTER_LIMIT:
        # A training counter may rest for an hour, between two checkpoints, while bars come and go.
        del counters[next((name for name in counters if name not in progress.steps), next(iter(counters)))]
    return counters, moved and not mark.stale


def _counts_steps(progress: Progress, mark: Mark) -> bool:
    """Whether this bar, of those that might, is the one that counts training steps.

    It is if another source told its total; else the first one of the run is, until one with a told total
    appears, or until it has run to its end before the run told a loss or an epoch: then that was tokenising.
    """
    if mark.key == progress.bar or mark.total in progress.totals.values() or progress.bar is None:
        return True
    if progress.bar_total in progress.totals.values():
        return False
    vouched = progress.loss is not None or progress.epoch is not None or progress.finished
    done = progress.bar_total is None or progress.counters.get(progress.bar, 0) >= progress.bar_total
    return done and not vouched


def _told(progress: Progress, mark: Mark) -> Progress:
    """The progress after a run said what it is at.

    That it trains is believed once it advances: a status file says so also while the log tells of a save.
    """
    former, work = progress.work, mark.work
    progress = msgspec.structs.replace(progress, word=progress.word if mark.stale else work)
    if work is Work.TRAINING:
        work = Work.STARTING if former in (None, *WAITING) else former
    if mark.stale or work in (None, former):
        return progress
    sign = former in (None, Work.TRAINING, *WAITING)
    return msgspec.structs.replace(progress, work=work, signs=progress.signs + sign)


def _changed(
    progress: Progress,
    counters: dict[str, float],
    totals: dict[str, int] | None = None,
    advances: int | None = None,
    signs: int | None = None,
    work: Work | None = None,
) -> Progress:
    return msgspec.structs.replace(
        progress,
        counters=counters,
        totals=progress.totals if totals is None else totals,
        advances=progress.advances if advances is None else advances,
        signs=progress.signs if signs is None else signs,
        work=progress.work if work is None else work,
    )
