"""Strangers that look like the daemon: none of them ever gets a signal, whatever happens to the daemon."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support import ROOT, STUB, Sandbox, identity_of, lives, wait_for

from trainguard import processes
from trainguard.identity import Identity

STRANGER = ROOT / "tests" / "stranger.py"
LAST_PID = Path("/proc/sys/kernel/ns_last_pid")


class Stranger:
    """A process that records every signal it gets; of death, stop and continuation the kernel tells its parent."""

    def __init__(self, box: Sandbox, *command: str, name: str = "stranger", **options: Any) -> None:
        self.record = box.folder / f"{name}.signals"
        environment = {**os.environ, "STRANGER_RECORD": str(self.record)}
        options.setdefault("cwd", box.folder)
        self.process = subprocess.Popen(command, env=environment, start_new_session=True, **options)
        box.strangers.append(self.process)
        wait_for(self.record.with_suffix(".ready").exists, what="the stranger's being ready")
        self.pid = self.process.pid

    def assert_untouched(self) -> None:
        asked = os.WEXITED | os.WSTOPPED | os.WCONTINUED | os.WNOHANG | os.WNOWAIT
        assert os.waitid(os.P_PID, self.pid, asked) is None, "it died, or was stopped or continued"
        assert not self.record.exists(), f"it got signals: {self.record.read_text()}"


def arguments_of(box: Sandbox) -> list[str]:
    workers = ["--worker", "setsid", "--worker", "stubborn"]
    return [str(STRANGER), "--folder", str(box.folder), *workers, "--hang-at", "25"]


def configure(box: Sandbox, **daemon: Any) -> None:
    box.configure(
        daemon={"command": ["{python}", *arguments_of(box)], **daemon},
        progress={"timeout": 1.0},
        restart={"max_restarts": 20},
        watchdog={"orphan_grace": 0.2},
    )


def live_through_it_all(box: Sandbox) -> None:
    """A hang, a crash with workers left behind, a crash that no watchdog sees, and a stop with the daemon."""
    watchdog = box.start()
    box.wait_for_event("hung")
    box.wait_for_start(2)
    kill_daemon(box)
    box.wait_for_start(3)
    wait_for(lambda: box.state().get("phase") == "running", what=box.output_tail())
    watchdog.kill()
    watchdog.wait()
    kill_daemon(box)
    box.start()
    box.wait_for_start(4)
    assert box.events("orphans")
    stop_with_daemon(box)


def kill_daemon(box: Sandbox) -> Identity:
    """SIGKILL to the daemon that began last, proven by the mark of this sandbox."""
    identity = identity_of(box.starts()[-1]["pid"])
    mark = processes.read_mark(identity.pid)
    assert mark is not None and mark.folder == os.path.realpath(box.logs)
    assert processes.send_signal(identity, signal.SIGKILL)
    wait_for(lambda: not lives(identity))
    return identity


def stop_with_daemon(box: Sandbox) -> None:
    stopped = box.call("--stop", "--with-daemon")
    assert stopped.returncode == 0, stopped.stderr
    wait_for(lambda: not box.members(), what="the end of all that the daemon started")
    assert box.violations() == ""
    assert "Traceback" not in box.output()


def test_strangers_with_the_daemons_command_line_or_its_script_among_their_words_are_left_alone(
    sandbox: Sandbox,
) -> None:
    configure(sandbox)
    twin = Stranger(sandbox, sys.executable, *arguments_of(sandbox), name="twin")
    editor = Stranger(sandbox, sys.executable, str(STRANGER), "edit", str(STUB), str(STRANGER), name="editor")
    live_through_it_all(sandbox)
    twin.assert_untouched()
    editor.assert_untouched()


def write_pid_file(box: Sandbox, pid: int, age: float = 0.0) -> None:
    file = box.folder / "daemon.pid"
    file.write_text(f"{pid}\n")
    os.utime(file, (time.time() - age, time.time() - age))


@pytest.mark.parametrize("why", ["started after", "another directory", "another command line", "uid"])
def test_a_stranger_that_the_pid_file_names_is_told_and_left_alone(sandbox: Sandbox, why: str) -> None:
    configure(sandbox, pid_file="daemon.pid")
    words = arguments_of(sandbox)
    options: dict[str, Any] = {}
    if why == "uid":
        if os.geteuid() != 0:
            pytest.skip("another uid needs root")
        # The real uid alone is another's, so that the stranger may still write its record.
        options["preexec_fn"] = lambda: os.setreuid(65534, 0)
    if why == "another directory":
        options["cwd"] = "/"
    if why == "another command line":
        words = [*words, "--pace", "1"]
    stranger = Stranger(sandbox, sys.executable, *words, **options)
    write_pid_file(sandbox, stranger.pid, age=60 if why == "started after" else 0)
    live_through_it_all(sandbox)
    stranger.assert_untouched()
    told = {"started after": "it started after the file was written", "uid": "it belongs to uid"}
    assert told.get(why, why) in sandbox.output()


@pytest.mark.parametrize("phase", ["running", "stopping", "clearing"])
@pytest.mark.parametrize("field", ["start_time", "boot_id"])
def test_a_state_that_names_a_living_stranger_does_not_harm_it(
    sandbox: Sandbox, phase: str, field: str
) -> None:
    """The number is the stranger's; only its start time, or the boot, tells that another one was meant."""
    configure(sandbox)
    watchdog = sandbox.start()
    sandbox.wait_for_start()
    wait_for(lambda: sandbox.state().get("phase") == "running")
    watchdog.kill()
    watchdog.wait()
    kill_daemon(sandbox)
    stranger = Stranger(sandbox, sys.executable, *arguments_of(sandbox))
    own = identity_of(stranger.pid)
    wrong = {"pid": own.pid, "start_time": own.start_time, "boot_id": own.boot_id, "uid": own.uid}
    wrong[field] = own.start_time - 1 if field == "start_time" else "another-boot"
    state = sandbox.state()
    state["run"]["identity"] = wrong
    state["descendants"] = [*state["descendants"], wrong]
    state |= {"phase": phase, "deadline": 0.0, "rung": 0 if phase == "stopping" else 1, "told": ""}
    (sandbox.logs / "state.json").write_text(json.dumps(state))
    sandbox.start()
    sandbox.wait_for_start(2)
    stranger.assert_untouched()
    stop_with_daemon(sandbox)
    stranger.assert_untouched()


def why_no_namespace() -> str:
    """What a PID namespace of one's own lacks here, empty if nothing does."""
    if os.geteuid() != 0:
        return "a PID namespace with ns_last_pid needs root"
    command = ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", f"echo 300 > {LAST_PID}"]
    try:
        tried = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except OSError as error:
        return f"unshare cannot be run: {error}"
    return "" if tried.returncode == 0 else f"no PID namespace here: {tried.stderr.strip()}"


@pytest.mark.parametrize("story", ["dead_daemon", "pid_file", "while_watched"])
def test_a_stranger_that_was_given_the_dead_daemons_number_is_left_alone(tmp_path: Path, story: str) -> None:
    if why := why_no_namespace():
        pytest.skip(why)
    told = subprocess.run(
        [
            "unshare",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            sys.executable,
            __file__,
            tmp_path,
            story,
        ],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert told.stdout == "the stranger is untouched\n"


def inside_namespace(box: Sandbox, story: str) -> None:
    """As process 1 of a namespace: the daemon dies, its number is given to a stranger, and all goes on."""
    # A daemon that has no mark any more but its number in a file: only the file's age tells.
    configure(box, **({"pid_file": "daemon.pid"} if story == "pid_file" else {}))
    watchdog = box.start()
    pid = box.wait_for_start()["pid"]
    wait_for(lambda: box.state().get("phase") == "running")
    if story == "while_watched":
        assert box.call("--pause").returncode == 0
        kill_daemon(box)
        wait_for(lambda: processes.read_process(pid) is None, what="the watchdog's collecting it")
    else:
        watchdog.kill()
        watchdog.wait()
        kill_daemon(box)
        os.waitpid(pid, 0)  # an orphan is process 1's to collect; until then its number is taken
    if story == "pid_file":
        write_pid_file(box, pid, age=60)
        (box.logs / "state.json").unlink()
    # Its session's number is the daemon's too, but a session whose members live keeps a number from reuse.
    for member in box.members():
        if member.session == pid:
            processes.send_signal(member.identity, signal.SIGKILL)
    for attempt in range(50):
        LAST_PID.write_text(str(pid - 1))
        stranger = Stranger(box, sys.executable, *arguments_of(box), name=f"stranger-{attempt}")
        if stranger.pid == pid:
            break
    assert stranger.pid == pid, f"the number {pid} was not to be had"
    if story == "while_watched":
        assert box.call("--resume").returncode == 0
    else:
        box.start()
    box.wait_for_start(2)
    stranger.assert_untouched()
    stop_with_daemon(box)
    stranger.assert_untouched()
    print("the stranger is untouched")


if __name__ == "__main__":
    sandbox_inside = Sandbox(Path(sys.argv[1]))
    try:
        inside_namespace(sandbox_inside, sys.argv[2])
    finally:
        sandbox_inside.clean_up()
