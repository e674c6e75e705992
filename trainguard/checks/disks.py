"""Checks of disks: does each file system answer, is there room, can the run write there, does the device fail."""

import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from trainguard import vitals
from trainguard.checks.values import (
    Absent,
    Check,
    Facts,
    Limit,
    Measure,
    Reading,
    Told,
    attention,
    bad,
    grade,
    ok,
    unknown,
)
from trainguard.config import Settings
from trainguard.disks import (
    ALIVE_SECONDS,
    QUOTA_SECONDS,
    WRITE_SECONDS,
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
    parse_device_errors,
    places_of,
    read_places,
    read_quotas,
    try_writing,
)
from trainguard.health import Status
from trainguard.quantities import duration_text, size_text

SHARED, TEMPORARY = "shared memory", "temporary files"
# What the run writes to; a mount of health.mounts may be a data set that is only read.
WRITTEN = ("checkpoints", "run folder", "daemon's log", SHARED, TEMPORARY)
KEPT = ("checkpoints", "run folder")
GIB = float(1 << 30)
DOCKER_SHARED_BYTES = 64 << 20
LATE_ERRORS_SECONDS = 7 * 86_400.0
SHORTEST_PAST_SECONDS = 1800.0
MOUNT = "mount "


def read_disks(settings: Settings) -> Disks:
    mounts = {f"{MOUNT}{path}": path for path in settings.health.mounts}
    return read_places({**places_of(settings), **mounts})


def read_attempts(settings: Settings) -> Attempts:
    folders: dict[Path, str] = {}
    for use, path in places_of(settings).items():
        if use in WRITTEN:
            folders.setdefault(path, use)
    return try_writing({use: path for path, use in folders.items()})


def read_errors() -> DeviceErrors:
    from trainguard.kernel_log import read_kernel_log

    found = parse_device_errors((line.time, line.text) for line in read_kernel_log())
    kept = tuple(one for one in found.errors if not is_returned_loop(one.device))
    return DeviceErrors(kept, found.lines)


def is_returned_loop(device: str, system: Path = Path("/sys")) -> bool:
    """Whether this is a loop device with no file behind it any more: its errors were of another."""
    return device.startswith("loop") and not (system / "block" / device / "loop").exists()


def _quotas(settings: Settings) -> Quotas:
    places = places_of(settings)
    return read_quotas({use: places[use] for use in WRITTEN if use in places and use != SHARED})


# Each path has a deadline of its own, in a child of this one.
DISKS = Reading("disks", Disks, lambda settings, deep: read_disks(settings), ALIVE_SECONDS + 2.0)
ATTEMPTS = Reading(
    "writing to disks", Attempts, lambda settings, deep: read_attempts(settings), WRITE_SECONDS + 2.0
)
QUOTAS = Reading("quotas", Quotas, lambda settings, deep: _quotas(settings), QUOTA_SECONDS + 2.0)
ERRORS = Reading("kernel log of disks", DeviceErrors, lambda settings, deep: read_errors(), 7.0)


def file_systems(places: Iterable[Place]) -> dict[str, list[Place]]:
    """The places by what they lie on: each file system once, by its mount point."""
    found: dict[str, list[Place]] = {}
    for place in places:
        found.setdefault(place.path if place.mount is None else place.mount.place, []).append(place)
    return found


def roomy(facts: Facts) -> Iterator[tuple[str, Disk]]:
    """The file systems that the run fills, and those that must be there and can be written; each once.

    Shared memory and temporary files have checks of their own, unless they lie with something else.
    """
    for name, places in file_systems(facts.of(Disks).places).items():
        if all(place.use in (SHARED, TEMPORARY) for place in places):
            continue
        fixed = places[0].mount is not None and places[0].mount.read_only
        if not fixed and (disk := next((one.disk for one in places if one.disk), None)) is not None:
            yield name, disk


def _uses(places: Iterable[Place]) -> str:
    return ", ".join(dict.fromkeys("mount" if one.use.startswith(MOUNT) else one.use for one in places))


def judge_alive(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    for name, places in file_systems(facts.of(Disks).places).items():
        mute = [place for place in places if place.problem is not None]
        kind = "" if places[0].mount is None else f" ({places[0].mount.kind}, {places[0].mount.source})"
        if not mute:
            yield ok(f"disk {name}", f"answers{kind}: {_uses(places)}")
        elif any(place.hung for place in mute):
            remedy = "see whether its server or device lives; umount -l frees what waits for it"
            yield bad(f"disk {name}", f"hangs{kind}, {_uses(mute)}: {mute[0].problem}", remedy)
        else:
            remedy = f"mount it anew, or see with: ls {mute[0].path}"
            yield bad(f"disk {name}", f"cannot be read{kind}, {_uses(mute)}: {mute[0].problem}", remedy)


def _none_told(facts: Facts) -> Told:
    return unknown("disks", "no file system that the run writes to has told its size", "see disk-alive")


def judge_free(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    told = False
    for name, disk in roomy(facts):
        told = True
        subject = f"disk {name}"
        if not disk.total or disk.free is None:
            yield unknown(subject, "does not tell its size", "a save there may fail for room unforeseen")
            continue
        # What a user has set in bytes holds as it is; the defaults fit small disks too.
        own = {name for name in facts.settings.health.limits if name.startswith("disk-free.")}
        graded = {
            level: limits[level]
            if f"disk-free.{level}" in own
            else min(limits[level], disk.total * limits[f"{level}-share"] / 100)
            for level in ("attention", "bad")
        }
        yield Measure("disk_free_bytes", disk.free, name, graded["attention"], graded["bad"], True)
        fact = f"{size_text(disk.free)} of {size_text(disk.total)} free"
        yield grade(disk.free, graded, subject, fact, "free space, or lower save_total_limit", True)
    if not told:
        yield _none_told(facts)


def judge_inodes(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    told = False
    for name, disk in roomy(facts):
        told = True
        if disk.inodes is None or disk.free_inodes is None:
            yield unknown(f"disk {name}", "does not tell its inodes")
            continue
        if not disk.inodes:
            yield ok(f"disk {name}", "has no fixed number of inodes")
            continue
        share = 100 * disk.free_inodes / disk.inodes
        yield Measure("disk_inodes_free_percent", share, name, limits["attention"], limits["bad"], True)
        fact = f"{disk.free_inodes} of {disk.inodes} inodes free ({share:.1f} %)"
        remedy = f"remove many small files: du --inodes -x {name} | sort -n | tail"
        yield grade(share, limits, f"disk {name}", fact, remedy, True)
    if not told:
        yield _none_told(facts)


def judge_fill(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    told = False
    for name, disk in roomy(facts):
        if disk.free is None:
            continue
        past = facts.past.series("disk_free_bytes", name)
        series = [*(one for one in past if one[0] < facts.now_wall), (facts.now_wall, float(disk.free))]
        rate = vitals.slope(series)
        span = series[-1][0] - series[-60:][0][0]
        if rate is None or span < SHORTEST_PAST_SECONDS:
            continue
        told = True
        if rate >= 0:
            yield ok(f"disk {name}", f"has not filled up over {duration_text(span)} ({len(series)} looks)")
            continue
        left = disk.free / -rate
        yield Measure("disk_full_seconds", left, name, limits["attention"], limits["bad"], True)
        fact = f"full in {duration_text(left)} at {size_text(-rate * 86_400)} a day, as over {duration_text(span)}"
        yield grade(left, limits, f"disk {name}", fact, "free space, or lower save_total_limit", True)
    if not told:
        yield Absent(f"no past yet: three looks within at least {duration_text(SHORTEST_PAST_SECONDS)}")


def _place(facts: Facts, use: str) -> Place | None:
    return next((one for one in facts.of(Disks).places if one.use == use), None)


def judge_shared(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    place = _place(facts, SHARED)
    remedy = "docker run --shm-size=16g (or --ipc=host), or mount -o remount,size=50% /dev/shm"
    if place is None or place.missing:
        yield bad(
            "disk /dev/shm", "is not there; data loaders and NCCL need it", "mount -t tmpfs tmpfs /dev/shm"
        )
    elif place.disk is None or place.disk.free is None or place.disk.total is None:
        yield unknown("disk /dev/shm", f"is not told: {place.problem}", "see disk-alive")
    else:
        free, total = place.disk.free, place.disk.total
        yield Measure("shm_free_bytes", free, "", limits["attention"], limits["bad"], True)
        fact = f"{size_text(free)} of {size_text(total)} free"
        if total == DOCKER_SHARED_BYTES:
            fact += ", the size that Docker gives without --shm-size"
        elif free < total / 2:
            remedy = "see what is left there by dead runs: ls -lS /dev/shm"
        yield grade(free, limits, "disk /dev/shm", fact, remedy, True)


def judge_temporary(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    place = _place(facts, TEMPORARY)
    assert place is not None
    subject = f"disk {place.path}"
    if place.missing:
        yield bad(
            subject, "is not there; Python finds no folder for temporary files", f"mkdir -m 1777 {place.path}"
        )
    elif place.disk is None or place.disk.free is None:
        yield unknown(subject, f"is not told: {place.problem}", "see disk-alive")
    else:
        free = place.disk.free
        yield Measure("tmp_free_bytes", free, "", limits["attention"], limits["bad"], True)
        remedy = "remove what is old there, or set TMPDIR in daemon.environment"
        yield grade(free, limits, subject, f"{size_text(free)} free for temporary files", remedy, True)
        if place.mount is not None and "noexec" in place.mount.options:
            fact = "is mounted noexec: kernels that torch.compile and Triton build there cannot be loaded"
            yield attention(subject, fact, "set TMPDIR in daemon.environment to another folder")


def judge_read_only(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    told = False
    for name, places in file_systems(facts.of(Disks).places).items():
        mount = places[0].mount
        needed = [place for place in places if place.use in WRITTEN]
        if mount is None or not needed:
            continue
        told = True
        if mount.made_read_only:
            fact = f"was made read-only by the kernel after an error ({_uses(needed)})"
            yield bad(f"disk {name}", fact, "see disk-errors; unmount it, run fsck, mount it again")
        elif mount.read_only:
            remedy = f"mount -o remount,rw {name}, or name another folder in config.yaml"
            yield bad(f"disk {name}", f"is mounted read-only ({_uses(needed)})", remedy)
        else:
            yield ok(f"disk {name}", f"is mounted to be written ({_uses(needed)})")
    if not told:
        yield unknown("disks", "no mount is seen below what the run writes to")


def judge_mounts(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    wanted = [place for place in facts.of(Disks).places if place.use.startswith(MOUNT)]
    if not wanted:
        yield Absent("health.mounts names none")
    for place in wanted:
        subject = f"mount {place.path}"
        at = None if place.mount is None else place.mount.place
        real = place.real or os.path.normpath(place.path)
        if place.missing:
            yield bad(subject, "the folder does not exist", f"mkdir -p {place.path}; mount {place.path}")
        elif place.mount is None or at != real or place.mount.kind == "autofs":
            where = "" if at is None else f": it lies on {at}, which would fill up instead"
            yield bad(subject, f"is not a mount point{where}", f"mount {place.path}")
        elif place.problem is not None:
            yield bad(subject, f"is mounted, and gives no answer: {place.problem}", "see disk-alive")
        else:
            yield ok(subject, f"is mounted ({place.mount.kind}, {place.mount.source})")


def judge_errors(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    found = facts.of(DeviceErrors)
    yield Measure("disk_errors_total", sum(one.count for one in found.errors))
    if not found.lines:
        yield unknown("kernel log", "holds no line, so that nothing of the disks is known")
        return
    places = facts.of(Disks).places
    for one in sorted(found.errors, key=lambda one: -one.count):
        mine = [place for place in places if _lies_on(place, one)]
        age = None if one.last is None else max(0.0, facts.now_wall - one.last)
        when = "" if age is None else f", last {duration_text(age)} ago"
        below = f" (below {_uses(mine)})" if mine else ""
        fact = f"{one.count} error{'s' if one.count > 1 else ''} since the boot{when}{below}: {one.text}"
        remedy = "save elsewhere, then see " + _tool(one)
        # What is long past and has not come again, or lies below none of our folders, stops no run.
        grave = one.grave and mine and (age is None or age < LATE_ERRORS_SECONDS)
        yield (bad if grave else attention)(f"device {one.device}", fact, remedy)
    if not found.errors:
        yield ok("kernel log", f"no error of a disk in its {found.lines} lines since the boot")


def _tool(error: DeviceError) -> str:
    """What tells more of a device."""
    if error.text.startswith("nfs:"):
        return f"whether {error.device} lives and is reached: showmount -e {error.device}"
    if error.device.startswith("nvme"):
        return f"nvme smart-log /dev/{error.device}, and fsck"
    if error.device.startswith("ata"):
        return "which disk that is (ls -l /sys/block), and smartctl -a of it"
    return f"smartctl -a /dev/{error.device}, and fsck"


def _lies_on(place: Place, error: DeviceError) -> bool:
    server = "" if place.mount is None else place.mount.source.partition(":")[0]
    return error.device in place.devices or error.device == server


def judge_quota(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    told = facts.of(Quotas)
    for place in told.unanswered:
        yield unknown(f"quota of {place}", "is not told in time", "see with: quota -s")
    for one in told.quotas:
        yield from _judge_quota(one, limits)
    if not told.quotas and not told.unanswered:
        yield Absent("no quota is told here for this user or group")


def _judge_quota(one: Quota, limits: Mapping[str, float]) -> Iterator[Told]:
    subject = f"quota of the {one.whose} on {one.place}"
    parts = []
    if one.limit is not None:
        share = 100 * (one.limit - one.used) / one.limit
        parts.append((share, f"{size_text(one.used)} of {size_text(one.limit)} used", "bytes"))
    if one.files_limit is not None:
        share = 100 * (one.files_limit - one.files) / one.files_limit
        parts.append((share, f"{one.files} of {one.files_limit} files used", "files"))
    for share, fact, what in parts:
        name = f"quota_{what}_left_percent"
        yield Measure(name, share, f"{one.place} {one.whose}", limits["attention"], limits["bad"], True)
        yield grade(share, limits, subject, fact, "remove old files there, or ask for more", True)


def judge_write(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    for one in facts.of(Attempts).attempts:
        subject = f"{one.use} {one.folder}"
        if one.problem is not None:
            yield bad(subject, *_refusal(one))
            continue
        took = one.sync_seconds or 0.0
        fact = f"a file was written, synced in {duration_text(took)}, renamed and read back"
        if one.instead is not None:
            fact = f"does not exist yet; in {one.instead} {fact}"
        yield Measure("disk_sync_seconds", took, one.use, limits["attention"])
        remedy = "the disk is slow or busy: see iostat -x 1, and where others write to it"
        yield grade(took, limits, subject, fact, remedy)


def _refusal(one: Attempt) -> tuple[str, str]:
    """The fact and the remedy of an attempt that failed."""
    if one.hung:
        return f"a small file could not be written: {one.problem}", "see disk-alive and the kernel log"
    remedies = {
        errno.ENOSPC: "free space or inodes",
        errno.EDQUOT: "the quota is used up: remove files, or ask for more",
        errno.EROFS: "see disk-read-only",
        errno.EACCES: "give this user the right to write there (chown, chmod), or run as its owner",
        errno.EPERM: "see lsattr for an immutable folder, and the rights",
    }
    remedy = remedies.get(one.code or 0, "see disk-errors and the kernel log")
    return f"a small file could not be written: {one.problem}", remedy


def judge_type(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    for place in facts.of(Disks).places:
        if place.use not in KEPT:
            continue
        subject = f"{place.use} {place.path}"
        if place.mount is None:
            yield unknown(subject, "lies on no mount that is seen")
        else:
            yield _judge_kind(subject, place.mount)


def _judge_kind(subject: str, mount: Mount) -> Told:
    if mount.kind in ("tmpfs", "ramfs", "devtmpfs"):
        return attention(
            subject, f"lies in memory ({mount.kind}): a reboot loses it", "name a folder on a disk"
        )
    if mount.kind in ("overlay", "aufs"):
        remedy = "mount a volume there (docker run -v, a persistent volume claim)"
        return attention(subject, f"lies in the container ({mount.kind}), and is lost with it", remedy)
    return ok(subject, f"lies on {mount.kind}, {mount.source}")


CHECKS = (
    Check(
        id="disk-alive",
        component="disks",
        explain="Every file system of the run answers within two seconds. One that hangs freezes what touches it.",
        reads=(DISKS,),
        answers_for=(DISKS,),
        judge=judge_alive,
        gates=True,
    ),
    Check(
        id="disk-free",
        component="disks",
        explain="Free space where the run writes and on health.mounts. A full disk cuts the checkpoint being saved.",
        reads=(DISKS,),
        judge=judge_free,
        limits=(
            Limit("attention", 20 * GIB, "bytes", "a choice: a checkpoint with optimizer of a 1.5 B model"),
            Limit("bad", 2 * GIB, "bytes", "a choice: no checkpoint of a language model fits"),
            Limit("attention-share", 10.0, "%", "a choice: a smaller disk is told by its share instead"),
            Limit("bad-share", 2.0, "%", "a choice: a smaller disk is told by its share instead"),
        ),
        gates=True,
    ),
    Check(
        id="disk-inodes",
        component="disks",
        explain="Free inodes. Without one no file can be made, however many bytes are free.",
        reads=(DISKS,),
        judge=judge_inodes,
        limits=(
            Limit("attention", 5.0, "%", "a choice: what mke2fs(8) keeps back of the blocks"),
            Limit("bad", 1.0, "%", "a choice: one unpacked data set takes that"),
        ),
        gates=True,
    ),
    Check(
        id="disk-fill",
        component="disks",
        explain="When each disk will be full, at the rate of the earlier health checks.",
        reads=(DISKS,),
        judge=judge_fill,
        limits=(
            Limit("attention", 3 * 86_400.0, "seconds", "a choice: over a weekend nobody looks"),
            Limit("bad", 12 * 3600.0, "seconds", "a choice: over a night nobody looks"),
        ),
    ),
    Check(
        id="disk-shm",
        component="disks",
        explain="Room in /dev/shm, by which data loaders and NCCL hand over batches; too little is a bus error.",
        reads=(DISKS,),
        judge=judge_shared,
        limits=(
            Limit("attention", GIB, "bytes", "a choice: eight workers, two batches each, of 64 MiB"),
            Limit(
                "bad", float(DOCKER_SHARED_BYTES), "bytes", "docker run --shm-size: its default is the whole"
            ),
        ),
        gates=True,
    ),
    Check(
        id="disk-tmp",
        component="disks",
        explain="Room for temporary files, and programs may run there: sockets, compiled kernels, unpacked data.",
        reads=(DISKS,),
        judge=judge_temporary,
        limits=(
            Limit("attention", GIB, "bytes", "a choice: the compile cache of one model"),
            Limit("bad", float(100 << 20), "bytes", "a choice: the daemon's start may fail"),
        ),
        gates=True,
    ),
    Check(
        id="disk-read-only",
        component="disks",
        explain="Nothing that the run writes to is mounted read-only, also not by the kernel after an error.",
        reads=(DISKS,),
        judge=judge_read_only,
        gates=True,
    ),
    Check(
        id="disk-mounts",
        component="disks",
        explain="The folders of health.mounts are mounts. Otherwise data is missing, or the disk below fills up.",
        reads=(DISKS,),
        judge=judge_mounts,
        gates=True,
    ),
    Check(
        id="disk-errors",
        component="disks",
        explain="Errors of disks and file systems in the kernel log since the boot: they come before a loss.",
        reads=(ERRORS, DISKS),
        answers_for=(ERRORS,),
        judge=judge_errors,
    ),
    Check(
        id="disk-quota",
        component="disks",
        explain="What is left of the quota of this user and group: a save fails at it though the disk has room.",
        reads=(QUOTAS,),
        answers_for=(QUOTAS,),
        judge=judge_quota,
        limits=(
            Limit("attention", 10.0, "%", "a choice: as for a disk"),
            Limit("bad", 2.0, "%", "a choice: as for a disk"),
        ),
        gates=True,
    ),
    Check(
        id="disk-write",
        component="disks",
        explain="A small file is written, synced, renamed, read back and removed where the run writes.",
        reads=(ATTEMPTS,),
        answers_for=(ATTEMPTS,),
        judge=judge_write,
        limits=(Limit("attention", 1.0, "seconds", "a choice: a healthy disk takes some milliseconds"),),
        gates=True,
    ),
    Check(
        id="disk-type",
        component="disks",
        explain="Checkpoints and the run folder lie on a disk, and not in memory or in a container's own layer.",
        reads=(DISKS,),
        judge=judge_type,
        worst=Status.ATTENTION,
    ),
)
