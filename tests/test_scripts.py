"""What all four scripts promise alike, and what the two small ones do."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT, Sandbox, wait_for

SCRIPTS = ("daemon_watchdog.py", "crash_detector.py", "comprehensive_health_check.py", "test_edge_cases.py")


def call(script: str, *arguments: str, directory: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / script), *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_the_manual_at_the_head_of_the_script(script: str) -> None:
    told = call(script, "--help")
    manual = (ROOT / script).read_text().split('"""')[1].strip()
    assert told.returncode == 0
    assert manual.splitlines()[0] in told.stdout
    assert "--config FILE" in told.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_shipped_configuration_will_do_from_any_folder(script: str, tmp_path: Path) -> None:
    told = call(script, "--check-config", directory=tmp_path)
    assert told.returncode == 0, told.stderr
    assert str(ROOT / "examples" / "training_daemon.py") in told.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_bad_configuration_is_all_its_problems_and_code_3(script: str, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("daemon: {}\nrestart: {max_restart: 5, window: -1}\n")
    for told in (
        call(script, "--config", str(config), "--check-config"),
        call(script, "--config", str(config)),
    ):
        assert told.returncode == 3
        assert "daemon.command" in told.stderr
        assert "did you mean `max_restarts`?" in told.stderr
        assert "restart.window" in told.stderr
        assert "Traceback" not in told.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_wrong_usage_is_code_3(script: str) -> None:
    told = call(script, "--no-such-option")
    assert told.returncode == 3
    assert "unrecognized arguments" in told.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_importing_a_script_does_nothing(script: str, tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {script.removesuffix('.py')}"
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (told.returncode, told.stdout, told.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_the_health_check_knows_running_from_down(sandbox: Sandbox) -> None:
    sandbox.configure()
    config = ("--config", str(sandbox.config), "--json", "--only", "daemon-state")

    def supervision() -> str:
        checks = json.loads(call("comprehensive_health_check.py", *config).stdout)["checks"]
        return next(one["status"] for one in checks)

    assert supervision() == "OK"
    watchdog = sandbox.start()
    start = sandbox.wait_for_start()
    wait_for(lambda: supervision() == "OK", what="a healthy verdict")
    watchdog.kill()
    watchdog.wait()
    assert supervision() == "ATTENTION"
    own = next(one for one in sandbox.members() if one.pid == start["pid"])
    from trainguard import processes

    processes.send_signal(own.identity, signal.SIGKILL)
    wait_for(lambda: supervision() == "BAD", what="a bad verdict")


def test_the_edge_cases_hold_here_and_leave_nothing(tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, str(ROOT / "test_edge_cases.py")],
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert told.stdout.count("OK") == 2
    assert list(tmp_path.iterdir()) == []
