"""The processes room: identity, family, and signals that reach exactly whom they are meant for."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from support import lives, wait_for

from trainguard import processes
from trainguard.identity import Identity
from trainguard.processes import Process
from trainguard.processes.family import parse_mark


def row(pid: int, parent: int, session: int = 0, start: int = 1, name: str = "python") -> Process:
    return Process(Identity(pid, start, "boot", 1000), parent, session, "S", 1, name)


def pids(rows: list[Process]) -> set[int]:
    return {one.pid for one in rows}


def sleeper(*arguments: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", *arguments])


@pytest.mark.parametrize("name", ["python", "a b", "x) S 1 2 (y", "((", "))", ""])
def test_a_name_may_hold_anything_and_the_fields_stay_right(name: str) -> None:
    text = f"42 ({name}) S 7 42 41 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 3 0 98765 1000 200".encode()
    assert processes.parse_stat(text) == (42, name, "S", 7, 41, 3, 98765)


@given(st.binary(max_size=200))
def test_a_torn_line_of_the_table_is_a_value_error_at_worst(text: bytes) -> None:
    try:
        processes.parse_stat(text)
    except ValueError:
        return


def test_a_process_is_known_by_more_than_its_number() -> None:
    child = sleeper()
    try:
        seen = processes.read_process(child.pid)
        assert seen is not None and seen.parent == os.getpid() and seen.identity.uid == os.getuid()
        for stranger in (
            replace(seen.identity, start_time=seen.identity.start_time + 1),
            replace(seen.identity, boot_id="another"),
        ):
            assert not processes.send_signal(stranger, signal.SIGKILL)
            assert processes.open_handle(stranger) is None
        assert child.poll() is None
        assert processes.send_signal(seen.identity, signal.SIGKILL)
        assert child.wait(10) == -signal.SIGKILL
        assert not processes.send_signal(seen.identity, signal.SIGKILL)
    finally:
        child.kill()
        child.wait()


def test_a_zombie_is_gone_and_a_process_whose_first_thread_ended_is_not() -> None:
    script = "import threading, time, ctypes; threading.Thread(target=time.sleep, args=(600,)).start(); "
    child = subprocess.Popen([sys.executable, "-c", script + "ctypes.CDLL(None).pthread_exit(None)"])
    try:
        half = wait_for(lambda: (now := processes.read_process(child.pid)) and now.state == "Z" and now, 10)
        assert not processes.is_gone(half)
        assert processes.open_handle(half.identity) is not None
    finally:
        child.kill()
    wait_for(lambda: processes.is_gone(processes.read_process(child.pid)), 10)
    child.wait()
    assert processes.read_process(child.pid) is None


def test_an_orphan_that_left_the_session_is_still_below_the_subreaper() -> None:
    script = (
        "import os, sys; from trainguard import processes; processes.become_subreaper(); pid = os.fork()\n"
        "if pid == 0:\n    if os.fork() == 0:\n        os.setsid(); import time; time.sleep(600)\n    os._exit(0)\n"
        "os.waitpid(pid, 0); below = processes.descendants(os.getpid())\n"
        "print(len(below), below[0].parent == os.getpid(), processes.has_children())\n"
        "processes.send_signal(below[0].identity, 9); os.wait(); print(processes.has_children())"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True
    )
    assert told.stdout.split() == ["1", "True", "True", "False"]


def test_a_mark_is_read_from_a_living_process() -> None:
    mark = processes.Mark("run-1", "/a folder/logs", "demo", None)
    environment = processes.environment_of_run(os.environ, {"EXTRA": "1"}, mark)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env=environment)
    try:
        assert wait_for(lambda: processes.read_mark(child.pid), 10) == mark
    finally:
        child.kill()
        child.wait()
    assert processes.read_mark(child.pid) is None


def test_a_runs_environment_does_not_buffer_unless_asked_and_keeps_the_managers_socket_to_itself() -> None:
    mark = processes.Mark("r", "/f", "d", None)
    made = processes.environment_of_run({"NOTIFY_SOCKET": "x", "TRAINGUARD_PID": "1", "HOME": "/h"}, {}, mark)
    assert made["PYTHONUNBUFFERED"] == "1" and made["HOME"] == "/h"
    assert not {"NOTIFY_SOCKET", "TRAINGUARD_PID"} & made.keys()
    assert processes.environment_of_run({}, {"PYTHONUNBUFFERED": ""}, mark)["PYTHONUNBUFFERED"] == ""


@given(st.binary(max_size=300))
def test_any_environment_can_be_searched_for_a_mark(block: bytes) -> None:
    mark = parse_mark(b"TRAINGUARD_RUN=" + block)
    assert mark is None or mark.leader is None or mark.leader >= 0


def test_members_are_the_known_the_marked_the_session_and_their_descendants() -> None:
    table = [
        row(10, 1), row(11, 10), row(12, 11), row(20, 1, session=99), row(30, 1), row(31, 30), row(40, 1), row(50, 1),
    ]  # fmt: skip
    known = [Identity(10, 1, "boot", 1000), Identity(50, 777, "boot", 1000)]
    found = processes.run_members(table, known, 99, lambda one: one.pid == 30, never=[31])
    assert pids(found) == {10, 11, 12, 20, 30}


def test_without_a_session_to_prove_anything_a_session_proves_nothing() -> None:
    assert processes.run_members([row(20, 1, session=99)], [], None, lambda _: False) == []


def test_what_is_spared_is_spared_with_all_that_it_started() -> None:
    rows = [row(10, 1, name="tmux: server"), row(11, 10), row(12, 1, name="tmuxinator"), row(13, 12)]
    assert pids(processes.without_spared(rows, ["tmux"])) == {12, 13}
    assert pids(processes.without_spared(rows, [])) == {10, 11, 12, 13}


def test_a_script_is_spared_by_its_own_name(tmp_path: Path) -> None:
    script = tmp_path / "tensorboard"
    script.write_text("import time; time.sleep(600)")
    child = subprocess.Popen([sys.executable, str(script)])
    try:
        seen = wait_for(lambda: processes.read_process(child.pid), 10)
        wait_for(lambda: str(script) in processes.read_command_line(child.pid), 10)
        assert processes.without_spared([seen], ["tensorboard"]) == []
        assert processes.without_spared([seen], ["tensor"]) == [seen]
    finally:
        child.kill()
        child.wait()


def test_the_kernel_tells_the_exit_status_of_somebody_elses_child_or_none() -> None:
    script = (
        "import subprocess; p = subprocess.Popen(['sh', '-c', 'read x; exit 7'])\n"
        "print(p.pid, flush=True); p.wait()"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout is not None and parent.stdin is not None
    grandchild = processes.read_process(int(parent.stdout.readline()))
    assert grandchild is not None
    handle = processes.open_handle(grandchild.identity)
    assert handle is not None
    assert processes.read_exit_status(handle) is None
    parent.communicate(b"go\n")
    assert not lives(grandchild.identity)
    status = processes.read_exit_status(handle)
    assert status is None or os.waitstatus_to_exitcode(status) == 7
    handle.close()


def test_threads_of_this_process_do_not_hide_its_children() -> None:
    started: list[subprocess.Popen[bytes]] = []
    thread = threading.Thread(target=lambda: (started.append(sleeper()), time.sleep(0.5)))
    thread.start()
    child = wait_for(lambda: started, 10)[0]
    try:
        assert child.pid in pids(processes.descendants(os.getpid()))
    finally:
        thread.join()
        child.kill()
        child.wait()
