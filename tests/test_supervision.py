"""Supervision: who runs, who is left, and what the files of a run folder name, on real processes and files."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from disk_faults import mute
from support import STUB, Sandbox, identity_of, lives, wait_for

from trainguard import processes
from trainguard.config import Settings, load_settings
from trainguard.daemon import parse_pid, runs_command
from trainguard.run_folder import Event
from trainguard.supervision import (
    DAY,
    Verdict,
    read_appetite,
    read_incidents,
    read_supervision,
)
from trainguard.system import parse_limits


def settings_of(sandbox: Sandbox) -> Settings:
    return load_settings(sandbox.config)


def wait_for_running(sandbox: Sandbox) -> int:
    """The daemon's pid, once the saved state says that it runs and at which step."""
    wait_for(lambda: (sandbox.state().get("run") or {}).get("step"), what=sandbox.output_tail())
    pid: int = sandbox.state()["run"]["identity"]["pid"]
    return pid


@pytest.mark.parametrize("text", [b"", b"0", b"1", b"-5", b"4x", b"99999999999", b"2147483648", b"4 5"])
def test_what_is_no_process_number_is_none(text: bytes) -> None:
    assert parse_pid(text) is None


def test_a_process_number_may_have_a_line_end() -> None:
    assert parse_pid(b"4127\n") == 4127
    assert parse_pid(b"2147483647") == 2_147_483_647


def test_a_command_is_known_by_its_program_and_all_its_words() -> None:
    command = ("/usr/bin/python", "train.py", "--fast")
    assert runs_command(("python", "train.py", "--fast"), command)
    assert runs_command(("bash", "./run.sh"), ("run.sh",))
    assert not runs_command(("python", "train.py"), command)
    assert not runs_command(("python", "train.py", "--slow"), command)
    assert not runs_command(("vim", "train.py", "--fast"), command)
    assert not runs_command((), command)


def test_a_soft_limit_is_the_first_number_of_its_row() -> None:
    text = "Limit   Soft  Hard  Units\nMax open files            1024                 4096                 files\n"
    assert parse_limits(text).get("Max open files") == 1024
    assert parse_limits(text.replace("1024", "unlimited")).get("Max open files") is None
    assert parse_limits("").get("Max open files") is None


def test_a_run_folder_that_is_not_there_has_nobody(sandbox: Sandbox) -> None:
    sandbox.configure()
    now = read_supervision(settings_of(sandbox))
    assert (now.daemon, now.watchdog, now.leaders, now.orphans, now.twins) == (None, None, (), (), ())
    assert not now.has_state and not now.has_events and now.request is None
    assert read_appetite(settings_of(sandbox)).pid is None
    assert read_incidents(settings_of(sandbox)).folders == 0


def test_a_watched_daemon_and_its_workers_are_no_orphans(sandbox: Sandbox) -> None:
    sandbox.configure("--worker", "setsid", "--worker", "double")
    sandbox.start()
    pid = wait_for_running(sandbox)
    wait_for(lambda: len(sandbox.members()) == 3)
    now = read_supervision(settings_of(sandbox))
    assert now.daemon is not None and now.daemon.pid == pid
    assert now.daemon.run == sandbox.state()["run"]["id"]
    assert [one.pid for one in now.leaders] == [pid]
    assert now.orphans == () and now.twins == ()
    assert now.watchdog is not None and now.watchdog.identity.pid == sandbox.watchdogs[0].pid
    assert now.daemon.output == str(sandbox.logs / "training_output.log")


def test_the_tree_of_a_daemon_is_counted_with_its_memory_and_files(sandbox: Sandbox) -> None:
    sandbox.configure("--worker", "plain")
    sandbox.start()
    pid = wait_for_running(sandbox)
    told = read_appetite(settings_of(sandbox))
    assert told.pid == pid and told.processes == 2
    assert told.memory is not None and told.memory > 1 << 20
    assert told.open_files is not None and told.open_files >= 3
    assert told.open_limit == resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]
    assert told.since_wall is not None and abs(told.since_wall - sandbox.starts()[0]["at"]) < 5


@pytest.fixture
def abandoned(sandbox: Sandbox) -> Sandbox:
    """A sandbox whose watchdog and then whose daemon were killed, with two workers in sessions of their own."""
    sandbox.configure("--worker", "setsid", "--worker", "tensorboard")
    watchdog = sandbox.start()
    pid = wait_for_running(sandbox)
    wait_for(lambda: len(sandbox.members()) == 3)
    daemon = identity_of(pid)
    watchdog.kill()
    watchdog.wait()
    processes.send_signal(daemon, signal.SIGKILL)
    wait_for(lambda: not lives(daemon))
    return sandbox


def test_what_a_dead_daemon_left_is_an_orphan_and_what_is_spared_is_none(abandoned: Sandbox) -> None:
    now = read_supervision(settings_of(abandoned))
    assert now.daemon is None and now.watchdog is None
    kinds = {one.pid: one for one in now.orphans}
    living = {one.pid: one.name for one in abandoned.members()}
    assert set(living.values()) >= {"tensorboard"} and len(living) == 2
    assert set(kinds) == {pid for pid, name in living.items() if name != "tensorboard"}


def test_a_daemon_whose_watchdog_was_killed_is_found_and_has_no_orphans(sandbox: Sandbox) -> None:
    sandbox.configure("--worker", "setsid")
    watchdog = sandbox.start()
    pid = wait_for_running(sandbox)
    watchdog.kill()
    watchdog.wait()
    now = read_supervision(settings_of(sandbox))
    assert now.daemon is not None and now.daemon.pid == pid and now.watchdog is None
    assert now.holder is not None and now.orphans == ()


def test_a_daemon_is_found_by_its_mark_where_the_state_is_lost(sandbox: Sandbox) -> None:
    sandbox.configure("--worker", "setsid")
    watchdog = sandbox.start()
    pid = wait_for_running(sandbox)
    watchdog.kill()
    watchdog.wait()
    (sandbox.logs / "state.json").write_text('{"phase": "runn')
    now = read_supervision(settings_of(sandbox))
    assert now.state_problem is not None and "cannot be read" in now.state_problem
    assert now.daemon is not None and now.daemon.pid == pid
    assert now.orphans == ()


@pytest.fixture
def strangers(sandbox: Sandbox) -> Iterator[Sandbox]:
    sandbox.configure(daemon={"pid_file": "daemon.pid"})
    sandbox.logs.mkdir()
    yield sandbox


def start_by_hand(sandbox: Sandbox) -> int:
    command = [sys.executable, str(STUB), "--folder", str(sandbox.folder)]
    child = subprocess.Popen(command, cwd=sandbox.folder, stdin=subprocess.DEVNULL)
    sandbox.strangers.append(child)
    sandbox.wait_for_start()
    return child.pid


def test_the_same_command_in_the_same_folder_is_a_twin(strangers: Sandbox) -> None:
    pid = start_by_hand(strangers)
    now = read_supervision(settings_of(strangers))
    assert [one.pid for one in now.twins] == [pid]
    assert now.daemon is None and now.orphans == ()


def test_the_same_command_in_another_folder_is_none(strangers: Sandbox, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    strangers.configure(daemon={"directory": str(elsewhere)})
    start_by_hand(strangers)
    assert read_supervision(settings_of(strangers)).twins == ()


def verdict(sandbox: Sandbox) -> tuple[Verdict, str]:
    named = read_supervision(settings_of(sandbox)).pid_file
    assert named is not None
    return named.verdict, named.text


def test_a_pid_file_is_missing_or_garbage_or_no_file(strangers: Sandbox) -> None:
    file = strangers.folder / "daemon.pid"
    assert verdict(strangers)[0] is Verdict.MISSING
    file.write_text("four\n")
    assert verdict(strangers) == (Verdict.GARBAGE, "holds 'four', which is no process's number")
    file.unlink()
    os.mkfifo(file)
    assert verdict(strangers)[0] is Verdict.UNREADABLE
    file.unlink()
    file.symlink_to("/proc/self/stat")
    assert verdict(strangers)[0] is Verdict.UNREADABLE


def test_a_pid_file_names_a_dead_process(strangers: Sandbox) -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    (strangers.folder / "daemon.pid").write_text(f"{child.pid}\n")
    assert verdict(strangers) == (Verdict.DEAD, f"names pid {child.pid}, which does not run")


def test_a_pid_file_names_a_stranger(strangers: Sandbox) -> None:
    child = subprocess.Popen(["sleep", "60"])
    strangers.strangers.append(child)
    (strangers.folder / "daemon.pid").write_text(str(child.pid))
    found, text = verdict(strangers)
    assert found is Verdict.STRANGER
    assert f"names pid {child.pid} (sleep), which is not the daemon" in text


def test_a_pid_file_names_the_watched_daemon_or_another_beside_it(sandbox: Sandbox) -> None:
    sandbox.configure(daemon={"pid_file": "daemon.pid"})
    sandbox.start()
    pid = wait_for_running(sandbox)
    (sandbox.folder / "daemon.pid").write_text(str(pid))
    assert verdict(sandbox)[0] is Verdict.DAEMON
    (sandbox.folder / "daemon.pid").write_text(str(sandbox.watchdogs[0].pid))
    found, text = verdict(sandbox)
    assert found is Verdict.STRANGER and text.endswith(f"which is not the daemon (pid {pid})")


def test_a_daemon_started_by_hand_that_its_pid_file_names_would_be_adopted(strangers: Sandbox) -> None:
    pid = start_by_hand(strangers)
    (strangers.folder / "daemon.pid").write_text(str(pid))
    assert verdict(strangers) == (Verdict.DAEMON, f"names pid {pid}, which a watchdog would adopt")
    assert read_supervision(settings_of(strangers)).twins == ()


def test_a_zombie_is_no_recorded_daemon(sandbox: Sandbox) -> None:
    sandbox.configure()
    watchdog = sandbox.start()
    pid = wait_for_running(sandbox)
    daemon = identity_of(pid)
    watchdog.send_signal(signal.SIGSTOP)
    processes.send_signal(daemon, signal.SIGKILL)
    wait_for(lambda: (row := processes.read_process(pid)) is not None and row.state == "Z")
    now = read_supervision(settings_of(sandbox))
    assert now.recorded is None and now.daemon is None and now.leaders == ()


def test_a_pid_file_on_a_dead_mount_hides_nothing_else(strangers: Sandbox, tmp_path: Path) -> None:
    pid = start_by_hand(strangers)
    with mute(tmp_path / "dead") as dead:
        strangers.configure(daemon={"pid_file": str(dead / "daemon.pid")})
        now = read_supervision(settings_of(strangers))
    assert now.pid_file is not None and now.pid_file.verdict is Verdict.UNREADABLE
    assert "no answer within" in now.pid_file.text
    assert [one.pid for one in now.twins] == [pid]


def test_a_request_that_waits_is_seen_also_one_that_nobody_understands(strangers: Sandbox) -> None:
    file = strangers.logs / "request.json"
    file.write_text('{"request": "pause"}')
    asked = read_supervision(settings_of(strangers)).request
    assert asked is not None and asked.asked == "pause" and abs(asked.since_wall - time.time()) < 30
    file.write_text('{"reque')
    damaged = read_supervision(settings_of(strangers)).request
    assert damaged is not None and damaged.asked is None
    file.unlink()
    file.symlink_to("/nowhere")
    linked = read_supervision(settings_of(strangers)).request
    assert linked is not None and linked.asked is None


def test_incidents_are_read_with_their_causes_and_damaged_ones_are_named(sandbox: Sandbox) -> None:
    sandbox.configure("--exit-at", "3", "--exit-code", "7")
    sandbox.start()
    wait_for(lambda: len(sandbox.incidents()) == 1)
    broken = sandbox.logs / "incidents" / "5-1"
    broken.mkdir()
    (broken / "incident.json").write_text("{")
    told = read_incidents(settings_of(sandbox))
    assert told.folders == 2 and told.damaged == ("5-1",)
    assert [one.kind for one in told.rows] == ["crash"]
    assert abs(told.rows[0].wall - time.time()) < 60
    assert read_incidents(settings_of(sandbox), at_most=1).damaged == ()


def test_restarts_of_the_last_day_are_counted_from_the_events(strangers: Sandbox) -> None:
    ages = {"restarted": (DAY + 60, DAY - 60, 5), "started": (10,), "reloaded": (4, 3), "left": (2,)}
    told = [(age, name) for name, each in ages.items() for age in each]
    wall = time.time()
    events = [Event(wall - age, name, "OK", name) for age, name in sorted(told, reverse=True)]
    lines = b"".join(msgspec.json.encode(event) + b"\n" for event in events)
    (strangers.logs / "events.jsonl").write_bytes(lines + b"torn")
    now = read_supervision(settings_of(strangers))
    assert now.restarts_day == 2 and now.has_events
    assert now.last_event is not None and now.last_event.event == "left"
    assert now.reloaded_wall == wall - 3 and now.parked_wall is None
