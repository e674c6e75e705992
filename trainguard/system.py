"""The system: CPUs, load, pressure, clock, limits and processes of the machine, and what was upgraded under it."""

import contextlib
import os
import re
import struct
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from trainguard import cgroup, files, probes, processes

_PROC = Path("/proc")
_SYS = Path("/sys")
_SOME = re.compile(r"^some avg10=[0-9.]+ avg60=([0-9.]+)", re.MULTILINE)
_FULL = re.compile(r"^full avg10=[0-9.]+ avg60=([0-9.]+)", re.MULTILINE)
LOG_BYTES = 2 << 20
PROCESSES_LIMIT = 100_000
_RECORD_BYTES = 384
# A wait that a healthy disk ends is over by then.
APART_SECONDS = 1.0


class System(msgspec.Struct, frozen=True):
    """The machine now. None is what the kernel does not tell.

    `load` over 1, 5, 15 minutes; `cores` of the machine, `allowed` to this process, `quota` of its cgroup in CPUs.
    `cpu_pressure` and `io_pressure`: percent of the last minute in which some process waited for a CPU, and in
    which all waited for input or output (PSI). `files` and `threads` in use, with their limits. `tasks` is what the
    pids cgroup allows. `throttled` is how often the cores were slowed for heat since the boot. `boot`, `wall` and
    `since_boot` are one moment. `orderly` is whether the last shutdown was recorded as one.
    """

    load: tuple[float, float, float]
    cores: int
    allowed: int
    quota: float | None
    cpu_pressure: float | None
    io_pressure: float | None
    files: int | None
    files_limit: int | None
    threads: int | None
    threads_limit: int | None
    tasks: cgroup.Allowance | None
    throttled: int | None
    boot: str
    wall: float
    since_boot: float
    orderly: bool | None


class Clock(msgspec.Struct, frozen=True):
    """What adjtimex(2) tells: whether something keeps the clock right, and the kernel's bound of its error."""

    synchronised: bool
    error_seconds: float


class Zombies(msgspec.Struct, frozen=True):
    """Ended processes of one parent that it has not collected."""

    parent: int
    name: str
    count: int


class Blocked(msgspec.Struct, frozen=True):
    """A process that lay in one uninterruptible wait (state D) in two looks: where in the kernel, if that is told."""

    pid: int
    name: str
    channel: str | None
    seconds: float


class Troubled(msgspec.Struct, frozen=True):
    """Zombies by parent, the most first, and blocked processes; `seen` is how many were looked at."""

    seen: int
    zombies: tuple[Zombies, ...]
    blocked: tuple[Blocked, ...]


class ProcessLimits(msgspec.Struct, frozen=True):
    """The soft limits of a process by the kernel's names (`Max open files`), None for unlimited, and its open files.

    `whose` says whose they are, `infiniband` whether the machine has an adapter that needs memory locked.
    """

    whose: str
    limits: dict[str, int | None]
    open_files: int | None = None
    infiniband: bool = False


class Change(msgspec.Struct, frozen=True):
    """A package that was upgraded or removed: when (wall seconds), its name, what became of it."""

    wall: float
    package: str
    what: str


class Upgrades(msgspec.Struct, frozen=True):
    """What was changed below the running system.

    `logs` are those of package managers that could be read, `unreadable` those that could not. `changes` are of
    the drivers of GPUs since the boot. `reboot_wanted` names who asks for a reboot. `modules` is whether the
    running kernel's modules are still there, None where the machine keeps none.
    """

    kernel: str
    logs: tuple[str, ...]
    unreadable: tuple[str, ...]
    changes: tuple[Change, ...]
    reboot_wanted: tuple[str, ...] | None
    modules: bool | None


# --- the machine -----------------------------------------------------------------------------------------------


def read_system(proc: Path = _PROC, system: Path = _SYS, wtmp: Path = Path("/var/log/wtmp")) -> System:
    """The machine now. Raises OSError where not even the load is told."""
    loads = (proc / "loadavg").read_text().split()
    kernel = proc / "sys" / "kernel"
    in_use = _numbers(proc / "sys" / "fs" / "file-nr")
    limits = [_number(kernel / "threads-max"), _number(kernel / "pid_max")]
    wall, since_boot = time.time(), time.clock_gettime(time.CLOCK_BOOTTIME)
    return System(
        load=(float(loads[0]), float(loads[1]), float(loads[2])),
        cores=os.cpu_count() or 1,
        allowed=len(os.sched_getaffinity(0)),
        quota=cgroup.read_cpu_quota(proc=proc),
        cpu_pressure=_share(_SOME, proc / "pressure" / "cpu"),
        io_pressure=_share(_FULL, proc / "pressure" / "io"),
        files=in_use[0] - in_use[1] if len(in_use) == 3 else None,
        files_limit=in_use[2] if len(in_use) == 3 else None,
        threads=int(loads[3].partition("/")[2]),
        threads_limit=min((one for one in limits if one is not None), default=None),
        tasks=cgroup.read_tasks(proc=proc),
        throttled=read_throttled(system),
        boot=processes.boot_id(),
        wall=wall,
        since_boot=since_boot,
        orderly=_was_orderly(wtmp, wall - since_boot),
    )


def read_throttled(system: Path = _SYS) -> int | None:
    """How often the cores were slowed for heat since the boot, None where they do not count it."""
    counters = sorted(system.glob("devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count"))
    counts = [count for file in counters[:4096] if (count := _number(file)) is not None]
    return sum(counts) if counts else None


def parse_shutdown(records: bytes, booted_wall: float) -> bool | None:
    """Whether this boot came after a recorded shutdown; None where a wtmp file does not tell this boot.

    A record has 384 bytes: its type as a short number at 0, the user's name in 32 bytes at 44, its seconds since
    1970 at 340 (utmp(5)). A boot has type 2; the shutdown before it has type 1 and the name `shutdown`.
    """
    before: bool | None = None
    orderly = False
    for start in range(0, len(records) - _RECORD_BYTES + 1, _RECORD_BYTES):
        kind = struct.unpack_from("h", records, start)[0]
        moment = struct.unpack_from("i", records, start + 340)[0]
        name = records[start + 44 : start + 76].rstrip(b"\0")
        if kind == 2:
            # The clock may have been wrong by a time zone then; a file that nobody writes any more is years old.
            before, orderly = (orderly if moment > booted_wall - 86_400 else None), False
        elif kind == 1 and name == b"shutdown":
            orderly = True
    return before


def _was_orderly(wtmp: Path, booted_wall: float) -> bool | None:
    try:
        size = wtmp.stat().st_size
        start = max(0, size - LOG_BYTES) // _RECORD_BYTES * _RECORD_BYTES
        return parse_shutdown(files.read_range(wtmp, start, size), booted_wall)
    except OSError:
        return None


def read_clock() -> Clock:
    """Ask the kernel of its clock; nothing is set. Raises OSError where a container forbids the question."""
    import ctypes  # costs memory, and only this child needs it

    content = ctypes.create_string_buffer(512)
    library = ctypes.CDLL(None, use_errno=True)
    if library.adjtimex(content) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "adjtimex")
    return parse_timex(content.raw)


def parse_timex(content: bytes) -> Clock:
    """A struct timex of a machine of 64 bits (adjtimex(2)): maxerror in microseconds at 24, the status at 40."""
    (error,) = struct.unpack_from("q", content, 24)
    (status,) = struct.unpack_from("i", content, 40)
    unsynchronised = 0x40  # STA_UNSYNC, linux/timex.h
    return Clock(not status & unsynchronised, error / 1e6)


# --- processes -------------------------------------------------------------------------------------------------


def read_troubled(
    apart: float = APART_SECONDS, proc: Path = _PROC, wait: Callable[[float], None] = time.sleep
) -> Troubled:
    """Zombies, and who lies in one wait in two looks, so many seconds `apart`; the second only where any does.

    Raises OSError where /proc cannot be listed.
    """
    rows: dict[int, _Row] = {}
    for entry in os.listdir(proc):  # noqa: PTH208 - a list of names is an order of magnitude cheaper
        if entry.isdigit() and len(rows) < PROCESSES_LIMIT and (row := _read_row(proc, int(entry))):
            rows[row.pid] = row
    gone: dict[int, int] = {}
    # This look runs in one of several children, which their parent collects in a moment.
    own = (os.getpid(), os.getppid())
    for row in rows.values():
        if row.state == "Z" and row.parent not in own and row.name != probes.NAME:
            gone[row.parent] = gone.get(row.parent, 0) + 1
    zombies = [
        Zombies(parent, rows[parent].name if parent in rows else "?", count) for parent, count in gone.items()
    ]
    zombies.sort(key=lambda one: -one.count)
    # The kernel's own threads (children of kthreadd, which is 2) wait like that for their work.
    waiting = [row for row in rows.values() if row.state == "D" and 2 not in (row.pid, row.parent)]
    # A reading of ours that hangs is told by its own check.
    waiting = [row for row in waiting if row.name != probes.NAME]
    before = {row.pid: _switches(proc, row.pid) for row in waiting}
    if waiting:
        wait(apart)
    blocked = []
    for row in waiting:
        now = _read_row(proc, row.pid)
        # Whoever ran in between was switched to and away again: that is another wait.
        if now is None or (now.state, now.started) != ("D", row.started) or before[row.pid] is None:
            continue
        if _switches(proc, row.pid) == before[row.pid]:
            channel = _text(proc / str(row.pid) / "wchan").strip()
            blocked.append(Blocked(row.pid, row.name, channel if channel not in ("", "0") else None, apart))
    return Troubled(len(rows), tuple(zombies), tuple(blocked))


class _Row(msgspec.Struct, frozen=True):
    pid: int
    name: str
    state: str
    parent: int
    started: int


def _read_row(proc: Path, pid: int) -> _Row | None:
    try:
        told = processes.parse_stat((proc / str(pid) / "stat").read_bytes())
    except (OSError, ValueError):
        return None
    return _Row(pid, told[1], told[2], told[3], told[6])


def _switches(proc: Path, pid: int) -> tuple[str, ...] | None:
    """How often a process gave up its CPU or lost it, None where that is not told."""
    found = re.findall(r"voluntary_ctxt_switches:\s*(\d+)", _text(proc / str(pid) / "status"))
    return tuple(found) or None


def parse_limits(text: str) -> dict[str, int | None]:
    """The soft limits in /proc/PID/limits by their names; None is unlimited."""
    found = re.findall(r"^(Max [a-z ]+?) {2,}(\d+|unlimited)\b", text, re.MULTILINE)
    return {name: None if value == "unlimited" else int(value) for name, value in found}


def read_limits(pid: int | None = None, proc: Path = _PROC, system: Path = _SYS) -> ProcessLimits:
    """The limits of the daemon, which has this number, or else of this process. Raises OSError."""
    place = proc / ("self" if pid is None else str(pid))
    limits = parse_limits((place / "limits").read_text())
    count, whose = None, "this shell (no daemon runs)"
    if pid is not None:
        whose = f"the daemon (pid {pid})"
        with contextlib.suppress(OSError):  # it may be another user's
            count = len(os.listdir(place / "fd"))  # noqa: PTH208
    adapters = system / "class" / "infiniband"
    return ProcessLimits(whose, limits, count, adapters.is_dir() and any(adapters.iterdir()))


# --- upgrades --------------------------------------------------------------------------------------------------

# What loads or talks to the kernel module; the packages for containers and for developers do neither.
_DRIVER = re.compile(
    r"(?:nvidia-(?!container|cuda|ml-py|settings|prime)|libnvidia-(?!container|egl|ml-py)|libcuda1|cuda-drivers"
    r"|linux-(?:modules|objects|signatures)-nvidia|kmod-nvidia|dkms-nvidia|amdgpu-dkms|rocm-core)"
)
_DPKG = re.compile(
    r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (upgrade|remove|purge) (\S+?)(?::\S+)? (\S+) (\S+)$", re.M
)
_DNF = re.compile(
    r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}) \w+ (Upgraded?|Erased?|Removed|Reinstalled): (\S+)$", re.M
)
DPKG_LOGS = ("var/log/dpkg.log.1", "var/log/dpkg.log")
DNF_LOGS = ("var/log/dnf.rpm.log.1", "var/log/dnf.rpm.log")


def parse_dpkg_log(text: str, since: float) -> list[Change]:
    """The drivers that dpkg.log tells as upgraded or removed after a moment; its times are local."""
    changes = []
    for moment, what, package, old, new in _DPKG.findall(text):
        wall = _wall(moment, "%Y-%m-%d %H:%M:%S")
        if wall is not None and wall > since and _DRIVER.match(package):
            changes.append(
                Change(wall, package, f"{what} {old} to {new}" if what == "upgrade" else f"{what} {old}")
            )
    return changes


def parse_dnf_log(text: str, since: float) -> list[Change]:
    """The drivers that dnf.rpm.log tells as upgraded or removed after a moment."""
    changes = []
    for moment, what, package in _DNF.findall(text):
        wall = _wall(moment, "%Y-%m-%dT%H:%M:%S%z")
        if wall is not None and wall > since and _DRIVER.match(package):
            changes.append(Change(wall, package, what.lower()))
    return changes


def read_upgrades(root: Path = Path("/"), kernel: str | None = None) -> Upgrades:
    """What package managers changed since the boot, and who asks for another one."""
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    kernel = os.uname().release if kernel is None else kernel
    logs, unreadable, changes = [], [], []
    for names, parse in ((DPKG_LOGS, parse_dpkg_log), (DNF_LOGS, parse_dnf_log)):
        for name in names:
            file = root / name
            try:
                size = file.stat().st_size
                text = files.read_range(file, max(0, size - LOG_BYTES), size).decode(errors="replace")
            except FileNotFoundError:
                continue
            except OSError:
                unreadable.append(str(file))
                continue
            logs.append(str(file))
            changes += parse(text, booted)
    return Upgrades(
        kernel=kernel,
        logs=tuple(logs),
        unreadable=tuple(unreadable),
        changes=tuple(sorted(changes, key=lambda one: one.wall)),
        reboot_wanted=_who_wants_a_reboot(root),
        modules=_has_modules(root, kernel),
    )


def _who_wants_a_reboot(root: Path) -> tuple[str, ...] | None:
    """The packages that ask for one (update-notifier's and unattended-upgrades' files), None if nobody does."""
    for folder in ("run", "var/run"):
        file = root / folder / "reboot-required"
        if file.exists():
            told = _text(file.with_name("reboot-required.pkgs")).split()
            return tuple(dict.fromkeys(told))[:20]
    return None


def _has_modules(root: Path, kernel: str) -> bool | None:
    kept = [root / "lib" / "modules", root / "usr" / "lib" / "modules"]
    there = [folder for folder in kept if folder.is_dir() and any(folder.iterdir())]
    if not there:
        return None
    return any((folder / kernel).is_dir() for folder in there)


# --- small things ----------------------------------------------------------------------------------------------


def _wall(moment: str, form: str) -> float | None:
    from datetime import datetime

    try:
        return datetime.strptime(moment, form).timestamp()
    except (ValueError, OverflowError):
        return None


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


def _numbers(file: Path) -> list[int]:
    return [int(word) for word in _text(file).split() if word.isdigit()]


def _number(file: Path) -> int | None:
    return next(iter(_numbers(file)), None)


def _share(row: "re.Pattern[str]", file: Path) -> float | None:
    found = row.search(_text(file))
    return float(found[1]) if found else None
