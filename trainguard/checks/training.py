"""Checks of the training itself: is the loss sane, the pace its own, the next evaluation due, the end in sight."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from statistics import median

from trainguard.checks.values import (
    Absent,
    Check,
    Facts,
    Limit,
    Measure,
    Reading,
    Told,
    attention,
    bad,
    grade,
    ok,
    unknown,
)
from trainguard.health import Status
from trainguard.moments import text_of
from trainguard.policy import Run, Work
from trainguard.quantities import duration_text
from trainguard.training import Ledger, Training, read_ledger, read_training, usual_gap

TRAINING = Reading("training", Training, lambda settings, deep: read_training(settings), 5.0)
LEDGER = Reading("failures", Ledger, lambda settings, deep: read_ledger(settings), 5.0)

SUBJECT = "training"
# So many of the last losses are one look at where it stands; its past begins with three times as many.
RECENT, PAST = 3, 9
# Between closer looks a step more or less decides.
SHORTEST_SECONDS = 60.0
RATES = 5
DAY = 86_400.0
NO_DAEMON = Absent("the daemon does not run")


def _run(facts: Facts) -> Run | None:
    """The run that lives, None where none does."""
    now = facts.of(Training)
    return now.state.run if now.lives else None


# --- the loss --------------------------------------------------------------------------------------------------


def judge_loss(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Training)
    run = now.state.run
    losses = list(now.losses)
    if not losses and now.status_file is not None and now.status_file.loss is not None:
        losses = [now.status_file.loss]
    if not losses and run is not None and run.loss is not None:
        losses = [run.loss]
    if not losses:
        if "log" in now.unread:
            yield unknown(
                SUBJECT, f"the log {now.log} could not be read: {now.unread['log']}", "see disk-alive"
            )
        else:
            yield Absent("no loss is told")
        return
    at = "" if run is None or run.step is None else f" at step {run.step}"
    last = losses[-1]
    remedy = "go back to a checkpoint from before it, with a lower learning rate or clipped gradients"
    if not math.isfinite(last):
        yield bad(SUBJECT, f"the loss is {last}{at}", remedy)
        return
    yield Measure("training_loss", last)
    strange = [loss for loss in losses if not math.isfinite(loss)]
    if strange:
        fact = f"{len(strange)} of the last {len(losses)} losses are {strange[-1]}; now it is {last:.4g}"
        yield attention(
            SUBJECT, fact, "see that it recovers; a checkpoint from then may hold NaN (checkpoint-values)"
        )
        return
    zeros = sum(loss == 0.0 for loss in losses[-RECENT:])
    if last == 0.0:
        # transformers' logging_nan_inf_filter shows the last good mean, and 0.0 where there was none.
        fact = f"the loss is exactly 0.0{at}, {zeros} times of the last {min(RECENT, len(losses))}"
        yield (bad if zeros >= RECENT else attention)(SUBJECT, fact, "NaN may hide behind it: " + remedy)
        return
    yield from _judge_size(facts, losses, limits)


def _judge_size(facts: Facts, losses: Sequence[float], limits: Mapping[str, float]) -> Iterator[Told]:
    recent, earlier = losses[-RECENT:], losses[:-RECENT]
    earlier = [value for _, value in facts.past.series("training_loss")] + list(earlier)
    level = median(recent)
    if len(earlier) < PAST:
        yield ok(SUBJECT, f"the loss is {losses[-1]:.4g}; of earlier ones too few are known to compare")
        return
    usual = median(earlier[-100:])
    if usual <= 0:
        yield ok(SUBJECT, f"the loss is {losses[-1]:.4g}, and not of a kind that is above 0")
        return
    fact = f"the loss is {level:.4g}, the median of the last {len(earlier[-100:])} before was {usual:.4g}"
    yield grade(
        level / usual, limits, SUBJECT, fact, "it diverges: lower the learning rate, go back to before it"
    )


# --- the pace --------------------------------------------------------------------------------------------------


def rate_of(facts: Facts, run: Run) -> float | None:
    """Steps a second since an earlier health check of this run, at least a minute ago; None where there is none."""
    state = facts.of(Training).state
    if run.step is None:
        return None
    known = [
        (wall, step)
        for wall, step in facts.past.series("training_step")
        if run.began_wall <= wall <= state.looked_wall - SHORTEST_SECONDS and step <= run.step
    ]
    if not known:
        return None
    wall, step = known[-1]
    return (run.step - step) / (state.looked_wall - wall)


def judge_rate(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    run = _run(facts)
    if run is None:
        yield NO_DAEMON
        return
    if run.step is None:
        yield Absent("the run has told no step")
        return
    yield Measure("training_step", run.step)
    # A save is short against the time between two looks; an evaluation may not be.
    if run.ended or run.work not in (Work.TRAINING, Work.SAVING):
        yield Absent(
            f"the run is {'finished' if run.ended else run.work.value}, and its pace is that of training"
        )
        return
    rate = rate_of(facts, run)
    if rate is None:
        yield Absent("no past yet: a health check of this run at least a minute ago")
        return
    yield Measure("training_steps_per_second", rate)
    earlier = [value for _, value in facts.past.series("training_steps_per_second")]
    if len(earlier) < RATES:
        yield ok(SUBJECT, f"{_pace(rate)}; {len(earlier)} of {RATES} earlier paces are known to compare")
        return
    usual = median(earlier)
    share = rate / usual if usual > 0 else 1.0
    fact = f"{_pace(rate)}, its own median is {_pace(usual)}"
    remedy = "see the GPUs' clocks and temperature, data-loader workers, and who else uses the machine"
    yield grade(share, limits, SUBJECT, fact, remedy, True)


def _pace(rate: float) -> str:
    return f"{rate:.3g} steps/s" if rate >= 0.1 else f"{rate * 3600:.3g} steps/h"


def judge_gain(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    spent = facts.of(Ledger).account
    ratio = spent.effective_training_ratio
    if ratio is None or spent.observed_seconds is None:
        yield Absent("how much of the time was training is not known without steps")
        return
    yield Measure("effective_training_ratio", ratio, "", limits["attention"], None, True)
    fact = f"{math.floor(1000 * ratio) / 10:.1f} % of {duration_text(spent.observed_seconds)} was training"
    if spent.parts:
        name, seconds = max(spent.parts.items(), key=lambda part: part[1])
        fact += f"; of a failure's cost most goes into {name}, {duration_text(seconds)} on average"
    elif spent.failures:
        fact += f"; {spent.failures} failure{'s' if spent.failures > 1 else ''}, none of them over yet"
    remedy = "daemon_watchdog.py --status has the account; fewer failures first (training-failures), then that part"
    yield grade(ratio, limits, SUBJECT, fact, remedy, True)


# --- what is due -----------------------------------------------------------------------------------------------


def judge_evaluation(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Training)
    schedule, run = now.schedule, _run(facts)
    if "trainer state" in now.unread:
        yield unknown(SUBJECT, f"the trainer's state could not be read: {now.unread['trainer state']}")
        return
    if schedule is None:
        yield Absent("no trainer_state.json or trainer_log.jsonl tells when it evaluates and saves")
        return
    told = []
    gap = usual_gap(schedule.evaluated) or schedule.eval_steps
    if schedule.evaluated and gap:
        # What is known ends with the last save.
        told.append(("evaluation", schedule.evaluated[-1], schedule.at, gap))
    if schedule.save_steps and run is not None and run.step is not None and run.step >= schedule.at:
        told.append(("save", schedule.at, run.step, schedule.save_steps))
    for what, last, step, usual in told:
        late = (step - last) / usual
        fact = f"the last {what} was at step {last}, by step {step}, and one is due every {usual:g}"
        remedy = "see the log for why there is none; a metric that decides on the best one may be stale"
        if what == "save":
            remedy = "see the log for why it does not save; a crash now loses all since then"
        yield grade(late, limits, f"{SUBJECT}: {what}", fact, remedy)
    if not told:
        yield Absent("it has told of no evaluation, and of no interval in steps")


def judge_end(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now, run = facts.of(Training), _run(facts)
    if run is None:
        yield NO_DAEMON
        return
    is_over = run.ended or (run.total is not None and run.step is not None and run.step >= run.total)
    if is_over:
        at = run.moved_at if run.moved_at is not None else run.began
        idle = max(0.0, now.now - at) if now.state.boot == now.boot else 0.0
        why = "says that it is finished" if run.ended else f"has made all of its {run.total} steps"
        fact = f"the run {why}, {duration_text(idle)} ago, and its process still lives"
        remedy = (
            "see what it waits for (py-spy dump); it holds its GPUs: daemon_watchdog.py --stop --with-daemon"
        )
        yield grade(idle, limits, SUBJECT, fact, remedy)
        return
    if run.total is None or run.step is None:
        yield Absent("the run has not told how many steps there are")
        return
    rates = [value for _, value in facts.past.series("training_steps_per_second")]
    rate = median(rates) if rates else _own_rate(facts, run)
    left = run.total - run.step
    if not rate:
        yield ok(SUBJECT, f"{left} of {run.total} steps are left; how long they take is not known yet")
        return
    seconds = left / rate
    yield Measure("training_left_seconds", seconds)
    when = text_of(facts.now_wall + seconds)
    yield ok(SUBJECT, f"{left} of {run.total} steps are left, {duration_text(seconds)}: until {when}")


def _own_rate(facts: Facts, run: Run) -> float | None:
    """Steps a second since the run's first one, what it did besides included."""
    since = facts.of(Training).state.looked_wall - run.began_wall
    if run.step is None or run.first_step is None or since < SHORTEST_SECONDS:
        return None
    return (run.step - run.first_step) / since


def judge_status_file(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Training)
    if facts.settings.progress.status_file is None:
        yield Absent("progress.status_file is not set")
        return
    subject = f"status file {facts.settings.progress.status_file}"
    file, run = now.status_file, _run(facts)
    if file is None:
        yield unknown(subject, f"could not be read: {now.unread.get('status file')}", "see disk-alive")
    elif file.wall is None and (run is None or not run.stepped):
        yield Absent("it is not there, and no run has made a step")
    elif file.wall is None:
        yield attention(
            subject, "is not there, though the run makes steps", "name the file that the trainer writes"
        )
    elif file.problem is not None:
        remedy = "write it to another name and rename it over this one; progress.status_names must fit it"
        yield attention(subject, file.problem, remedy)
    elif run is None or run.moved_at is None or now.state.boot != now.boot:
        yield ok(subject, f"can be read, step {file.step}")
    else:
        moved_wall = facts.now_wall - max(0.0, now.now - run.moved_at)
        behind = max(0.0, moved_wall - file.wall)
        yield Measure("status_file_behind_seconds", behind, "", limits["attention"])
        fact = f"step {file.step}, written {duration_text(behind)} before the run's last step"
        if file.step is not None and run.step is not None:
            fact += f" ({run.step}, by {run.source})"
        remedy = "the trainer writes another file by now, or cannot write this one"
        yield grade(behind, limits, subject, fact, remedy)


# --- failures --------------------------------------------------------------------------------------------------


def judge_failures(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    ledger = facts.of(Ledger)
    failures, spent = ledger.failures, ledger.account
    yield Measure("failures_total", len(failures))
    if spent.mean_seconds_between_failures is not None:
        yield Measure("mean_seconds_between_failures", spent.mean_seconds_between_failures)
    if not failures and spent.observed_seconds is None:
        yield Absent("nothing was supervised yet")
        return
    told = f"{len(failures)} failure{'' if len(failures) == 1 else 's'}"
    since = "" if spent.observed_seconds is None else f" in {duration_text(spent.observed_seconds)}"
    found = False
    lately = [one for one in failures if facts.now_wall - one.wall < DAY]
    causes = Counter(one.cause for one in lately)
    if causes:
        cause, count = causes.most_common(1)[0]
        if count >= limits["same"]:
            found = True
            fact = f"{count} of the {len(lately)} failures of the last 24 h are {cause}"
            fruitless = all(not one.stepped for one in lately if one.cause == cause)
            if fruitless:
                fact += ", and none was followed by a new step"
            remedy = "restarts do not mend it: crash_detector.py tells what does"
            yield (bad if fruitless else attention)(SUBJECT, fact, remedy)
    gaps = [later.wall - earlier.wall for earlier, later in pairwise(failures)]
    recent, earlier = gaps[-RECENT:], gaps[:-RECENT]
    if len(earlier) >= RECENT and lately:
        now, before = median(recent), median(earlier)
        if before > 0 and now / before < limits["falling"]:
            found = True
            fact = (
                f"the last {RECENT} failures came {duration_text(now)} apart, before {duration_text(before)}"
            )
            yield attention(SUBJECT, fact, "crash_detector.py tells of what kind they are, and what to do")
    if not found:
        between = spent.mean_seconds_between_failures
        mean = "" if between is None else f", one every {duration_text(between)} of training"
        yield ok(SUBJECT, f"{told}{since}{mean}")


CHECKS = (
    Check(
        id="training-loss",
        component="training",
        explain="The loss is a number, not exactly 0.0, and not far above its own past: NaN trains on for hours.",
        reads=(TRAINING,),
        answers_for=(TRAINING,),
        judge=judge_loss,
        limits=(
            Limit("attention", 3.0, "times", "a choice: a spike of three losses in a row"),
            Limit("bad", 30.0, "times", "a choice: it does not come back from there"),
        ),
    ),
    Check(
        id="training-rate",
        component="training",
        explain="Steps a second since the last look, against the run's own median: hot GPUs, slow disks show.",
        reads=(TRAINING,),
        judge=judge_rate,
        limits=(
            Limit("attention", 0.6, "of its own", "a choice: clocks throttled to 60 %"),
            Limit("bad", 0.25, "of its own", "a choice: something is broken, not slow"),
        ),
    ),
    Check(
        id="training-gain",
        component="training",
        explain="The share of the time that was training, not failure or recovery (ETTR), and where the rest went.",
        reads=(LEDGER,),
        judge=judge_gain,
        worst=Status.ATTENTION,
        limits=(Limit("attention", 0.9, "of the time", "a choice: a tenth of the time is lost"),),
    ),
    Check(
        id="training-evaluation",
        component="training",
        explain="Evaluations and saves come at their usual steps, as far as the trainer's own records tell.",
        reads=(TRAINING,),
        judge=judge_evaluation,
        worst=Status.ATTENTION,
        limits=(Limit("attention", 2.0, "intervals", "a choice: one is left out"),),
    ),
    Check(
        id="training-end",
        component="training",
        explain="When it will be over; and a run that is over while its process lives on holds its GPUs for nothing.",
        reads=(TRAINING,),
        judge=judge_end,
        worst=Status.ATTENTION,
        limits=(
            Limit("attention", 900.0, "seconds", "a choice: a last save and an upload take some minutes"),
        ),
    ),
    Check(
        id="training-status-file",
        component="training",
        explain="The status file is whole JSON, and not behind the steps that the run makes.",
        reads=(TRAINING,),
        judge=judge_status_file,
        worst=Status.ATTENTION,
        limits=(Limit("attention", 600.0, "seconds", "as progress.timeout: then it tells of no progress"),),
    ),
    Check(
        id="training-failures",
        component="training",
        explain="Failures that come faster than before, or of the same cause again and again: restarts do not help.",
        reads=(LEDGER,),
        answers_for=(LEDGER,),
        judge=judge_failures,
        limits=(
            Limit("same", 3.0, "failures", "a choice: as many as may be restarted in a row"),
            Limit("falling", 0.5, "of before", "a choice: twice as often"),
        ),
    ),
)
