"""Memory: as a kernel writes it, as this machine tells it, and what a real memory cgroup allows."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support import wait_for

from trainguard import cgroup
from trainguard.memory import parse_meminfo, parse_stalled, read_memory

MEMINFO = """MemTotal:       24684092 kB
MemAvailable:   12000000 kB
Active(anon):        128 kB
SwapTotal:       2000000 kB
SwapFree:        1500000 kB
CommitLimit:     9000000 kB
Committed_AS:    3000000 kB
HugePages_Total:      10
HugePages_Free:        4
Hugepagesize:       2048 kB
torn
"""
PRESSURE = "some avg10=1.00 avg60=30.00 avg300=0.00 total=9\nfull avg10=2.00 avg60=4.25 avg300=0.00 total=9\n"


def make_proc(folder: Path, meminfo: str = MEMINFO, pressure: str | None = PRESSURE) -> Path:
    for name, text in {
        "meminfo": meminfo,
        "pressure/memory": pressure,
        "sys/vm/overcommit_memory": "2\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if text is not None:
            (folder / name).write_text(text)
    return folder


def test_sizes_are_bytes_and_huge_pages_are_counted() -> None:
    rows = parse_meminfo(MEMINFO)
    assert rows["MemTotal"] == 24684092 * 1024
    assert rows["Active(anon)"] == 128 * 1024
    assert (rows["HugePages_Free"], rows["Hugepagesize"]) == (4, 2048 * 1024)
    assert "torn" not in rows


@pytest.mark.parametrize(
    ("text", "stalled"),
    [(PRESSURE, 4.25), ("some avg10=1.00 avg60=30.00 avg300=0 total=9\n", None), ("", None)],
)
def test_the_pressure_is_that_in_which_all_waited(text: str, stalled: float | None) -> None:
    assert parse_stalled(text) == stalled


def test_each_number_comes_from_its_own_row(tmp_path: Path) -> None:
    now = read_memory(make_proc(tmp_path))
    assert (now.total, now.available) == (24684092 << 10, 12000000 << 10)
    assert (now.swap_total, now.swap_free) == (2000000 << 10, 1500000 << 10)
    assert (now.committed, now.commit_limit, now.overcommit) == (3000000 << 10, 9000000 << 10, 2)
    assert (now.huge_pages_free, now.huge_page_size) == (4, 2 << 20)
    assert now.stalled == 4.25
    assert now.allowance is now.oom_kills is None


def test_what_the_kernel_does_not_tell_is_none(tmp_path: Path) -> None:
    proc = make_proc(tmp_path, pressure=None)
    (proc / "sys" / "vm" / "overcommit_memory").write_text("")
    now = read_memory(proc)
    assert now.stalled is now.overcommit is None


@pytest.mark.parametrize("meminfo", ["", "MemTotal: 5 kB\n", "MemAvailable: 5 kB\n"])
def test_without_its_two_rows_memory_is_not_known(tmp_path: Path, meminfo: str) -> None:
    with pytest.raises(OSError, match="MemAvailable"):
        read_memory(make_proc(tmp_path, meminfo))


def test_this_machine_tells_what_another_reader_finds() -> None:
    now, other = read_memory(), psutil.virtual_memory()
    assert now.total == other.total
    assert now.available == pytest.approx(other.available, rel=0.2)
    assert now.swap_total == psutil.swap_memory().total
    assert now.overcommit in (0, 1, 2)


# --- what a cgroup allows --------------------------------------------------------------------------------------


def second_version(folder: Path, *groups: tuple[str, str, str, str]) -> Path:
    """A /proc whose process lies in the last of these groups of v2: (path, memory.max, memory.current, inactive)."""
    for path, most, used, inactive in groups:
        place = folder / "cgroup" / path
        place.mkdir(parents=True, exist_ok=True)
        (place / "cgroup.procs").touch()
        (place / "memory.max").write_text(most)
        (place / "memory.current").write_text(used)
        (place / "memory.stat").write_text(f"anon 5\ninactive_file {inactive}\nactive_file 7\n")
    own = folder / "proc" / "self"
    own.mkdir(parents=True)
    (own / "cgroup").write_text(f"0::/{groups[-1][0]}\n")
    (own / "mountinfo").write_text(f"40 31 0:33 / {folder}/cgroup rw - cgroup2 cgroup2 rw\n")
    return own.parent


def test_what_the_kernel_can_drop_is_not_counted_as_used(tmp_path: Path) -> None:
    proc = second_version(tmp_path, ("job", "1000\n", "600\n", "250"))
    assert cgroup.read_allowance(proc=proc) == cgroup.Allowance(1000, 350)


def test_the_group_with_the_least_left_counts_also_where_it_is_above(tmp_path: Path) -> None:
    proc = second_version(tmp_path, ("a", "1000", "950", "0"), ("a/b", "900", "100", "0"))
    assert cgroup.read_allowance(proc=proc) == cgroup.Allowance(1000, 950)


@pytest.mark.parametrize("most", ["max\n", "", "9223372036854771712"])
def test_no_limit_is_none(tmp_path: Path, most: str) -> None:
    proc = second_version(tmp_path, ("a", "max", "950", "0"), ("a/b", most, "100", "0"))
    assert cgroup.read_allowance(proc=proc) is None


def test_a_limit_of_nothing_is_a_limit(tmp_path: Path) -> None:
    proc = second_version(tmp_path, ("a", "0", "0", "0"))
    assert cgroup.read_allowance(proc=proc) == cgroup.Allowance(0, 0)


def test_a_group_outside_of_this_namespace_is_not_seen(tmp_path: Path) -> None:
    proc = second_version(tmp_path, ("a", "1000", "10", "0"))
    (proc / "self" / "cgroup").write_text("0::/../a\n")
    assert cgroup.read_allowance(proc=proc) is None


@contextlib.contextmanager
def limited(limit: int) -> Iterator[Path]:
    """A real memory cgroup (v1) with a limit in bytes, removed afterwards."""
    folder = Path("/sys/fs/cgroup/memory") / f"trainguard-allowance-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / "memory.limit_in_bytes").write_text(str(limit))
    except OSError as error:
        with contextlib.suppress(OSError):
            folder.rmdir()
        pytest.skip(f"a memory cgroup of version 1 that this user may make is needed: {error}")
    yield folder

    def is_removed() -> bool:
        with contextlib.suppress(OSError):
            folder.rmdir()
        return not folder.exists()

    wait_for(is_removed, 10)


MEMBER = """
import sys
open(sys.argv[1] + "/cgroup.procs", "w").write("0")
held = bytearray(b"x") * (20 << 20)
with open(sys.argv[2], "wb") as file:
    file.write(b"x" * (20 << 20))
    file.flush()
    __import__("os").fsync(file.fileno())
print("in", flush=True)
input()
"""


def test_a_real_cgroup_tells_its_limit_and_what_is_held_but_not_cached_files(tmp_path: Path) -> None:
    with limited(128 << 20) as group:
        member = subprocess.Popen(
            [sys.executable, "-c", MEMBER, str(group), str(tmp_path / "file")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            assert member.stdout is not None and member.stdout.readline() == b"in\n"
            told = cgroup.read_allowance(member.pid)
            assert told is not None and told.limit == 128 << 20
            # It holds 20 MiB and has written 20 MiB more, which the kernel can drop. Sums are kept per CPU for a
            # while (memcg), so that some MiB are not exact.
            assert 18 << 20 <= told.used <= 36 << 20
        finally:
            member.kill()
            member.communicate()
