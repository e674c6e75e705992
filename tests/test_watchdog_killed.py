"""The watchdog is killed at random moments: never two daemons, never one less, and no restart is forgotten."""

import json
import os
import random
import signal
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support import STUB, Sandbox, lives, wait_for

from trainguard import processes
from trainguard.identity import Identity

KILLS = 200
BIRTHS = 150
OVER_LIMIT = 30


def daemons(box: Sandbox) -> list[tuple[Identity, str]]:
    """The processes beyond the gate that are daemons of this sandbox, all alive at one and the same moment."""
    found = []
    for member in box.members():
        mark = processes.read_mark(member.pid)
        if mark is not None and mark.leader == member.pid and str(STUB) in words_of(member.pid):
            found.append((member.identity, mark.run))
    # Each was seen alive in the walk; who is still there after it was there together with all the others.
    return [(identity, run) for identity, run in found if lives(identity)]


def words_of(pid: int) -> tuple[str, ...]:
    return processes.read_command_line(pid)


def runs_alive(box: Sandbox) -> set[str]:
    """The runs of which something beyond the gate lives, workers included, all at one and the same moment."""
    marks = {member.identity: processes.read_mark(member.pid) for member in box.members()}
    return {
        mark.run
        for identity, mark in marks.items()
        if mark is not None and mark.leader is not None and lives(identity)
    }


def kill_daemons(box: Sandbox) -> int:
    """SIGKILL to the daemon, proven by its mark; says how many there were."""
    return sum(processes.send_signal(identity, signal.SIGKILL) for identity, _ in daemons(box))


def is_settled(box: Sandbox) -> bool:
    """Whether the state names the one daemon that lives."""
    state = box.state()
    alive = daemons(box)
    if state.get("phase") != "running" or len(alive) != 1:
        return False
    return bool(state["run"]["identity"]["pid"] == alive[0][0].pid and state["run"]["id"] == alive[0][1])


def has_begun(box: Sandbox, watchdog: "subprocess.Popen[bytes]") -> bool:
    """Whether this watchdog holds the run folder and the daemon lives."""
    try:
        holder = json.loads((box.logs / "watchdog.lock").read_bytes())["identity"]["pid"]
    except (OSError, ValueError):
        return False  # it is being written
    return bool(holder == watchdog.pid) and is_settled(box)


def kill(watchdog: "subprocess.Popen[bytes]") -> None:
    assert watchdog.poll() is None, f"the watchdog ended by itself with {watchdog.returncode}"
    watchdog.kill()
    watchdog.wait()


def assert_nothing_forgotten(before: dict[str, Any], after: dict[str, Any]) -> None:
    """What was counted once is counted still; only a start not through the gate yet may move to a later moment."""
    counted, now_counted = before.get("restarts", []), after.get("restarts", [])
    assert len(now_counted) >= len(counted)
    assert now_counted[: len(counted)][:-1] == counted[:-1]
    assert not counted or now_counted[len(counted) - 1] >= counted[-1]
    assert after.get("runs", 0) >= before.get("runs", 0)


@pytest.mark.timeout(300)
def test_a_watchdog_killed_200_times_never_makes_two_daemons_nor_forgets_a_restart(sandbox: Sandbox) -> None:
    """What can be proven of the count: a start is on record, counted, before its gate opens, and once only.

    The first start is free and every other one that was let through the gate is counted. A start that was
    counted and then lost with its watchdog at the gate stays counted. So
    starts - 1 <= counted restarts <= runs - 1, and of one run there is at most one start.
    """
    chance = random.Random(20260105)
    sandbox.configure(
        "--worker",
        "setsid",
        restart={"max_restarts": 1000, "window": 86400, "rounds": 1000},
        watchdog={"orphan_grace": 0.2},
    )
    before: dict[str, Any] = {}
    watchdog = sandbox.start()
    for number in range(KILLS):
        moment = chance.random()
        if moment < 0.4:
            # While it starts: its interpreter, the lock, the search for a daemon, the adoption or the birth.
            if chance.random() < 0.4:
                kill_daemons(sandbox)
            time.sleep(chance.uniform(0, 0.15))
        elif moment < 0.85:
            # In the midst of a restart: the daemon's death, the clearing, the preparing, the gate, the release.
            wait_for(lambda: is_settled(sandbox), 60, f"kill {number}: settled; {sandbox.output_tail()}")
            if chance.random() < 0.6:
                wait_for(partial(has_begun, sandbox, watchdog), 60, f"kill {number}: {sandbox.output_tail()}")
            assert kill_daemons(sandbox) == 1
            time.sleep(chance.uniform(0, chance.choice((0.05, 0.8))))
        else:
            wait_for(partial(has_begun, sandbox, watchdog), 60, f"kill {number}: {sandbox.output_tail()}")
            time.sleep(chance.uniform(0, 0.2))
        kill(watchdog)
        assert len(daemons(sandbox)) <= 1
        assert len(runs_alive(sandbox)) <= 1
        state = sandbox.state()
        assert_nothing_forgotten(before, state)
        before = state
        watchdog = sandbox.start()
    wait_for(lambda: is_settled(sandbox), 60, f"settled at last; {sandbox.output_tail()}")

    assert sandbox.violations() == ""
    state, starts = sandbox.state(), sandbox.starts()
    assert_nothing_forgotten(before, state)
    runs = [start["run"] for start in starts]
    assert len(set(runs)) == len(runs)
    assert len(starts) - 1 <= len(state["restarts"]) <= state["runs"] - 1
    assert len(starts) > KILLS / 5, "too few restarts were in progress for this to prove anything"
    assert len(sandbox.events("adopted")) > KILLS / 40
    assert "Traceback" not in sandbox.output()


def test_the_limit_holds_however_often_the_watchdog_is_killed(sandbox: Sandbox) -> None:
    """A daemon that dies at once: three restarts and no more, though every watchdog begins anew."""
    chance = random.Random(7)
    sandbox.configure("--exit-at-once", "1", restart={"max_restarts": 3, "window": 86400, "rounds": 1000})
    for _ in range(OVER_LIMIT):
        watchdog = sandbox.start()
        time.sleep(chance.uniform(0.06, 0.2))
        kill(watchdog)
        assert len(sandbox.starts()) <= 4
    watchdog = sandbox.start()
    wait_for(lambda: sandbox.state().get("phase") == "cooling", 30, sandbox.output_tail())
    kill(watchdog)
    assert len(sandbox.state()["restarts"]) == 3
    assert len(sandbox.starts()) <= 4
    assert sandbox.violations() == ""


def be_born(folder: Path, releases: bool) -> None:
    """What the parent does: a child at the gate, the release on record, the gate opened. Never returns."""
    try:
        mark = processes.Mark(folder.name, str(folder), "birth", None)
        environment = processes.environment_of_run(os.environ, {}, mark)
        command = ("/bin/sh", "-c", f"echo $$ > {folder}/ran")
        (folder / "began").touch()
        newborn = processes.stand_at_gate(command, environment, folder, folder / "log")
        if releases:
            (folder / "released").touch()
            newborn.open_gate()
        (folder / "done").touch()
        while True:
            time.sleep(60)
    finally:
        os._exit(1)


def marked_with(folder: Path) -> list[processes.Process]:
    """Every living process of one birth."""
    marks = ((one, processes.read_mark(one.pid)) for one in processes.living(processes.all_processes()))
    return [one for one, mark in marks if mark is not None and mark.folder == str(folder)]


def parent_of_birth(folder: Path, releases: bool) -> int:
    folder.mkdir()
    parent = os.fork()
    if parent == 0:
        be_born(folder, releases)
    return parent


def kill_parent(parent: int) -> None:
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)


def test_nothing_ever_runs_without_its_release_wherever_its_parent_is_killed(tmp_path: Path) -> None:
    chance = random.Random(5)
    parent = parent_of_birth(tmp_path / "measured", releases=True)
    began = time.monotonic()
    wait_for((tmp_path / "measured" / "done").exists)
    whole = time.monotonic() - began
    wait_for((tmp_path / "measured" / "ran").exists)
    kill_parent(parent)
    outcomes = []
    for number in range(BIRTHS):
        folder = tmp_path / f"birth-{number}"
        parent = parent_of_birth(folder, releases=number % 3 != 0)
        time.sleep(chance.uniform(0, 1.5 * whole))
        kill_parent(parent)
        # Whoever stood at the gate reads the end of the pipe and leaves; whoever was let through has run.
        wait_for(lambda folder=folder: not marked_with(folder), what=f"the end of {folder.name}")  # type: ignore[misc]
        released, ran = (folder / "released").exists(), (folder / "ran").exists()
        assert released or not ran, f"{folder.name} ran and nobody had released it"
        outcomes.append(((folder / "began").exists(), released, ran))
    # The moments were spread over the whole protocol.
    assert (True, False, False) in outcomes
    assert (True, True, True) in outcomes


def test_a_child_whose_parent_dies_at_the_gate_leaves_without_having_run(tmp_path: Path) -> None:
    parent = parent_of_birth(tmp_path / "birth", releases=False)
    wait_for((tmp_path / "birth" / "done").exists)
    (child,) = marked_with(tmp_path / "birth")
    kill_parent(parent)
    wait_for(lambda: not lives(child.identity), 10, "the child's leaving")
    assert not (tmp_path / "birth" / "ran").exists()
    assert (tmp_path / "birth" / "log").read_text() == ""
