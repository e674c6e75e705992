"""Checks of the training: each fine, at its limit, just beyond it, where it does not apply, where a file hangs."""

import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import checkpoint_files as build
import disk_faults
import msgspec
import pytest
from judging import DAEMON, NOW, WALL, past_of, sentences, settings_of
from judging import told as told_by
from support import identity_of
from test_accounting import event, recovered

from trainguard import incidents
from trainguard.checks.training import CHECKS, LEDGER, TRAINING
from trainguard.checks.values import Result
from trainguard.config import CheckpointSettings, DaemonSettings, LogSettings, ProgressSettings, Settings
from trainguard.health import Status
from trainguard.policy import Phase, Run, State, Work
from trainguard.probes import Answer
from trainguard.run_folder import RunFolder
from trainguard.training import (
    Failure,
    Ledger,
    Schedule,
    Spent,
    StatusFile,
    Training,
    parse_losses,
    parse_trainer_state,
    read_ledger,
    read_schedule,
    read_status_file,
    read_training,
    usual_gap,
)
from trainguard.vitals import Past, Sample

OK, ATTENTION, BAD, UNKNOWN = Status.OK, Status.ATTENTION, Status.BAD, Status.UNKNOWN
FINE = (2.0, 1.9, 1.8, 1.9, 1.7, 1.8, 1.6, 1.7, 1.6, 1.5, 1.6, 1.5)


def run_of(**changes: Any) -> Run:
    """A run that has trained for an hour and made its last step two seconds ago; with changes."""
    values: dict[str, Any] = {
        "began": NOW - 3600,
        "began_wall": WALL - 3600,
        "identity": DAEMON,
        "first_step": 0,
        "step": 1000,
        "total": 2000,
        "stepped": True,
        "moved_at": NOW - 2,
        "work": Work.TRAINING,
        "source": "tqdm",
    }
    return Run("run-1", 1, **(values | changes))


def training(run: Run | None = None, **changes: Any) -> Training:
    state = State(phase=Phase.RUNNING, boot="boot", looked_at=NOW, looked_wall=WALL, run=run or run_of())
    values: dict[str, Any] = {"lives": True, "losses": FINE, "log": "/logs/a.log"}
    return Training(NOW, "boot", state, **(values | changes))


def judged(
    check_id: str, *values: object, past: Past | None = None, settings: Settings | None = None
) -> Result:
    given = {type(value): value for value in (training(), Ledger(Spent(0, 3600.0, None, 1.0)), *values)}
    settings = settings or settings_of(progress=ProgressSettings(status_file=Path("/run/status.json")))
    return told_by(CHECKS, check_id, *given.values(), settings=settings, past=past)


def status(check_id: str, *values: object, **more: Any) -> Status | None:
    """Its status; None where it does not apply."""
    result = judged(check_id, *values, **more)
    return None if result.absent is not None else result.status


# --- all of them -----------------------------------------------------------------------------------------------


def test_there_are_as_many_as_were_asked_for_and_each_is_fine_in_a_healthy_run() -> None:
    assert len(CHECKS) >= 6
    file = StatusFile("/run/status.json", WALL - 3, 1000)
    schedule = Schedule("a", 1000, 100, 100, (800, 900, 1000))
    past = steps_in_past([400.0] * 6, 0.28)
    now = training(status_file=file, schedule=schedule)
    for check in CHECKS:
        result = judged(check.id, now, past=past)
        assert result.status is OK and result.absent is None, (check.id, sentences(result), result.absent)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)
def test_before_anything_was_started_none_applies(check) -> None:
    nothing = Training(NOW, "boot", State(), False)
    result = told_by(CHECKS, check.id, nothing, Ledger())
    assert result.absent is not None


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)
def test_a_reading_that_hangs_is_told_once(check) -> None:
    hung = {reading.name: Answer(None, "no answer within 5 s", hung=True) for reading in check.reads}
    result = told_by(CHECKS, check.id, answers=hung)
    expected = check.worst if check.answers_for else UNKNOWN
    assert result.status is expected and ("hangs" in sentences(result)) is bool(check.answers_for)


def test_exactly_one_check_answers_for_each_reading() -> None:
    for reading in (TRAINING, LEDGER):
        assert sum(reading in check.answers_for for check in CHECKS) == 1


# --- the loss --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("losses, expected", [
    (FINE, OK), ((*FINE, math.nan), BAD), ((*FINE, math.inf), BAD), ((*FINE[:3], math.nan, *FINE), ATTENTION),
    ((*FINE, 0.0), ATTENTION), ((*FINE, 0.0, 0.0), ATTENTION), ((*FINE, 0.0, 0.0, 0.0), BAD),
    ((0.0, *FINE), OK), ((math.nan,), BAD), ((1.5,), OK), ((), None),
])  # fmt: skip
def test_the_loss_is_a_number_and_not_exactly_zero(losses, expected) -> None:
    assert status("training-loss", training(losses=losses)) is expected


@pytest.mark.parametrize("times, expected", [(2.99, OK), (3.0, ATTENTION), (29.9, ATTENTION), (30.0, BAD)])
def test_the_loss_is_held_against_its_own_past(times, expected) -> None:
    assert status("training-loss", training(losses=(1.0,) * 9 + (times,) * 3)) is expected


def test_one_spike_is_none_and_the_past_of_earlier_looks_counts() -> None:
    assert status("training-loss", training(losses=(1.0,) * 9 + (1.0, 1.0, 50.0))) is OK
    high = training(losses=(50.0,) * 3)
    assert status("training-loss", high) is OK
    assert status("training-loss", high, past=past_of("training_loss", [1.0] * 9)) is BAD
    negative = training(losses=(-1.0,) * 9 + (-50.0,) * 3)
    assert status("training-loss", negative) is OK


def test_without_a_log_the_status_file_and_the_watchdog_tell_the_loss() -> None:
    file = StatusFile("/run/status.json", WALL, 9, math.nan)
    assert status("training-loss", training(losses=(), status_file=file)) is BAD
    assert status("training-loss", training(run_of(loss=math.inf), losses=())) is BAD
    assert status("training-loss", training(losses=(), unread={"log": "no answer within 2 s"})) is UNKNOWN


def test_losses_are_read_from_lines_and_bars_and_not_from_evaluations() -> None:
    text = (
        b"{'loss': '2.5', 'epoch': '0.1'}\n{'eval_loss': '9.5', 'epoch': '0.1'}\n"
        b" 10%|#  | 10/100 [00:01<00:09, 9.9it/s, loss=1.5]\r"
        b" 10%|#  | 10/100 [00:02<00:09, 9.9it/s, loss=1.5]\r"
        b" 11%|#  | 11/100 [00:02<00:09, 9.9it/s, loss=nan]\n"
    )
    told = parse_losses(text)
    assert told[:2] == (2.5, 1.5) and len(told) == 3 and math.isnan(told[2])


# --- the pace --------------------------------------------------------------------------------------------------


def steps_in_past(steps: Sequence[float], rate: float, every: float = 600.0) -> Past:
    """Looks at a run, the last one `every` seconds ago."""
    walls = [WALL - every * (len(steps) - place) for place in range(len(steps))]
    values = ({"training_step": step, "training_steps_per_second": rate} for step in steps)
    return Past(tuple(Sample(wall, "boot", 0.0, one) for wall, one in zip(walls, values, strict=True)))


@pytest.mark.parametrize(
    "gained, expected", [(600, OK), (360, OK), (359, ATTENTION), (150, ATTENTION), (149, BAD)]
)
def test_the_pace_is_held_against_the_runs_own_median(gained, expected) -> None:
    past = steps_in_past([0.0] * 4 + [1000.0 - gained], 1.0)
    assert status("training-rate", past=past) is expected


def test_without_a_past_of_this_run_there_is_no_pace() -> None:
    assert status("training-rate") is None
    assert status("training-rate", past=steps_in_past([500.0], 1.0, every=59.0)) is None
    assert status("training-rate", past=steps_in_past([1001.0], 1.0)) is None
    assert (
        status("training-rate", training(run_of(began_wall=WALL - 599)), past=steps_in_past([500.0], 1.0))
        is None
    )
    few = judged("training-rate", past=steps_in_past([999.0] * 4, 1.0))
    assert few.status is OK and "4 of 5" in sentences(few)


@pytest.mark.parametrize("work", sorted(set(Work) - {Work.TRAINING, Work.SAVING}))
def test_only_while_it_trains_is_its_pace_that_of_training(work) -> None:
    past = steps_in_past([999.0] * 6, 1.0)
    assert status("training-rate", training(run_of(work=work)), past=past) is None
    assert status("training-rate", training(lives=False), past=past) is None
    assert status("training-rate", training(run_of(work=Work.SAVING)), past=past) is BAD


@pytest.mark.parametrize("ratio, expected", [(1.0, OK), (0.9, OK), (0.899, ATTENTION), (None, None)])
def test_the_gain_is_the_share_that_was_training(ratio, expected) -> None:
    spent = Spent(3, 86_400.0, 9000.0, ratio, {"detection": 20.0, "start up": 700.0})
    result = judged("training-gain", Ledger(spent))
    assert (None if result.absent else result.status) is expected
    assert expected is None or "most goes into start up, 12 min" in sentences(result)


# --- what is due -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last, expected", [(801, OK), (800, ATTENTION)])
def test_an_evaluation_is_overdue_after_two_of_its_intervals(last, expected) -> None:
    evaluated = (last - 200, last - 100, last)
    assert (
        status("training-evaluation", training(schedule=Schedule("a", 1000, evaluated=evaluated))) is expected
    )


@pytest.mark.parametrize("step, expected", [(1199, OK), (1200, ATTENTION)])
def test_a_save_is_overdue_after_two_of_its_intervals(step, expected) -> None:
    schedule = Schedule("a", 1000, save_steps=100)
    assert status("training-evaluation", training(run_of(step=step), schedule=schedule)) is expected
    assert status("training-evaluation", training(run_of(step=step), schedule=schedule, lives=False)) is None


def test_without_a_record_of_the_trainer_nothing_is_due() -> None:
    assert status("training-evaluation", training(schedule=None)) is None
    assert status("training-evaluation", training(schedule=Schedule("a", 9))) is None
    assert (
        status("training-evaluation", training(unread={"trainer state": "no answer within 2 s"})) is UNKNOWN
    )
    assert usual_gap((10, 20)) is None and usual_gap((10, 20, 30, 90)) == 10


def test_the_records_of_the_trainer_are_read_with_what_json_cannot_write(tmp_path) -> None:
    history = [
        {"loss": math.nan, "step": 10},
        {"eval_loss": 1.0, "step": 20},
        {"eval_loss": math.nan, "step": 40},
    ]
    path = build.hugging_face(tmp_path, 40)
    state = build.trainer_state(40, log_history=history, eval_steps=20, save_steps=500)
    (path / "trainer_state.json").write_bytes(
        state.replace(b'"eval_loss": NaN', b'"eval_loss": NaN, "eval_runtime": 1.5')
    )
    found = read_schedule(tmp_path)
    assert found is not None
    assert (found.at, found.eval_steps, found.save_steps, found.evaluated) == (40, 20, 500, (20, 40))
    lines = [{"current_steps": 50, "loss": 1.0}, {"current_steps": 60, "eval_loss": 1.0}]
    (tmp_path / "trainer_log.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"current_st')
    found = read_schedule(tmp_path)
    assert found is not None and (found.at, found.evaluated) == (60, (20, 40, 60))
    assert parse_trainer_state(state[:-50]) is None
    assert read_schedule(tmp_path / "none") is None


# --- the end ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("idle, expected", [(899, OK), (900, ATTENTION)])
@pytest.mark.parametrize("over", [{"ended": True}, {"step": 2000}])
def test_a_run_that_is_over_and_does_not_exit_wants_attention(idle, expected, over) -> None:
    run = run_of(moved_at=NOW - idle, **over)
    assert status("training-end", training(run)) is expected
    assert status("training-end", training(run, lives=False)) is None


def test_the_end_is_reckoned_from_the_pace() -> None:
    known = judged("training-end", past=steps_in_past([0.0], 0.5))
    assert "1000 of 2000 steps are left, 33 min" in sentences(known)
    own = judged("training-end", training(run_of(first_step=500)))
    assert "1000 of 2000 steps are left, 2 h 00 min" in sentences(own)
    assert [one.value for one in own.measures] == [7200.0]
    assert status("training-end", training(run_of(total=None))) is None


# --- the status file -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("behind, expected", [(599, OK), (600, ATTENTION)])
def test_a_status_file_behind_the_runs_steps_wants_attention(behind, expected) -> None:
    now = training(status_file=StatusFile("/run/status.json", WALL - 2 - behind, 500))
    assert status("training-status-file", now) is expected


def test_a_status_file_is_told_by_what_is_wrong_with_it() -> None:
    missing = StatusFile("/run/status.json", problem="is not there")
    torn = StatusFile("/run/status.json", WALL, problem="no JSON, or only a part of it")
    assert status("training-status-file", training(status_file=missing)) is ATTENTION
    assert status("training-status-file", training(run_of(stepped=False), status_file=missing)) is None
    assert status("training-status-file", training(status_file=torn)) is ATTENTION
    assert status("training-status-file", training(unread={"status file": "no answer"})) is UNKNOWN
    assert status("training-status-file", settings=settings_of()) is None


NAMES = {"step": "current_step", "loss": "loss"}


@pytest.mark.parametrize("text, problem", [
    ('{"current_step": 12, "loss": 1.5}', None), ('{"current_step": 12, "lo', "no JSON, or only a part of it"),
    ("[1]", "is no JSON object"), ('{"step": 3}', "has no current_step"),
    ('{"current_step": "x"}', "has no usable number as current_step"),
])  # fmt: skip
def test_the_status_file_is_read_as_the_watchdog_reads_it(text, problem, tmp_path) -> None:
    path = tmp_path / "status.json"
    path.write_text(text)
    told = read_status_file(path, NAMES)
    assert told.problem == problem
    if problem is None:
        assert (told.step, told.loss) == (12, 1.5) and told.wall == path.stat().st_mtime


def test_a_fifo_in_place_of_the_status_file_is_a_problem_and_no_hang(tmp_path) -> None:
    os.mkfifo(tmp_path / "status.json")
    assert read_status_file(tmp_path / "status.json", NAMES).problem is not None
    assert read_status_file(tmp_path / "none.json", NAMES).problem == "is not there"


# --- failures --------------------------------------------------------------------------------------------------


def failures(*ages: float, cause: str = "cuda_oom", stepped: bool = True) -> tuple[Failure, ...]:
    return tuple(Failure(WALL - age, cause, stepped) for age in ages)


@pytest.mark.parametrize("ages, stepped, expected", [
    ((900, 600), True, OK), ((900, 600, 300), True, ATTENTION), ((900, 600, 300), False, BAD),
    ((86_400, 600, 300), True, OK), ((86_399, 600, 300), True, ATTENTION),
])  # fmt: skip
def test_the_same_cause_three_times_in_a_day_is_told(ages, stepped, expected) -> None:
    ledger = Ledger(Spent(len(ages), 9e5), failures(*ages, stepped=stepped))
    assert status("training-failures", ledger) is expected


@pytest.mark.parametrize("gap, expected", [(50_000, OK), (49_999, ATTENTION)])
def test_failures_that_come_twice_as_often_as_before_are_told(gap, expected) -> None:
    ages = [3 * gap + 100_000 * number for number in (3, 2, 1, 0)] + [2 * gap, gap, 0]
    some = [Failure(WALL - age, f"cause {place}") for place, age in enumerate(ages)]
    assert status("training-failures", Ledger(Spent(7, 9e5), tuple(some))) is expected


def test_no_failure_in_an_hour_is_fine_and_without_supervision_nothing_is_known() -> None:
    assert "0 failures in 60 min" in sentences(judged("training-failures"))
    assert status("training-failures", Ledger()) is None


# --- read from the machine -------------------------------------------------------------------------------------


def test_the_ledger_is_read_from_the_run_folder(tmp_path) -> None:
    folder = RunFolder(tmp_path)
    for name in ("20260105-000000-1", "20260105-010000-2"):
        place = tmp_path / "incidents" / name
        place.mkdir(parents=True)
        number = int(name[-1])
        record = msgspec.structs.replace(recovered(1000.0 * number), id=name, run_number=number)
        incidents.records.write(place, record)
    ended = tmp_path / "incidents" / "20260105-020000-3"
    ended.mkdir()
    record = msgspec.structs.replace(recovered(3000.0), id=ended.name, run_number=3, kind="exit")
    incidents.records.write(ended, record)
    folder.append_event(event(0, "started"))
    folder.save_state(State(looked_wall=event(3600, "x").wall, has_source=True), durable=False)
    ledger = read_ledger(settings_of(logs=LogSettings(directory=tmp_path)))
    assert ledger.account.failures == 2 and len(ledger.failures) == 2
    assert ledger.account.effective_training_ratio == pytest.approx(1 - 200 / 3600)
    assert ledger.account.parts["catching up"] == 33.0 and ledger.failures[0].stepped


def real_settings(folder: Path, **sections: Any) -> Settings:
    values: dict[str, Any] = {
        "progress": ProgressSettings(status_file=folder / "status.json"),
        "checkpoints": CheckpointSettings(directory=folder / "out"),
        "logs": LogSettings(directory=folder / "logs"),
    }
    daemon = DaemonSettings(command=(sys.executable,), log=folder / "training.log")
    return Settings(path=folder / "config.yaml", daemon=daemon, **(values | sections))


def test_a_living_run_is_read_with_all_that_it_writes(tmp_path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "status.json").write_text('{"current_step": 40, "loss": 1.25}')
    (tmp_path / "training.log").write_text(
        "{'loss': '2.5', 'epoch': '0.1'}\n{'loss': 'nan', 'epoch': '0.2'}\n"
    )
    build.hugging_face(tmp_path / "out", 40)
    run = run_of(identity=identity_of(os.getpid()))
    RunFolder(tmp_path / "logs").save_state(State(phase=Phase.RUNNING, run=run), durable=False)
    now = read_training(real_settings(tmp_path))
    assert now.lives and now.unread == {}
    assert now.status_file is not None and now.status_file.loss == 1.25
    assert now.losses[0] == 2.5 and math.isnan(now.losses[1])
    assert now.schedule is not None and now.schedule.at == 40


def test_nothing_there_is_nothing_known_and_no_fault(tmp_path) -> None:
    now = read_training(real_settings(tmp_path))
    assert not now.lives and now.losses == () and now.unread == {} and now.schedule is None


def test_a_status_file_on_a_mount_that_never_answers_hides_no_loss(tmp_path, monkeypatch) -> None:
    import trainguard.training as room

    monkeypatch.setattr(room, "PART_SECONDS", 0.5)
    (tmp_path / "training.log").write_text("{'loss': '2.5', 'epoch': '0.1'}\n")
    with disk_faults.mute(tmp_path / "dead") as place:
        progress = ProgressSettings(status_file=place / "status.json")
        settings = real_settings(tmp_path, progress=progress)
        now = read_training(settings)
    assert now.losses == (2.5,) and set(now.unread) == {"status file"}
    assert status("training-status-file", now, settings=settings) is UNKNOWN
    assert status("training-loss", now, settings=settings) is OK
