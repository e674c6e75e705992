"""The system: parsed from what a kernel writes, and read from real processes, cgroups, limits and a frozen disk."""

import contextlib
import os
import resource
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import disk_faults
import pytest
from support import wait_for

from trainguard import cgroup, processes, system
from trainguard.system import Change, Clock, Zombies

CGROUPS = Path("/sys/fs/cgroup")
STAT = "{pid} ({name}) {state} {parent} 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {started} 0 0"
PRESSURE = """some avg10=1.00 avg60={some:.2f} avg300=0.00 total=9
full avg10=0.00 avg60={full:.2f} avg300=0.00 total=0
"""


def add_process(
    proc: Path, pid: int, state: str = "S", parent: int = 1, name: str = "python", switches: int = 5
) -> None:
    folder = proc / str(pid)
    folder.mkdir(exist_ok=True)
    (folder / "stat").write_text(
        STAT.format(pid=pid, name=name, state=state, parent=parent, started=pid * 10)
    )
    (folder / "status").write_text(
        f"Name:\t{name}\nvoluntary_ctxt_switches:\t{switches}\nnonvoluntary_ctxt_switches:\t2\n"
    )
    (folder / "wchan").write_text("io_schedule")


# --- the machine -----------------------------------------------------------------------------------------------


def test_the_machine_is_read_as_the_kernel_tells_it() -> None:
    now = system.read_system()
    assert now.load == pytest.approx(os.getloadavg(), abs=1)
    assert now.cores == os.cpu_count() and 1 <= now.allowed <= now.cores
    assert now.boot == processes.boot_id()
    assert abs(now.wall - time.time()) < 10
    assert abs(now.since_boot - time.clock_gettime(time.CLOCK_BOOTTIME)) < 10
    assert now.files is not None and now.files_limit is not None and 0 < now.files < now.files_limit
    assert now.threads is not None and now.threads_limit is not None and 1 < now.threads < now.threads_limit


def make_proc(folder: Path) -> Path:
    proc = folder / "proc"
    for name, text in {
        "loadavg": "0.50 1.25 2.00 3/412 999\n",
        "sys/fs/file-nr": "1200\t200\t5000\n",
        "sys/kernel/threads-max": "90000\n",
        "sys/kernel/pid_max": "32768\n",
        "pressure/cpu": PRESSURE.format(some=12.5, full=0.0),
        "pressure/io": PRESSURE.format(some=50.0, full=7.25),
    }.items():
        (proc / name).parent.mkdir(parents=True, exist_ok=True)
        (proc / name).write_text(text)
    return proc


def test_each_number_comes_from_its_own_file(tmp_path: Path) -> None:
    now = system.read_system(make_proc(tmp_path), tmp_path / "sys", tmp_path / "wtmp")
    assert now.load == (0.5, 1.25, 2.0) and now.threads == 412
    assert (now.files, now.files_limit) == (1000, 5000)
    assert now.threads_limit == 32768
    assert (now.cpu_pressure, now.io_pressure) == (12.5, 7.25)
    assert (now.quota, now.tasks, now.throttled, now.orderly) == (None, None, None, None)


def test_what_the_kernel_does_not_tell_is_none_and_not_zero(tmp_path: Path) -> None:
    proc = make_proc(tmp_path)
    for name in (
        "sys/fs/file-nr",
        "sys/kernel/threads-max",
        "sys/kernel/pid_max",
        "pressure/cpu",
        "pressure/io",
    ):
        (proc / name).write_text("")
    now = system.read_system(proc, tmp_path, tmp_path / "wtmp")
    assert now.files is now.files_limit is now.threads_limit is now.cpu_pressure is now.io_pressure is None


def test_without_proc_there_is_no_answer(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        system.read_system(tmp_path)


def test_the_cores_that_were_slowed_for_heat_are_counted(tmp_path: Path) -> None:
    for number, count in ((0, "3"), (1, "4"), (10, "x")):
        folder = tmp_path / "devices" / "system" / "cpu" / f"cpu{number}" / "thermal_throttle"
        folder.mkdir(parents=True)
        (folder / "core_throttle_count").write_text(count)
    assert system.read_throttled(tmp_path) == 7
    assert system.read_throttled(tmp_path / "none") is None


# --- cgroups ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def first_version(controller: str) -> Iterator[Path]:
    """A real cgroup (v1) of one controller."""
    folder = CGROUPS / controller / f"trainguard-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"a cgroup of version 1 with {controller} that this user may make is needed: {error}")
    yield folder

    def is_removed() -> bool:
        with contextlib.suppress(OSError):
            folder.rmdir()
        return not folder.exists()

    wait_for(is_removed, 10)


@contextlib.contextmanager
def member_of(group: Path) -> Iterator[int]:
    """A process in a cgroup."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        (group / "cgroup.procs").write_text(str(child.pid))
        yield child.pid
    finally:
        child.kill()
        child.communicate()


def test_a_real_quota_of_cpus_is_read_from_the_group_and_those_above() -> None:
    with first_version("cpu") as group:
        if not (group / "cpu.cfs_quota_us").exists():
            pytest.skip("this kernel has no CPU bandwidth control (CONFIG_CFS_BANDWIDTH)")
        with member_of(group) as pid:
            assert cgroup.read_cpu_quota(pid) is None
            (group / "cpu.cfs_quota_us").write_text("150000")
            assert cgroup.read_cpu_quota(pid) == 1.5


def test_a_real_limit_of_threads_is_read() -> None:
    with first_version("pids") as group, member_of(group) as pid:
        assert cgroup.read_tasks(pid) is None
        (group / "pids.max").write_text("7")
        assert cgroup.read_tasks(pid) == cgroup.Allowance(7, 1)


def test_the_tightest_quota_of_version_two_counts(tmp_path: Path) -> None:
    group = tmp_path / "slice" / "job"
    group.mkdir(parents=True)
    for folder, quota, most in (
        (tmp_path, "max 100000", "max"),
        (group.parent, "200000 100000", "50"),
        (group, "400000 100000", "max"),
    ):
        (folder / "cgroup.procs").touch()
        (folder / "cpu.max").write_text(quota)
        (folder / "pids.max").write_text(most)
        (folder / "pids.current").write_text("9")
    proc = tmp_path / "proc" / "self"
    proc.mkdir(parents=True)
    (proc / "cgroup").write_text("0::/slice/job\n")
    (proc / "mountinfo").write_text(f"40 31 0:33 / {tmp_path} rw - cgroup2 cgroup2 rw\n")
    assert cgroup.read_cpu_quota(proc=proc.parent) == 2.0
    assert cgroup.read_tasks(proc=proc.parent) == cgroup.Allowance(50, 9)


# --- the clock and the boot ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "synchronised"), [(0, True), (0x2001, True), (0x40, False), (0x41, False)]
)
def test_the_clocks_state_is_read(status: int, synchronised: bool) -> None:
    content = struct.pack("i4xqqqqi", 0, 0, 0, 16_000_000, 2, status)
    assert system.parse_timex(content) == Clock(synchronised, 16.0)


def test_the_real_clock_tells_its_state() -> None:
    try:
        clock = system.read_clock()
    except OSError as error:
        pytest.skip(f"adjtimex is forbidden here: {error}")
    assert 0 <= clock.error_seconds <= 60


def record(kind: int, name: str, moment: float) -> bytes:
    return struct.pack("h42x32s264xi40x", kind, name.encode(), int(moment))


BOOTED = 1_700_000_000.0


@pytest.mark.parametrize(
    ("records", "orderly"),
    [
        ([(1, "shutdown", -60), (2, "reboot", 0), (7, "bob", 50)], True),
        ([(1, "shutdown", -9000), (2, "reboot", -8000), (7, "bob", -60), (2, "reboot", 0)], False),
        ([(2, "reboot", 0), (1, "runlevel", 2)], False),
        ([(1, "shutdown", -200_000), (2, "reboot", -190_000)], None),
        ([], None),
    ],
)
def test_an_orderly_shutdown_is_told_from_a_crash(
    records: list[tuple[int, str, float]], orderly: bool | None
) -> None:
    content = b"".join(record(kind, name, BOOTED + after) for kind, name, after in records)
    assert system.parse_shutdown(content + b"torn", BOOTED) is orderly


# --- processes -------------------------------------------------------------------------------------------------


def test_zombies_are_counted_by_their_parent(tmp_path: Path) -> None:
    add_process(tmp_path, 10, name="lazy (one)")
    for pid in (11, 12):
        add_process(tmp_path, pid, "Z", 10)
    add_process(tmp_path, 13, "Z", 99)
    add_process(tmp_path, 14, "Z", os.getppid())
    (tmp_path / "15").mkdir()
    seen = system.read_troubled(proc=tmp_path)
    assert seen.zombies == (Zombies(10, "lazy (one)", 2), Zombies(99, "?", 1))
    assert seen.blocked == ()


def test_a_real_zombie_is_found_with_its_parent() -> None:
    code = "import os\nif os.fork() == 0: os._exit(0)\nprint(flush=True); input()"
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert parent.stdout is not None and parent.stdout.readline()
        (one,) = wait_for(
            lambda: [one for one in system.read_troubled(0.0).zombies if one.parent == parent.pid], 10
        )
        assert one.count == 1 and one.name.startswith("python")
    finally:
        parent.kill()
        parent.communicate()


def test_only_who_stays_in_one_wait_is_blocked(tmp_path: Path) -> None:
    for pid in (20, 21, 22, 23):
        add_process(tmp_path, pid, "D")
    add_process(tmp_path, 24, "D", parent=2, name="kworker")
    waited = []

    def meanwhile(seconds: float) -> None:
        waited.append(seconds)
        add_process(tmp_path, 21, "D", switches=6)
        add_process(tmp_path, 22, "S")
        (tmp_path / "23" / "stat").unlink()

    seen = system.read_troubled(1.5, tmp_path, meanwhile)
    assert waited == [1.5]
    assert [(one.pid, one.channel, one.seconds) for one in seen.blocked] == [(20, "io_schedule", 1.5)]


def test_where_nobody_waits_there_is_no_second_look(tmp_path: Path) -> None:
    add_process(tmp_path, 20, "R")

    def fail(seconds: float) -> None:
        raise AssertionError("waited")

    assert system.read_troubled(proc=tmp_path, wait=fail).seen == 1


def test_a_process_that_a_frozen_disk_holds_is_found(tmp_path: Path) -> None:
    with disk_faults.ext4(tmp_path / "m") as place:
        with disk_faults.frozen(place):
            child = subprocess.Popen(
                [sys.executable, "-c", "import sys; open(sys.argv[1], 'w')", str(place / "x")]
            )
            blocked = wait_for(
                lambda: [one for one in system.read_troubled(0.1).blocked if one.pid == child.pid], 20
            )
            assert blocked[0].seconds == 0.1 and blocked[0].name.startswith("python")
        assert child.wait(timeout=20) == 0


# --- limits ----------------------------------------------------------------------------------------------------

LIMITS = """Limit                     Soft Limit           Hard Limit           Units
Max cpu time              unlimited            unlimited            seconds
Max open files            1024                 1048576              files
Max nice priority         0                    0
torn
"""


def test_the_soft_limits_are_read_by_name() -> None:
    assert system.parse_limits(LIMITS) == {
        "Max cpu time": None,
        "Max open files": 1024,
        "Max nice priority": 0,
    }


def test_the_limits_of_another_process_are_its_own() -> None:
    code = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (77, 99)); print(flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None and child.stdout.readline()
        told = system.read_limits(child.pid)
        own = system.read_limits()
    finally:
        child.kill()
        child.communicate()
    assert told.limits["Max open files"] == 77 and told.open_files == 3
    assert told.whose == f"the daemon (pid {child.pid})"
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert own.limits["Max open files"] == soft and own.whose == "this shell (no daemon runs)"


def test_an_adapter_of_infiniband_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "class" / "infiniband").mkdir(parents=True)
    assert not system.read_limits(system=tmp_path).infiniband
    (tmp_path / "class" / "infiniband" / "mlx5_0").mkdir()
    assert system.read_limits(system=tmp_path).infiniband


# --- upgrades --------------------------------------------------------------------------------------------------


def line(moment: float, form: str, rest: str) -> str:
    return f"{time.strftime(form, time.localtime(moment))} {rest}\n"


def test_only_drivers_that_were_changed_after_the_moment_are_told() -> None:
    form = "%Y-%m-%d %H:%M:%S"
    text = (
        line(BOOTED - 1, form, "upgrade nvidia-driver-550:amd64 550.54 550.90")
        + line(BOOTED + 5, form, "upgrade nvidia-driver-550:amd64 550.54 550.90")
        + line(BOOTED + 6, form, "status installed nvidia-driver-550:amd64 550.90")
        + line(BOOTED + 7, form, "install libnvidia-compute-550:amd64 <none> 550.90")
        + line(BOOTED + 8, form, "remove libcuda1:amd64 550.54 <none>")
        + line(BOOTED + 9, form, "upgrade nvidia-container-toolkit:amd64 1.0 1.1")
        + line(BOOTED + 9, form, "upgrade python3:amd64 3.11 3.12")
        + "2026-99-99 00:00:00 upgrade nvidia-driver-550:amd64 1 2\n"
    )
    assert system.parse_dpkg_log(text, BOOTED) == [
        Change(BOOTED + 5, "nvidia-driver-550", "upgrade 550.54 to 550.90"),
        Change(BOOTED + 8, "libcuda1", "remove 550.54"),
    ]


def test_the_log_of_dnf_is_read() -> None:
    form = "%Y-%m-%dT%H:%M:%S%z"
    text = (
        line(BOOTED + 5, form, "SUBDEBUG Upgrade: nvidia-driver-3:550.90-1.el9.x86_64")
        + line(BOOTED + 5, form, "SUBDEBUG Installed: nvidia-driver-3:550.90-1.el9.x86_64")
        + line(BOOTED + 6, form, "SUBDEBUG Upgraded: kernel-5.14")
        + line(BOOTED - 9, form, "INFO Upgraded: kmod-nvidia-3:550")
    )
    assert system.parse_dnf_log(text, BOOTED) == [
        Change(BOOTED + 5, "nvidia-driver-3:550.90-1.el9.x86_64", "upgrade")
    ]


def make_root(folder: Path) -> Path:
    for name in ("var/log", "run", "lib/modules/6.1.0"):
        (folder / name).mkdir(parents=True)
    return folder


def test_upgrades_requests_and_modules_are_read_from_where_they_lie(tmp_path: Path) -> None:
    root = make_root(tmp_path)
    now = line(time.time() + 1, "%Y-%m-%d %H:%M:%S", "upgrade nvidia-driver-550:amd64 1 2")
    (root / "var/log/dpkg.log").write_text(now)
    (root / "run/reboot-required").write_text("*** System restart required ***\n")
    (root / "run/reboot-required.pkgs").write_text("linux-base\nlibc6\nlinux-base\n")
    told = system.read_upgrades(root, "6.1.0")
    assert [one.package for one in told.changes] == ["nvidia-driver-550"]
    assert told.logs == (str(root / "var/log/dpkg.log"),) and told.unreadable == ()
    assert told.reboot_wanted == ("linux-base", "libc6")
    assert told.modules is True
    assert system.read_upgrades(root, "6.1.9").modules is False


def test_where_nothing_is_kept_nothing_is_known(tmp_path: Path) -> None:
    told = system.read_upgrades(tmp_path, "6.1.0")
    assert (told.logs, told.unreadable, told.reboot_wanted, told.modules) == ((), (), None, None)


def test_a_log_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (make_root(tmp_path) / "var/log/dpkg.log").mkdir()
    assert system.read_upgrades(tmp_path, "6.1.0").unreadable == (str(tmp_path / "var/log/dpkg.log"),)
