"""Patience: what a run is at, what its pace teaches, and what its standstill is called."""

from pathlib import Path
from typing import Any

import pytest

from trainguard.config import DaemonSettings, ProgressSettings, Settings, WatchdogSettings
from trainguard.identity import Identity
from trainguard.policy import Alive, Phase, Run, Seen, Standing, State, Tell, decide, patience
from trainguard.policy.patience import (
    BLOCK_LENGTH,
    BLOCKS,
    YOUNG_INTERVALS,
    Doing,
    Pace,
    Standstill,
    Work,
    judge_limit,
    judge_patience,
    judge_standstill,
    judge_work,
    learn_pace,
)

LIMITS = ProgressSettings(timeout=100.0, timeout_factor=20.0, timeout_cap=1000.0, startup_timeout=500.0)
BUSY = Doing(seconds=10.0, cpu_seconds=10.0)
LEARNT = Pace(usual=1.0, slowest=(1.0,), intervals=YOUNG_INTERVALS)


def paced(intervals: list[float], pace: Pace | None = None) -> Pace:
    """The pace after watched intervals between single steps."""
    pace = pace or Pace(since=0.0)
    for interval in intervals:
        pace = learn_pace(pace, (pace.since or 0.0) + interval, 1, watched=True)
    return pace


def at_work(said: Work | None = None, **facts: object) -> Work:
    known = {"ended": False, "stepped": True, "growing": False, "doing": None, "still": None, "pace": LEARNT}
    return judge_work(said, **{**known, **facts})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("interval", "limit"), [(1.0, 100.0), (5.0, 100.0), (5.1, 102.0), (50.0, 1000.0), (51.0, 1000.0)]
)
def test_the_limit_is_the_usual_interval_times_the_factor_between_floor_and_cap(
    interval: float, limit: float
) -> None:
    assert judge_limit(paced([interval] * 10), LIMITS) == pytest.approx(limit)


def test_a_floor_above_the_cap_holds() -> None:
    limits = ProgressSettings(timeout=9000.0)
    assert judge_limit(paced([2000.0] * 3), limits) == 9000.0


def test_one_slow_interval_counts_threefold_and_is_forgotten_after_some_hundred() -> None:
    pace = paced([1.0] * 200 + [120.0])
    assert judge_limit(pace, LIMITS) == 360.0
    assert judge_limit(paced([1.0] * (BLOCK_LENGTH * (BLOCKS - 1)), pace), LIMITS) == 360.0
    assert judge_limit(paced([1.0] * (BLOCK_LENGTH * BLOCKS), pace), LIMITS) == 100.0


def test_a_pace_does_not_grow_with_the_run() -> None:
    pace = paced([1.0] * 5000)
    assert len(pace.slowest) == BLOCKS
    assert pace.intervals == 5000


def test_between_two_looks_that_both_saw_steps_the_steps_are_counted() -> None:
    pace = learn_pace(Pace(since=0.0), 30.0, 60, watched=False)
    assert pace.usual == 0.5
    # And yet a line that comes every 29 s may be silent for two looks.
    assert judge_limit(pace, ProgressSettings(timeout=1.0)) == 60.0


def test_a_silence_that_was_watched_counts_whole_however_many_steps_it_brought() -> None:
    pace = learn_pace(Pace(since=0.0), 500.0, 50, watched=True)
    assert (pace.usual, pace.slowest) == (500.0, (500.0,))


def test_the_first_step_is_no_interval() -> None:
    assert learn_pace(Pace(), 700.0, 1, watched=True) == Pace(since=700.0)


def test_where_a_run_waits_it_may_do_so_for_ever() -> None:
    for work in (Work.IDLE, Work.FINISHED):
        assert judge_patience(work, LEARNT, LIMITS) is None


def test_elsewhere_than_in_training_the_limit_is_generous() -> None:
    slow = paced([30.0] * 5)
    for work in (Work.COMPILING, Work.EVALUATING, Work.SAVING):
        assert judge_patience(work, LEARNT, LIMITS) == 500.0
        assert judge_patience(work, paced([15.0] * 5), LIMITS) == 900.0
        assert judge_patience(work, slow, LIMITS) == 1000.0
        assert judge_patience(work, Pace(), ProgressSettings(timeout=9000.0)) == 9000.0
    assert judge_patience(Work.STARTING, slow, LIMITS) == 500.0
    assert judge_patience(Work.TRAINING, slow, LIMITS) == 600.0


@pytest.mark.parametrize(
    ("said", "facts", "work"),
    [
        (None, {}, Work.TRAINING),
        (None, {"stepped": False}, Work.STARTING),
        (Work.STARTING, {}, Work.STARTING),
        (Work.EVALUATING, {}, Work.EVALUATING),
        (Work.EVALUATING, {"stepped": False}, Work.EVALUATING),
        (Work.EVALUATING, {"growing": True}, Work.SAVING),
        (Work.TRAINING, {"growing": True}, Work.SAVING),
        (Work.TRAINING, {"doing": Doing(9.0, 1.0, compilers=("ptxas",))}, Work.COMPILING),
        (Work.IDLE, {"growing": True}, Work.IDLE),
        (Work.FINISHED, {}, Work.FINISHED),
        (Work.TRAINING, {"ended": True}, Work.FINISHED),
    ],
)
def test_what_a_run_is_at(said: Work | None, facts: dict[str, object], work: Work) -> None:
    assert at_work(said, **facts) is work


@pytest.mark.parametrize(("intervals", "work"), [(15, Work.COMPILING), (16, Work.TRAINING)])
def test_a_busy_processor_may_be_compiling_while_a_run_is_young(intervals: int, work: Work) -> None:
    assert at_work(Work.TRAINING, still=BUSY, pace=Pace(1.0, (1.0,), intervals)) is work


@pytest.mark.parametrize(
    ("doing", "frozen", "kind"),
    [
        (None, False, Standstill.UNKNOWN),
        (None, True, Standstill.FROZEN),
        (Doing(10.0, 0.0, stopped=("pid 7 (python)",)), False, Standstill.FROZEN),
        (Doing(10.0, 0.0, stuck=("pid 7 (python)",)), False, Standstill.DISK_SLEEP),
        (Doing(10.0, 2.4, 0), False, Standstill.ALL_IDLE),
        (Doing(10.0, 2.5, 0), False, Standstill.CPU_BUSY),
        (Doing(10.0, 0.1, 10_000_000), False, Standstill.IO_BUSY),
        (Doing(10.0, 0.1, 9_999_999), False, Standstill.ALL_IDLE),
        (Doing(10.0, 0.1, None), False, Standstill.ALL_IDLE),
        (Doing(0.0, 0.0), False, Standstill.UNKNOWN),
    ],
)
def test_the_kind_of_a_standstill(doing: Doing | None, frozen: bool, kind: Standstill) -> None:
    assert judge_standstill(doing, frozen) is kind
    assert bool(patience.describe_standstill(doing, frozen)) is (kind is not Standstill.UNKNOWN)


def test_two_stretches_add_up_and_the_later_one_tells_who_is_stopped() -> None:
    both = patience.add(Doing(30.0, 1.0, 100, stopped=("a",)), Doing(10.0, 3.0, None, stuck=("b",)))
    assert both == Doing(40.0, 4.0, 100, stuck=("b",))
    assert patience.add(None, BUSY) == patience.add(BUSY, None) == BUSY


# --- as the policy uses it -------------------------------------------------------------------------------------

SETTINGS = Settings(
    path=Path("config.yaml"),
    daemon=DaemonSettings(command=("train",)),
    progress=LIMITS,
    watchdog=WatchdogSettings(poll_interval=10.0),
)
DAEMON = Identity(10, 100, "a", 1000)


class Life:
    """A run that began at 0, and the looks at it."""

    def __init__(self) -> None:
        run = Run(id="r", number=1, began=0.0, began_wall=0.0, identity=DAEMON, pace=LEARNT)
        self.state = State(phase=Phase.RUNNING, boot="a", run=run, has_source=True)
        self.told = ""

    def look(self, now: float, step: int | None = None, said: Work | None = None, **facts: Any) -> "Life":
        seen = Seen(
            now=now,
            wall=1e9 + now,
            boot="a",
            daemon=Alive(DAEMON, "r", adopted=False, frozen=facts.pop("frozen", False)),
            standing=Standing(step=step, said=said, ended=facts.pop("ended", False)),
            **facts,
        )
        self.state, actions = decide(self.state, seen, SETTINGS)
        told = (one.text for one in actions if isinstance(one, Tell) and one.event == "hung")
        self.told = next(told, "")
        return self

    def looks(self, begin: float, end: float, step: int, said: Work | None = None, **facts: Any) -> "Life":
        """Looks every ten seconds, at both ends too, until it hangs."""
        now = begin
        while now <= end and not self.told:
            self.look(now, step, said, **facts)
            now += 10.0
        return self

    @property
    def run(self) -> Run:
        assert self.state.run is not None
        return self.state.run


def trained() -> Life:
    return Life().look(0.0, 1).look(10.0, 11).look(20.0, 21)


def test_a_hang_is_found_at_the_first_look_beyond_the_limit() -> None:
    assert trained().looks(30.0, 110.0, 21).told == ""
    assert "while training (limit 100 s)" in trained().looks(30.0, 120.0, 21).told


def test_a_compile_that_ends_without_a_step_gets_the_patience_of_training_anew() -> None:
    compiling = Doing(10.0, 9.0, compilers=("cc1plus",))
    life = trained().looks(30.0, 400.0, 21, doing=compiling)
    assert life.run.work is Work.COMPILING
    assert life.looks(410.0, 490.0, 21).told == ""
    assert "while training" in life.looks(500.0, 500.0, 21).told


def test_compilers_that_come_and_go_for_ever_are_a_hang_by_the_generous_limit() -> None:
    life = trained()
    for now in range(30, 1000, 60):
        life.looks(now, now + 50, 21, doing=Doing(10.0, 9.0, compilers=("ninja",) if now % 120 else ()))
        if life.told:
            break
    assert "while compiling (limit 500 s)" in life.told


def test_a_checkpoint_that_grows_is_a_save_and_has_the_generous_limit() -> None:
    assert "while saving (limit 500 s)" in trained().looks(30.0, 520.0, 21, saving=True).told
    assert trained().looks(30.0, 510.0, 21, saving=True).told == ""


def test_a_save_or_an_evaluation_that_is_seen_teaches_no_pace() -> None:
    for facts in ({"saving": True}, {"said": Work.EVALUATING}):
        life = trained().looks(30.0, 400.0, 21, **facts).look(410.0, 22)
        assert life.told == ""
        assert life.run.pace.slowest == (10.0,)


def test_a_run_that_says_it_waits_or_is_over_never_hangs() -> None:
    assert trained().looks(30.0, 9000.0, 21, Work.IDLE).told == ""
    assert trained().looks(30.0, 9000.0, 21, ended=True).told == ""


def test_a_step_that_goes_back_is_a_start_and_no_progress() -> None:
    life = trained()
    moved = life.run.moved_at
    life.look(30.0, 5)
    assert (life.run.work, life.run.moved_at) == (Work.STARTING, moved)
    assert "while starting (limit 500 s)" in life.looks(40.0, 600.0, 5).told


def test_time_that_nobody_watched_is_neither_patience_nor_pace() -> None:
    life = trained().look(5000.0, 21)
    assert life.told == ""
    life.look(5010.0, 22)
    # Two polls and ten seconds of the gap count, and the ten that were watched.
    assert life.run.pace.slowest == (40.0,)


def test_the_first_look_of_a_later_watchdog_teaches_no_pace() -> None:
    life = trained().look(900.0, 500, first=True)
    assert life.run.pace.intervals == LEARNT.intervals + 2
    assert life.run.pace.since == 900.0


def test_the_kind_of_standstill_is_of_all_that_was_done_since_the_last_step() -> None:
    life = (
        trained()
        .looks(30.0, 110.0, 21, doing=Doing(10.0, 0.0, 0))
        .look(120.0, 21, doing=Doing(10.0, 10.0, 0))
    )
    assert "all idle" in life.told
    assert life.state.incident is not None
    assert "all idle" in life.state.incident.decision


def test_a_frozen_daemon_is_told_as_such() -> None:
    assert "state T" in trained().looks(30.0, 120.0, 21, frozen=True).told
