"""Kernel lines: which of a kernel log may tell of a run, by when they were written and of what they speak."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from trainguard.diagnosis import Facts, Gap, Line
from trainguard.kernel_log import KernelLine

# The kernel speaks of a death before the log or the watchdog does, and rarely after.
BEFORE, AFTER = 600.0, 60.0
# So long a log may be silent at its end, and so many of its last lines may tell no time.
SILENCE, LINES = 1800.0, 200
# Programs that train nothing: that one of them was killed explains no death of ours.
BYSTANDERS = frozenset(
    {
        *("java", "node", "ruby", "php", "php-fpm", "dotnet", "beam.smp", "perl"),
        *("mysqld", "mariadbd", "postgres", "mongod", "redis-server", "memcached", "influxd", "etcd"),
        *("clickhouse-serv", "elasticsearch", "prometheus", "grafana", "grafana-server", "nginx", "apache2"),
        *("httpd", "dockerd", "containerd", "kubelet", "kube-apiserver", "sshd", "rsyslogd", "snapd"),
        *("chrome", "chromium", "firefox", "Web Content", "Isolated Web Co", "code", "slack", "Xorg"),
        *("gnome-shell", "plasmashell", "cc1", "cc1plus", "clang", "clang++", "ld", "rustc", "cargo", "cicc"),
        *("git", "rsync", "qemu-system-x86", "mysqldump", "pg_dump", "slurmctld", "slurmdbd"),
    }
)
_VICTIM = re.compile(
    r"\bKill(?:ed)? process (?P<pid>\d+)(?:, UID \d+,)? \((?P<task>[^)\n]*)\)"
    r"|oom-kill:.*\btask=(?P<chosen>[^,\n]*),pid=(?P<its_pid>\d+)"
)
_INVOKED = "invoked oom-killer"
# How the file systems and the block layer name a device; lib/vsprintf.c and each file system's own messages.
_DEVICE = re.compile(
    r"\((?:device )?(?P<volume>(?:sd|nvme|vd|xvd|hd|dm-|md|loop|nbd|mmcblk|zram)[\w!-]*)[):]"
    r"|\b(?:dev|device) (?P<device>(?:sd|nvme|vd|xvd|hd|dm-|md|loop|nbd|mmcblk|zram)[\w!-]*)"
)


class Period(msgspec.Struct, frozen=True):
    """When a run can have ended, in seconds since 1970.

    `told` where the log itself or the watchdog says so; a file's own time says less, as a copy has another.
    """

    first: float
    last: float
    told: bool

    def holds(self, moment: float) -> bool:
        return self.first - BEFORE <= moment <= self.last + AFTER


def period_of(path: str, lines: Iterable[object], facts: Facts | None) -> Period | None:
    """When the run of a log ended, None where nothing tells."""
    if facts is not None and facts.time is not None:
        return Period(facts.time, facts.time, True)
    told, since = None, 0
    for line in lines:
        # Of a gap it is not known how long it is.
        since += LINES + 1 if isinstance(line, Gap) else 1
        if isinstance(line, Line) and line.time is not None:
            told, since = line.time, 0
    if told is not None and since <= LINES:
        return Period(told, told + SILENCE, True)
    try:
        written = None if path == "-" else Path(path).stat().st_mtime
    except (OSError, ValueError):
        written = None
    return None if written is None else Period(written, written, False)


def choose(
    kernel: Sequence[KernelLine],
    period: Period | None,
    pids: frozenset[int],
    devices: frozenset[str] | None = None,
) -> tuple[list[Line], list[Line]]:
    """The lines that may be of the run whose processes had these `pids`, and those that cannot be.

    `devices` are the block devices below all that it uses, by the kernel's names: an error of another one, such as
    a stick that was pulled, is not its own. None where they are not known; then any may be.
    """
    chosen: list[Line] = []
    left: list[Line] = []
    for line in _read(kernel):
        may_be = _may_be(line, period, pids) and not _is_elsewhere(line, devices)
        (chosen if may_be else left).append(line)
    if any(map(_VICTIM.search, (line.text for line in left))) and not any(
        _VICTIM.search(line.text) for line in chosen
    ):
        # Whoever asked for memory last is not who was killed.
        left += [line for line in chosen if _INVOKED in line.text]
        chosen = [line for line in chosen if _INVOKED not in line.text]
    return chosen, left


def _read(kernel: Iterable[KernelLine]) -> Iterator[Line]:
    for number, line in enumerate(kernel, 1):
        yield Line("kernel log", number, 0, line.text, line.text, time=line.time)


def _is_elsewhere(line: Line, devices: frozenset[str] | None) -> bool:
    found = _DEVICE.search(line.text)
    return found is not None and devices is not None and (found["volume"] or found["device"]) not in devices


def _may_be(line: Line, period: Period | None, pids: frozenset[int]) -> bool:
    victim = _VICTIM.search(line.text)
    is_ours = victim is not None and int(victim["pid"] or victim["its_pid"]) in pids
    if period is not None and line.time is not None and not period.holds(line.time):
        return is_ours and not period.told
    return victim is None or is_ours or (victim["task"] or victim["chosen"]) not in BYSTANDERS
