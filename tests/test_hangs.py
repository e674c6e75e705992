"""Hangs: real daemons that stand still, and some that only seem to, under the real watchdog."""

import re
from pathlib import Path

import pytest
from support import Sandbox, wait_for

DAEMON = Path(__file__).with_name("hanging_daemon.py")
POLL = 0.2
# What a busy machine may add to a look.
SLACK = 5.0


def configure(sandbox: Sandbox, kind: str, startup_timeout: float = 60.0) -> None:
    # While it is young, a run whose processor is busy may be compiling.
    at = "300" if kind == "spin" else "30"
    command = ["{python}", str(DAEMON), "--folder", str(sandbox.folder), "--kind", kind, "--hang-at", at]
    sandbox.configure(
        daemon={"command": command},
        progress={
            "status_file": None,
            "heartbeat_file": "heartbeat",
            "timeout": 1.5,
            "startup_timeout": startup_timeout,
            "timeout_cap": 2.0,
        },
        checkpoints={"directory": "checkpoints"},
        watchdog={"poll_interval": POLL},
    )


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("deadlock", "all idle"),
        ("heartbeat", "all idle"),
        ("full_pipe", "all idle"),
        ("spin", "CPU busy"),
        ("frozen_peer", r"frozen: pid \d+ \(.*\) in state T"),
        ("frozen", r"frozen: pid \d+ \(.*\) in state T"),
    ],
)
def test_a_hang_is_found_within_its_limit_and_its_kind_is_told(
    sandbox: Sandbox, kind: str, words: str
) -> None:
    configure(sandbox, kind)
    sandbox.start()
    told = sandbox.wait_for_event("hung")
    found = re.search(r"while training \(limit ([\d.]+) s\); (.*); it is stopped", told["text"])
    assert found, told["text"]
    assert re.match(words, found[2]), told["text"]
    late = told["wall"] - (sandbox.folder / "hung").stat().st_mtime - float(found[1])
    print(f"\n{kind}: limit {found[1]} s, found {late:.2f} s after it", end="")
    assert -POLL <= late <= 2 * POLL + SLACK
    sandbox.wait_for_start(2)
    incident = wait_for(lambda: next(iter(sandbox.incidents()), None))
    assert incident["kind"] == "hang"
    assert found[2] in str(incident["decision"])


def test_a_hang_in_an_evaluation_is_found_by_the_generous_limit(sandbox: Sandbox) -> None:
    configure(sandbox, "evaluation_that_hangs", startup_timeout=4.0)
    sandbox.start()
    assert "while evaluating (limit 4 s)" in sandbox.wait_for_event("hung")["text"]
    sandbox.wait_for_start(2)


@pytest.mark.parametrize(
    ("kind", "work"),
    [("evaluation", "evaluating"), ("idleness", "idle"), ("save", "saving"), ("compile_code", "compiling")],
)
def test_what_only_seems_to_hang_is_left_alone(sandbox: Sandbox, kind: str, work: str) -> None:
    configure(sandbox, kind)
    sandbox.start()
    wait_for((sandbox.folder / "hung").exists, what="the rest")
    wait_for(lambda: run_of(sandbox).get("work") == work, what=work)
    wait_for(lambda: int(str(run_of(sandbox).get("step") or 0)) > 40, what="the steps after the rest")
    wait_for(lambda: run_of(sandbox).get("work") in ("training", "saving"), what="training again")
    assert sandbox.events("hung") == []
    assert len(sandbox.starts()) == 1


def run_of(sandbox: Sandbox) -> dict[str, object]:
    """The run as the watchdog saved it."""
    run: dict[str, object] = sandbox.state().get("run") or {}
    return run
