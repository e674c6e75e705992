"""The account: what crashes and hangs have cost, by records, by events, and by a real watchdog."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from stub_daemon import save
from support import ROOT, Sandbox
from test_investigation import record as incident_record

from trainguard.accounting import (
    Account,
    Saves,
    advise_interval,
    ask_saves,
    cause_of,
    list_spans,
    read_saves,
    rows_of,
    take_account,
    with_saves,
)
from trainguard.incidents import IncidentRecord
from trainguard.moments import text_of
from trainguard.policy import Cause
from trainguard.run_folder import Event

BEGAN = 1_767_582_000.0
HOUR = 3600.0


def incident(at: float, **more: Any) -> IncidentRecord:
    """A crash that was noticed `at` seconds after the beginning."""
    values = {"time": text_of(BEGAN + at), "next_run_id": "b", "seconds_unnoticed": 0.0, **more}
    return incident_record(Path("a.log"), 0, 9, **values)


def recovered(at: float, **more: Any) -> IncidentRecord:
    """One whose run was gone after 5 s; new process after 7 s, first step after 67, first new one after 100."""
    times = {
        "seconds_to_cleared": 5.0,
        "seconds_to_new_process": 7.0,
        "seconds_to_first_step": 67.0,
        "seconds_to_new_step": 100.0,
    }
    return incident(at, **{**times, "first_new_step": 12, "steps_lost": 16, "closed": True, **more})


def event(at: float, name: str) -> Event:
    return Event(BEGAN + at, name, "OK", "")


STARTED = [event(0, "started")]


def account_of(records: list[IncidentRecord], events: list[Event] = STARTED, until: float = HOUR) -> Account:
    return take_account(records, events, BEGAN + until, has_source=True)


def test_a_recovery_is_split_into_its_parts() -> None:
    account = account_of([recovered(1000, kind="hang", seconds_unnoticed=600.0)])
    parts = account.mean_recovery
    assert (parts.detection, parts.stopping, parts.waiting) == (600.0, 5.0, 2.0)
    assert (parts.start_up, parts.catching_up, parts.total) == (60.0, 33.0, 700.0)
    assert account.effective_training_ratio == pytest.approx(1 - 700 / HOUR)
    assert account.mean_seconds_between_failures == pytest.approx(HOUR - 700)
    assert (account.failures, account.restarts, account.steps_lost) == (1, 1, 16)


def test_crashes_without_a_new_step_between_them_are_one_failure() -> None:
    fruitless = incident(1000, seconds_to_cleared=0.0, seconds_to_new_process=2.0, closed=True)
    account = account_of([fruitless, recovered(1030)])
    assert (account.failures, account.restarts) == (1, 2)
    # The start that came to nothing is start-up: 130 s but for stopping, waiting and catching up.
    assert account.mean_recovery.total == 130.0
    assert account.mean_recovery.start_up == 130.0 - 5.0 - (2.0 + 2.0) - 33.0
    assert account.effective_training_ratio == pytest.approx(1 - 130 / HOUR)


def test_a_failure_that_is_not_over_lasts_until_now_and_is_no_recovery() -> None:
    account = account_of([incident(HOUR - 60)])
    assert account.effective_training_ratio == pytest.approx(1 - 60 / HOUR)
    assert account.mean_recovery.total is None


def test_the_time_in_which_a_person_had_stopped_it_does_not_count() -> None:
    events = [*STARTED, event(HOUR, "stopped"), event(10 * HOUR, "started")]
    account = account_of([incident(HOUR - 60), recovered(10 * HOUR + 60)], events, 11 * HOUR)
    assert account.observed_seconds == 2 * HOUR
    assert account.failures == 2
    assert account.effective_training_ratio == pytest.approx(1 - 160 / (2 * HOUR))


def test_where_nobody_tells_a_step_the_time_lost_is_unknown_and_the_failures_are_counted() -> None:
    records = [incident(at, step=None, steps_lost=None) for at in (600, 1200)]
    account = take_account(records, STARTED, BEGAN + HOUR, has_source=False)
    assert account.effective_training_ratio is None
    assert account.mean_recovery.total is None
    assert account.steps_lost is None
    assert account.failures == 2
    assert account.mean_seconds_between_failures == HOUR / 2
    assert "unknown of" in dict(rows_of(account))["effective training"]


def test_a_part_that_is_not_known_is_unknown_and_the_total_is_known() -> None:
    account = account_of([recovered(1000, seconds_unnoticed=None, seconds_to_first_step=None)])
    parts = account.mean_recovery
    assert (parts.detection, parts.start_up, parts.catching_up) == (None, None, None)
    assert (parts.total, parts.stopping) == (100.0, 5.0)


def test_without_events_the_account_begins_with_the_first_incident() -> None:
    spans = list_spans([], [recovered(1000, seconds_unnoticed=50.0)], BEGAN + HOUR)
    assert spans == [(BEGAN + 950, BEGAN + HOUR)]
    assert take_account([], [], 0.0, has_source=False) == Account()


def test_where_older_events_are_not_read_any_more_the_account_begins_with_the_first_that_is() -> None:
    events = [
        event(600, "new_step"),
        event(900, "restarted"),
        event(1200, "finished"),
        event(1300, "resumed"),
    ]
    assert list_spans(events, [], BEGAN + HOUR) == [(BEGAN + 600, BEGAN + 1200)]


def test_before_the_first_failure_nothing_is_told_and_all_time_is_effective() -> None:
    account = account_of([])
    assert account.effective_training_ratio == 1.0
    assert account.mean_seconds_between_failures is None
    assert rows_of(account) == []


def test_an_end_that_is_no_failure_counts_as_a_restart_only() -> None:
    account = account_of([incident(1000, kind="exit")])
    assert (account.failures, account.restarts_by_cause) == (0, {"exit": 1})


def test_an_incident_without_a_restart_is_none() -> None:
    assert account_of([incident(1000, next_run_id=None)]).restarts == 0


QUICK = Cause("process_killed", "killed_by_signal", "yes", "f")


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"diagnosis": {"cause": "nccl_timeout"}, "cause": QUICK}, "nccl_timeout"),
        ({"diagnosis": {"cause": "nccl_timeout", "provisional": True}, "cause": QUICK}, "killed_by_signal"),
        ({"diagnosis": {"cause": "nccl_timeout", "provisional": True}}, "nccl_timeout"),
        ({"diagnosis": {"cause": "unknown"}, "kind": "hang"}, "hang"),
        ({"diagnosis": {"cause": 7}}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_the_cause_is_the_best_that_is_known(fields: dict[str, Any], cause: str) -> None:
    assert cause_of(incident(0, **fields)) == cause


def test_the_advised_interval_is_dalys() -> None:
    young = math.sqrt(2 * 10 * 1000)
    assert advise_interval(10, 1000) == pytest.approx(young * (1 + math.sqrt(0.005) / 3 + 0.005 / 9) - 10)


def test_the_advised_interval_wastes_the_least_time() -> None:
    save, between = 30.0, 4 * HOUR

    def wasted(interval: float) -> float:
        """Daly's exact time to solution over the time without failures, for an exponential failure law."""
        return between * (math.exp((interval + save) / between) - 1) / interval

    best = min((wasted(seconds), seconds) for seconds in range(60, 4000))[1]
    assert advise_interval(save, between) == pytest.approx(best, rel=0.01)


@pytest.mark.parametrize(("save_seconds", "advised"), [(199.9, 88.9), (200.0, 100.0), (500.0, 100.0)])
def test_a_save_that_outlasts_the_time_between_failures_is_made_once_in_it(
    save_seconds: float, advised: float
) -> None:
    assert advise_interval(save_seconds, 100.0) == pytest.approx(advised, abs=0.1)


def test_without_a_failure_or_a_known_save_no_interval_is_advised() -> None:
    assert with_saves(account_of([]), Saves(10.0, 60.0)).advised_interval_seconds is None
    assert with_saves(account_of([recovered(9)]), Saves(None, 60.0)).advised_interval_seconds is None
    assert with_saves(account_of([recovered(9)]), Saves(10.0, 60.0)).advised_interval_seconds is not None


# --- saves -----------------------------------------------------------------------------------------------------


def save_at(folder: Path, step: int, began: float, seconds: float) -> None:
    """A whole checkpoint whose first file was written at `began`, and whose last one `seconds` later."""
    checkpoint = folder / f"checkpoint-{step}"
    save(checkpoint, step)
    for file in checkpoint.iterdir():
        late = seconds if file.name == "trainer_state.json" else 0.0
        os.utime(file, (began + late, began + late))


def test_a_save_takes_as_long_as_from_its_first_file_to_its_last(tmp_path: Path) -> None:
    for number in range(1, 5):
        save_at(tmp_path, 10 * number, BEGAN + 600 * number, 20.0 + number)
    assert read_saves(tmp_path, BEGAN + HOUR) == Saves(24.0, 601.0)
    assert ask_saves(tmp_path) == Saves(24.0, 601.0)


def test_files_that_were_touched_later_are_no_measure(tmp_path: Path) -> None:
    save_at(tmp_path, 10, BEGAN, 20.0)
    save_at(tmp_path, 20, BEGAN + 600, 50_000.0)
    save_at(tmp_path, 30, BEGAN + 1200, 100_000.0)
    assert read_saves(tmp_path, BEGAN + 9 * HOUR).seconds is None


def test_where_no_answer_comes_in_time_or_nothing_is_there_the_saves_are_unknown(tmp_path: Path) -> None:
    save_at(tmp_path, 10, BEGAN, 20.0)
    assert ask_saves(tmp_path, seconds=0.0) == Saves()
    assert ask_saves(tmp_path / "missing") == Saves()


# --- a real watchdog -------------------------------------------------------------------------------------------


def test_status_and_history_tell_what_a_crash_has_cost(sandbox: Sandbox) -> None:
    sandbox.configure("--pace", "0.02", checkpoints={"directory": "checkpoints"})
    sandbox.start()
    sandbox.wait_for_event("started")
    assert sandbox.status()["account"]["failures"] == 0
    os.kill(sandbox.wait_for_start()["pid"], signal.SIGKILL)
    sandbox.wait_for_event("new_step")
    account = sandbox.status()["account"]
    assert (account["failures"], account["restarts"]) == (1, 1)
    parts = account["mean_recovery"]
    assert parts["detection"] == 0.0
    assert all(value is not None and 0 <= value < 30 for value in parts.values()), parts
    assert 0 < account["effective_training_ratio"] < 1
    text = sandbox.call("--status").stdout
    assert "effective training" in text and "catching up" in text
    arguments = [
        sys.executable,
        str(ROOT / "crash_detector.py"),
        "--config",
        str(sandbox.config),
        "--history",
    ]
    told = subprocess.run([*arguments, "--json"], capture_output=True, text=True, check=False, timeout=60)
    assert json.loads(told.stdout)["account"]["restarts_by_cause"] == account["restarts_by_cause"]
    lines = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60).stdout
    assert "effective training" in lines
