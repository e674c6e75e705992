"""Checks of the configuration: real files with real faults, and what is never shown."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from disk_faults import mute
from judging import WALL, looked, sentences, settings_of, supervision, told, with_state
from support import Sandbox, wait_for

from trainguard.checks.configuration import CHECKS, PLACES, is_secret
from trainguard.checks.values import Result
from trainguard.config import Remedy, RestartSettings, load_settings
from trainguard.health import Status
from trainguard.places import Place, Places, read_place
from trainguard.policy import Phase
from trainguard.probes import Answer

FILE = Place("file", "/absent/config.yaml", "a file", 1000, 1000, 0o644, WALL - 9000, True, True)
FOLDER = Place("logs.directory", "/logs", "a folder", 1000, 1000, 0o755, WALL, True, True)


def places(*rows: Place, **changes: Any) -> Places:
    values: dict[str, Any] = {
        "rows": rows or (FILE, FOLDER),
        "problems": (),
        "invalid": (),
        "program": "/usr/bin/python",
        "scripts": {},
        "uid": 1000,
    }
    return Places(**(values | changes))


def changed(row: Place, **changes: Any) -> Place:
    return msgspec.structs.replace(row, **changes)


def judged(check_id: str, *values: object, **more: Any) -> Result:
    return told(CHECKS, check_id, *values, **more)


@pytest.fixture
def ready(sandbox: Sandbox) -> Sandbox:
    sandbox.configure()
    sandbox.logs.mkdir()
    return sandbox


def look(sandbox: Sandbox) -> dict[str, Result]:
    return looked(CHECKS, load_settings(sandbox.config))


def test_every_row_is_complete() -> None:
    assert {check.id: check.fix for check in CHECKS if check.fix} == {
        "config-paths": "missing-folders",
        "config-mode": "open-permissions",
    }
    for check in CHECKS:
        assert check.component == "configuration" and len(check.explain) <= 110, check.id


def test_good_settings_are_fine_in_every_check(ready: Sandbox) -> None:
    for check_id, result in look(ready).items():
        assert result.status is Status.OK, f"{check_id}: {sentences(result)}"


def test_a_reading_that_hangs_is_told_as_bad() -> None:
    result = judged("config-valid", answers={PLACES.name: Answer(None, "no answer within 4 s", True)})
    assert result.status is Status.BAD and "hangs" in sentences(result)


# --- config-valid ----------------------------------------------------------------------------------------------


def test_a_file_that_was_spoilt_after_it_was_read_is_told(ready: Sandbox) -> None:
    settings = load_settings(ready.config)
    ready.config.write_text(ready.config.read_text().replace("timeout: 60", "timeoot: 60", 1))
    result = looked(CHECKS, settings)["config-valid"]
    assert result.status is Status.BAD and "did you mean" in sentences(result)
    ready.config.unlink()
    assert looked(CHECKS, settings)["config-valid"].status is Status.BAD


# --- config-paths ----------------------------------------------------------------------------------------------


def test_a_folder_that_is_not_there_is_told_with_how_to_make_it(sandbox: Sandbox) -> None:
    sandbox.configure(checkpoints={"directory": "out"}, daemon={"log": "far/away/train.log"})
    result = look(sandbox)["config-paths"]
    remedies = {one.remedy for one in result.findings}
    assert result.status is Status.ATTENTION
    assert remedies == {
        f"mkdir -p {sandbox.folder}/out",
        f"mkdir -p {sandbox.logs}",
        f"mkdir -p {sandbox.folder}/far/away",
    }


def test_a_path_of_the_wrong_kind_is_bad(ready: Sandbox) -> None:
    (ready.folder / "out").write_text("")
    os.mkfifo(ready.folder / "train.log")
    ready.configure(checkpoints={"directory": "out"}, daemon={"log": "train.log"})
    text = sentences(look(ready)["config-paths"])
    assert "is a file, not a folder" in text and "is a FIFO" in text
    assert look(ready)["config-paths"].status is Status.BAD


def test_a_folder_that_cannot_be_written_is_bad() -> None:
    place = changed(FOLDER, setting="checkpoints.directory", path="/out", writable=False)
    result = judged("config-paths", places(FILE, place))
    assert result.status is Status.BAD and "cannot be written" in sentences(result)


def test_a_detector_log_that_is_not_there_wants_attention(ready: Sandbox) -> None:
    ready.configure(detector={"logs": ["other.log"]})
    result = look(ready)["config-paths"]
    assert result.status is Status.ATTENTION and "detector.logs[0]" in sentences(result)


def test_a_path_on_a_dead_mount_is_bad_and_hides_no_other(ready: Sandbox, tmp_path: Path) -> None:
    ready.configure(
        checkpoints={"directory": str(tmp_path / "dead" / "out")}, detector={"logs": ["other.log"]}
    )
    with mute(tmp_path / "dead"):
        results = look(ready)
    text = sentences(results["config-paths"])
    assert "checkpoints.directory" in text and "no answer within 2 s" in text
    assert "other.log" in text
    assert results["config-command"].status is Status.OK


def test_a_place_tells_what_it_is_and_whether_it_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch(0o640)
    (tmp_path / "file").chmod(0o640)
    found = read_place("x", tmp_path / "file")
    assert (found.kind, found.mode, found.writable, found.parent) == ("a file", 0o640, True, True)
    absent = read_place("x", tmp_path / "absent" / "file")
    assert (absent.kind, absent.parent, absent.writable) == (None, False, False)
    assert read_place("x", tmp_path / "file" / "below").kind is None


# --- config-mode -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"mode": 0o644}, Status.OK),
        ({"mode": 0o664, "gid": 1000}, Status.OK),
        ({"mode": 0o664, "gid": 50}, Status.ATTENTION),
        ({"mode": 0o646}, Status.BAD),
        ({"uid": 0}, Status.OK),
        ({"uid": 2000}, Status.BAD),
        ({"mode": None, "kind": None}, Status.BAD),
        ({"mode": None, "problem": "no answer within 2 s"}, Status.UNKNOWN),
    ],
)
def test_nobody_else_may_write_what_commands_are_run_from(changes: dict[str, Any], status: Status) -> None:
    assert judged("config-mode", places(changed(FILE, **changes), FOLDER)).status is status


def test_a_run_folder_that_everybody_can_write_is_bad_also_with_a_sticky_bit(ready: Sandbox) -> None:
    for mode in (0o777, 0o1777):
        ready.logs.chmod(mode)
        result = look(ready)["config-mode"]
        assert result.status is Status.BAD
        assert result.findings[0].remedy == f"chmod o-w {ready.logs}"


# --- config-drift ----------------------------------------------------------------------------------------------


def test_a_change_after_the_watchdog_began_is_drift_until_it_was_read_again() -> None:
    late = places(changed(FILE, wall=WALL - 10), FOLDER)
    result = judged("config-drift", supervision(), late)
    assert result.status is Status.ATTENTION and "kill -HUP 3000" in sentences(result)
    assert judged("config-drift", supervision(reloaded_wall=WALL - 9), late).status is Status.OK
    at_once = places(changed(FILE, wall=WALL - 6000), FOLDER)
    assert judged("config-drift", supervision(), at_once).status is Status.OK


def test_another_command_than_the_one_that_runs_is_told_once_the_file_changed() -> None:
    other = settings_of({"command": ("python", "other.py")})
    early, late = places(), places(changed(FILE, wall=WALL - 10), FOLDER)
    assert judged("config-drift", supervision(), early, settings=other).status is Status.OK
    now = supervision(reloaded_wall=WALL - 9)
    result = judged("config-drift", now, late, settings=other)
    assert result.status is Status.ATTENTION and "pid 4000" in sentences(result)


def test_there_is_no_drift_where_nothing_runs() -> None:
    nobody = supervision(watchdog=None, daemon=None)
    assert judged("config-drift", nobody, places()).absent is not None
    assert judged("config-drift", with_state(phase=Phase.STOPPED), places()).absent is not None
    gone = places(changed(FILE, wall=None), FOLDER)
    assert judged("config-drift", supervision(), gone).status is Status.UNKNOWN


def test_a_file_edited_under_a_real_watchdog_is_drift(sandbox: Sandbox) -> None:
    sandbox.configure()
    watchdog = sandbox.start()
    wait_for(lambda: (sandbox.state().get("run") or {}).get("step"))
    assert look(sandbox)["config-drift"].status is Status.OK
    sandbox.configure("--pace", "0.5")
    result = look(sandbox)["config-drift"]
    assert result.status is Status.ATTENTION and len(result.findings) == 2
    assert f"kill -HUP {watchdog.pid}" in sentences(result)
    watchdog.send_signal(signal.SIGTERM)
    watchdog.wait()


# --- config-command --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "status", "words"),
    [
        ([sys.executable, "absent.py"], Status.BAD, "absent.py does not exist"),
        (["/bin/sh", "train/absent.py"], Status.BAD, "train/absent.py is not there"),
        (["no-such-program"], Status.BAD, "not found in PATH"),
        (["./plain"], Status.BAD, "is not an executable file"),
        (["/bin/sh", "-c", "true"], Status.OK, "starts /bin/sh"),
    ],
)
def test_a_command_must_start_something(
    ready: Sandbox, command: list[str], status: Status, words: str
) -> None:
    (ready.folder / "plain").touch(0o644)
    ready.configure(daemon={"command": command})
    result = look(ready)["config-command"]
    assert result.status is status and words in sentences(result)
    assert len(result.findings) == 1


def test_a_program_that_could_not_be_looked_for_is_unknown() -> None:
    assert judged("config-command", places(program=None, problems=None)).status is Status.UNKNOWN


# --- config-secrets, config-causes -----------------------------------------------------------------------------

SECRET = "hf_" + "aB3" * 11


@pytest.mark.parametrize(
    ("name", "value", "is_one"),
    [
        ("HF_TOKEN", "x" * 8, True),
        ("HF_TOKEN", "x" * 7, False),
        ("WANDB_API_KEY", "0a" * 20, True),
        ("DB_PASSWORD", "correct horse", True),
        ("ANYTHING", SECRET, True),
        ("TOKENIZERS_PARALLELISM", "false-false", False),
        ("MAX_TOKEN", "100000000", False),
        ("HF_TOKEN", "/run/secrets/token", False),
        ("OMP_NUM_THREADS", "4", False),
    ],
)
def test_a_secret_is_known_by_its_name_or_by_its_form(name: str, value: str, is_one: bool) -> None:
    assert is_secret(name, value) is is_one


def test_a_secret_is_told_and_never_shown() -> None:
    settings = settings_of(
        {"environment": {"HF_TOKEN": SECRET}, "command": ("python", "train.py", f"--token={SECRET}")},
        restart=RestartSettings(on_crash={"oom": Remedy({"API_KEY": "very-secret-value"})}),
    )
    result = judged("config-secrets", settings=settings)
    assert result.status is Status.ATTENTION and len(result.findings) == 3
    text = sentences(result)
    assert "daemon.environment.HF_TOKEN" in text and "daemon.command[2]" in text
    assert SECRET not in text and "very-secret-value" not in text
    assert judged("config-secrets").status is Status.OK


def test_a_misspelt_cause_is_bad_and_none_is_needed() -> None:
    assert judged("config-causes").absent == "restart.on_crash is empty"
    good = settings_of(restart=RestartSettings(on_crash={"cuda_oom": Remedy()}))
    assert judged("config-causes", settings=good).status is Status.OK
    wrong = settings_of(restart=RestartSettings(on_crash={"cuda_oomm": Remedy()}))
    result = judged("config-causes", settings=wrong)
    assert result.status is Status.BAD and "cuda_oom" in sentences(result)


def test_the_check_reads_nothing_but_what_it_is_given(ready: Sandbox) -> None:
    before = subprocess.check_output(["ls", "-laR", "--full-time", str(ready.folder)])
    look(ready)
    assert subprocess.check_output(["ls", "-laR", "--full-time", str(ready.folder)]) == before
