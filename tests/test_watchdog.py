"""The watchdog, from outside: real daemons die, hang and leave processes behind; what a user sees is looked at."""

import hashlib
import itertools
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from stub_daemon import save
from support import ROOT, STUB, WATCHDOG, Sandbox, identity_of, lives, wait_for

from trainguard import processes
from trainguard.identity import Identity

CHECKPOINTS = {"directory": "checkpoints"}
KERNEL = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])


def send(pid: int, number: int) -> Identity:
    """Signal a process of the sandbox; who it was."""
    identity = identity_of(pid)
    assert processes.send_signal(identity, number)
    return identity


def wait_until_dead(identity: Identity, limit: float = 20.0) -> None:
    wait_for(lambda: not lives(identity), limit, f"the end of pid {identity.pid}")


def wait_for_step(sandbox: Sandbox, step: int) -> None:
    """Wait until the stub has told that step in its status file."""

    def told() -> bool:
        file = sandbox.folder / "status.json"
        return file.exists() and json.loads(file.read_bytes())["current_step"] >= step

    wait_for(told, what=f"step {step}; {sandbox.output_tail()}")


def wait_for_workers(sandbox: Sandbox, count: int) -> list[Identity]:
    """Wait until that many workers have begun; who they are."""
    file = sandbox.folder / "workers.jsonl"
    wait_for(lambda: file.exists() and file.read_text().count("\n") >= count, what=f"{count} workers")
    return [identity_of(json.loads(line)["pid"]) for line in file.read_text().splitlines()]


def wait_for_looks(sandbox: Sandbox, count: int = 3) -> None:
    """Wait until the watchdog has looked that many times more."""
    for _ in range(count):
        before = sandbox.state().get("looked_at")
        wait_for(lambda before=before: sandbox.state().get("looked_at") != before, what="another look")


def wait_for_incident(sandbox: Sandbox, number: int = 0, **wanted: object) -> dict[str, object]:
    """Wait until the incident of that number says all that is wanted."""

    def found() -> dict[str, object] | None:
        incidents = sandbox.incidents()
        if len(incidents) <= number or any(
            incidents[number][name] != value for name, value in wanted.items()
        ):
            return None
        return incidents[number]

    incident = wait_for(found, what=f"incident {number} with {wanted}; {sandbox.incidents()}")
    assert incident is not None
    return incident


def command_of(pid: int) -> list[str]:
    return list(processes.read_command_line(pid))


def ends(watchdog: "subprocess.Popen[bytes]") -> int:
    """The exit code of a watchdog that is about to end."""
    return watchdog.wait(timeout=30)


def start_by_hand(sandbox: Sandbox, *arguments: str) -> Identity:
    """A daemon that no watchdog started, with the PID file that its start script would have written."""
    command = [sys.executable, str(STUB), "--folder", str(sandbox.folder), *arguments]
    child = subprocess.Popen(command, cwd=sandbox.folder, start_new_session=True)
    sandbox.strangers.append(child)
    (sandbox.folder / "daemon.pid").write_text(f"{child.pid}\n")
    sandbox.wait_for_start()
    return identity_of(child.pid)


def tree_of(folder: Path) -> dict[str, str]:
    """Every file and folder below, with a hash of its content."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }


# --- restarts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV], ids=lambda number: number.name)
def test_a_daemon_that_died_of_a_signal_is_started_again_at_its_newest_checkpoint(
    sandbox: Sandbox, number: signal.Signals
) -> None:
    sandbox.configure(checkpoints=CHECKPOINTS)
    sandbox.start()
    first = sandbox.wait_for_start()
    wait_for_step(sandbox, 25)
    dead = send(first["pid"], number)
    second = sandbox.wait_for_start(2)
    assert not lives(dead)
    assert second["pid"] != first["pid"]
    assert second["step"] >= 20
    assert second["run"] != first["run"]
    incident = wait_for_incident(sandbox, closed=True)
    assert (incident["kind"], incident["pid"]) == ("crash", first["pid"])
    assert incident["ending"] == {"exit_code": None, "signal": number.name, "unknown": False, "text": ""}
    assert f"died of {number.name}" in sandbox.events("crashed")[0]["text"]
    assert f"at checkpoint {second['step']}" in sandbox.events("restarted")[0]["text"]
    assert sandbox.violations() == ""


def test_a_daemon_that_ended_with_exit_code_1_is_started_again(sandbox: Sandbox) -> None:
    sandbox.configure("--exit-at", "5")
    sandbox.start()
    sandbox.wait_for_start(2)
    incident = wait_for_incident(sandbox, closed=True)
    assert incident["ending"]["exit_code"] == 1
    assert sandbox.status()["restarts_left"] == 2


def test_nothing_is_started_again_after_exit_code_0_until_a_person_says_start(sandbox: Sandbox) -> None:
    sandbox.configure("--steps", "5")
    assert ends(sandbox.start()) == 0
    assert [event["event"] for event in sandbox.events()] == ["started", "finished"]
    told = sandbox.status()
    assert (told["phase"], told["status"], told["step"]) == ("finished", "OK", 5)
    for arguments in ((), ("--ensure",)):
        answer = sandbox.call(*arguments)
        assert answer.returncode == 0, answer.stderr
        assert "finished" in answer.stdout
    assert len(sandbox.starts()) == 1
    assert sandbox.incidents() == []
    assert sandbox.call("--start").returncode == 0
    assert len(sandbox.starts()) == 2


def test_exit_code_0_is_followed_by_a_restart_where_the_daemon_should_never_end(sandbox: Sandbox) -> None:
    sandbox.configure("--steps", "3", restart={"after_success": True})
    sandbox.start()
    sandbox.wait_for_start(2)
    assert wait_for_incident(sandbox)["kind"] == "exit"


def test_the_newest_checkpoint_is_the_one_of_the_highest_step(sandbox: Sandbox) -> None:
    for step in (9, 90, 100):
        save(sandbox.folder / "checkpoints" / f"checkpoint-{step}", step)
    sandbox.configure(checkpoints=CHECKPOINTS)
    sandbox.start()
    assert "at checkpoint 100" in sandbox.wait_for_event("started")["text"]
    assert sandbox.wait_for_start()["step"] == 100


def test_a_daemon_that_cannot_be_started_is_an_incident_and_counts(sandbox: Sandbox) -> None:
    work = sandbox.folder / "work"
    work.mkdir()
    sandbox.configure(daemon={"directory": "work"})
    sandbox.start()
    first = sandbox.wait_for_start()
    work.rmdir()
    send(first["pid"], signal.SIGKILL)
    sandbox.wait_for_event("limit")
    assert str(work) in wait_for_incident(sandbox, 1)["ending"]["text"]
    assert sandbox.status()["restarts_left"] == 0
    assert len(sandbox.starts()) == 1


def test_no_more_than_three_restarts_are_made_in_the_window_also_by_the_next_watchdog(
    sandbox: Sandbox,
) -> None:
    sandbox.configure("--exit-at-once", "1")
    watchdog = sandbox.start()
    sandbox.wait_for_event("limit")
    wait_for_looks(sandbox)
    told = sandbox.status()
    assert (told["phase"], told["restarts_left"], told["status"]) == ("cooling", 0, "ATTENTION")
    assert 200 < told["seconds_to_next_try"] <= 300
    assert len(sandbox.starts()) == 4
    watchdog.kill()
    ends(watchdog)
    assert sandbox.call("--status").returncode == 2
    assert sandbox.call("--once").returncode == 1
    assert len(sandbox.starts()) == 4
    assert "3 restarts within 300 s are the limit" in sandbox.incidents()[-1]["decision"]


def test_it_cools_tries_parks_and_begins_anew_once_mended_and_resumed(sandbox: Sandbox) -> None:
    limits = {"max_restarts": 1, "window": 1.0, "rounds": 1}
    sandbox.configure("--exit-at-once", "1", restart=limits)
    watchdog = sandbox.start()
    sandbox.wait_for_event("parked")
    assert len(sandbox.events("limit")) == 1
    starts = sandbox.starts()
    assert len(starts) == 3
    first, second = (event["wall"] for event in sandbox.events("restarted"))
    assert second - first > 0.7
    answer = sandbox.call("--status")
    assert answer.returncode == 2
    assert "parked" in answer.stdout
    sandbox.configure(restart=limits)
    watchdog.send_signal(signal.SIGHUP)
    wait_for(lambda: "was read again" in sandbox.output(), what="the new settings")
    assert sandbox.call("--resume").returncode == 0
    sandbox.wait_for_start(4)
    wait_for_step(sandbox, 3)
    assert sandbox.call("--status").returncode == 0


def test_a_parked_daemon_is_tried_again_now_and_then(sandbox: Sandbox) -> None:
    limits = {"max_restarts": 1, "window": 0.5, "rounds": 1, "parked_retry": 1.0}
    sandbox.configure("--exit-at-once", "1", restart=limits)
    sandbox.start()
    sandbox.wait_for_event("parked", 3)
    walls = [event["wall"] for event in sandbox.events("parked")]
    assert all(later - earlier > 0.8 for earlier, later in itertools.pairwise(walls))
    assert len(sandbox.starts()) == 5


# --- what a dead daemon leaves behind ---------------------------------------------------------------------------


def test_every_kind_of_worker_is_gone_before_the_next_start(sandbox: Sandbox) -> None:
    kinds = ("plain", "setsid", "double", "stubborn")
    sandbox.configure(*(word for kind in kinds for word in ("--worker", kind)))
    sandbox.start()
    first = sandbox.wait_for_start()
    workers = wait_for_workers(sandbox, 4)
    send(first["pid"], signal.SIGKILL)
    assert sandbox.wait_for_start(2)["left"] == []
    assert not any(map(lives, workers))
    told = {one["pid"] for one in wait_for_incident(sandbox)["orphans"]}
    assert told == {worker.pid for worker in workers}
    assert sandbox.violations() == ""


def test_a_spared_program_is_left_alone_and_delays_nothing(sandbox: Sandbox) -> None:
    sandbox.configure("--worker", "tensorboard", "--worker", "setsid")
    sandbox.start()
    first = sandbox.wait_for_start()
    workers = wait_for_workers(sandbox, 2)
    send(first["pid"], signal.SIGKILL)
    second = sandbox.wait_for_start(2)
    assert len(second["left"]) == 1
    spared = next(worker for worker in workers if worker.pid == second["left"][0])
    process = processes.read_process(spared.pid)
    assert process is not None
    assert process.name == "tensorboard"


def test_with_orphans_report_nothing_is_signalled_and_nothing_started_while_they_live(
    sandbox: Sandbox,
) -> None:
    sandbox.configure("--worker", "setsid", watchdog={"orphans": "report"})
    sandbox.start()
    first = sandbox.wait_for_start()
    (worker,) = wait_for_workers(sandbox, 1)
    send(first["pid"], signal.SIGKILL)
    assert f"pid {worker.pid}" in sandbox.wait_for_event("orphans")["text"]
    wait_for_looks(sandbox)
    assert sandbox.call("--status").returncode == 1
    assert lives(worker)
    assert len(sandbox.starts()) == 1
    send(worker.pid, signal.SIGKILL)
    assert sandbox.wait_for_start(2)["left"] == []


# --- the watchdog ends, the daemon goes on ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name
)
def test_a_watchdog_that_ends_leaves_the_daemon_and_the_next_one_adopts_it(
    sandbox: Sandbox, number: signal.Signals
) -> None:
    sandbox.configure()
    watchdog = sandbox.start()
    first = sandbox.wait_for_start()
    wait_for_step(sandbox, 3)
    assert os.getsid(first["pid"]) == first["pid"]
    watchdog.send_signal(number)
    assert ends(watchdog) == (-9 if number == signal.SIGKILL else 0)
    told = sandbox.status()
    assert (told["watchdog"], told["pid"], told["status"]) == (None, first["pid"], "ATTENTION")
    sandbox.start()
    assert f"pid {first['pid']}" in sandbox.wait_for_event("adopted")["text"]
    assert len(sandbox.starts()) == 1
    send(first["pid"], signal.SIGKILL)
    sandbox.wait_for_start(2)
    assert sandbox.violations() == ""


def test_the_daemon_is_adopted_also_after_logs_was_deleted(sandbox: Sandbox) -> None:
    sandbox.configure("--worker", "setsid")
    watchdog = sandbox.start()
    first = sandbox.wait_for_start()
    wait_for_step(sandbox, 3)
    workers = wait_for_workers(sandbox, 1)
    watchdog.kill()
    ends(watchdog)
    shutil.rmtree(sandbox.logs)
    sandbox.start()
    assert f"pid {first['pid']}" in sandbox.wait_for_event("adopted")["text"]
    send(first["pid"], signal.SIGKILL)
    assert sandbox.wait_for_start(2)["left"] == []
    assert not any(map(lives, workers))
    assert sandbox.violations() == ""


def test_the_daemon_is_adopted_also_where_the_state_cannot_be_read(sandbox: Sandbox) -> None:
    sandbox.configure()
    watchdog = sandbox.start()
    first = sandbox.wait_for_start()
    wait_for_step(sandbox, 3)
    watchdog.kill()
    ends(watchdog)
    (sandbox.logs / "state.json").write_text('{"phase": ')
    assert sandbox.call("--status").returncode == 1
    sandbox.start()
    assert f"pid {first['pid']}" in sandbox.wait_for_event("adopted")["text"]
    assert list(sandbox.logs.glob("state.json.broken-*"))
    assert len(sandbox.starts()) == 1


def test_a_second_watchdog_is_refused_and_told_who_holds_the_folder(sandbox: Sandbox) -> None:
    sandbox.configure()
    watchdog = sandbox.start()
    sandbox.wait_for_start()
    answer = sandbox.call()
    assert answer.returncode == 3
    assert f"pid {watchdog.pid}" in answer.stderr + answer.stdout
    assert len(sandbox.starts()) == 1
    assert watchdog.poll() is None


def test_what_a_daemon_left_that_died_unwatched_is_stopped_before_one_counted_start(sandbox: Sandbox) -> None:
    sandbox.configure("--worker", "setsid", "--worker", "double", "--worker", "stubborn")
    watchdog = sandbox.start()
    first = sandbox.wait_for_start()
    workers = wait_for_workers(sandbox, 3)
    wait_for_step(sandbox, 3)
    watchdog.kill()
    ends(watchdog)
    send(first["pid"], signal.SIGKILL)
    sandbox.start()
    assert sandbox.wait_for_start(2)["left"] == []
    assert not any(map(lives, workers))
    sandbox.wait_for_event("restarted")
    told = sandbox.status()
    assert (told["restarts_left"], told["incidents"]) == (2, 1)
    assert len(sandbox.starts()) == 2
    assert sandbox.violations() == ""


def test_a_watchdog_whose_logs_are_deleted_makes_them_anew_and_goes_on(sandbox: Sandbox) -> None:
    sandbox.configure()
    watchdog = sandbox.start()
    first = sandbox.wait_for_start()
    wait_for_step(sandbox, 3)
    away = sandbox.logs.rename(sandbox.folder / "away")
    shutil.rmtree(away)
    wait_for(lambda: sandbox.state().get("run"), what="a new state")
    assert sandbox.call().returncode == 3
    told = sandbox.status()
    assert (told["watchdog"], told["pid"]) == (watchdog.pid, first["pid"])
    send(first["pid"], signal.SIGKILL)
    sandbox.wait_for_start(2)
    assert wait_for_incident(sandbox)["ending"]["signal"] == "SIGKILL"
    assert sandbox.violations() == ""


# --- hangs -----------------------------------------------------------------------------------------------------


def test_a_hung_daemon_is_stopped_and_started_again(sandbox: Sandbox) -> None:
    sandbox.configure(
        "--hang-at", "12", progress={"timeout": 1.5, "startup_timeout": 3}, checkpoints=CHECKPOINTS
    )
    sandbox.start()
    second = sandbox.wait_for_start(2)
    assert second["step"] == 10
    incident = wait_for_incident(sandbox, closed=True)
    assert (incident["kind"], incident["step"]) == ("hang", 11)
    assert incident["ending"]["signal"] == "SIGTERM"
    assert "(limit " in sandbox.events("hung")[0]["text"]
    assert incident["standstill"]["kind"] == "all_idle"
    assert "(stub_daemon.py:" in incident["standstill"]["sentence"]
    assert "main" in (sandbox.logs / "incidents" / incident["id"] / "stacks.txt").read_text()
    assert "SIGTERM" in sandbox.events("signal")[0]["text"]
    assert sandbox.violations() == ""


def test_a_stopped_process_hangs_and_is_replaced(sandbox: Sandbox) -> None:
    sandbox.configure(progress={"timeout": 1.5, "startup_timeout": 3})
    sandbox.start()
    first = sandbox.wait_for_start()
    wait_for_step(sandbox, 5)
    send(first["pid"], signal.SIGSTOP)
    sandbox.wait_for_start(2)
    assert wait_for_incident(sandbox, kind="hang")["ending"]["signal"] == "SIGTERM"


def test_in_observe_mode_a_hang_is_told_once_and_nothing_is_done(sandbox: Sandbox) -> None:
    sandbox.configure("--hang-at", "5", progress={"timeout": 1.0, "startup_timeout": 3, "mode": "observe"})
    sandbox.start()
    first = sandbox.wait_for_start()
    daemon = identity_of(first["pid"])
    sandbox.wait_for_event("hung")
    wait_for_looks(sandbox, 5)
    assert lives(daemon)
    assert len(sandbox.events("hung")) == 1
    assert sandbox.events("signal") == sandbox.incidents() == []
    told = sandbox.status()
    assert "no new step" in told["reason"] and told["status"] == "BAD"


def test_a_hung_daemon_that_ignores_sigterm_gets_sigkill(sandbox: Sandbox) -> None:
    sandbox.configure(
        "--hang-at",
        "5",
        "--ignore-term",
        progress={"timeout": 1.0, "startup_timeout": 3},
        daemon={"stop": [["SIGTERM", 0.5], ["SIGKILL", 5]]},
    )
    sandbox.start()
    sandbox.wait_for_start(2)
    assert wait_for_incident(sandbox, kind="hang")["ending"]["signal"] == "SIGKILL"
    signals = [event["text"].partition(" to ")[0].rpartition(" ")[2] for event in sandbox.events("signal")]
    assert signals[:2] == ["SIGTERM", "SIGKILL"]


@contextmanager
def growing(file: Path) -> Iterator[None]:
    """A file that grows for as long as this lasts, as one does that is being saved."""
    over = threading.Event()

    def grow() -> None:
        with file.open("ab", buffering=0) as stream:
            while not over.wait(0.02):
                stream.write(b"weights")

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        yield
    finally:
        over.set()
        writer.join()


def test_sigkill_is_held_back_while_a_checkpoint_grows_but_not_for_ever(sandbox: Sandbox) -> None:
    sandbox.configure(
        "--hang-at",
        "12",
        "--ignore-term",
        progress={"timeout": 1.0, "startup_timeout": 3},
        checkpoints={**CHECKPOINTS, "save_timeout": 1.5},
        daemon={"stop": [["SIGTERM", 0.5], ["SIGKILL", 5]]},
    )
    sandbox.start()
    first = sandbox.wait_for_start()
    daemon = identity_of(first["pid"])
    wait_for((sandbox.folder / "hung").exists, what="the hang")
    with growing(sandbox.folder / "checkpoints" / "checkpoint-10" / "model.safetensors.tmp"):
        sandbox.wait_for_event("saving")
        assert lives(daemon)
        sandbox.wait_for_start(2)
    held = sandbox.events("saving")[0]["wall"]
    killed = next(event["wall"] for event in sandbox.events("signal") if "SIGKILL" in event["text"])
    assert killed - held > 1.2
    assert not lives(daemon)


# --- endings of a daemon that is not our child --------------------------------------------------------------------


@pytest.mark.parametrize("watched", [True, False], ids=["watched", "unwatched"])
def test_an_adopted_daemon_that_reached_its_last_step_has_finished(sandbox: Sandbox, watched: bool) -> None:
    sandbox.configure("--steps", "100")
    watchdog = sandbox.start()
    first = sandbox.wait_for_start()
    wait_for_step(sandbox, 3)
    watchdog.kill()
    ends(watchdog)
    if not watched:
        daemon = processes.read_process(first["pid"])
        wait_for(lambda: daemon is None or not lives(daemon.identity), what="the last step")
    assert ends(sandbox.start()) == 0
    assert sandbox.status()["phase"] == "finished"
    assert len(sandbox.starts()) == 1
    assert sandbox.incidents() == []


def test_an_adopted_daemons_exit_code_is_told_where_the_kernel_keeps_it(sandbox: Sandbox) -> None:
    arguments = ("--exit-at", "60", "--exit-code", "7")
    sandbox.configure(*arguments, daemon={"pid_file": "daemon.pid"})
    daemon = start_by_hand(sandbox, *arguments)
    sandbox.start()
    sandbox.wait_for_event("adopted")
    child = sandbox.strangers[0]
    wait_for(lambda: child.poll() is not None, what=f"the end of pid {daemon.pid}")
    sandbox.wait_for_start(2)
    ending = wait_for_incident(sandbox)["ending"]
    assert ending["exit_code"] == 7 or KERNEL < (6, 15), ending


@pytest.mark.skipif(KERNEL < (6, 15), reason="this kernel keeps no exit status for others")
def test_an_adopted_daemon_that_ended_with_exit_code_0_has_finished_at_any_step(sandbox: Sandbox) -> None:
    arguments = ("--exit-at", "60", "--exit-code", "0")
    sandbox.configure(*arguments, daemon={"pid_file": "daemon.pid"})
    start_by_hand(sandbox, *arguments)
    watchdog = sandbox.start()
    sandbox.wait_for_event("adopted")
    sandbox.strangers[0].wait()
    assert ends(watchdog) == 0
    assert sandbox.status()["phase"] == "finished"
    assert len(sandbox.starts()) == 1


# --- PID files --------------------------------------------------------------------------------------------------


def test_a_command_that_forks_away_hands_over_to_the_process_that_its_pid_file_names(
    sandbox: Sandbox,
) -> None:
    file = sandbox.folder / "daemon.pid"
    sandbox.configure("--fork-away", str(file), daemon={"pid_file": "daemon.pid"})
    sandbox.start()
    sandbox.wait_for_event("handed_over")
    wait_for_step(sandbox, 5)
    wait_for(lambda: sandbox.status()["pid"] == int(file.read_text()), what="the right pid")
    first = int(file.read_text())
    assert len(sandbox.starts()) == 1
    send(first, signal.SIGKILL)
    sandbox.wait_for_start(2)
    assert wait_for_incident(sandbox)["ending"]["signal"] == "SIGKILL"
    wait_for(lambda: int(file.read_text() or first) != first, what="a new daemon")
    assert sandbox.violations() == ""


def test_a_daemon_that_forked_away_is_adopted_and_restarted_by_the_next_watchdog(sandbox: Sandbox) -> None:
    file = sandbox.folder / "daemon.pid"
    sandbox.configure("--fork-away", str(file), daemon={"pid_file": "daemon.pid"})
    watchdog = sandbox.start()
    sandbox.wait_for_event("handed_over")
    wait_for(lambda: sandbox.status()["pid"] == int(file.read_text() or 0), what="the right pid")
    first = int(file.read_text())
    watchdog.kill()
    ends(watchdog)
    shutil.rmtree(sandbox.logs)
    sandbox.start()
    assert f"pid {first}" in sandbox.wait_for_event("adopted")["text"]
    send(first, signal.SIGKILL)
    sandbox.wait_for_start(2)
    assert sandbox.violations() == ""


def test_a_watchdog_that_died_while_stopping_a_hung_daemon_is_followed_by_one_that_goes_on(
    sandbox: Sandbox,
) -> None:
    sandbox.configure(
        "--hang-at",
        "5",
        "--ignore-term",
        "--worker",
        "stubborn",
        progress={"timeout": 1.0, "startup_timeout": 2},
        daemon={"stop": [["SIGTERM", 2], ["SIGKILL", 5]]},
    )
    watchdog = sandbox.start()
    first = sandbox.wait_for_start()
    daemon = identity_of(first["pid"])
    sandbox.wait_for_event("signal")
    watchdog.kill()
    ends(watchdog)
    assert lives(daemon)
    sandbox.start()
    assert sandbox.wait_for_start(2)["left"] == []
    assert not lives(daemon)
    assert wait_for_incident(sandbox)["kind"] == "hang"
    assert sandbox.violations() == ""


def test_a_daemon_started_by_hand_is_adopted_by_its_pid_file_and_restarted_without_its_orphans(
    sandbox: Sandbox,
) -> None:
    arguments = ("--worker", "plain", "--worker", "setsid", "--worker", "stubborn")
    sandbox.configure(*arguments, daemon={"pid_file": "daemon.pid"})
    daemon = start_by_hand(sandbox, *arguments)
    workers = wait_for_workers(sandbox, 3)
    sandbox.start()
    assert f"pid {daemon.pid}, which its PID file names" in sandbox.wait_for_event("adopted")["text"]
    wait_for(lambda: len(sandbox.state()["descendants"]) >= 3, what="the workers on record")
    assert len(sandbox.starts()) == 1
    send(daemon.pid, signal.SIGKILL)
    sandbox.strangers[0].wait()
    assert sandbox.wait_for_start(2)["left"] == []
    assert not any(map(lives, workers))
    assert sandbox.violations() == ""


def test_a_pid_file_that_names_a_stranger_is_ignored(sandbox: Sandbox) -> None:
    stranger = subprocess.Popen(["sleep", "600"], cwd=sandbox.folder)
    sandbox.strangers.append(stranger)
    (sandbox.folder / "daemon.pid").write_text(str(stranger.pid))
    sandbox.configure(daemon={"pid_file": "daemon.pid"})
    sandbox.start()
    first = sandbox.wait_for_start()
    send(first["pid"], signal.SIGKILL)
    sandbox.wait_for_start(2)
    assert stranger.poll() is None
    assert "which is not the daemon" in sandbox.output()


# --- commands ---------------------------------------------------------------------------------------------------


def test_status_tells_how_it_stands_in_words_and_in_its_exit_code(sandbox: Sandbox) -> None:
    sandbox.configure()
    answer = sandbox.call("--status")
    assert answer.returncode == 0
    assert "nothing was started yet" in answer.stdout
    assert not sandbox.logs.exists()
    watchdog = sandbox.start()
    first = sandbox.wait_for_start()
    wait_for_step(sandbox, 3)
    wait_for_looks(sandbox)
    answer = sandbox.call("--status")
    assert answer.returncode == 0
    for part in ("running", f"pid {first['pid']}", f"pid {watchdog.pid}", "of 100000", "loss"):
        assert part in answer.stdout
    watchdog.kill()
    ends(watchdog)
    answer = sandbox.call("--status")
    assert answer.returncode == 1
    assert "unwatched" in answer.stdout
    wait_until_dead(send(first["pid"], signal.SIGKILL))
    answer = sandbox.call("--status")
    assert answer.returncode == 2
    assert "--ensure starts both" in answer.stdout


def test_once_starts_or_adopts_and_leaves_the_daemon_running(sandbox: Sandbox) -> None:
    sandbox.configure()
    assert sandbox.call("--once").returncode == 0
    first = sandbox.wait_for_start()
    daemon = identity_of(first["pid"])
    wait_for_step(sandbox, 3)
    assert sandbox.call("--once").returncode == 0
    assert lives(daemon)
    assert len(sandbox.starts()) == 1
    wait_until_dead(send(first["pid"], signal.SIGKILL))
    assert sandbox.call("--once").returncode == 0
    sandbox.wait_for_start(2)
    assert sandbox.violations() == ""


def test_dry_run_tells_the_plan_and_changes_nothing(sandbox: Sandbox) -> None:
    sandbox.configure("--worker", "stubborn")
    before = tree_of(sandbox.folder)
    answer = sandbox.call("--dry-run")
    assert answer.returncode == 0
    assert "would start" in answer.stdout
    assert tree_of(sandbox.folder) == before
    watchdog = sandbox.start()
    first = sandbox.wait_for_start()
    (worker,) = wait_for_workers(sandbox, 1)
    wait_for_step(sandbox, 3)
    watchdog.kill()
    ends(watchdog)
    answer = sandbox.call("--dry-run")
    assert "then: running" in answer.stdout
    wait_until_dead(send(first["pid"], signal.SIGKILL))
    before = tree_of(sandbox.folder)
    answer = sandbox.call("--dry-run")
    assert f"would send SIGTERM to pid {worker.pid}" in answer.stdout
    assert tree_of(sandbox.folder) == before
    assert lives(worker)


def test_ensure_starts_one_watchdog_in_the_background(sandbox: Sandbox) -> None:
    sandbox.configure()
    assert sandbox.call("--ensure").returncode == 0
    sandbox.wait_for_start()
    told = sandbox.status()
    holder = identity_of(told["watchdog"])
    assert os.getsid(holder.pid) == holder.pid
    assert sandbox.call("--ensure").returncode == 0
    assert sandbox.status()["watchdog"] == holder.pid
    assert len(sandbox.starts()) == 1
    assert "started as pid" in (sandbox.logs / "watchdog.log").read_text()
    processes.send_signal(holder, signal.SIGTERM)
    wait_until_dead(holder)


def test_stop_lasts_until_start_and_leaves_the_daemon_running(sandbox: Sandbox) -> None:
    sandbox.configure()
    watchdog = sandbox.start()
    first = sandbox.wait_for_start()
    daemon = identity_of(first["pid"])
    wait_for_step(sandbox, 3)
    assert sandbox.call("--stop").returncode == 0
    assert ends(watchdog) == 0
    for arguments in ((), ("--ensure",), ("--once",)):
        assert sandbox.call(*arguments).returncode == 0
    told = sandbox.status()
    assert (told["phase"], told["watchdog"], told["status"]) == ("stopped", None, "OK")
    assert lives(daemon)
    sandbox.start("--start")
    assert f"pid {first['pid']}" in sandbox.wait_for_event("adopted")["text"]
    assert len(sandbox.starts()) == 1


@pytest.mark.parametrize("watched", [True, False], ids=["watched", "unwatched"])
def test_stop_with_daemon_ends_all_that_it_started(sandbox: Sandbox, watched: bool) -> None:
    sandbox.configure("--worker", "setsid", "--worker", "stubborn")
    watchdog = sandbox.start()
    first = sandbox.wait_for_start()
    daemon = identity_of(first["pid"])
    workers = wait_for_workers(sandbox, 2)
    wait_for_step(sandbox, 3)
    if not watched:
        watchdog.send_signal(signal.SIGTERM)
        ends(watchdog)
    answer = sandbox.call("--stop", "--with-daemon")
    assert answer.returncode == 0, answer.stderr
    assert not any(map(lives, (daemon, *workers)))
    assert ends(watchdog) == 0
    assert sandbox.status()["phase"] == "stopped"
    assert sandbox.incidents() == []
    assert len(sandbox.starts()) == 1


def test_while_paused_nothing_is_started_until_resumed(sandbox: Sandbox) -> None:
    sandbox.configure()
    sandbox.start()
    first = sandbox.wait_for_start()
    wait_for_step(sandbox, 3)
    assert sandbox.call("--pause").returncode == 0
    answer = sandbox.call("--status")
    assert answer.returncode == 1
    assert "(paused)" in answer.stdout
    wait_until_dead(send(first["pid"], signal.SIGKILL))
    sandbox.wait_for_event("crashed")
    wait_for_looks(sandbox)
    assert len(sandbox.starts()) == 1
    assert sandbox.call("--resume").returncode == 0
    sandbox.wait_for_start(2)


def test_a_pause_without_a_watchdog_holds_for_the_next_one(sandbox: Sandbox) -> None:
    sandbox.configure()
    assert sandbox.call("--pause").returncode == 0
    watchdog = sandbox.start()
    sandbox.wait_for_event("paused")
    wait_for_looks(sandbox)
    assert sandbox.starts() == []
    watchdog.send_signal(signal.SIGTERM)
    ends(watchdog)
    assert sandbox.call("--resume").returncode == 0
    assert not sandbox.status()["paused"]
    sandbox.start()
    sandbox.wait_for_start()


def test_sighup_reads_the_settings_again_also_under_nohup_and_keeps_them_if_they_are_broken(
    sandbox: Sandbox,
) -> None:
    sandbox.configure("--pace", "0.03")
    with (sandbox.folder / "watchdog.out").open("ab") as output:
        watchdog = subprocess.Popen(
            ["nohup", sys.executable, str(WATCHDOG), "--config", str(sandbox.config)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    sandbox.watchdogs.append(watchdog)
    first = sandbox.wait_for_start()
    sandbox.configure("--pace", "0.04")
    watchdog.send_signal(signal.SIGHUP)
    wait_for(lambda: "was read again" in sandbox.output(), what=sandbox.output_tail())
    assert command_of(first["pid"])[-1] == "0.03"
    send(first["pid"], signal.SIGKILL)
    second = sandbox.wait_for_start(2)
    assert command_of(second["pid"])[-1] == "0.04"
    sandbox.config.write_text("daemon: [")
    watchdog.send_signal(signal.SIGHUP)
    wait_for(lambda: "stay as they were" in sandbox.output(), what=sandbox.output_tail())
    send(second["pid"], signal.SIGKILL)
    third = sandbox.wait_for_start(3)
    assert command_of(third["pid"])[-1] == "0.04"
    assert watchdog.poll() is None


def test_version_is_told_and_wrong_usage_ends_with_3(sandbox: Sandbox) -> None:
    sandbox.configure()
    answer = sandbox.call("--version")
    assert answer.returncode == 0
    assert answer.stdout.strip()
    for wrong in (("--strat",), ("--json",), ("--with-daemon",), ("--start", "--stop"), ("surplus",)):
        answer = sandbox.call(*wrong)
        assert answer.returncode == 3, wrong
        assert answer.stderr
    sandbox.config.unlink()
    assert sandbox.call().returncode == 3
    assert not sandbox.logs.exists()


def test_the_service_manager_hears_that_it_is_ready_alive_and_ending(sandbox: Sandbox) -> None:
    sandbox.configure(watchdog={"poll_interval": 30})
    address = sandbox.folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(os.path.relpath(address, ROOT) if len(str(address)) > 100 else str(address))
        channel.settimeout(20)
        environment = {**os.environ, "NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "400000"}
        watchdog = sandbox.start(env=environment)
        assert "READY=1" in channel.recv(4096).decode().split("\n")
        first = sandbox.wait_for_start()
        began = time.monotonic()
        for _ in range(5):
            assert "WATCHDOG=1" in channel.recv(4096).decode().split("\n")
        assert time.monotonic() - began < 15
        assert b"NOTIFY_SOCKET" not in Path(f"/proc/{first['pid']}/environ").read_bytes()
        watchdog.send_signal(signal.SIGTERM)
        while "STOPPING=1" not in channel.recv(4096).decode():
            pass
    assert ends(watchdog) == 0


# --- incidents --------------------------------------------------------------------------------------------------


def test_an_incident_tells_the_end_the_log_the_machine_and_the_way_back(sandbox: Sandbox) -> None:
    sandbox.configure("--lines", "300", "--exit-at", "27", "--exit-code", "9", checkpoints=CHECKPOINTS)
    sandbox.start()
    first = sandbox.wait_for_start()
    second = sandbox.wait_for_start(2)
    incident = wait_for_incident(sandbox, closed=True)
    log = sandbox.logs / "training_output.log"
    assert incident["ending"]["exit_code"] == 9
    assert (incident["run_id"], incident["next_run_id"]) == (first["run"], second["run"])
    assert (incident["step"], incident["total"]) == (27, 100_000)
    assert (incident["checkpoint_step"], second["step"]) == (20, 20)
    assert incident["log"] == {"file": str(log), "start": 0, "end": len(log.read_bytes()) // 2}
    assert incident["last_lines"] == [f"talk-{number}" for number in range(100, 300)]
    assert "restart at once (3 were left" in incident["decision"]
    assert 0 < incident["seconds_to_new_process"] <= incident["seconds_to_new_step"]
    assert incident["first_new_step"] > 27
    assert incident["steps_lost"] == 7
    sandbox.wait_for_event("new_step")
    wait_for(lambda: sandbox.incidents()[0]["snapshot"], what="the snapshot")
    assert {"host", "gpu"} <= sandbox.incidents()[0]["snapshot"].keys()
    send(second["pid"], signal.SIGKILL)
    assert wait_for_incident(sandbox, 1)["log"]["start"] == incident["log"]["end"]


def test_a_program_that_is_not_there_is_a_crash_that_says_so(sandbox: Sandbox) -> None:
    sandbox.configure(daemon={"command": ["no-such-program-at-all"]}, restart={"max_restarts": 1})
    sandbox.start()
    told = sandbox.wait_for_event("crashed")
    assert "could not be started: no-such-program-at-all: not found in PATH" in told["text"]
    sandbox.wait_for_event("limit")
    assert sandbox.incidents()[0]["ending"]["text"] == "no-such-program-at-all: not found in PATH"


def test_one_call_begins_again_in_the_background(sandbox: Sandbox) -> None:
    sandbox.configure("--steps", "3")
    assert sandbox.start().wait(30) == 0
    assert sandbox.call("--ensure").returncode == 0
    assert len(sandbox.starts()) == 1
    sandbox.configure()
    told = sandbox.call("--ensure", "--start")
    assert told.returncode == 0 and "running as pid" in told.stdout
    sandbox.wait_for_start(2)


def test_a_daemon_adopted_without_a_record_is_watched_for_hangs_from_then_on(sandbox: Sandbox) -> None:
    sandbox.configure(progress={"timeout": 2, "startup_timeout": 2})
    watchdog = sandbox.start()
    first = sandbox.wait_for_start()
    sandbox.wait_for_event("started")
    watchdog.kill()
    watchdog.wait()
    (sandbox.logs / "state.json").write_text("garbage")
    told = sandbox.call("--status", "--json")
    assert told.returncode == 1 and json.loads(told.stdout)["pid"] == first["pid"]
    sandbox.start()
    sandbox.wait_for_event("adopted")
    wait_for(lambda: sandbox.status()["seconds_since_step"] is not None)
    assert sandbox.status()["seconds_since_step"] >= 0
    processes.send_signal(identity_of(first["pid"]), signal.SIGSTOP)
    sandbox.wait_for_event("hung")
    assert len(sandbox.events("adopted")) == 1
    sandbox.wait_for_start(2)
