"""Disks: what is mounted, what is left, what writing comes to, quotas and the kernel's errors, by real faults."""

import errno
import os
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import disk_faults
import pytest
from support import wait_for

from trainguard import disks
from trainguard.config import CheckpointSettings, DaemonSettings, LogSettings, Settings
from trainguard.disks import DeviceError, Mount, Quota
from trainguard.kernel_log import read_kernel_log

MOUNTINFO = (
    "27 1 254:0 / / rw,relatime - ext4 /dev/vda1 rw,discard\n"
    "28 27 0:25 / /data\\040sets ro,nosuid shared:1 master:2 - nfs4 nas:/sets rw,vers=4.2\n"
    "29 27 0:26 / /data rw - xfs /dev/mapper/data rw\n"
    "30 29 0:27 / /data rw - tmpfs none rw,size=4k\n"
    "torn line\n"
)


def mount(place: str, kind: str = "ext4", source: str = "/dev/sda1", number: str = "8:1") -> Mount:
    return Mount(place, kind, source, number, ("rw",), ("rw",))


# --- mounts ----------------------------------------------------------------------------------------------------


def test_the_rows_of_mountinfo_are_read_and_a_torn_one_is_left_out() -> None:
    mounts = disks.parse_mountinfo(MOUNTINFO)
    assert [one.place for one in mounts] == ["/", "/data sets", "/data", "/data"]
    assert mounts[1] == Mount("/data sets", "nfs4", "nas:/sets", "0:25", ("ro", "nosuid"), ("rw", "vers=4.2"))


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/database", "ext4"),
        ("/data", "tmpfs"),
        ("/data/a/b", "tmpfs"),
        ("/data sets/x", "nfs4"),
    ],
)
def test_a_path_lies_on_the_longest_mount_and_of_two_at_one_place_on_the_later(path: str, kind: str) -> None:
    found = disks.mount_of(path, disks.parse_mountinfo(MOUNTINFO))
    assert found is not None and found.kind == kind


def test_without_a_mount_there_is_none() -> None:
    assert disks.mount_of("/data", []) is None


@pytest.mark.parametrize(
    ("options", "super_options", "read_only", "made"),
    [
        ("rw,relatime", "rw,errors=remount-ro", False, False),
        ("ro,relatime", "rw", True, False),
        ("ro", "ro", True, False),
        ("rw", "ro,errors=remount-ro", True, True),
        ("rw", "rw,abort,emergency_ro", True, True),
        ("rw", "rw,shutdown", True, True),
    ],
)
def test_who_made_a_mount_read_only_is_told_apart(
    options: str, super_options: str, read_only: bool, made: bool
) -> None:
    one = Mount("/", "ext4", "/dev/sda", "8:0", tuple(options.split(",")), tuple(super_options.split(",")))
    assert (one.read_only, one.made_read_only) == (read_only, made)


def test_the_devices_below_a_mount_are_found_down_to_the_controllers(tmp_path: Path) -> None:
    real = tmp_path / "devices" / "pci0" / "ata3" / "host2" / "block" / "sda"
    (real / "sda1").mkdir(parents=True)
    (real / "sda1" / "partition").write_text("1\n")
    mapped = tmp_path / "devices" / "virtual" / "block" / "dm-0"
    (mapped / "slaves").mkdir(parents=True)
    (mapped / "slaves" / "sda1").symlink_to(real / "sda1")
    (tmp_path / "dev" / "block").mkdir(parents=True)
    (tmp_path / "dev" / "block" / "252:0").symlink_to(mapped)
    found = disks.read_devices(mount("/", number="252:0", source="/dev/mapper/root"), tmp_path)
    assert found == ("ata3", "dm-0", "sda", "sda1")


def test_a_file_system_in_memory_has_no_device() -> None:
    assert disks.read_devices(mount("/dev/shm", "tmpfs", "tmpfs", "0:23")) == ()


def test_a_loop_device_is_found_by_its_number(tmp_path: Path) -> None:
    with disk_faults.ext4(tmp_path / "m"):
        found = disks.mount_of(str(tmp_path / "m"), disks.read_mounts())
        assert found is not None and found.kind == "ext4" and found.place == str(tmp_path / "m")
        assert disks.read_devices(found) == (found.source.rpartition("/")[2],)


# --- what is left ----------------------------------------------------------------------------------------------


def test_the_disk_of_a_path_that_does_not_exist_is_that_of_its_nearest_parent(tmp_path: Path) -> None:
    told = disks.read_disk(tmp_path / "not" / "there")
    assert told.path == str(tmp_path)
    assert told.total is not None and told.free is not None and 0 < told.free <= told.total
    assert told.inodes is not None and told.free_inodes is not None


def test_a_path_below_a_file_has_the_disk_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert disks.read_disk(tmp_path / "file" / "below").path == str(tmp_path / "file")


def test_what_may_not_be_looked_at_is_unknown_and_not_full(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert disks.read_disk(loop / "x") == disks.Disk(str(loop / "x"), None, None, None)


def test_places_are_told_by_where_they_really_lie(tmp_path: Path) -> None:
    with disk_faults.tmpfs(tmp_path / "m") as place:
        (tmp_path / "link").symlink_to(place)
        told = disks.read_places({"a": tmp_path / "link", "b": place / "not" / "yet", "c": tmp_path})
    linked, missing, other = told.places
    assert linked.path == str(tmp_path / "link") and linked.real == str(place)
    assert linked.mount is not None and linked.mount == missing.mount and linked.mount.kind == "tmpfs"
    assert linked.disk is not None and linked.disk.total == 1 << 20
    assert (linked.missing, missing.missing, other.missing) == (False, True, False)
    assert other.mount is not None and other.mount.place != str(place)


def test_a_file_system_that_hangs_hides_no_other_and_its_mount_is_still_named(tmp_path: Path) -> None:
    with disk_faults.mute(tmp_path / "m") as place:
        began = time.monotonic()
        told = disks.read_places({"dead": place / "x", "alive": tmp_path}, seconds=0.5)
        assert time.monotonic() - began < 10
    dead, alive = told.places
    assert dead.hung and dead.problem == "no answer within 0.5 s" and dead.disk is None
    assert dead.mount is not None and (dead.mount.place, dead.mount.kind) == (str(place), "fuse")
    assert not alive.hung and alive.disk is not None


def test_a_server_that_is_gone_is_told_as_the_kernel_says_it(tmp_path: Path) -> None:
    with disk_faults.mute(tmp_path / "m", served=False) as place:
        (dead,) = disks.read_places({"dead": place}).places
    assert not dead.hung and dead.disk is None
    assert dead.problem is not None and os.strerror(errno.ENOTCONN) in dead.problem


def test_the_places_of_a_run_are_those_that_it_writes_to(tmp_path: Path) -> None:
    settings = Settings(
        path=tmp_path / "config.yaml",
        daemon=DaemonSettings(
            command=("true",),
            directory=tmp_path,
            log=tmp_path / "out" / "a.log",
            environment={"TMPDIR": "/scratch"},
        ),
        checkpoints=CheckpointSettings(directory=tmp_path / "out"),
        logs=LogSettings(directory=tmp_path / "logs"),
    )
    assert disks.places_of(settings) == {
        "checkpoints": tmp_path / "out",
        "run folder": tmp_path / "logs",
        "daemon's log": tmp_path / "out",
        "daemon's folder": tmp_path,
        "shared memory": Path("/dev/shm"),
        "temporary files": Path("/scratch"),
    }


# --- writing ---------------------------------------------------------------------------------------------------


def test_what_was_tried_leaves_nothing_behind(tmp_path: Path) -> None:
    (attempt,) = disks.try_writing({"run folder": tmp_path}).attempts
    assert attempt.problem is None and attempt.sync_seconds is not None and attempt.sync_seconds >= 0
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_yet_is_tried_in_its_parent(tmp_path: Path) -> None:
    attempt = disks.try_folder("checkpoints", tmp_path / "a" / "b")
    assert (attempt.problem, attempt.instead) == (None, str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_refuses(tmp_path: Path) -> None:
    with disk_faults.tmpfs(tmp_path / "m") as place:
        (place / "fill").write_bytes(b"x" * (1 << 20))
        attempt = disks.try_folder("checkpoints", place)
        assert attempt.code == errno.ENOSPC and attempt.problem == os.strerror(errno.ENOSPC)
        assert [one.name for one in place.iterdir()] == ["fill"]


def test_a_disk_without_inodes_refuses(tmp_path: Path) -> None:
    with disk_faults.tmpfs(tmp_path / "m", "size=1m,nr_inodes=2") as place:
        (place / "last").touch()
        assert disks.try_folder("checkpoints", place).code == errno.ENOSPC


def test_a_read_only_mount_refuses(tmp_path: Path) -> None:
    with disk_faults.tmpfs(tmp_path / "m") as place:
        disk_faults.remount(place, "ro")
        assert disks.try_folder("checkpoints", place).code == errno.EROFS


def test_a_folder_of_somebody_else_refuses() -> None:
    if os.geteuid() != 0:
        pytest.skip("root is needed to be somebody else for a moment")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        os.seteuid(65534)
        try:
            attempt = disks.try_folder("checkpoints", Path(folder))
        finally:
            os.seteuid(0)
    assert attempt.code == errno.EACCES


def test_a_disk_that_is_frozen_hangs_only_its_own_attempt(tmp_path: Path) -> None:
    with disk_faults.ext4(tmp_path / "m") as place, disk_faults.frozen(place):
        told = disks.try_writing({"checkpoints": place, "run folder": tmp_path}, seconds=0.5)
    frozen, other = told.attempts
    assert frozen.hung and frozen.problem == "no answer within 0.5 s"
    assert other.problem is None


def test_what_a_killed_look_left_is_taken_away_by_the_next(tmp_path: Path) -> None:
    name = f".trainguard-write-test-{os.getuid()}-{os.uname().nodename}"
    (tmp_path / name).write_text("torn")
    (tmp_path / f"{name}.renamed").write_text("torn")
    assert disks.try_folder("run folder", tmp_path).problem is None
    assert list(tmp_path.iterdir()) == []


def test_looks_at_one_time_do_not_take_each_other_for_a_broken_disk(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from trainguard.disks import try_folder\n"
        "problems = [try_folder('a', Path(sys.argv[1])).problem for _ in range(150)]\n"
        "print([one for one in problems if one])"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [child.communicate(timeout=60)[0] for child in children] == ["[]\n"] * 3
    assert list(tmp_path.iterdir()) == []


# --- quotas ----------------------------------------------------------------------------------------------------


def dqblk(*numbers: int) -> bytes:
    """A struct if_dqblk: limits of blocks (hard, soft), used bytes, limits of files, files, two grace times."""
    return struct.pack("=8QI4x", *numbers, 0, 0, 0)


def test_the_tighter_limit_of_a_quota_counts() -> None:
    told = disks.parse_quota(dqblk(2000, 1000, 5 << 20, 0, 70, 7), "/home", "user")
    assert told == Quota("/home", "user", 5 << 20, 1000 * 1024, 7, 70)


def test_a_quota_without_a_limit_is_none() -> None:
    assert disks.parse_quota(dqblk(0, 0, 5 << 20, 0, 0, 7), "/home", "user") is None


def test_what_the_command_tells_of_a_server_is_read() -> None:
    text = (
        "Disk quotas for user bob (uid 1000): \n"
        "     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace\n"
        "nas:/home   6200*   5000    6000  1799999999      12       0     100       0\n"
        "nas:/free   6200       0       0       0      12       0       0       0\n"
        "/dev/broken  none\n"
    )
    assert disks.parse_quota_command(text) == [Quota("nas:/home", "user", 6200 * 1024, 5000 * 1024, 12, 100)]
    assert disks.parse_quota_command("Disk quotas for user root (uid 0): none\n") == []


def test_where_the_kernel_keeps_no_quota_none_is_told(tmp_path: Path) -> None:
    with disk_faults.tmpfs(tmp_path / "m") as place:
        assert disks.read_quotas({"a": place, "b": place}) == disks.Quotas((), ())


def test_a_file_system_that_hangs_is_named_among_the_unanswered(tmp_path: Path) -> None:
    with disk_faults.mute(tmp_path / "m") as place:
        told = disks.read_quotas({"dead": place / "x", "alive": tmp_path}, seconds=0.1)
    assert told.unanswered == (str(place / "x"),)


# --- errors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "device", "grave"),
    [
        ("blk_update_request: I/O error, dev sda, sector 2048 op 0x0:(READ) flags 0x80700", "sda", True),
        ("I/O error, dev nvme0n1, sector 99 op 0x1:(WRITE) flags 0x800 phys_seg 1", "nvme0n1", True),
        ("critical medium error, dev sdb, sector 7 op 0x0:(READ)", "sdb", True),
        ("Buffer I/O error on dev dm-0, logical block 3, lost async page write", "dm-0", True),
        ("EXT4-fs error (device sda1): ext4_find_entry:1455: inode #2: comm python", "sda1", True),
        ("EXT4-fs (loop0): Remounting filesystem read-only", "loop0", True),
        ("Aborting journal on device sda1-8.", "sda1", True),
        ("JBD2: Detected IO errors while flushing file data on nvme0n1p2-8", "nvme0n1p2", True),
        ("XFS (sda1): metadata I/O error in xfs_imap_to_bp at daddr 0x2 len 1 error 5", "sda1", True),
        ("XFS (dm-1): Corruption of in-memory data (0x8) detected at x. Shutting down.", "dm-1", True),
        ("BTRFS error (device sdc): bdev /dev/sdc errs: wr 1, rd 0", "sdc", True),
        ("nvme nvme0: Device not ready; aborting reset, CSTS=0x1", "nvme0", True),
        ("md/raid1:md0: Disk failure on sdb1, disabling device.", "sdb1", True),
        ("nvme nvme1: I/O 12 QID 3 timeout, aborting", "nvme1", False),
        ("nvme nvme1: I/O tag 12 (100c) opcode 0x2 (I/O Cmd) QID 3 timeout, aborting req", "nvme1", False),
        ("ata1.00: exception Emask 0x0 SAct 0x0 SErr 0x0 action 0x6 frozen", "ata1", False),
        ("ata2: hard resetting link", "ata2", False),
        ("nfs: server nas.example not responding, still trying", "nas.example", False),
    ],
)
def test_the_kernels_errors_name_their_device_and_how_grave_they_are(
    text: str, device: str, grave: bool
) -> None:
    told = disks.parse_device_errors([(5.0, "usb 1-1: new device"), (9.0, text)])
    assert told.errors == (DeviceError(device, 1, grave, 9.0, text),)
    assert told.lines == 2


@pytest.mark.parametrize(
    "text",
    [
        "EXT4-fs (sda1): mounted filesystem with ordered data mode. Quota mode: none.",
        "EXT4-fs (sda1): re-mounted. Opts: errors=remount-ro",
        "XFS (sda1): Ending clean mount",
        "nvme nvme0: 8/0/0 default/read/poll queues",
        "ata1: SATA link up 6.0 Gbps (SStatus 133 SControl 300)",
        "I/O error, dev fd0, sector 0 op 0x0:(READ) flags 0x0",
        "Buffer I/O error on dev sr0, logical block 0, async page read",
        "nfs: server nas OK",
        "python[17]: segfault at 0 ip 0 sp 0 error 4",
    ],
)
def test_what_is_usual_in_a_kernel_log_is_no_error(text: str) -> None:
    assert disks.parse_device_errors([(None, text)]).errors == ()


def test_errors_of_a_device_are_counted_and_one_grave_one_makes_it_grave() -> None:
    lines = [
        (1.0, "nvme nvme0: I/O 1 QID 3 timeout, aborting"),
        (2.0, "nvme nvme0: Removing after probe failure status: -19"),
        (3.0, "nvme nvme0: I/O 2 QID 3 timeout, aborting"),
    ]
    (one,) = disks.parse_device_errors(lines).errors
    assert (one.count, one.grave, one.last) == (3, True, 3.0)


def test_a_real_error_of_a_file_system_is_found_in_the_kernel_log(tmp_path: Path) -> None:
    try:
        read_kernel_log()
    except OSError as error:
        pytest.skip(f"the kernel log may not be read here: {error}")
    began = time.time()
    with disk_faults.ext4(tmp_path / "m", "rw,errors=remount-ro") as place:
        mounted = disks.mount_of(str(place), disks.read_mounts())
        assert mounted is not None
        devices = disks.read_devices(mounted)
        disk_faults.remount(place, "abort")

        def told() -> list[DeviceError]:
            lines = [(line.time, line.text) for line in read_kernel_log(began - 5)]
            return [one for one in disks.parse_device_errors(lines).errors if one.device in devices]

        (error,) = wait_for(told, 10)
        assert error.grave and error.last is not None and abs(error.last - time.time()) < 60
        broken = disks.mount_of(str(place), disks.read_mounts())
        assert broken is not None and broken.made_read_only
