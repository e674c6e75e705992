#!/usr/bin/env python3
"""Is it safe to train here? A look at the settings, the machine, the watchdog and the daemon.

    python3 comprehensive_health_check.py

prints one line per check, the worst first, and changes nothing.

    WARN     disk /data: 3.1 GiB free; free space before the next checkpoint needs it

exit codes: 0 fine, 1 attention (also a check that could not be decided), 2 bad, 3 the check itself failed
"""

from trainguard import packages

packages.require("msgspec", "yaml", "psutil")

import os
import sys
from argparse import Namespace
from collections.abc import Sequence

import msgspec

from trainguard import command_line, host, reports
from trainguard.config import Settings, check_paths, load_settings
from trainguard.health import Finding, Status
from trainguard.observer import places_of
from trainguard.run_folder import RunFolder

GIB = 1 << 30
DISK_BAD, DISK_LOW = 1 * GIB, 10 * GIB
INODES_LOW = 10_000
MEMORY_LOW = 0.05
ORDER = (Status.BAD, Status.ATTENTION, Status.UNKNOWN, Status.OK)


def judge_disk(disk: host.Disk) -> Finding:
    """Free space and inodes of one file system. The limits fit checkpoints of a few GiB."""
    subject = f"disk {disk.path}"
    if disk.free is None or disk.free_inodes is None:
        return Finding(Status.UNKNOWN, subject, "does not tell its free space")
    status = Status.BAD if disk.free < DISK_BAD else Status.ATTENTION if disk.free < DISK_LOW else Status.OK
    if disk.free_inodes < INODES_LOW and disk.free_inodes != 0:
        return Finding(Status.BAD, subject, f"{disk.free_inodes} inodes free", "remove small files")
    remedy = "" if status is Status.OK else "free space before the next checkpoint needs it"
    return Finding(status, subject, f"{disk.free / GIB:.1f} GiB free", remedy)


def judge_memory(now: host.Host) -> Finding:
    """Memory that is available, as a share of all."""
    low = now.memory_available < MEMORY_LOW * now.memory_total
    fact = f"{now.memory_available / GIB:.1f} of {now.memory_total / GIB:.1f} GiB available"
    remedy = "see which process grows" if low else ""
    return Finding(Status.ATTENTION if low else Status.OK, "memory", fact, remedy)


def judge_supervision(settings: Settings) -> Finding:
    """The watchdog and the daemon, as --status tells them."""
    folder = RunFolder(settings.logs.directory)
    state, finding = folder.load_state()
    if finding is not None:
        return finding
    report = reports.report_status(settings, folder, state)
    if report.phase == "new" and report.watchdog is None:
        fact = "nothing was started with this configuration yet"
        return Finding(
            Status.OK, "watchdog", fact, "nohup python3 daemon_watchdog.py > logs/watchdog.log 2>&1 &"
        )
    return Finding(reports.judge_status(report), f"daemon {report.name}", reports.summary_of(report))


def judge_run_folder(settings: Settings) -> Finding:
    """Whether the watchdog could write its records."""
    directory = settings.logs.directory
    if not directory.exists():
        return Finding(Status.OK, f"run folder {directory}", "is not there yet; the watchdog makes it")
    if not os.access(directory, os.W_OK | os.X_OK):
        return Finding(Status.BAD, f"run folder {directory}", "cannot be written", "change its owner or mode")
    return Finding(Status.OK, f"run folder {directory}", "can be written")


def judge_all(settings: Settings) -> list[Finding]:
    """Every finding, the worst first."""
    now = host.read_host(places_of(settings))
    disks = {(disk.total, disk.free, disk.free_inodes): disk for disk in now.disks}
    findings = [Finding(Status.BAD, str(settings.path), problem) for problem in check_paths(settings)]
    findings += [judge_supervision(settings), judge_run_folder(settings), judge_memory(now)]
    findings += [judge_disk(disk) for disk in disks.values()]
    return sorted(findings, key=lambda finding: ORDER.index(finding.status))


def run(arguments: Namespace) -> int:
    """Do what the command line says."""
    if arguments.check_config:
        return command_line.check_config(arguments.config)
    findings = judge_all(load_settings(arguments.config))
    if arguments.json:
        checks = [{**msgspec.to_builtins(one), "status": one.status.name} for one in findings]
        print(command_line.json_of({"checks": checks}))
    else:
        print("\n".join(command_line.marked(one.status, str(one)) for one in findings))
    worst = findings[0].status
    return Status.ATTENTION if worst is Status.UNKNOWN else worst


def parse(argv: Sequence[str] | None) -> Namespace:
    """The command line."""
    parser = command_line.parser(__doc__, __file__)
    parser.add_argument("--json", action="store_true", help="one JSON object, whose `checks` is the list")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of one call."""
    return command_line.guarded(lambda: run(parse(argv)), __file__)


if __name__ == "__main__":
    sys.exit(main())
