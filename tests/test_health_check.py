"""The health check as its user sees it: options, exit codes, what is kept, what is changed (nothing)."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nvml
import pytest
from checkpoint_files import hugging_face
from disk_faults import mute
from support import ROOT, Sandbox

CHECK = ROOT / "comprehensive_health_check.py"


def call(sandbox: Sandbox, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(CHECK), "--config", str(sandbox.config), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


def told(sandbox: Sandbox, *arguments: str) -> dict[str, Any]:
    answer = call(sandbox, "--json", *arguments)
    assert answer.stdout, answer.stderr
    checks: dict[str, Any] = {one["id"]: one for one in json.loads(answer.stdout)["checks"]}
    return checks


@pytest.fixture
def ready(sandbox: Sandbox) -> Sandbox:
    sandbox.configure()
    sandbox.logs.mkdir()
    return sandbox


def test_each_line_names_a_check_and_the_last_counts_them(ready: Sandbox) -> None:
    answer = call(ready, "--component", "memory")
    *lines, summary = answer.stdout.splitlines()
    assert lines and all("memory-" in line for line in lines)
    assert summary.startswith("7 checks: ")
    assert answer.returncode in (0, 1) and answer.stderr == ""


def test_a_limit_of_the_users_own_makes_it_bad_and_the_exit_code_says_so(ready: Sandbox) -> None:
    ready.configure(health={"limits": {"memory-available.bad": 100.0, "memory-available.attention": 100.0}})
    answer = call(ready, "--only", "memory-available")
    assert answer.returncode == 2
    assert answer.stdout.startswith("BAD")


def test_what_is_acknowledged_is_shown_and_does_not_count_until_it_is_over(ready: Sandbox) -> None:
    ready.configure(health={"limits": {"memory-available.bad": 100.0}})
    assert call(ready, "--ack", "memory-available", "--until", "1h").returncode == 0
    answer = call(ready, "--only", "memory-available")
    assert answer.returncode == 0
    assert answer.stdout.startswith("BAD") and "(known until " in answer.stdout
    known = json.loads((ready.logs / "acknowledged.json").read_text())
    known["memory-available"]["boot"] = "another"
    (ready.logs / "acknowledged.json").write_text(json.dumps(known))
    assert call(ready, "--only", "memory-available").returncode == 2


def test_a_damaged_file_of_acknowledgements_is_told_and_all_counts(ready: Sandbox) -> None:
    ready.configure(health={"limits": {"memory-available.bad": 100.0}})
    (ready.logs / "acknowledged.json").write_text("{")
    answer = call(ready, "--only", "memory-available")
    assert answer.returncode == 2 and "all of which count now" in answer.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--only", "memory-availible"],
        ["--explain", "zzz"],
        ["--ack", "zzz"],
        ["--until", "1h"],
        ["--ack", "memory-available", "--until", "yesterday"],
        ["--json", "--perfdata"],
        ["--component", "zzz"],
    ],
)
def test_wrong_usage_is_a_sentence_and_exit_code_three(ready: Sandbox, arguments: list[str]) -> None:
    answer = call(ready, *arguments)
    assert answer.returncode == 3
    assert answer.stdout == "" and "Traceback" not in answer.stderr and answer.stderr.strip()


def test_a_wrong_limit_in_the_settings_is_told_with_its_path(ready: Sandbox) -> None:
    ready.configure(health={"limits": {"memory-available.bda": 1}})
    answer = call(ready)
    assert answer.returncode == 3
    assert "health.limits.memory-available.bda: unknown limit; did you mean" in answer.stderr


def test_each_look_keeps_its_numbers_for_the_next(ready: Sandbox) -> None:
    for _ in range(3):
        call(ready, "--only", "memory-available")
    samples = [json.loads(line) for line in (ready.logs / "health.jsonl").read_text().splitlines()]
    assert len(samples) == 3
    assert 0 < samples[0]["values"]["memory_available_percent"] <= 100
    assert samples[0]["statuses"] == {"memory-available": "OK"}


def test_who_may_not_write_into_the_run_folder_looks_all_the_same(ready: Sandbox) -> None:
    ready.logs.rmdir()
    answer = call(ready, "--only", "memory-available")
    assert answer.returncode == 0 and not ready.logs.exists()


def test_the_list_names_every_check_and_each_can_be_explained(ready: Sandbox) -> None:
    rows = json.loads(call(ready, "--list", "--json").stdout)["checks"]
    text = call(ready, "--list").stdout
    assert all(row["id"] in text and row["explain"] in text for row in rows)
    explained = call(ready, "--explain", "*").stdout
    assert all(f"{row['id']}: {row['explain']}" in explained for row in rows)


def test_a_plugin_and_metrics_are_written(ready: Sandbox, tmp_path: Path) -> None:
    file = tmp_path / "health.prom"
    answer = call(ready, "--only", "memory-available", "--perfdata", "--prometheus", str(file))
    assert answer.stdout.startswith("HEALTH OK - ") and " | 'memory_available_percent'=" in answer.stdout
    assert 'trainguard_check_status{check="memory-available",component="memory"} 0.0' in file.read_text()


def test_json_is_one_object_whatever_the_names(ready: Sandbox) -> None:
    odd = ready.folder / os.fsdecode(b"daemon\xff.log")
    ready.configure(daemon={"log": "daemon.log"}, checkpoints={"directory": "out\\"})
    odd.touch()
    assert told(ready)


# --- mending ---------------------------------------------------------------------------------------------------


def tree_of(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every name below a folder with its mode, and of a file its time and content.

    A folder's own time changes when disk-write tries it.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        about = path.lstat()
        is_file = path.is_file()
        told = (about.st_mtime_ns if is_file else 0, path.read_bytes() if is_file else b"")
        found[str(path.relative_to(folder))] = (about.st_mode, *told)
    return found


@pytest.fixture
def faulty(ready: Sandbox) -> Sandbox:
    """Two faults: a run folder that everybody may write, and a folder for checkpoints that is not there."""
    ready.configure(checkpoints={"directory": "out/checkpoints"})
    ready.logs.chmod(0o777)
    return ready


@pytest.mark.xdist_group("shared memory")  # what they look at is the machine's
def test_fix_with_dry_run_tells_what_it_would_do_and_changes_nothing(faulty: Sandbox) -> None:
    before = tree_of(faulty.folder)
    answer = call(faulty, "--fix", "--dry-run")
    assert "would    open-permissions: " in answer.stdout
    assert f"would    missing-folders: make the folder {faulty.folder}/out/checkpoints" in answer.stdout
    assert tree_of(faulty.folder) == before


def test_fix_mends_looks_again_and_can_be_undone(faulty: Sandbox) -> None:
    checks = ("--only", "config-mode", "--only", "config-paths")
    assert call(faulty, *checks).returncode == 2
    answer = call(faulty, *checks, "--fix")
    assert answer.returncode == 0, answer.stdout
    assert (faulty.folder / "out" / "checkpoints").is_dir()
    assert faulty.logs.stat().st_mode & 0o777 == 0o775
    assert call(faulty, *checks).returncode == 0
    records = {one.stem.partition("-")[2]: one.stem for one in (faulty.logs / "repairs").glob("*.json")}
    assert call(faulty, "--undo", records["missing-folders"]).returncode == 0
    assert call(faulty, "--undo", records["open-permissions"]).returncode == 0
    assert not (faulty.folder / "out").exists()
    assert faulty.logs.stat().st_mode & 0o777 == 0o777
    assert call(faulty, *checks).returncode == 2


def test_what_cannot_be_put_back_is_told_in_the_exit_code(faulty: Sandbox) -> None:
    faulty.logs.chmod(0o755)
    call(faulty, "--fix", "--only", "config-paths")
    (record,) = (faulty.logs / "repairs").glob("*.json")
    (faulty.folder / "out" / "checkpoints" / "checkpoint-10").mkdir()
    answer = call(faulty, "--undo", record.stem)
    assert answer.returncode == 1 and "stays" in answer.stdout
    assert (faulty.folder / "out" / "checkpoints" / "checkpoint-10").is_dir()


def test_fix_leaves_what_a_person_has_acknowledged(faulty: Sandbox) -> None:
    call(faulty, "--ack", "config-paths")
    call(faulty, "--fix", "--only", "config-paths")
    assert not (faulty.folder / "out").exists()


def test_fix_tells_its_repairs_in_json_too(faulty: Sandbox) -> None:
    faulty.logs.chmod(0o755)
    answer = json.loads(call(faulty, "--fix", "--json", "--only", "config-paths").stdout)
    (repair,) = answer["repairs"]
    assert repair["repair"] == "missing-folders" and repair["record"] and len(repair["done"]) == 2
    assert answer["checks"][0]["status"] == "OK"


def test_what_cannot_be_undone_is_a_sentence(faulty: Sandbox) -> None:
    answer = call(faulty, "--undo", "20260105T031244-nothing")
    assert answer.returncode == 3 and "Traceback" not in answer.stderr and answer.stderr.strip()


# --- what hangs ------------------------------------------------------------------------------------------------


def test_a_dead_mount_a_hanging_driver_and_a_frozen_daemon_hang_nothing(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    if nvml.COMPILER is None:
        pytest.skip("a C compiler is needed for a management library that hangs")
    library = nvml.StandIn(nvml.build(tmp_path), tmp_path)
    library.tell(init="hang")
    with mute(tmp_path / "dead") as dead:
        sandbox.configure(health={"mounts": [str(dead)]})
        sandbox.start()
        os.kill(sandbox.wait_for_start()["pid"], signal.SIGSTOP)
        began = time.monotonic()
        answer = call(sandbox, "--json", env=library.environment)
        assert time.monotonic() - began < 30  # ten, where the machine is not busy
    checks = {one["id"]: one for one in json.loads(answer.stdout)["checks"]}
    assert answer.returncode == 2
    for check, words in (("gpu-driver", "hang"), ("disk-alive", str(dead))):
        bad = [one for one in checks[check]["findings"] if one["status"] == "BAD"]
        assert any(words in f"{one['subject']} {one['fact']}" for one in bad), checks[check]
    assert checks["gpu-temperature"]["status"] == "UNKNOWN"
    assert checks["memory-available"]["status"] == "OK"


def test_a_run_folder_that_never_answers_hangs_nothing(sandbox: Sandbox, tmp_path: Path) -> None:
    with mute(tmp_path / "dead") as dead:
        sandbox.configure(logs={"directory": str(dead / "logs")})
        began = time.monotonic()
        answer = call(sandbox, "--json")
        assert time.monotonic() - began < 40  # far less, where the machine is not busy
    assert answer.returncode == 2
    assert "the past: no answer" in answer.stderr


# --- what somebody laid there ------------------------------------------------------------------------------------


def test_the_numbers_are_not_written_through_a_link(ready: Sandbox, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("theirs\n")
    (ready.logs / "health.jsonl").symlink_to(elsewhere)
    answer = call(ready, "--only", "memory-available")
    assert elsewhere.read_text() == "theirs\n" and "not kept" in answer.stderr


def test_a_name_that_is_no_text_hides_no_broken_checkpoint_from_the_gate(ready: Sandbox) -> None:
    ready.configure(checkpoints={"directory": "out"})
    for step in (100, 200):
        hugging_face(ready.folder / "out", step)
    newest = ready.folder / "out" / "checkpoint-200"
    (newest / "optimizer.pt").write_bytes(b"PK\x03\x04")
    (newest / os.fsdecode(b"no\xfftext")).touch()
    for file in (*newest.iterdir(), newest):
        os.utime(file, (time.time() - 7200,) * 2)
    assert call(ready, "--gate", "--component", "checkpoints").returncode == 2


def test_a_checkpoint_that_was_cut_off_just_now_does_not_pass_the_gate(ready: Sandbox) -> None:
    ready.configure(checkpoints={"directory": "out"})
    for step in (100, 200):
        hugging_face(ready.folder / "out", step)
    (ready.folder / "out" / "checkpoint-200" / "trainer_state.json").unlink()
    answer = call(ready, "--gate", "--only", "checkpoint-newest")
    assert answer.returncode == 1 and "look again" in answer.stdout


# --- what is known, and what is not ------------------------------------------------------------------------------


def test_an_acknowledgement_hides_no_other_fault_of_the_same_check(ready: Sandbox, tmp_path: Path) -> None:
    ready.configure(health={"mounts": [str(tmp_path / "one")]})
    assert call(ready, "--ack", "disk-mounts").returncode == 0
    assert call(ready, "--only", "disk-mounts").returncode == 0
    ready.configure(health={"mounts": [str(tmp_path / "one"), str(tmp_path / "two")]})
    assert call(ready, "--only", "disk-mounts").returncode == 2


def test_where_there_is_no_fault_there_is_nothing_to_acknowledge(ready: Sandbox) -> None:
    answer = call(ready, "--ack", "memory-available")
    assert answer.returncode == 1 and "no fault" in answer.stdout


def test_a_limit_in_bytes_of_ones_own_holds_on_any_disk(ready: Sandbox) -> None:
    ready.configure(health={"limits": {"disk-free.bad": 1e17}})
    assert call(ready, "--only", "disk-free").returncode == 2


def test_a_gate_without_a_check_is_no_gate(ready: Sandbox) -> None:
    answer = call(ready, "--gate", "--only", "system-clock")
    assert answer.returncode == 3 and "no check is left" in answer.stderr


def test_a_link_that_was_renamed_once_is_no_fault_any_more(ready: Sandbox) -> None:
    ready.configure(checkpoints={"directory": "out"})
    hugging_face(ready.folder / "out", 100)
    (ready.folder / "out" / "last.ckpt").symlink_to("epoch=1-step=5.ckpt")
    assert call(ready, "--only", "checkpoint-link").returncode > 0
    assert call(ready, "--only", "checkpoint-link", "--fix").returncode == 0
    assert call(ready, "--only", "checkpoint-link").returncode == 0
