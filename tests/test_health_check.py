"""The health check as its user sees it: options, exit codes, what is kept, what is changed (nothing)."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
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
    assert answer.returncode == 2 and "so that all counts" in answer.stderr


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
