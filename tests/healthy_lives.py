"""Healthy lives: trainings that look as if they hung, now and then, and do not."""

from traces import Trace

from trainguard.policy import Work
from trainguard.progress import Mark

HOUR = 3600.0


def slow_but_steady(trace: Trace) -> None:
    trace.step_seconds = trace.chance.uniform(60, 1500)
    trace.start()
    trace.steps(80)


def logging_every_k_steps(trace: Trace) -> None:
    trace.every = trace.chance.choice((2, 10, 50))
    trace.step_seconds = min(trace.step_seconds, 1500 / trace.every)
    trace.start()
    trace.train(4 * HOUR)


def evaluation(trace: Trace) -> None:
    trace.start()
    for _ in range(8):
        trace.train(trace.chance.uniform(300, 1200))
        trace.evaluate()


def two_evaluations_back_to_back(trace: Trace) -> None:
    trace.start()
    for _ in range(5):
        trace.train(trace.chance.uniform(300, 1200))
        trace.evaluate()
        trace.evaluate()


def saves(trace: Trace) -> None:
    trace.start()
    for _ in range(6):
        trace.train(trace.chance.uniform(300, 1200))
        trace.save()


def an_evaluation_and_a_save(trace: Trace) -> None:
    trace.start()
    for _ in range(5):
        trace.train(trace.chance.uniform(300, 1200))
        trace.evaluate(how=trace.chance.choice(("bar", "words")))
        trace.save(how=trace.chance.choice(("growth", "words")))


def an_hour_of_evaluation(trace: Trace) -> None:
    trace.start()
    for _ in range(3):
        trace.train(600)
        trace.evaluate(2400 / trace.step_seconds, trace.chance.choice(("bar", "words")))


def a_compile_before_the_first_step(trace: Trace) -> None:
    trace.start()
    trace.compile(1200, trace.chance.choice(("compilers", "words", "quiet")))
    trace.train(HOUR)


def a_compile_after_early_steps(trace: Trace) -> None:
    trace.start()
    trace.steps(3 * trace.every)
    trace.compile(1200, trace.chance.choice(("compilers", "words", "quiet")))
    trace.train(HOUR)


def a_compile_in_the_midst(trace: Trace) -> None:
    trace.start()
    trace.train(2 * HOUR)
    trace.compile(1200)
    trace.train(HOUR)


def tokenising(trace: Trace) -> None:
    trace.start()
    for number in range(1, 101):
        trace.at += trace.chance.uniform(20, 60)
        trace.tell(b"Map:  %d%%|###| %d000/100000 [00:57<49:56, 20.1 examples/s]" % (number, number))
    trace.train(HOUR)


def a_slow_first_step_after_a_resume(trace: Trace) -> None:
    trace.start(trace.chance.uniform(60, 1200))
    trace.step(max(1.0, trace.chance.uniform(60, 2000) / trace.step_seconds))
    trace.train(HOUR)


def warm_up_steps(trace: Trace) -> None:
    # Up to 24 minutes for the first one: the second must be told within startup_timeout.
    trace.step_seconds = min(trace.step_seconds, 120.0)
    trace.start()
    for number in range(8):
        trace.step(max(1.0, 12.0 - 2 * number))
    trace.train(2 * HOUR)


def garbage_collection(trace: Trace) -> None:
    trace.start()
    for _ in range(30):
        trace.train(trace.chance.uniform(60, 600))
        trace.at += trace.chance.uniform(1, 120)


def a_loader_that_starves_now_and_then(trace: Trace) -> None:
    trace.start()
    for _ in range(10):
        trace.train(trace.chance.uniform(300, 900))
        trace.step(trace.chance.uniform(5, 15))


def a_clock_that_jumps(trace: Trace) -> None:
    trace.start()
    for _ in range(10):
        trace.train(600)
        trace.tell(("clock", trace.chance.choice((-86400.0, 86400.0, 3600.0, -3600.0))))


def a_machine_that_is_suspended(trace: Trace) -> None:
    """Nobody looks and nothing runs; the monotonic clock of some hypervisors goes on."""
    trace.start()
    for _ in range(5):
        trace.train(600)
        asleep = trace.chance.uniform(600, 8 * HOUR)
        trace.tell(("unwatched", asleep))
        trace.at += asleep


def a_watchdog_that_did_not_look(trace: Trace) -> None:
    trace.start()
    for _ in range(5):
        trace.train(900)
        trace.tell(("unwatched", trace.chance.uniform(300, 2 * HOUR)))
        trace.train(2 * HOUR)


def an_empty_queue(trace: Trace) -> None:
    trace.start()
    status = trace.chance.random() < 0.5
    for _ in range(3):
        trace.train(600)
        if status:
            trace.tell(Mark("status file", "status file", step=trace.step_number, work=Work.IDLE))
        else:
            trace.tell(trace.chance.choice((b"Queue is empty, waiting", b"[12:00] Waiting for new jobs ...")))
        trace.at += trace.chance.uniform(HOUR, 24 * HOUR)
        if status:
            trace.tell(Mark("status file", "status file", step=trace.step_number, work=Work.TRAINING))
            trace.at += trace.chance.uniform(60, 1500)
        trace.step_number = 0


def a_finished_run_that_lingers(trace: Trace) -> None:
    trace.start()
    trace.train(600)
    trace.tell(b"{'train_runtime': 9.1, 'train_loss': 0.5, 'epoch': 3.0}")
    trace.at += 12 * HOUR
    trace.tell(b"Uploading")


def workers_that_are_started_again(trace: Trace) -> None:
    """A launcher that lives on while its workers begin anew at a checkpoint."""
    trace.start()
    for _ in range(4):
        trace.train(900)
        trace.step_number = max(0, trace.step_number - trace.chance.randrange(50, 500))
        trace.steps(trace.every)
        trace.compile(1200, "quiet")


LIVES = (
    slow_but_steady, logging_every_k_steps, evaluation, two_evaluations_back_to_back, saves, an_evaluation_and_a_save,
    an_hour_of_evaluation, a_compile_before_the_first_step, a_compile_after_early_steps, a_compile_in_the_midst,
    tokenising, a_slow_first_step_after_a_resume, warm_up_steps, garbage_collection,
    a_loader_that_starves_now_and_then, a_clock_that_jumps, a_machine_that_is_suspended, a_watchdog_that_did_not_look,
    an_empty_queue, a_finished_run_that_lingers, workers_that_are_started_again,
)  # fmt: skip
