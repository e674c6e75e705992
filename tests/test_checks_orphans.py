"""Checks of orphans: real processes that outlive their daemon, and real files in shared memory and the run folder."""

import ctypes
import mmap
import os
import signal
import subprocess
import time
from pathlib import Path

import msgspec
import pytest
from judging import looked, sentences, supervision, told, with_state
from support import Sandbox, identity_of, lives, wait_for

from trainguard import leftovers, processes
from trainguard.checks.orphans import CHECKS, SHARED_MEMORY, TEMPORARY
from trainguard.config import load_settings
from trainguard.health import Status
from trainguard.identity import Identity
from trainguard.leftovers import (
    Leftover,
    SharedMemory,
    Temporary,
    creator_of,
    is_known,
    is_temporary,
    read_shared_memory,
    read_temporary,
)
from trainguard.policy import Phase
from trainguard.probes import Answer
from trainguard.supervision import Row

MIB = 1 << 20
AGED = 2 * 3600.0


def dead_pid() -> int:
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


def age(path: Path, seconds: float = AGED) -> Path:
    moment = time.time() - seconds
    os.utime(path, (moment, moment))
    return path


def row(pid: int, state: str = "S") -> Row:
    return Row(Identity(pid, 1, "boot", 0), "python", state)


def leftover(size: int) -> Leftover:
    return Leftover("/dev/shm/torch_1_2_0", size, 0.0, 1, 1)


def test_every_row_is_complete() -> None:
    assert [check.fix for check in CHECKS] == ["stop-orphans", "leftover-shared-memory", "leftover-files"]
    for check in CHECKS:
        assert check.component == "orphans" and len(check.explain) <= 110, check.id


@pytest.mark.parametrize(
    ("check_id", "reading"), [("orphan-shared-memory", SHARED_MEMORY), ("orphan-temporary", TEMPORARY)]
)
def test_a_reading_that_hangs_is_told(check_id: str, reading: object) -> None:
    name = getattr(reading, "name", "")
    result = told(CHECKS, check_id, answers={name: Answer(None, "no answer within 3 s", True)})
    assert result.status is Status.ATTENTION and "hangs" in sentences(result)


# --- processes -------------------------------------------------------------------------------------------------


def test_one_orphan_is_bad_and_none_is_fine() -> None:
    assert told(CHECKS, "orphan-processes", supervision()).status is Status.OK
    result = told(CHECKS, "orphan-processes", supervision(orphans=(row(7),)))
    assert result.status is Status.BAD and "pid 7 (python, state S)" in sentences(result)


def test_many_orphans_are_counted_and_those_in_the_kernel_told() -> None:
    many = supervision(orphans=tuple(row(pid, "D" if pid == 2 else "S") for pid in range(2, 8)))
    text = sentences(told(CHECKS, "orphan-processes", many))
    assert "6 processes" in text and "and 2 more" in text and "1 of them wait in the kernel" in text


def test_what_a_watchdog_is_clearing_wants_attention_only() -> None:
    clearing = with_state(supervision(orphans=(row(7),)), phase=Phase.CLEARING)
    assert told(CHECKS, "orphan-processes", clearing).status is Status.ATTENTION
    alone = msgspec.structs.replace(clearing, watchdog=None)
    assert told(CHECKS, "orphan-processes", alone).status is Status.BAD


def test_real_workers_of_a_killed_daemon_are_bad_and_spared_ones_left_out(sandbox: Sandbox) -> None:
    sandbox.configure("--worker", "double", "--worker", "tensorboard")
    watchdog = sandbox.start()
    wait_for(lambda: (sandbox.state().get("run") or {}).get("step"))
    wait_for(lambda: len(sandbox.members()) == 3)
    settings = load_settings(sandbox.config)
    assert looked(CHECKS, settings)["orphan-processes"].status is Status.OK
    daemon = identity_of(sandbox.starts()[0]["pid"])
    watchdog.kill()
    watchdog.wait()
    processes.send_signal(daemon, signal.SIGKILL)
    wait_for(lambda: not lives(daemon))
    left = {one.name: one.pid for one in sandbox.members()}
    result = looked(CHECKS, settings)["orphan-processes"]
    assert result.status is Status.BAD
    spared = left.pop("tensorboard")
    assert all(f"{pid} (" in sentences(result) for pid in left.values()) and len(left) == 1
    assert str(spared) not in sentences(result)


# --- shared memory ---------------------------------------------------------------------------------------------


def test_names_in_shared_memory_tell_their_creator_or_their_maker() -> None:
    assert creator_of("torch_4127_3_0") == 4127
    assert creator_of("psm_12ab") is None and is_known("psm_12ab") and is_known("nccl-AbC")
    assert not is_known("sem.lock") and not is_known("mine.bin") and not is_known("torch_x_1")


def test_a_file_of_a_dead_creator_is_a_leftover_and_one_of_a_living_is_not(tmp_path: Path) -> None:
    dead = tmp_path / f"torch_{dead_pid()}_1_0"
    dead.write_bytes(b"\0" * 100)
    living = tmp_path / f"torch_{os.getpid()}_1_0"
    living.write_bytes(b"\0")
    age(living)
    (tmp_path / "somebody.else").write_bytes(b"\0")
    told_now = read_shared_memory(tmp_path)
    assert [(one.path, one.size) for one in told_now.leftovers] == [(str(dead), 100)]
    assert told_now.looked_at == 3 and told_now.total > 0


def test_what_belongs_to_another_user_is_none_of_ours(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to give files away")
    for name in (f"torch_{dead_pid()}_1_0", ".state.json.1.tmp"):
        (tmp_path / name).write_bytes(b"\0")
        os.chown(tmp_path / name, 65534, 65534)
        age(tmp_path / name)
    assert read_shared_memory(tmp_path).leftovers == ()
    assert read_temporary(tmp_path).leftovers == ()


def test_a_file_without_a_creator_must_be_old(tmp_path: Path) -> None:
    (tmp_path / "psm_young").write_bytes(b"\0")
    age(tmp_path / "psm_young", leftovers.AGED_SECONDS - 60)
    (tmp_path / "psm_old").write_bytes(b"\0")
    age(tmp_path / "psm_old", leftovers.AGED_SECONDS + 60)
    assert [Path(one.path).name for one in read_shared_memory(tmp_path).leftovers] == ["psm_old"]


@pytest.fixture
def shared() -> Path:
    folder = leftovers.SHARED
    if not os.access(folder, os.W_OK):
        pytest.skip("needs a /dev/shm that can be written")
    return folder


def test_what_a_living_process_has_mapped_or_open_is_none(shared: Path) -> None:
    pid = dead_pid()
    mapped, opened, closed = (shared / f"torch_{pid}_{number}_{os.getpid()}" for number in (1, 2, 3))
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    library.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    try:
        for path in (mapped, opened, closed):
            path.write_bytes(b"\0" * 4096)
        with mapped.open("r+b") as stream:
            # Python's own mapping would keep the file open as well.
            place = library.mmap(None, 4096, mmap.PROT_READ, mmap.MAP_SHARED, stream.fileno(), 0)
        with opened.open("rb"):
            found = {one.path for one in read_shared_memory(shared).leftovers}
        assert str(closed) in found
        assert str(mapped) not in found and str(opened) not in found
        assert library.munmap(place, 4096) == 0
        assert {str(mapped), str(opened)} <= {one.path for one in read_shared_memory(shared).leftovers}
    finally:
        for path in (mapped, opened, closed):
            path.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("size", "status"), [(16 * MIB - 1, Status.OK), (16 * MIB, Status.ATTENTION), (1 << 40, Status.ATTENTION)]
)
def test_shared_memory_counts_from_its_limit_on(size: int, status: Status) -> None:
    result = told(CHECKS, "orphan-shared-memory", SharedMemory((leftover(size),), 64 * MIB, 0, 1))
    assert result.status is status and "torch_1_2_0" in sentences(result)


def test_shared_memory_that_is_not_there_could_not_be_decided(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_shared_memory(tmp_path / "absent")
    answer = Answer(None, "/dev/shm: No such file or directory")
    result = told(CHECKS, "orphan-shared-memory", answers={SHARED_MEMORY.name: answer})
    assert result.status is Status.UNKNOWN


# --- temporary files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "is_ours"),
    [
        (".state.json.4127.tmp", True),
        (".request.json.9.new", True),
        (".ckpt.pt.part", True),
        (".preparing.json.errors", True),
        ("state.json", False),
        ("notes.tmp", False),
        (".hidden", False),
        (".tmp", False),
    ],
)
def test_only_names_that_this_project_gives_are_temporary(name: str, is_ours: bool) -> None:
    assert is_temporary(name) is is_ours


def test_old_temporary_files_are_found_at_any_depth_and_links_are_not_followed(tmp_path: Path) -> None:
    deep = tmp_path / "logs" / "copies" / "data"
    deep.mkdir(parents=True)
    (deep / ".ckpt.pt.part").write_bytes(b"x" * 10)
    age(deep / ".ckpt.pt.part")
    (tmp_path / "logs" / ".state.json.1.tmp").touch()
    (tmp_path / "logs" / ".a.tmp").symlink_to("/etc/passwd")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / ".b.tmp").touch()
    age(outside / ".b.tmp")
    (tmp_path / "logs" / "link").symlink_to(outside)
    found = read_temporary(tmp_path / "logs")
    assert [one.path for one in found.leftovers] == [str(deep / ".ckpt.pt.part")]
    assert read_temporary(tmp_path / "logs", aged=-1).leftovers[0].path.endswith(".state.json.1.tmp")


def test_the_check_names_old_files_and_a_fresh_folder_has_none(sandbox: Sandbox) -> None:
    sandbox.configure()
    settings = load_settings(sandbox.config)
    assert looked(CHECKS, settings)["orphan-temporary"].absent == "the run folder has no file yet"
    sandbox.logs.mkdir()
    (sandbox.logs / "state.json").write_text("{}")
    assert looked(CHECKS, settings)["orphan-temporary"].status is Status.OK
    age_of = leftovers.AGED_SECONDS
    (sandbox.logs / ".state.json.7.tmp").write_text("{")
    age(sandbox.logs / ".state.json.7.tmp", age_of - 60)
    assert looked(CHECKS, settings)["orphan-temporary"].status is Status.OK
    age(sandbox.logs / ".state.json.7.tmp", age_of + 60)
    result = looked(CHECKS, settings)["orphan-temporary"]
    assert result.status is Status.ATTENTION and ".state.json.7.tmp" in sentences(result)
    assert told(CHECKS, "orphan-temporary", Temporary()).absent is not None
