"""Disks: the file systems that matter to a run, what is left on them, and what the kernel says of their devices."""

import errno
import functools
import os
import re
import struct
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from trainguard import probes
from trainguard.config import Settings

# What answers at all does so in milliseconds; the kernel retries a network file system for minutes.
ALIVE_SECONDS = 2.0
WRITE_SECONDS = 5.0
QUOTA_SECONDS = 3.0
_PROC = Path("/proc")
_SYS = Path("/sys")
_TRIED = ".trainguard-write-test"
_TRIED_BYTES = 4096
_KEPT_TEXT = 200


class Mount(msgspec.Struct, frozen=True):
    """A row of mountinfo: `options` are of this mount, `super_options` of the file system (proc_pid_mountinfo(5))."""

    place: str
    kind: str
    source: str
    number: str
    options: tuple[str, ...]
    super_options: tuple[str, ...]

    @property
    def read_only(self) -> bool:
        """Also after an error: since Linux 6.15 ext4 tells that by `emergency_ro` or `shutdown` alone."""
        told = {*self.options, *self.super_options}
        return bool(told & {"ro", "emergency_ro", "shutdown"})

    @property
    def made_read_only(self) -> bool:
        """Whether that was the kernel: the mount was meant to be writable, the file system is not any more."""
        return self.read_only and "ro" not in self.options


class Disk(msgspec.Struct, frozen=True):
    """The file system that holds a path; sizes in bytes, None where it does not tell.

    One that makes inodes as it needs them (btrfs) tells `inodes` 0.
    """

    path: str
    total: int | None
    free: int | None
    free_inodes: int | None
    inodes: int | None = None


class Place(msgspec.Struct, frozen=True):
    """A path that matters for a `use`: where it really is, on what, or why its file system gives no answer.

    `devices` are the kernel's names of what lies below, `missing` says that only a parent exists.
    """

    use: str
    path: str
    real: str | None = None
    mount: Mount | None = None
    disk: Disk | None = None
    devices: tuple[str, ...] = ()
    missing: bool = False
    problem: str | None = None
    hung: bool = False


class Disks(msgspec.Struct, frozen=True):
    """The places of a run."""

    places: tuple[Place, ...]


class Attempt(msgspec.Struct, frozen=True):
    """A small file written, forced to the disk, renamed, read back and removed in `folder`; seconds, or the problem.

    `instead` is the parent that was tried, where the folder does not exist yet.
    """

    use: str
    folder: str
    instead: str | None = None
    sync_seconds: float | None = None
    problem: str | None = None
    code: int | None = None
    hung: bool = False


class Attempts(msgspec.Struct, frozen=True):
    """What came of writing to the places of a run."""

    attempts: tuple[Attempt, ...]


class Quota(msgspec.Struct, frozen=True):
    """What a user or group may use of a file system and uses: bytes and files; None where there is no such limit."""

    place: str
    whose: str
    used: int
    limit: int | None
    files: int
    files_limit: int | None


class Quotas(msgspec.Struct, frozen=True):
    """The quotas that were told; `unanswered` are the file systems that did not say in time."""

    quotas: tuple[Quota, ...]
    unanswered: tuple[str, ...] = ()


class DeviceError(msgspec.Struct, frozen=True):
    """What the kernel has said of a device: how often, when last (wall seconds), the last line of it.

    `grave`: data was lost or the file system has given up, and not only tried again.
    """

    device: str
    count: int
    grave: bool
    last: float | None
    text: str


class DeviceErrors(msgspec.Struct, frozen=True):
    """The errors of devices and file systems since the boot, as far back as the kernel log reaches."""

    errors: tuple[DeviceError, ...]
    lines: int


def places_of(settings: Settings) -> dict[str, Path]:
    """Paths whose disks matter to the run, by their use."""
    daemon = settings.daemon
    temporary = daemon.environment.get("TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    places = {
        "checkpoints": settings.checkpoints.directory,
        "run folder": settings.logs.directory,
        "daemon's log": daemon.log.parent,
        "daemon's folder": daemon.directory,
        "shared memory": Path("/dev/shm"),
        "temporary files": Path(temporary),
    }
    return {use: path for use, path in places.items() if path is not None}


# --- mounts ----------------------------------------------------------------------------------------------------


def parse_mountinfo(text: str) -> list[Mount]:
    """The rows of /proc/PID/mountinfo, those that can be understood."""
    mounts = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, told = before.split(" "), after.split(" ")
        if len(fields) >= 6 and len(told) >= 3:
            mounts.append(
                Mount(
                    place=_unescape(fields[4]),
                    kind=told[0],
                    source=_unescape(told[1]),
                    number=fields[2],
                    options=tuple(fields[5].split(",")),
                    super_options=tuple(told[2].split(",")),
                )
            )
    return mounts


def read_mounts(proc: Path = _PROC) -> list[Mount]:
    """What is mounted, as this process sees it; nothing that is mounted is touched. Raises OSError."""
    return parse_mountinfo((proc / "self" / "mountinfo").read_bytes().decode(errors="surrogateescape"))


def mount_of(path: str, mounts: Iterable[Mount]) -> Mount | None:
    """The mount that holds an absolute path without links, by its name alone; of several at one place the last."""
    found = None
    for mount in mounts:
        inside = path == mount.place or path.startswith(mount.place.rstrip("/") + "/")
        if inside and (found is None or len(mount.place) >= len(found.place)):
            found = mount
    return found


def read_devices(mount: Mount, system: Path = _SYS) -> tuple[str, ...]:
    """What the kernel calls the devices of a mount: `sda1`, its disk `sda`, its controller `ata1` or `nvme0`."""
    names: set[str] = set()
    queue = [system / "dev" / "block" / mount.number]
    if mount.source.startswith("/dev/"):
        queue.append(system / "class" / "block" / mount.source.rpartition("/")[2])
    while queue and len(names) < 100:
        folder = Path(os.path.realpath(queue.pop()))
        if not folder.exists() or folder.name in names:
            continue
        names.add(folder.name)
        names |= {part for part in folder.parts if re.fullmatch(r"ata\d+|nvme\d+", part)}
        if (folder / "partition").exists():
            queue.append(folder.parent)
        if (folder / "slaves").is_dir():  # of a device mapper or a software RAID
            queue += list((folder / "slaves").iterdir())
    return tuple(sorted(names))


# --- what is left ----------------------------------------------------------------------------------------------


def read_disk(path: Path) -> Disk:
    """The file system of a path, or of its nearest parent that exists. May hang where that does not answer."""
    try:
        return _read_space(_nearest(path))
    except OSError:
        return Disk(str(path), None, None, None)


def read_places(wanted: Mapping[str, Path], seconds: float = ALIVE_SECONDS, proc: Path = _PROC) -> Disks:
    """Each path's file system, each asked in a child of its own: one that hangs hides no other. Raises OSError."""
    answers = probes.ask([_probe_of(use, path, seconds) for use, path in wanted.items()])
    # Afterwards: a look at a path may mount what stands behind it (autofs).
    mounts = read_mounts(proc)
    places = []
    for use, path in wanted.items():
        answer = answers[use]
        if isinstance(answer.value, _Seen):
            seen = answer.value
            mount = mount_of(seen.real, mounts)
            devices = () if mount is None else read_devices(mount)
            place = Place(use, str(path), seen.real, mount, seen.disk, devices, seen.missing)
        else:
            mount = mount_of(os.path.normpath(path), mounts)
            place = Place(use, str(path), mount=mount, problem=answer.problem, hung=answer.hung)
        places.append(place)
    return Disks(tuple(places))


class _Seen(msgspec.Struct, frozen=True):
    real: str
    disk: Disk
    missing: bool


def _probe_of(use: str, path: Path, seconds: float) -> probes.Probe:
    return probes.Probe(use, lambda: _look(path), _Seen, seconds)


def _look(path: Path) -> _Seen:
    there = _nearest(path)
    return _Seen(os.path.realpath(there), _read_space(there), there != path)


def _nearest(path: Path) -> Path:
    """The path, or its nearest parent that exists. Raises OSError where that cannot be told."""
    while True:
        try:
            path.stat()
            return path
        except (FileNotFoundError, NotADirectoryError):
            if path == path.parent:
                raise
            path = path.parent


def _read_space(path: Path) -> Disk:
    told = os.statvfs(path)
    return Disk(
        str(path),
        told.f_frsize * told.f_blocks,
        told.f_frsize * told.f_bavail,
        told.f_favail,
        told.f_files,
    )


# --- writing ---------------------------------------------------------------------------------------------------


def try_writing(wanted: Mapping[str, Path], seconds: float = WRITE_SECONDS) -> Attempts:
    """Write to each folder, each in a child of its own. Raises OSError where no child can be made."""

    def probe_of(use: str, folder: Path) -> probes.Probe:
        return probes.Probe(use, lambda: try_folder(use, folder), Attempt, seconds)

    answers = probes.ask([probe_of(use, folder) for use, folder in wanted.items()])
    attempts = []
    for use, folder in wanted.items():
        answer = answers[use]
        made = answer.value
        if not isinstance(made, Attempt):
            made = Attempt(use, str(folder), problem=answer.problem, hung=answer.hung)
        attempts.append(made)
    return Attempts(tuple(attempts))


def try_folder(use: str, folder: Path) -> Attempt:
    """Write a small file as a checkpoint is written, and remove it; in the nearest parent of a missing folder."""
    instead = None
    try:
        there = _nearest(folder)
        instead = None if there == folder else str(there)
        return Attempt(use, str(folder), instead, _write_and_read(there))
    except OSError as error:
        return Attempt(use, str(folder), instead, problem=error.strerror or str(error), code=error.errno)


class _OtherwiseError(OSError):
    """What was read is not what was written."""


def _write_and_read(folder: Path) -> float:
    """How long it took until the file was on the disk. Raises OSError, also where it comes back otherwise."""
    # One name: what a killed look left behind is taken away by the next, so that there is never more of it.
    name = folder / f"{_TRIED}-{os.getuid()}-{os.uname().nodename}"
    try:
        return _write_as(name)
    except (FileExistsError, FileNotFoundError, _OtherwiseError):  # another look is at it in this moment
        return _write_as(name.with_name(f"{name.name}-{os.getpid()}"))


def _write_as(first: Path) -> float:
    content = os.urandom(_TRIED_BYTES)
    second = first.with_name(f"{first.name}.renamed")
    first.unlink(missing_ok=True)
    try:
        descriptor = os.open(
            first, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        try:
            if os.write(descriptor, content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(first))
            began = time.monotonic()
            os.fsync(descriptor)
            took = time.monotonic() - began
        finally:
            os.close(descriptor)
        first.replace(second)
        if second.read_bytes() != content:
            raise _OtherwiseError(errno.EIO, "what was written came back otherwise", str(second))
    finally:
        for left in (first, second):
            left.unlink(missing_ok=True)
    return took


# --- quotas ----------------------------------------------------------------------------------------------------

# linux/quota.h: Q_GETQUOTA of a user or group, and struct if_dqblk, whose limits are in KiB.
_GET_QUOTA = 0x800007
_KINDS = ("user", "group")
_DQBLK = struct.Struct("=8QI4x")
# Of space and then of files: what is used (with a * where that is too much), soft limit, hard limit, grace.
_QUOTA_LINE = re.compile(r"^ *(\S+)" + 2 * r" +(\d+)\*? +(\d+) +(\d+) +\d+" + r" *$", re.MULTILINE)


def parse_quota(content: bytes, place: str, whose: str) -> Quota | None:
    """What quotactl(2) told as a struct if_dqblk; None where nothing is limited."""
    hard, soft, used, files_hard, files_soft, files, *_ = _DQBLK.unpack_from(content)
    return _quota(place, whose, used, (soft * 1024, hard * 1024), files, (files_soft, files_hard))


def parse_quota_command(text: str) -> list[Quota]:
    """What `quota --no-wrap --raw-grace` prints, in KiB: the limits of a user by the name of the file system."""
    quotas = []
    for source, *numbers in _QUOTA_LINE.findall(text):
        used, soft, hard, files, files_soft, files_hard = map(int, numbers)
        limits = (soft * 1024, hard * 1024)
        quotas.append(_quota(source, "user", used * 1024, limits, files, (files_soft, files_hard)))
    return [one for one in quotas if one is not None]


def _quota(
    place: str, whose: str, used: int, limits: Iterable[int], files: int, files_limits: Iterable[int]
) -> Quota | None:
    limit, files_limit = (min((one for one in both if one), default=None) for both in (limits, files_limits))
    if limit is None and files_limit is None:
        return None
    return Quota(place, whose, used, limit, files, files_limit)


def read_quotas(wanted: Mapping[str, Path], seconds: float = QUOTA_SECONDS, proc: Path = _PROC) -> Quotas:
    """The quotas of this user and group where the paths lie, each file system asked once. Raises OSError."""
    mounts = read_mounts(proc)

    def probe_of(use: str, path: Path) -> probes.Probe:
        return probes.Probe(use, lambda: _ask_quota(path, mounts, seconds), list[Quota], seconds + 0.5)

    answers = probes.ask([probe_of(use, path) for use, path in wanted.items()])
    found: dict[tuple[str, str], Quota] = {}
    for answer in answers.values():
        told = answer.value if isinstance(answer.value, list) else []
        found |= {(one.place, one.whose): one for one in told}
    unanswered = [str(wanted[use]) for use, answer in answers.items() if answer.hung]
    return Quotas(tuple(found.values()), tuple(unanswered))


def _ask_quota(path: Path, mounts: Sequence[Mount], seconds: float) -> list[Quota]:
    mount = mount_of(os.path.realpath(_nearest(path)), mounts)
    if mount is None:
        return []
    if mount.kind.startswith("nfs"):
        from trainguard.commands import ask_command

        try:
            reply = ask_command(["quota", "--no-wrap", "--raw-grace", f"--filesystem={mount.place}"], seconds)
        except FileNotFoundError:
            return []
        return parse_quota_command(reply.output.decode(errors="replace"))
    if not mount.source.startswith("/"):
        return []
    import ctypes  # costs memory, and only this child needs it

    library = ctypes.CDLL(None)
    quotas = []
    for number, (kind, identity) in enumerate(zip(_KINDS, (os.getuid(), os.getgid()), strict=True)):
        content = ctypes.create_string_buffer(_DQBLK.size)
        command = ctypes.c_int((_GET_QUOTA << 8 | number) - (1 << 32))
        if library.quotactl(command, os.fsencode(mount.source), identity, content) == 0:
            quotas.append(parse_quota(content.raw, mount.place, kind))
    return [one for one in quotas if one is not None]


# --- errors ----------------------------------------------------------------------------------------------------

# Each names the device in its first group; an empty drive for floppy disks or CDs is no fault. The texts are of
# block/blk-core.c, fs/buffer.c, drivers/nvme/host/, drivers/ata/libata-eh.c, drivers/md/, fs/ext4/super.c,
# fs/jbd2/, fs/xfs/, fs/btrfs/messages.c and net/sunrpc/.
_GRAVE = (
    r"(?:I/O|critical (?:medium|target|space allocation|nexus)) error, dev (?!fd\d|sr\d)([\w!-]+)[ ,]",
    r"Buffer I/O error on (?:dev|device) (?!fd\d|sr\d)([\w-]+),",
    r"EXT4-fs error \(device ([\w-]+)\)",
    r"EXT4-fs \(([\w-]+)\): (?:Remounting filesystem read-only|This should not happen)",
    r"Aborting journal on device ([\w-]+?)(?:-\d+)?\.",
    r"JBD2: (?:Detected IO errors|I/O error).* (?:on|for) ([\w-]+?)(?:-\d+)?\b",
    r"XFS \(([\w-]+)\): .*(?:I/O [Ee]rror|[Cc]orruption|[Ss]hut(?:ting)? ?down)",
    r"BTRFS (?:error|critical) \(device ([\w-]+)",
    r"nvme (nvme\d+): (?:Removing after probe failure|Disabling device after reset failure|Device not ready)",
    r"md/\w+:\w+: Disk failure on ([\w-]+),",
)
_LIGHT = (
    r"nvme (nvme\d+): (?:I/O .*timeout|controller is down|Abort status)",
    r"(ata\d+)(?:\.\d+)?: (?:exception Emask|failed command|hard resetting link)",
    r"nfs: server (\S+) not responding",
)
_HINT = re.compile(r"error|nvme|ata\d|not responding|journal|Remounting|XFS|JBD2|Disk failure|should not")


@functools.cache
def _error() -> "re.Pattern[str]":
    """Compiled when it is needed: only one of the programs reads the kernel log for this."""
    grave = [f"(?P<grave{number}>{pattern})" for number, pattern in enumerate(_GRAVE)]
    return re.compile("|".join([*grave, *_LIGHT]))


def parse_device_errors(lines: Iterable[tuple[float | None, str]]) -> DeviceErrors:
    """The errors in the kernel's lines (wall seconds, text), by device."""
    found: dict[str, DeviceError] = {}
    count = 0
    for moment, text in lines:
        count += 1
        if not _HINT.search(text) or not (match := _error().search(text)):
            continue
        device = next(told for told in match.groups()[::-1] if told is not None)
        is_grave = (match.lastgroup or "").startswith("grave")
        before = found.get(device)
        earlier = 0 if before is None else before.count
        grave = is_grave or (before is not None and before.grave)
        found[device] = DeviceError(device, earlier + 1, grave, moment, text.strip()[:_KEPT_TEXT])
    return DeviceErrors(tuple(found.values()), count)


def _unescape(path: str) -> str:
    """mountinfo writes blanks and backslashes in octal."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)
