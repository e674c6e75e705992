"""The run folder: one watchdog at a time, a state that is old or new, events that survive a torn line."""

import multiprocessing
import os
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from trainguard import processes
from trainguard.policy import Phase, Request, State
from trainguard.run_folder import Event, HeldError, RunFolder

SPAWN = multiprocessing.get_context("spawn")


def hold(directory: str, held: "multiprocessing.connection.Connection") -> None:
    folder = RunFolder(Path(directory))
    folder.take("0")
    held.send(os.getpid())
    held.recv()


def test_a_second_watchdog_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    ours, theirs = SPAWN.Pipe()
    other = SPAWN.Process(target=hold, args=(str(tmp_path), theirs))
    other.start()
    pid = ours.recv()
    folder = RunFolder(tmp_path)
    with pytest.raises(HeldError, match=f"pid {pid}"):
        folder.take("0")
    holder = folder.watchdog()
    assert holder is not None and holder.identity.pid == pid
    other.kill()
    other.join()
    assert folder.watchdog() is None
    folder.take("0")
    assert folder.is_ours("0")


def test_a_folder_that_was_deleted_is_taken_anew(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "logs")
    folder.take("0")
    folder.save_state(State(), durable=True)
    for file in (tmp_path / "logs").iterdir():
        file.unlink()
    (tmp_path / "logs").rmdir()
    assert folder.is_ours("0")
    folder.save_state(State(), durable=False)
    assert (tmp_path / "logs" / "state.json").exists()


def test_a_folder_that_another_took_is_lost(tmp_path: Path) -> None:
    first, second = RunFolder(tmp_path), RunFolder(tmp_path)
    first.take("0")
    (tmp_path / "watchdog.lock").unlink()
    second.take("0")
    # The holder is this very process, which lives: the first one must give way and not wait.
    assert not first.is_ours("0")
    assert second.is_ours("0")


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    state = replace(State(), phase=Phase.COOLING, restarts=(1.5, 2.5), next_try=9.0)
    folder.save_state(state, durable=True)
    assert RunFolder(tmp_path).load_state() == (state, None)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'{"phase": "sleeping"}', b"\xff\xfe", b"x" * 9_000_000]
)
def test_a_state_that_cannot_be_understood_is_a_finding_and_kept_aside(
    tmp_path: Path, content: bytes
) -> None:
    folder = RunFolder(tmp_path)
    folder.state_file.write_bytes(content)
    state, finding = folder.load_state()
    assert state == State()
    assert finding is not None and "cannot be read" in finding.fact
    folder.set_aside_state()
    assert [file.read_bytes() for file in tmp_path.glob("state.json.broken-*")] == [content]


def test_events_after_a_torn_line_are_read_and_tell_the_restarts(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.append_event(Event(time.time() - 1000, "restarted", "WARN", "long ago"))
    with folder.events_file.open("ab") as stream:
        stream.write(b'{"wall": 12, "eve')
    folder.append_event(Event(time.time() - 10, "restarted", "WARN", "lately"))
    folder.append_event(Event(time.time(), "finished", "OK", "done"))
    assert [event.text for event in folder.recent_events()] == ["long ago", "lately", "done"]
    (stamp,) = folder.restarts_told(within=300)
    assert 9 < time.monotonic() - stamp < 12


def test_one_request_waits_at_a_time(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.ask(Request.PAUSE)
    assert not folder.ask(Request.STOP)
    assert folder.pending_request() is Request.PAUSE
    folder.answer_request()
    assert folder.pending_request() is None
    assert folder.ask(Request.STOP)


@pytest.mark.parametrize("content", [b"", b"{}x", b'{"request": "dance"}', b"[1]"])
def test_a_request_that_means_nothing_is_dropped(tmp_path: Path, content: bytes) -> None:
    folder = RunFolder(tmp_path)
    (tmp_path / "request.json").write_bytes(content)
    assert folder.pending_request() is None
    assert not folder.is_asked()


def test_the_lock_names_this_process(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.take("0.1")
    holder = folder.holder()
    own = processes.read_process(os.getpid())
    assert holder is not None and own is not None
    assert (holder.identity, holder.version) == (own.identity, "0.1")
