"""Checks of the logs: judged at their limits, and on real logs, histories and copies that were spoilt."""

import os
import sqlite3
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from disk_faults import mute
from judging import (
    WALL,
    looked,
    past_of,
    sentences,
    settings_of,
    supervision,
    told,
    with_run,
    with_state,
)
from stub_daemon import save
from support import Sandbox, wait_for

from trainguard.checks.logs import CHECKS, COPIES, HISTORY, LOG_FILES
from trainguard.checks.values import Result
from trainguard.config import ProgressSettings, load_settings
from trainguard.copies.keeping import place_of
from trainguard.health import Status
from trainguard.history import CrashRow, History
from trainguard.log_files import LogFile, LogFiles, read_json, read_log_file
from trainguard.policy import Phase
from trainguard.probes import Answer
from trainguard.run_records import Copies, KeptCopy, Remembered
from trainguard.supervision import Incidents
from trainguard.vitals import Past

GIB = float(1 << 30)
LOG = LogFile("daemon.log", "/logs/out.log", "a file", 1000, WALL - 60, writable=True, free=int(100 * GIB))
FOLDER = LogFile("logs.directory", "/logs", "a folder", 100, WALL, writable=True, free=int(100 * GIB))


def judged(check_id: str, *values: object, **more: Any) -> Result:
    return told(CHECKS, check_id, *values, **more)


def changed(row: LogFile, **changes: Any) -> LogFile:
    return msgspec.structs.replace(row, **changes)


def log(**changes: Any) -> LogFiles:
    return LogFiles((changed(LOG, **changes), FOLDER))


@pytest.fixture
def ready(sandbox: Sandbox) -> Sandbox:
    sandbox.configure()
    sandbox.logs.mkdir()
    return sandbox


def look(sandbox: Sandbox, past: Past | None = None) -> dict[str, Result]:
    return looked(CHECKS, load_settings(sandbox.config), past)


def wait_for_steps(sandbox: Sandbox) -> None:
    wait_for(lambda: (sandbox.state().get("run") or {}).get("step"), what=sandbox.output_tail())


def test_every_row_is_complete() -> None:
    assert {check.id: check.fix for check in CHECKS if check.fix} == {
        "log-size": "long-logs",
        "log-history": "broken-history",
    }
    for check in CHECKS:
        assert check.component == "logs" and len(check.explain) <= 110, check.id


@pytest.mark.parametrize(
    ("check_id", "reading"), [("log-daemon", LOG_FILES), ("log-history", HISTORY), ("log-copies", COPIES)]
)
def test_a_reading_that_hangs_is_told(check_id: str, reading: Any) -> None:
    result = judged(check_id, answers={reading.name: Answer(None, "no answer within 4 s", True)})
    assert result.status is next(one.worst for one in CHECKS if one.id == check_id)
    assert "hangs" in sentences(result)


def test_the_logs_of_a_real_run_are_fine(sandbox: Sandbox) -> None:
    sandbox.configure("--lines", "3")
    sandbox.start()
    wait_for_steps(sandbox)
    for check_id, result in look(sandbox).items():
        assert result.status is Status.OK, f"{check_id}: {sentences(result)}"


# --- log-daemon ------------------------------------------------------------------------------------------------


def test_a_log_that_was_deleted_under_the_daemon_is_bad(sandbox: Sandbox) -> None:
    sandbox.configure()
    sandbox.start()
    wait_for_steps(sandbox)
    file = sandbox.logs / "training_output.log"
    file.unlink()
    result = look(sandbox)["log-daemon"]
    assert result.status is Status.BAD and "(deleted)" in sentences(result)
    file.touch()
    again = look(sandbox)["log-daemon"]
    assert again.status is Status.ATTENTION and "goes to the deleted one" in sentences(again)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"kind": None}, Status.BAD),
        ({"kind": "a device"}, Status.ATTENTION),
        ({"kind": "a FIFO"}, Status.BAD),
        ({"writable": False}, Status.BAD),
        ({"problem": "no answer within 2 s"}, Status.BAD),
        ({}, Status.OK),
    ],
)
def test_a_daemons_log_must_be_a_file_that_is_written(changes: dict[str, Any], status: Status) -> None:
    assert judged("log-daemon", supervision(), log(**changes)).status is status


def test_a_log_that_is_not_there_may_be_yet_to_come() -> None:
    stopped = supervision(daemon=None)
    assert judged("log-daemon", stopped, log(kind=None)).status is Status.ATTENTION
    assert judged("log-daemon", with_state(stopped, runs=0), log(kind=None)).absent is not None


@pytest.mark.parametrize(("hours", "status"), [(23.9, Status.OK), (24.0, Status.ATTENTION)])
def test_a_silent_log_wants_attention_where_steps_are_read_from_it(hours: float, status: Status) -> None:
    silent = log(wall=WALL - hours * 3600)
    assert judged("log-daemon", supervision(), silent).status is status
    elsewhere = settings_of(progress=ProgressSettings(status_file=Path("/x.json")))
    assert judged("log-daemon", supervision(), silent, settings=elsewhere).status is Status.OK


# --- log-size, log-growth --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "status"),
    [
        (GIB - 1, Status.OK),
        (GIB, Status.ATTENTION),
        (10 * GIB - 1, Status.ATTENTION),
        (10 * GIB, Status.BAD),
    ],
)
def test_a_log_is_too_long_from_its_limit_on(size: float, status: Status) -> None:
    result = judged("log-size", log(size=int(size)))
    assert result.status is status and result.measures[0].subject == "/logs/out.log"


def test_a_real_log_of_eleven_gibibytes_is_bad_though_it_is_mostly_holes(ready: Sandbox) -> None:
    with (ready.logs / "training_output.log").open("wb") as stream:
        stream.truncate(11 << 30)
    assert look(ready)["log-size"].status is Status.BAD


def test_without_a_log_there_is_no_size_and_no_growth(sandbox: Sandbox) -> None:
    sandbox.configure()
    results = look(sandbox)
    assert results["log-size"].absent == "there is no log yet"
    assert results["log-growth"].absent == "there is no log yet"


@pytest.mark.parametrize(
    ("free", "status"),
    [(48.1, Status.OK), (47.9, Status.ATTENTION), (6.1, Status.ATTENTION), (5.9, Status.BAD)],
)
def test_when_a_growing_log_fills_the_disk_is_forecast(free: float, status: Status) -> None:
    past = past_of("log_bytes", [GIB, 2 * GIB, 3 * GIB], every=3600, subject="/logs/out.log")
    result = judged("log-growth", log(size=int(4 * GIB), free=int(free * GIB)), past=past)
    assert result.status is status, sentences(result)


def test_a_log_that_was_rotated_once_or_stands_still_has_no_forecast() -> None:
    steady = past_of("log_bytes", [1000.0] * 5, subject="/logs/out.log")
    assert "does not grow" in sentences(judged("log-growth", log(), past=steady))
    assert "too few looks" in sentences(judged("log-growth", log()))


# --- log-history, log-crashes ----------------------------------------------------------------------------------


def remember(folder: Path, *names: str) -> Path:
    history = History(folder / "crash_history.sqlite3")
    rows = [
        CrashRow(f"f-{name}", "gpu", name, cause="cuda_oom", time=time.time() - 100 + place)
        for place, name in enumerate(names)
    ]
    history.add(rows)
    history.close()
    return history.path


def test_a_history_that_can_be_read_is_fine_and_new_crashes_want_attention(ready: Sandbox) -> None:
    remember(ready.logs, "one", "two")
    results = look(ready)
    assert results["log-history"].status is Status.OK
    assert results["log-crashes"].status is Status.ATTENTION
    assert "2 in all, the newest cuda_oom" in sentences(results["log-crashes"])
    seen = look(ready, past_of("history_crashes_total", [2.0]))["log-crashes"]
    assert seen.status is Status.OK and "none since the last health check" in sentences(seen)
    fewer = look(ready, past_of("history_crashes_total", [1.0]))["log-crashes"]
    assert "1 since the last health check" in sentences(fewer)


def test_a_history_that_began_anew_counts_from_nothing() -> None:
    now = Remembered("/h", True, 3, "cuda_oom", WALL)
    past = past_of("history_crashes_total", [9.0])
    assert "3 since the last health check" in sentences(judged("log-crashes", now, past=past))


@pytest.mark.parametrize("damage", ["garbage", "cut", "zeros"])
def test_a_damaged_history_is_bad_and_left_as_it_is(ready: Sandbox, damage: str) -> None:
    path = remember(ready.logs, *(f"crash-{number}" for number in range(300)))
    content = path.read_bytes()
    spoilt = {
        "garbage": b"x" * 8192,
        "cut": content[: len(content) // 3],
        "zeros": content[:4096] + b"\0" * (len(content) - 4096),
    }[damage]
    path.write_bytes(spoilt)
    results = look(ready)
    assert results["log-history"].status is Status.BAD, sentences(results["log-history"])
    assert results["log-crashes"].status is Status.UNKNOWN
    assert path.read_bytes() == spoilt
    assert [one.name for one in ready.logs.iterdir()] == [path.name]


def test_a_history_that_another_process_keeps_locked_could_not_be_decided(ready: Sandbox) -> None:
    path = remember(ready.logs, "one")
    holder = sqlite3.connect(path, isolation_level=None)
    try:
        holder.execute("BEGIN EXCLUSIVE")
        result = look(ready)["log-history"]
    finally:
        holder.close()
    assert result.status is Status.UNKNOWN and "locked" in sentences(result)


def test_without_a_history_there_is_nothing_to_read(ready: Sandbox) -> None:
    results = look(ready)
    assert results["log-history"].absent == results["log-crashes"].absent == "no crash was remembered yet"


# --- log-records -----------------------------------------------------------------------------------------------


def test_torn_lines_and_damaged_incidents_are_told(ready: Sandbox) -> None:
    (ready.logs / "events.jsonl").write_bytes(b'{"wall": 1}\n{"wall": \n')
    (ready.logs / "health.jsonl").mkdir()
    broken = ready.logs / "incidents" / "17-1"
    broken.mkdir(parents=True)
    (broken / "incident.json").write_text('{"id": "17-1"')
    result = look(ready)["log-records"]
    text = sentences(result)
    assert result.status is Status.ATTENTION and len(result.findings) == 3
    assert "1 of its last 2 lines are no JSON" in text
    assert "health.jsonl: is a folder" in text and "as 17-1" in text


def test_a_run_folder_that_cannot_be_written_is_bad_and_one_that_is_not_there_is_told(
    sandbox: Sandbox,
) -> None:
    closed = LogFiles((LOG, changed(FOLDER, writable=False)))
    assert judged("log-records", closed, Incidents()).status is Status.BAD
    sandbox.configure()
    result = look(sandbox)["log-records"]
    assert result.status is Status.ATTENTION and "is not there yet" in sentences(result)


def test_the_first_of_the_last_lines_may_be_cut(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_bytes(b'{"event": "' + b"x" * 100 + b'"}\n' * 1 + b'{"a": 1}\n' * 20_000)
    row = read_log_file("events.jsonl", file)
    assert row.torn == 0 and 0 < row.lines < 20_000


# --- log-copies ------------------------------------------------------------------------------------------------


def kept(ago: float, **changes: Any) -> Copies:
    row = KeptCopy("/out/ckpt.pt", WALL - ago, size=10)
    return Copies(True, "/out", (msgspec.structs.replace(row, **changes),))


@pytest.mark.parametrize(
    ("copies", "status"),
    [
        (kept(10_000, copied_wall=WALL - 10_000, copied_size=10), Status.OK),
        (kept(10_000, copied_wall=WALL - 20_000, copied_size=10), Status.ATTENTION),
        (kept(10_000, copied_wall=WALL - 10_000, copied_size=9), Status.ATTENTION),
        (kept(899), Status.OK),
        (kept(900), Status.ATTENTION),
        (Copies(True), Status.ATTENTION),
        (Copies(True, "/out"), Status.OK),
    ],
)
def test_a_copy_shows_the_newest_save_or_is_still_to_come(copies: Copies, status: Status) -> None:
    assert judged("log-copies", copies).status is status


def test_a_real_checkpoint_without_a_copy_is_told_and_with_one_is_fine(ready: Sandbox) -> None:
    assert look(ready)["log-copies"].absent == "checkpoints.keep_copy is off"
    ready.configure(checkpoints={"directory": "out", "keep_copy": True})
    original = ready.folder / "out" / "ckpt.pt"
    original.parent.mkdir()
    original.write_bytes(b"x" * 100)
    os.utime(original, (time.time() - 5000,) * 2)
    assert "no copy is kept" in sentences(look(ready)["log-copies"])
    copy = place_of(ready.logs, original)
    copy.parent.mkdir(parents=True)
    copy.write_bytes(b"x" * 100)
    about = original.stat()
    os.utime(copy, ns=(about.st_mtime_ns, about.st_mtime_ns))
    assert look(ready)["log-copies"].status is Status.OK


def test_checkpoints_with_a_number_of_their_own_need_no_copy(ready: Sandbox) -> None:
    ready.configure(checkpoints={"directory": "out", "keep_copy": True})
    for step in (10, 20):
        save(ready.folder / "out" / f"checkpoint-{step}", step)
    assert "no file that is written over" in sentences(look(ready)["log-copies"])


# --- log-progress ----------------------------------------------------------------------------------------------


def status_file(**changes: Any) -> LogFiles:
    values = {"role": "progress.status_file", "path": "/s.json", "json": "object"}
    return LogFiles((changed(LOG, **(values | changes)),))


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, Status.OK),
        ({"kind": None}, Status.ATTENTION),
        ({"kind": "a FIFO"}, Status.BAD),
        ({"json": "partial"}, Status.ATTENTION),
        ({"json": "other"}, Status.ATTENTION),
        ({"wall": WALL - 5001}, Status.ATTENTION),
        ({"wall": WALL - 5000}, Status.OK),
        ({"problem": "larger than 1048576 bytes"}, Status.BAD),
    ],
)
def test_a_status_file_is_there_whole_and_of_this_run(changes: dict[str, Any], status: Status) -> None:
    result = judged("log-progress", supervision(), status_file(**changes))
    assert result.status is status, sentences(result)


def test_a_status_file_may_be_missing_until_the_run_had_its_time() -> None:
    missing = status_file(kind=None)
    young = with_run(began_wall=WALL - 600)
    assert judged("log-progress", young, missing).status is Status.OK
    assert judged("log-progress", with_run(began_wall=WALL - 601), missing).status is Status.ATTENTION
    assert judged("log-progress", supervision(daemon=None), missing).status is Status.OK
    assert judged("log-progress", with_state(phase=Phase.PARKED), missing).status is Status.OK


def test_without_a_configured_source_steps_are_read_from_the_log() -> None:
    assert "steps are read from daemon.log" in sentences(judged("log-progress", supervision(), log()))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b'{"loss": NaN, "current_step": 3}', "object"),
        (b'{"current_step": 3', "partial"),
        (b"", "partial"),
        (b"\xff\xfe", "partial"),
        (b"[1, 2]", "other"),
        (b"null", "other"),
    ],
)
def test_what_stands_in_a_status_file(tmp_path: Path, content: bytes, found: str) -> None:
    (tmp_path / "status.json").write_bytes(content)
    assert read_json(tmp_path / "status.json") == found


def test_a_status_file_on_a_dead_mount_is_bad_and_hides_no_other(ready: Sandbox, tmp_path: Path) -> None:
    ready.configure(progress={"status_file": str(tmp_path / "dead" / "status.json")})
    (ready.logs / "training_output.log").write_text("a line\n")
    with mute(tmp_path / "dead"):
        results = look(ready)
    assert results["log-progress"].status is Status.BAD
    assert "no answer within 2 s" in sentences(results["log-progress"])
    assert results["log-daemon"].status is Status.OK
