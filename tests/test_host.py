"""The host: disks, and how often the kernel killed for memory, from a real memory cgroup where it can be made."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import wait_for

from trainguard.cgroup import read_oom_kills
from trainguard.kernel_log import KernelLine, read_kernel_log
from trainguard.snapshots import read_host

FIRST = Path("/sys/fs/cgroup/memory")


def make_proc(folder: Path, groups: str, mounts: str) -> Path:
    (folder / "proc" / "self").mkdir(parents=True)
    (folder / "proc" / "self" / "cgroup").write_text(groups)
    (folder / "proc" / "self" / "mountinfo").write_text(mounts)
    return folder / "proc"


def mount_line(root: str, place: Path, kind: str, options: str = "rw") -> str:
    written = str(place).replace(" ", "\\040")
    return f"40 31 0:33 {root} {written} rw,relatime shared:9 - {kind} {kind} {options}\n"


def test_the_counter_of_cgroup_v2_is_read(tmp_path: Path) -> None:
    place = tmp_path / "with blank"
    (place / "job.slice" / "step").mkdir(parents=True)
    (place / "job.slice" / "step" / "memory.events").write_text("low 0\nmax 7\noom 3\noom_kill 2\n")
    proc = make_proc(tmp_path, "0::/job.slice/step\n", mount_line("/", place, "cgroup2"))
    assert read_oom_kills("self", proc) == 2


def test_a_container_that_sees_only_its_own_branch_is_understood(tmp_path: Path) -> None:
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 4\n")
    mounts = "1 0 0:1 / / rw - ext4 /dev/vda rw\n" * 200
    mounts += mount_line("/pods/a", tmp_path, "cgroup", "rw,memory")
    proc = make_proc(tmp_path, "3:cpu,cpuacct:/\n2:memory:/pods/a/g\n0::/\n", mounts)
    assert read_oom_kills("self", proc) == 4


@pytest.mark.parametrize(
    ("groups", "content"),
    [
        ("0::/\n", None),
        ("0::/../other\n", None),
        ("0::/g\n", "low 0\n"),
        ("", None),
        ("torn", None),
        ("2:memory:/gone (deleted)\n", None),
    ],
)
def test_a_counter_that_is_not_there_is_unknown_and_not_zero(
    tmp_path: Path, groups: str, content: str | None
) -> None:
    (tmp_path / "g").mkdir()
    if content is not None:
        (tmp_path / "g" / "memory.events").write_text(content)
    mounts = (
        mount_line("/", tmp_path, "cgroup2") + mount_line("/", tmp_path, "cgroup", "rw,memory") + "torn\n"
    )
    assert read_oom_kills("self", make_proc(tmp_path, groups, mounts)) is None


def test_no_process_has_no_counter() -> None:
    assert read_oom_kills(4194304) is None


def test_the_snapshot_of_the_host_has_the_counter(tmp_path: Path) -> None:
    told = read_host([tmp_path / "not" / "there"])
    assert told.oom_kills == read_oom_kills()
    assert told.disks[0].free is not None


@pytest.fixture
def group() -> Iterator[Path]:
    """A memory cgroup (v1) of 48 MiB, removed afterwards."""
    if not (FIRST / "memory.limit_in_bytes").exists() or not os.access(FIRST, os.W_OK):
        pytest.skip("a memory cgroup of version 1 that this user may write to is needed for a real OOM kill")
    folder = FIRST / f"trainguard-test-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / "memory.limit_in_bytes").write_text(str(48 << 20))
    except OSError as error:
        with contextlib.suppress(OSError):
            folder.rmdir()
        pytest.skip(f"this machine does not let a memory cgroup be made: {error}")
    yield folder

    def is_removed() -> bool:
        with contextlib.suppress(OSError):
            folder.rmdir()
        return not folder.exists()

    wait_for(is_removed, 10)


VICTIM = """
import os, sys
open(sys.argv[1] + "/cgroup.procs", "w").write(str(os.getpid()))
print("in", flush=True)
sys.stdin.readline()
held = [bytearray(b"x") * (8 << 20) for _ in range(100)]
"""


def test_a_real_kill_for_memory_is_counted_and_told_by_the_kernel(group: Path) -> None:
    began = time.time()
    with (group.parent / "memory.oom_control").open() as file:
        if "oom_kill " not in file.read():
            pytest.skip("this kernel counts no OOM kills in cgroup v1")
    # A second member keeps the group's counter readable through a living process.
    witness = subprocess.Popen(
        [sys.executable, "-c", VICTIM, str(group)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    victim = subprocess.Popen(
        [sys.executable, "-c", VICTIM, str(group)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        for child in (witness, victim):
            assert child.stdout is not None and child.stdout.readline() == b"in\n"
        assert read_oom_kills(witness.pid) == 0
        # So that the kernel's choice is this one, which anybody may ask for.
        Path(f"/proc/{victim.pid}/oom_score_adj").write_text("1000")
        assert victim.stdin is not None
        victim.stdin.write(b"go\n")
        victim.stdin.flush()
        assert victim.wait(timeout=60) == -9
        assert wait_for(lambda: read_oom_kills(witness.pid), 10) == 1
    finally:
        for child in (witness, victim):
            child.kill()
            child.communicate()
    try:
        lines = wait_for(lambda: killed(began, victim.pid), 10)
    except OSError as error:
        pytest.skip(f"the kernel log may not be read here: {error}")
    assert any("constraint=CONSTRAINT_MEMCG" in line.text for line in lines)
    dead = [line for line in lines if f"Killed process {victim.pid} (" in line.text]
    assert len(dead) == 1
    # Within the drift between the kernel's clock and the wall's.
    assert dead[0].time is not None and abs(dead[0].time - time.time()) < 60


def killed(since: float, pid: int) -> list[KernelLine]:
    """The kernel's lines once it has told of this process's death."""
    lines = read_kernel_log(since - 5)
    return lines if any(f"Killed process {pid} " in line.text for line in lines) else []
