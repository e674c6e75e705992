"""Files that are broken or are traps: one clear sentence, never a trace, never the end of a running watchdog."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import WATCHDOG, Sandbox, identity_of, lives, wait_for

from trainguard import processes

TRAPS: dict[str, Callable[[Path], object]] = {
    "garbage": lambda file: file.write_bytes(os.urandom(4096)),
    "empty": lambda file: file.write_bytes(b""),
    "half": lambda file: file.write_bytes(b'{"phase":"running","rea'),
    "huge": lambda file: file.write_bytes(b" " * (9 << 20)),
    "folder": lambda file: file.mkdir(),
    "fifo": lambda file: os.mkfifo(file),
    "a list": lambda file: file.write_bytes(b"[1, 2]"),
    "no text": lambda file: file.write_bytes(b'{"phase":"new","reason":"\xff\xfe"}'),
    "wrong types": lambda file: file.write_bytes(b'{"phase":3,"run":"x","restarts":{}}'),
    "another shape": lambda file: file.write_bytes(b'{"hello":"world"}'),
    "no run": lambda file: file.write_bytes(b'{"phase":"running"}'),
    "no run at the gate": lambda file: file.write_bytes(b'{"phase":"starting"}'),
}
STATUS = {
    "null": b'{"current_step":null,"loss":null}',
    "nan": b'{"current_step":NaN,"loss":NaN}',
    "5 MB": b'{"current_step":3' + b" " * (5 << 20) + b"}",
    "list": b"[]",
    "half": b'{"current_step":',
    "no text": b'{"current_step":"\xff\xfe"}',
}
PIDS = {
    "empty": b"", "zero": b"0", "one": b"1", "minus one": b"-1", "garbage": b"\xff\x00x", "1 MB": b"1" * (1 << 20),
}  # fmt: skip


def assert_goes_on(box: Sandbox, starts: int = 1) -> None:
    """The daemon was started, its watchdog lives, watches and obeys, and there was no trace."""
    box.wait_for_start(starts)
    wait_for(lambda: box.state().get("phase") == "running", what=box.output_tail())
    assert box.watchdogs[-1].poll() is None, box.output_tail()
    assert "Traceback" not in box.output()


@pytest.mark.parametrize("trap", TRAPS)
def test_a_state_that_cannot_be_used_is_told_and_set_aside(sandbox: Sandbox, trap: str) -> None:
    sandbox.configure()
    sandbox.logs.mkdir()
    TRAPS[trap](sandbox.logs / "state.json")
    told = sandbox.call("--status")
    assert told.returncode == 1 and len(told.stderr.splitlines()) == 1, told.stderr
    sandbox.start()
    assert_goes_on(sandbox)
    assert sandbox.output().count("state.json: cannot be read") == 1
    assert list(sandbox.logs.glob("state.json.broken-*"))


@pytest.mark.parametrize("content", STATUS)
def test_a_spoilt_status_file_never_ends_the_watchdog(sandbox: Sandbox, content: str) -> None:
    sandbox.configure(progress={"status_file": "other.json"})
    (sandbox.folder / "other.json").write_bytes(STATUS[content])
    sandbox.start()
    assert_goes_on(sandbox)


@pytest.mark.parametrize("trap", ["folder", "fifo"])
@pytest.mark.parametrize("name", ["other.json", "logs/events.jsonl", "daemon.pid"])
def test_a_trap_in_place_of_a_file_is_a_finding(sandbox: Sandbox, name: str, trap: str) -> None:
    sandbox.configure(daemon={"pid_file": "daemon.pid"}, progress={"status_file": "other.json"})
    sandbox.logs.mkdir()
    TRAPS[trap](sandbox.folder / name)
    sandbox.start()
    assert_goes_on(sandbox)
    wait_for(lambda: str(sandbox.folder / name) in sandbox.output(), what="the finding")


@pytest.mark.parametrize("content", PIDS)
def test_a_pid_file_that_names_no_process_of_ours_is_ignored(sandbox: Sandbox, content: str) -> None:
    sandbox.configure(daemon={"pid_file": "daemon.pid"})
    (sandbox.folder / "daemon.pid").write_bytes(PIDS[content])
    sandbox.start()
    assert_goes_on(sandbox)
    assert sandbox.output().count("PID file") == 1


def test_a_request_and_events_of_garbage_are_passed_over(sandbox: Sandbox) -> None:
    sandbox.configure()
    sandbox.logs.mkdir()
    (sandbox.logs / "events.jsonl").write_bytes(
        b'\xff\xfe\n{}\n[]\n{"wall":1,"event":"\xff","status":"OK","text":""}\n'
    )
    sandbox.start()
    assert_goes_on(sandbox)
    request = sandbox.logs / "request.json"
    for content in (b'{"request":"explode"}', b'{"request":"\xff"}', b"", b"\x00"):
        request.write_bytes(content)
        wait_for(lambda: not request.exists())
    assert sandbox.call("--pause").returncode == 0
    assert sandbox.watchdogs[-1].poll() is None


@pytest.mark.parametrize(
    "text", ["", "daemon: 3\n", "daemon: {command: []}\n", "a: [\n", "daemon: {comand: [x]}\n"]
)
def test_a_broken_configuration_is_a_sentence_and_code_3(sandbox: Sandbox, text: str) -> None:
    sandbox.config.write_text(text)
    told = sandbox.call()
    assert told.returncode == 3 and told.stderr and "Traceback" not in told.stderr


@pytest.mark.parametrize("what", ["command", "folder", "fifo"])
def test_a_daemon_that_cannot_be_started_is_told_and_the_watchdog_stays(sandbox: Sandbox, what: str) -> None:
    missing = {"command": ["/nowhere/train"]} if what == "command" else {"log": "out"}
    sandbox.configure(daemon=missing)
    if what != "command":
        TRAPS[what](sandbox.folder / "out")
    sandbox.start()
    sandbox.wait_for_event("limit")
    assert sandbox.watchdogs[-1].poll() is None
    assert "Traceback" not in sandbox.output()


@pytest.mark.parametrize("stdout", [">&-", ">/dev/full"])
def test_an_output_that_cannot_be_written_does_not_end_the_watchdog(sandbox: Sandbox, stdout: str) -> None:
    sandbox.configure()
    sandbox.logs.mkdir()
    TRAPS["garbage"](sandbox.logs / "state.json")
    command = f'exec "$0" "$@" {stdout}'
    with (sandbox.folder / "watchdog.out").open("ab") as output:
        words = [sys.executable, str(WATCHDOG), "--config", str(sandbox.config)]
        sandbox.watchdogs.append(subprocess.Popen(["/bin/sh", "-c", command, *words], stderr=output))
    assert_goes_on(sandbox)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB at logs/, its own."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    (tmp_path / "logs").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path / "logs")]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    yield tmp_path / "logs"
    subprocess.run(["umount", "-l", str(tmp_path / "logs")], check=True)


def test_nothing_is_started_while_the_disk_is_full_and_all_goes_on_after(
    small_disk: Path, sandbox: Sandbox
) -> None:
    sandbox.configure()
    sandbox.start()
    assert_goes_on(sandbox)
    with pytest.raises(OSError), (small_disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(b"x" * 512)
    processes.send_signal(identity_of(sandbox.starts()[0]["pid"]), 9)
    wait_for(lambda: "nothing is started or stopped" in sandbox.output(), what=sandbox.output_tail())
    assert len(sandbox.starts()) == 1 and sandbox.watchdogs[-1].poll() is None
    (small_disk / "filler").unlink()
    sandbox.wait_for_start(2)
    assert_goes_on(sandbox, 2)
    assert "can be written again" in sandbox.output()
    assert lives(identity_of(sandbox.starts()[1]["pid"]))


def test_a_daemon_whose_state_was_deleted_can_be_stopped(sandbox: Sandbox) -> None:
    sandbox.configure()
    sandbox.start()
    assert_goes_on(sandbox)
    sandbox.watchdogs[-1].kill()
    sandbox.watchdogs[-1].wait()
    (sandbox.logs / "state.json").unlink()
    assert sandbox.call("--stop", "--with-daemon").returncode == 0
    assert sandbox.members() == []
