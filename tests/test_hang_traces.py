"""Traces: generated lives of trainings, healthy ones and ones that stop for ever, looked at through the real policy.

Each is looked at every 10, 30 or 60 seconds, as the watchdog does. No healthy one may be called hung; each hang must
be, and how late is told (pytest -s).
"""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import pytest
from healthy_lives import (
    HOUR,
    LIVES,
    a_compile_in_the_midst,
    a_finished_run_that_lingers,
    a_machine_that_is_suspended,
    a_watchdog_that_did_not_look,
    an_empty_queue,
    an_hour_of_evaluation,
    saves,
    tokenising,
)
from msgspec.structs import replace
from traces import Trace

from trainguard.config import DaemonSettings, Settings, WatchdogSettings
from trainguard.identity import Identity
from trainguard.policy import Alive, Doing, Phase, Run, Seen, Standing, State, Tell, Work, decide, pause
from trainguard.policy.patience import judge_patience
from trainguard.policy.running import quiet_since
from trainguard.progress import Mark, Progress, Role, note
from trainguard.progress.sources import parse_told

SETTINGS = Settings(path=Path("config.yaml"), daemon=DaemonSettings(command=("train",)))
POLLS = (30.0, 10.0, 30.0, 60.0)
DAEMON = Identity(10, 100, "a", 1000)
TRACES_OF_EACH = 50


class Watch:
    """The watchdog's looks at a trace, and what the policy makes of them."""

    def __init__(self, number: int = 0) -> None:
        self.poll = POLLS[number % len(POLLS)]
        self.settings = replace(SETTINGS, watchdog=WatchdogSettings(poll_interval=self.poll))
        run = Run(id="r", number=1, began=0.0, began_wall=1e9, identity=DAEMON)
        self.state = State(phase=Phase.RUNNING, boot="a", run=run, has_source=True)
        self.progress = Progress()
        self.facts: dict[str, object] = {}
        self.wall = 1e9
        self.looked = 0.0
        self.done = 0.0
        self.hung: str | None = None
        self.works: Counter[Work] = Counter()
        self.now = self.quiet_since = self.longest_quiet = 0.0
        self.limit: float | None = None

    def follow(self, moments: list[tuple[float, object]], until: float) -> "Watch":
        """Look until then, or until it is called hung."""
        now, unwatched, waiting = 0.0, 0.0, iter(moments)
        upcoming = next(waiting, None)
        while now < until and self.hung is None:
            grew = bool(self.facts.get("growing"))
            while upcoming is not None and upcoming[0] <= now:
                unwatched = max(unwatched, self.take(*upcoming))
                grew |= bool(self.facts.get("growing"))
                upcoming = next(waiting, None)
            if unwatched > now:
                now = unwatched
                continue
            now += self.look(now, grew)
        return self

    def take(self, at: float, what: object) -> float:
        """Take in one moment; until when nobody looks."""
        self.done += (at - self.looked) * float(str(self.facts.get("cores", 0.0)))
        self.looked = at
        if isinstance(what, tuple):
            name, value = what
            self.facts[name] = value
            self.wall += value if name == "clock" else 0.0
            return at + value if name == "unwatched" else 0.0
        for mark in [what] if isinstance(what, Mark) else parse_told(bytes(what)):  # type: ignore[call-overload]
            self.progress = note(self.progress, mark)
        return 0.0

    def look(self, now: float, grew: bool) -> float:
        """One look; how long the watchdog would wait then."""
        self.done += (now - self.looked) * float(str(self.facts.get("cores", 0.0)))
        self.looked = now
        told = self.progress
        seen = Seen(
            now=now,
            wall=self.wall + now,
            boot="a",
            daemon=Alive(DAEMON, "r", adopted=False),
            standing=Standing(
                told.step, told.total, None, told.source, told.advances, told.signs, told.finished, told.work
            ),
            saving=grew,
            doing=Doing(now - self.state.looked_at, self.done, 0, self.facts.get("compilers", ())),  # type: ignore[arg-type]
        )
        self.done = 0.0
        self.state, actions = decide(self.state, seen, self.settings)
        self.hung = next((one.text for one in actions if isinstance(one, Tell) and one.event == "hung"), None)
        run = self.state.run
        assert run is not None
        self.works[run.work] += 1
        self.now, self.quiet_since = now, quiet_since(run)
        self.limit = judge_patience(run.work, run.pace, self.settings.progress)
        if run.stepped and run.moved_at is not None:
            self.longest_quiet = max(self.longest_quiet, now - run.moved_at)
        return pause(self.state, seen, self.settings)


def healthy(life: Callable[[Trace], None], count: int) -> Iterator[Trace]:
    for number in range(count):
        trace = Trace(f"{life.__name__} {number}")
        life(trace)
        yield trace


@pytest.mark.parametrize("life", LIVES, ids=lambda life: life.__name__)
def test_no_healthy_training_is_called_hung(life: Callable[[Trace], None]) -> None:
    fixed = 0
    for number, trace in enumerate(healthy(life, TRACES_OF_EACH)):
        watch = Watch(number).follow(trace.moments, trace.at)
        assert watch.hung is None, f"trace {number}: {watch.hung}, steps of {trace.step_seconds:.3g} s"
        assert watch.works[Work.TRAINING] > 0, f"trace {number}: {watch.works}"
        fixed += watch.longest_quiet >= SETTINGS.progress.timeout
    print(f"\n{life.__name__}: 0 of {TRACES_OF_EACH} called hung; by a fixed limit of 600 s: {fixed}", end="")


def test_there_are_a_thousand_healthy_trainings() -> None:
    assert len(LIVES) * TRACES_OF_EACH >= 1000


@pytest.mark.parametrize(
    ("life", "work"),
    [
        (an_empty_queue, Work.IDLE),
        (a_finished_run_that_lingers, Work.FINISHED),
        (an_hour_of_evaluation, Work.EVALUATING),
        (a_compile_in_the_midst, Work.COMPILING),
        (saves, Work.SAVING),
        (tokenising, Work.STARTING),
    ],
)
def test_the_work_of_a_trace_is_recognised(life: Callable[[Trace], None], work: Work) -> None:
    assert any(Watch().follow(trace.moments, trace.at).works[work] > 3 for trace in healthy(life, 10))


# --- hangs -----------------------------------------------------------------------------------------------------


def anywhere(trace: Trace) -> None:
    """Anywhere in a life that knows no idleness, where nobody is asleep."""
    trace.chance.choice([life for life in LIVES if life not in RESTFUL])(trace)
    end = trace.chance.uniform(0.6 * trace.at, trace.at)
    trace.moments = [moment for moment in trace.moments if moment[0] <= end]
    trace.at = end


def in_training(trace: Trace) -> None:
    trace.start()
    trace.train(trace.chance.uniform(HOUR, 4 * HOUR))


def in_early_training(trace: Trace) -> None:
    trace.start()
    trace.steps(2 * trace.every + trace.chance.randrange(20))


def in_an_evaluation(trace: Trace) -> None:
    trace.start()
    trace.train(trace.chance.uniform(60, 2 * HOUR))
    trace.evaluate(how=trace.chance.choice(("bar", "words", "megatron")))
    trace.moments = (
        trace.moments[: -trace.chance.randrange(1, 9)] if trace.chance.random() < 0.5 else trace.moments[:-1]
    )
    trace.at = trace.moments[-1][0]


def in_a_save(trace: Trace) -> None:
    trace.start()
    trace.train(trace.chance.uniform(60, 2 * HOUR))
    trace.save(trace.chance.uniform(1, 20))


def at_the_start(trace: Trace) -> None:
    trace.tell(b"Loading the model")
    trace.start()


def after_a_step_back(trace: Trace) -> None:
    trace.start()
    trace.train(trace.chance.uniform(60, 2 * HOUR))
    trace.step_number = max(0, trace.step_number - 100)
    trace.steps(trace.every)


def in_a_compiler(trace: Trace) -> None:
    trace.start()
    trace.train(trace.chance.uniform(60, 2 * HOUR))
    trace.tell(("compilers", ("ninja",)))


RESTFUL = (
    an_empty_queue, a_finished_run_that_lingers, a_machine_that_is_suspended, a_watchdog_that_did_not_look
)  # fmt: skip
PLACES = (
    anywhere, in_training, in_early_training, in_an_evaluation, in_a_save, at_the_start, after_a_step_back,
    in_a_compiler,
)  # fmt: skip
HANGS_OF_EACH = 60
PATIENT_HOURS = 8


def silence(trace: Trace) -> None:
    """Nothing more."""


def a_heartbeat_that_lives_on(trace: Trace) -> None:
    for beat in range(0, int(PATIENT_HOURS * HOUR), 60):
        trace.moments.append((trace.at + beat, Mark("heartbeat", "heartbeat", Role.BEAT, step=beat)))


def lines_without_steps(trace: Trace) -> None:
    lines = (
        b"WARNING retrying the connection",
        b"GPU 0: 41 C, 12 MiB",
        b"saving checkpoint to out",
        b"compiling",
    )
    for second in range(0, int(PATIENT_HOURS * HOUR), 20):
        trace.moments.append((trace.at + second, lines[second // 20 % len(lines)]))


def the_same_step_again(trace: Trace) -> None:
    last = next(
        (what for _, what in reversed(trace.moments) if isinstance(what, bytes)), b"waiting for rank 3"
    )
    for second in range(0, int(PATIENT_HOURS * HOUR), 20):
        trace.moments.append((trace.at + second, last))


def a_spinning_collective(trace: Trace) -> None:
    trace.tell(("cores", 8.0))


NOISES = (silence, a_heartbeat_that_lives_on, lines_without_steps, the_same_step_again, a_spinning_collective)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_every_hang_is_found_within_its_limit_and_one_look(place: Callable[[Trace], None]) -> None:
    late, limits = [], []
    for number in range(HANGS_OF_EACH):
        trace = Trace(f"{place.__name__} {number}")
        place(trace)
        trace.tell(("growing", False))
        # A heartbeat is an advance, as is written in the manual, as long as nothing else has told a step.
        noises = [
            noise for noise in NOISES if noise is not a_heartbeat_that_lives_on or place is not at_the_start
        ]
        stopped_at, noise = trace.at, noises[number % len(noises)]
        noise(trace)
        watch = Watch(number).follow(trace.moments, stopped_at + PATIENT_HOURS * HOUR)
        told = f"trace {number}, {noise.__name__}, steps of {trace.step_seconds:.3g} s: {watch.works}"
        assert watch.hung is not None, told
        assert watch.limit is not None, told
        assert watch.now - watch.quiet_since <= watch.limit + watch.poll, f"{told}: {watch.hung}"
        # It stopped up to one look before the look that saw its last sign; its words count as one sign more.
        words = 60 if noise in (lines_without_steps, the_same_step_again) else 0
        assert watch.now - stopped_at <= watch.limit + 2 * watch.poll + words, f"{told}: {watch.hung}"
        late.append(watch.now - stopped_at)
        limits.append(watch.limit)
    beyond = max(after - limit for after, limit in zip(late, limits, strict=True))
    print(f"\n{place.__name__:20} limit {median(limits):5.0f} s (to {max(limits):6.0f}),", end="")
    print(
        f" found after {median(late):5.0f} s (to {max(late):6.0f}), {beyond:4.0f} s beyond it at most", end=""
    )
