"""Checks of disks: each fine, at its limit, just beyond it, where it does not apply, and where something hangs."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import disk_faults
import msgspec
import pytest
from support import wait_for

from trainguard.checks import disks as rows
from trainguard.checks.running import limits_of, run_checks
from trainguard.checks.values import Absent, Check, Facts, Measure, Reading, Result
from trainguard.config import CheckpointSettings, DaemonSettings, HealthSettings, LogSettings, Settings
from trainguard.disks import (
    Attempt,
    Attempts,
    DeviceError,
    DeviceErrors,
    Disk,
    Disks,
    Mount,
    Place,
    Quota,
    Quotas,
    read_places,
)
from trainguard.health import Finding, Status
from trainguard.vitals import Past, Sample, key_of

CHECKS = {check.id: check for check in rows.CHECKS}
GIB = 1 << 30
NOW = 1_000_000.0
ROOT = Mount("/", "ext4", "/dev/sda1", "8:1", ("rw",), ("rw",))
DATA = Mount("/data", "xfs", "/dev/sdb", "8:16", ("rw",), ("rw",))
SHM = Mount("/dev/shm", "tmpfs", "tmpfs", "0:23", ("rw",), ("rw",))
PLENTY = Disk("/", 1000 * GIB, 500 * GIB, 900, 1000)


def settings_of(folder: Path = Path("/absent"), **health: Any) -> Settings:
    return Settings(
        path=folder / "config.yaml",
        daemon=DaemonSettings(command=("true",), directory=folder, log=folder / "logs" / "a.log"),
        checkpoints=CheckpointSettings(directory=folder / "out"),
        health=HealthSettings(**health),
        logs=LogSettings(directory=folder / "logs"),
    )


def place(
    use: str = "checkpoints", mount: Mount | None = ROOT, disk: Disk | None = PLENTY, **more: Any
) -> Place:
    path = more.pop("path", "/out")
    return Place(use, path, more.pop("real", path), mount, disk, **more)


def told(
    check_id: str, *values: object, past: Sequence[Sample] = (), limits: Mapping[str, float] = {}
) -> list[Any]:
    check = CHECKS[check_id]
    set_limits = {limit.name: limit.default for limit in check.limits} | dict(limits)
    facts = Facts(settings_of(), values, Past(tuple(past)), NOW)
    return list(check.judge(facts, set_limits))


def findings(check_id: str, *values: object, **more: Any) -> list[Finding]:
    return [one for one in told(check_id, *values, **more) if isinstance(one, Finding)]


def statuses(check_id: str, *values: object, **more: Any) -> list[Status]:
    return [one.status for one in findings(check_id, *values, **more)]


def run(check: Check, settings: Settings) -> Result:
    return run_checks([check], settings, limits_of(settings, [check]), Past())[0]


# --- alive -----------------------------------------------------------------------------------------------------


def test_each_file_system_is_told_once_with_what_lies_on_it() -> None:
    seen = Disks((place(), place("run folder"), place(rows.SHARED, SHM)))
    alive = findings("disk-alive", seen)
    assert [one.subject for one in alive] == ["disk /", "disk /dev/shm"]
    assert "checkpoints, run folder" in alive[0].fact and rows.SHARED in alive[1].fact
    assert {one.status for one in alive} == {Status.OK}


def test_a_file_system_that_cannot_be_read_is_bad() -> None:
    (one,) = findings("disk-alive", Disks((place(disk=None, problem="Stale file handle"),)))
    assert one.status is Status.BAD and "Stale file handle" in one.fact and one.remedy


def test_a_dead_mount_is_bad_and_the_others_are_still_judged(tmp_path: Path) -> None:
    with disk_faults.mute(tmp_path / "m") as dead:
        settings = settings_of(tmp_path, mounts=(dead,))
        chosen = [CHECKS["disk-alive"], CHECKS["disk-free"], CHECKS["disk-mounts"]]
        alive, free, mounts = run_checks(chosen, settings, limits_of(settings, chosen), Past())
    assert alive.status is Status.BAD
    assert alive.findings[0].subject == f"disk {dead}" and "hangs" in alive.findings[0].fact
    assert any(one.status is Status.OK for one in alive.findings)
    assert free.undecided is None and free.measures
    assert mounts.status is Status.BAD and "is mounted, and gives no answer" in mounts.findings[0].fact
    assert alive.seconds < rows.DISKS.seconds


@pytest.mark.parametrize("check", [one for one in rows.CHECKS if one.answers_for], ids=lambda one: one.id)
def test_a_hanging_reading_is_told_by_the_check_that_answers_for_it(check: Check) -> None:
    def hanging(source: Reading) -> Reading:
        return msgspec.structs.replace(source, read=lambda settings, deep: time.sleep(60), seconds=0.2)

    own = [hanging(one) for one in check.answers_for]
    others = [one for one in check.reads if one not in check.answers_for]
    dead = msgspec.structs.replace(check, reads=(*own, *others), answers_for=tuple(own))
    result = run(dead, settings_of())
    assert result.status is Status.BAD and "hangs" in result.findings[0].fact


# --- room ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "free", "status"),
    [
        (1000, 20 * GIB, Status.OK),
        (1000, 20 * GIB - 1, Status.ATTENTION),
        (1000, 2 * GIB, Status.ATTENTION),
        (1000, 2 * GIB - 1, Status.BAD),
        (10, GIB, Status.OK),  # a small disk is told by its share
        (10, GIB - 1, Status.ATTENTION),
        (10, GIB // 5 + 1, Status.ATTENTION),
        (10, GIB // 5, Status.BAD),
        (10, 0, Status.BAD),
    ],
)
def test_free_space_is_graded_by_bytes_and_on_a_small_disk_by_its_share(
    total: int, free: int, status: Status
) -> None:
    seen = Disks((place(disk=Disk("/", total * GIB, free, 1, 2)),))
    assert statuses("disk-free", seen) == [status]


def test_free_space_is_measured_once_for_each_file_system() -> None:
    seen = Disks((place(), place("run folder"), place("mount /data", DATA), place(rows.SHARED, SHM)))
    measures = [one for one in told("disk-free", seen) if isinstance(one, Measure)]
    assert [(one.name, one.subject, one.value) for one in measures] == [
        ("disk_free_bytes", "/", 500 * GIB),
        ("disk_free_bytes", "/data", 500 * GIB),
    ]
    assert measures[0].low_is_bad and (measures[0].attention, measures[0].bad) == (20 * GIB, 2 * GIB)


def test_a_data_set_that_is_only_read_may_be_full() -> None:
    fixed = msgspec.structs.replace(DATA, options=("ro",))
    full = Disk("/data", GIB, 0, 0, 10)
    seen = Disks((place(), place("mount /data", fixed, full)))
    assert statuses("disk-free", seen) == [Status.OK]
    assert statuses("disk-inodes", seen) == [Status.OK]


def test_a_size_that_is_not_told_is_unknown_and_not_free() -> None:
    assert statuses("disk-free", Disks((place(disk=Disk("/", 0, 0, 0, 0)),))) == [Status.UNKNOWN]
    assert statuses("disk-free", Disks((place(disk=None, problem="x"),))) == [Status.UNKNOWN]
    assert statuses("disk-inodes", Disks((place(disk=None, problem="x"),))) == [Status.UNKNOWN]


@pytest.mark.parametrize(
    ("free", "status"),
    [(50, Status.OK), (49, Status.ATTENTION), (10, Status.ATTENTION), (9, Status.BAD), (0, Status.BAD)],
)
def test_free_inodes_are_graded(free: int, status: Status) -> None:
    assert statuses("disk-inodes", Disks((place(disk=Disk("/", GIB, GIB, free, 1000)),))) == [status]


def test_a_file_system_that_makes_inodes_as_it_needs_them_is_fine() -> None:
    assert statuses("disk-inodes", Disks((place(disk=Disk("/", GIB, GIB, 0, 0)),))) == [Status.OK]


def test_a_real_full_disk_is_bad(tmp_path: Path) -> None:
    with disk_faults.tmpfs(tmp_path / "out", "size=1m,nr_inodes=3") as out:
        (out / "fill").write_bytes(b"x" * (1 << 20))
        (out / "last").touch()
        settings = settings_of(tmp_path)
        chosen = [CHECKS[name] for name in ("disk-free", "disk-inodes", "disk-write", "disk-type")]
        results = run_checks(chosen, settings, limits_of(settings, chosen), Past())
    worst = {one.check.id: one.findings[0] for one in results}
    assert {worst[name].status for name in ("disk-free", "disk-inodes", "disk-write")} == {Status.BAD}
    assert (
        worst["disk-free"].subject == f"disk {out}" and "0.0 MiB of 1.0 MiB free" in worst["disk-free"].fact
    )
    assert worst["disk-write"].remedy == "free space or inodes"
    assert worst["disk-type"].status is Status.ATTENTION and "tmpfs" in worst["disk-type"].fact


# --- forecast --------------------------------------------------------------------------------------------------


def samples(free_by_age: Mapping[float, float]) -> list[Sample]:
    """Earlier looks: seconds ago, and what was free then."""
    return [
        Sample(NOW - age, "boot", 0.0, {key_of("disk_free_bytes", "/"): value})
        for age, value in sorted(free_by_age.items(), reverse=True)
    ]


@pytest.mark.parametrize(
    ("hours", "status"),
    [(72, Status.OK), (71.9, Status.ATTENTION), (12, Status.ATTENTION), (11.9, Status.BAD), (0, Status.BAD)],
)
def test_the_time_until_a_disk_is_full_is_graded(hours: float, status: Status) -> None:
    hourly = 3600 << 20
    free = int(hours * hourly)
    seen = Disks((place(disk=Disk("/", 1000 * GIB, free, 1, 2)),))
    past = samples({3600.0 * ago: free + hourly * ago for ago in (1, 2, 3)})
    assert statuses("disk-fill", seen, past=past) == [status]


def test_a_forecast_tells_when_and_how_fast() -> None:
    seen = Disks((place(disk=Disk("/", 100 * GIB, 10 * GIB, 1, 2)),))
    past = samples({3600.0 * ago: (10 + ago) * GIB for ago in (1, 2, 3)})
    (one,) = findings("disk-fill", seen, past=past)
    assert one.fact == "full in 10 h 00 min at 24.0 GiB a day, as over 3 h 00 min"
    (measure,) = (one for one in told("disk-fill", seen, past=past) if isinstance(one, Measure))
    assert measure.value == pytest.approx(36_000)


def test_a_disk_that_does_not_fill_up_is_fine() -> None:
    past = samples({3600.0 * ago: (500 - ago) * GIB for ago in (1, 2, 3)})
    assert statuses("disk-fill", Disks((place(),)), past=past) == [Status.OK]


@pytest.mark.parametrize("ages", [(), (3600.0,), (900.0, 1200.0)])
def test_too_short_a_past_gives_no_forecast(ages: Sequence[float]) -> None:
    past = samples({age: 500.0 * GIB + age * GIB for age in ages})
    assert [type(one) for one in told("disk-fill", Disks((place(),)), past=past)] == [Absent]


# --- shared memory and temporary files -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "status"),
    [
        (GIB, Status.OK),
        (GIB - 1, Status.ATTENTION),
        (64 << 20, Status.ATTENTION),
        ((64 << 20) - 1, Status.BAD),
    ],
)
def test_free_shared_memory_is_graded(free: int, status: Status) -> None:
    disk = Disk("/dev/shm", 8 * GIB, free, 1, 2)
    assert statuses("disk-shm", Disks((place(rows.SHARED, SHM, disk),))) == [status]


def test_dockers_default_is_named() -> None:
    disk = Disk("/dev/shm", 64 << 20, 64 << 20, 1, 2)
    (one,) = findings("disk-shm", Disks((place(rows.SHARED, SHM, disk),)))
    assert one.status is Status.ATTENTION and "without --shm-size" in one.fact and "--shm-size" in one.remedy


def test_shared_memory_that_is_not_there_is_bad_and_what_is_not_told_unknown() -> None:
    assert statuses("disk-shm", Disks(())) == [Status.BAD]
    assert statuses("disk-shm", Disks((place(rows.SHARED, ROOT, PLENTY, missing=True),))) == [Status.BAD]
    assert statuses("disk-shm", Disks((place(rows.SHARED, SHM, None, problem="x"),))) == [Status.UNKNOWN]


@pytest.mark.parametrize(
    ("free", "status"),
    [
        (GIB, Status.OK),
        (GIB - 1, Status.ATTENTION),
        (100 << 20, Status.ATTENTION),
        ((100 << 20) - 1, Status.BAD),
    ],
)
def test_room_for_temporary_files_is_graded(free: int, status: Status) -> None:
    disk = Disk("/tmp", 8 * GIB, free, 1, 2)
    assert statuses("disk-tmp", Disks((place(rows.TEMPORARY, ROOT, disk, path="/tmp"),))) == [status]


def test_a_folder_for_temporary_files_that_is_not_there_is_bad() -> None:
    assert statuses("disk-tmp", Disks((place(rows.TEMPORARY, missing=True),))) == [Status.BAD]
    assert statuses("disk-tmp", Disks((place(rows.TEMPORARY, disk=None),))) == [Status.UNKNOWN]


def test_a_folder_where_no_program_may_run_wants_attention(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with disk_faults.tmpfs(tmp_path / "tmp", "size=1m,noexec") as folder:
        monkeypatch.setenv("TMPDIR", str(folder))
        result = run(CHECKS["disk-tmp"], settings_of(tmp_path))
    assert any("noexec" in one.fact and one.status is Status.ATTENTION for one in result.findings)


# --- read-only and mounts --------------------------------------------------------------------------------------


def test_a_read_only_mount_is_bad_only_where_the_run_writes() -> None:
    fixed = msgspec.structs.replace(DATA, options=("ro",))
    assert statuses("disk-read-only", Disks((place(), place("mount /data", fixed)))) == [Status.OK]
    assert statuses("disk-read-only", Disks((place(), place("run folder", fixed)))) == [Status.OK, Status.BAD]


def test_where_no_mount_is_seen_it_is_not_known() -> None:
    assert statuses("disk-read-only", Disks((place(mount=None),))) == [Status.UNKNOWN]


def test_a_real_read_only_mount_is_bad(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    with disk_faults.bound(tmp_path / "source", tmp_path / "out", "ro") as out:
        settings = settings_of(tmp_path)
        chosen = [CHECKS["disk-read-only"], CHECKS["disk-write"]]
        read_only, write = run_checks(chosen, settings, limits_of(settings, chosen), Past())
    assert read_only.findings[0].status is Status.BAD
    assert read_only.findings[0].fact == "is mounted read-only (checkpoints)"
    assert write.status is Status.BAD and write.findings[0].subject == f"checkpoints {out}"


def test_a_file_system_that_the_kernel_has_given_up_is_told_as_that(tmp_path: Path) -> None:
    with disk_faults.ext4(tmp_path / "out", "rw,errors=remount-ro") as out:
        disk_faults.remount(out, "abort")
        result = run(CHECKS["disk-read-only"], settings_of(tmp_path))
    assert result.findings[0].fact == "was made read-only by the kernel after an error (checkpoints)"


def test_what_is_to_be_mounted_and_is_not_is_bad(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    with disk_faults.tmpfs(tmp_path / "mounted") as mounted:
        (tmp_path / "link").symlink_to(mounted)
        (mounted / "inside").mkdir()
        names = ("mounted", "link", "plain", "absent", "mounted/inside")
        result = run(
            CHECKS["disk-mounts"], settings_of(tmp_path, mounts=tuple(tmp_path / one for one in names))
        )
    by_name = {one.subject.removeprefix(f"mount {tmp_path}/"): one for one in result.findings}
    assert {name for name, one in by_name.items() if one.status is Status.OK} == {"mounted", "link"}
    assert by_name["absent"].fact == "the folder does not exist"
    assert "would fill up instead" in by_name["plain"].fact
    assert f"it lies on {mounted}" in by_name["mounted/inside"].fact


def test_a_mount_that_waits_for_its_first_use_is_not_there() -> None:
    waiting = Mount("/data", "autofs", "systemd-1", "0:30", ("rw",), ("rw",))
    assert statuses("disk-mounts", Disks((place("mount /data", waiting, path="/data"),))) == [Status.BAD]


def test_without_health_mounts_there_is_nothing_to_judge() -> None:
    assert [type(one) for one in told("disk-mounts", Disks((place(),)))] == [Absent]


# --- errors ----------------------------------------------------------------------------------------------------


def errors(**more: Any) -> DeviceErrors:
    one = DeviceError("sda", 3, True, NOW - 60, "I/O error, dev sda, sector 1")
    return DeviceErrors((msgspec.structs.replace(one, **more),), 100)


MINE = Disks((place(devices=("ata1", "sda", "sda1")),))


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({}, Status.BAD),
        ({"grave": False}, Status.ATTENTION),
        ({"device": "sdb"}, Status.ATTENTION),
        ({"last": None}, Status.BAD),
        ({"last": NOW - 7 * 86_400 + 1}, Status.BAD),
        ({"last": NOW - 7 * 86_400}, Status.ATTENTION),
    ],
)
def test_a_grave_error_of_a_disk_of_ours_is_bad_and_any_other_wants_attention(
    more: dict[str, Any], status: Status
) -> None:
    assert statuses("disk-errors", errors(**more), MINE) == [status]


def test_an_error_tells_how_often_when_and_whose() -> None:
    (one,) = findings("disk-errors", errors(), MINE)
    assert one.subject == "device sda"
    assert one.fact.startswith("3 errors since the boot, last 60 s ago (below checkpoints): I/O error")


def test_a_server_that_does_not_answer_is_found_by_its_name() -> None:
    nas = Mount("/data", "nfs4", "nas:/x", "0:44", ("rw",), ("rw",))
    seen = errors(device="nas", grave=False, text="nfs: server nas not responding, still trying")
    (one,) = findings("disk-errors", seen, Disks((place(mount=nas),)))
    assert "(below checkpoints)" in one.fact and "showmount" in one.remedy


def test_no_error_is_fine_only_where_there_were_lines_to_read() -> None:
    assert statuses("disk-errors", DeviceErrors((), 100), MINE) == [Status.OK]
    assert statuses("disk-errors", DeviceErrors((), 0), MINE) == [Status.UNKNOWN]


def test_errors_of_a_loop_device_count_only_as_long_as_a_file_is_behind_it(tmp_path: Path) -> None:
    with disk_faults.ext4(tmp_path / "m") as mounted:
        (seen,) = read_places({"a": mounted}).places
        assert [rows.is_returned_loop(one) for one in seen.devices] == [False]
    assert wait_for(lambda: rows.is_returned_loop(seen.devices[0]), 10)
    assert not rows.is_returned_loop("sda", tmp_path)


def test_a_kernel_log_that_may_not_be_read_leaves_it_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(since: float | None = None) -> list[Any]:
        raise OSError(13, "the kernel log may not be read (needs root)")

    monkeypatch.setattr("trainguard.kernel_log.read_kernel_log", refuse)
    result = run(CHECKS["disk-errors"], settings_of())
    assert result.status is Status.UNKNOWN and "needs root" in result.findings[0].fact


# --- quotas ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("used", "status"),
    [
        (900, Status.OK),
        (901, Status.ATTENTION),
        (980, Status.ATTENTION),
        (981, Status.BAD),
        (1200, Status.BAD),
    ],
)
def test_what_is_left_of_a_quota_is_graded(used: int, status: Status) -> None:
    assert statuses("disk-quota", Quotas((Quota("/home", "user", used, 1000, 0, None),))) == [status]
    assert statuses("disk-quota", Quotas((Quota("/home", "user", 0, None, used, 1000),))) == [status]


def test_both_limits_of_a_quota_are_judged() -> None:
    measures = [
        one.name
        for one in told("disk-quota", Quotas((Quota("/home", "user", 1, 10, 1, 10),)))
        if isinstance(one, Measure)
    ]
    assert measures == ["quota_bytes_left_percent", "quota_files_left_percent"]


def test_no_quota_does_not_apply_and_one_that_is_not_told_in_time_is_unknown() -> None:
    assert [type(one) for one in told("disk-quota", Quotas(()))] == [Absent]
    assert statuses("disk-quota", Quotas((), ("/home",))) == [Status.UNKNOWN]


# --- writing and kinds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "status"), [(0.0, Status.OK), (0.999, Status.OK), (1.0, Status.ATTENTION)]
)
def test_a_slow_sync_wants_attention(seconds: float, status: Status) -> None:
    seen = Attempts((Attempt("checkpoints", "/out", None, seconds),))
    assert statuses("disk-write", seen) == [status]


def test_a_folder_that_is_not_there_yet_is_told_with_the_one_that_was_tried() -> None:
    (one,) = findings("disk-write", Attempts((Attempt("checkpoints", "/a/b", "/a", 0.1),)))
    assert one.status is Status.OK and one.fact.startswith("does not exist yet; in /a a file was written")


def test_a_refusal_is_bad_with_what_to_do() -> None:
    refused = Attempts((Attempt("checkpoints", "/a", problem="Disk quota exceeded", code=122),))
    (one,) = findings("disk-write", refused)
    assert one.status is Status.BAD and "Disk quota exceeded" in one.fact and "quota" in one.remedy


def test_a_frozen_disk_cannot_be_written_and_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def quick(wanted: Mapping[str, Path]) -> Attempts:
        from trainguard.disks import try_writing

        return try_writing(wanted, seconds=0.5)

    monkeypatch.setattr(rows, "try_writing", quick)
    with disk_faults.ext4(tmp_path / "out") as out, disk_faults.frozen(out):
        result = run(CHECKS["disk-write"], settings_of(tmp_path))
    assert result.findings[0].status is Status.BAD
    assert "no answer within 0.5 s" in result.findings[0].fact
    assert [one.status for one in result.findings[1:]] == [Status.OK] * (len(result.findings) - 1)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("tmpfs", Status.ATTENTION),
        ("overlay", Status.ATTENTION),
        ("ext4", Status.OK),
        ("nfs4", Status.OK),
        ("fuse.gcsfuse", Status.OK),
    ],
)
def test_what_does_not_outlive_the_machine_or_container_wants_attention(kind: str, status: Status) -> None:
    lost = msgspec.structs.replace(DATA, kind=kind)
    seen = Disks((place(mount=lost), place("run folder"), place(rows.TEMPORARY, SHM)))
    assert statuses("disk-type", seen) == [status, Status.OK]


def test_a_place_without_a_mount_is_not_known() -> None:
    assert statuses("disk-type", Disks((place(mount=None),))) == [Status.UNKNOWN]
