"""Repairs of what lives or has died: the daemon's processes, its watchdog, its PID file, its shared memory."""

import os
import resource
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import trainguard
from trainguard import processes
from trainguard.config import Settings
from trainguard.disks import read_mounts
from trainguard.leftovers import read_shared_memory
from trainguard.policy import OVER
from trainguard.repairs.folders import folder_of, opened, opened_file
from trainguard.repairs.renaming import keep, rename, stamp
from trainguard.repairs.steps import SetLimit, StartWatchdog, StopProcesses, is_open_elsewhere
from trainguard.repairs.values import Left, Planned
from trainguard.requests import ANSWER_SECONDS
from trainguard.run_folder import RunFolder
from trainguard.supervision import Verdict, read_supervision

# Beyond it some programs that close every descriptor one by one take minutes; fs.nr_open is this by default.
OPEN_FILES_AT_MOST = 1 << 20
# A file that a process of another machine or container may have written proves nothing about processes here.
SHARED_FILE_SYSTEMS = (
    "nfs",
    "cifs",
    "smb",
    "ceph",
    "lustre",
    "gpfs",
    "beegfs",
    "fuse",
    "9p",
    "glusterfs",
    "afs",
)
YOUNG_SECONDS = 10.0
FILES_AT_MOST = 1000


def plan_stale_pid_file(settings: Settings, now_wall: float) -> Iterator[Planned]:
    """A PID file whose process has ended, or whose number was given to another process since."""
    path = settings.daemon.pid_file
    seen = read_supervision(settings)
    if path is None or seen.pid_file is None or seen.pid_file.verdict in (Verdict.MISSING, Verdict.DAEMON):
        return
    told = f"{path} {seen.pid_file.text}"
    is_reused = "started after the file was written" in seen.pid_file.text
    if seen.pid_file.verdict is not Verdict.DEAD and not is_reused:
        yield Left(f"{told}: that proves nothing")
    elif seen.daemon is not None:
        yield Left(f"{told}: the daemon runs as pid {seen.daemon.pid} and may write it anew")
    elif now_wall - path.lstat().st_mtime < YOUNG_SECONDS:
        yield Left(f"{told}: it was written just now")
    elif (shared := shared_file_system(path)) is not None:
        yield Left(f"{told}: it lies on {shared}, where another machine may have written it")
    else:
        yield rename(path, f"{path.name}.stale-{stamp(now_wall)}")


def shared_file_system(path: Path) -> str | None:
    """The kind of the file system that holds a path, where several machines may share it. Raises OSError."""
    number = os.stat(path).st_dev  # noqa: PTH116 - a plain number is wanted
    name = f"{os.major(number)}:{os.minor(number)}"
    kinds = [mount.kind for mount in read_mounts() if mount.number == name]
    return next((kind for kind in kinds if kind.startswith(SHARED_FILE_SYSTEMS)), None)


def plan_stop_orphans(settings: Settings, now_wall: float) -> Iterator[Planned]:
    """What a dead run of this daemon has left alive, as the watchdog finds it; who is spared is left."""
    seen = read_supervision(settings)
    if not seen.orphans:
        return
    names = ", ".join(f"{one.name} (pid {one.pid})" for one in seen.orphans[:8])
    if settings.watchdog.orphans != "stop":
        yield Left(f"{names}: watchdog.orphans is {settings.watchdog.orphans}")
    elif seen.state.paused:
        yield Left(f"{names}: paused by a person")
    else:
        targets = tuple(one.identity for one in seen.orphans)
        yield StopProcesses(targets, tuple(one.name for one in seen.orphans), settings.watchdog.orphan_grace)


def plan_ensure_watchdog(settings: Settings, now_wall: float) -> Iterator[Planned]:
    """A watchdog that should run and does not: one ran here, and neither its daemon nor a person ended it."""
    folder = RunFolder(settings.logs.directory)
    if folder.watchdog() is not None or not folder.state_file.exists():
        return
    state, finding = folder.load_state()
    if finding is not None:
        yield Left(f"{folder.state_file} is broken: broken-state comes first")
    elif state.phase in OVER:
        yield Left(f"{state.reason}")
    else:
        script = Path(trainguard.__file__).resolve().parent.parent / "daemon_watchdog.py"
        command = (sys.executable, str(script), "--ensure", "--config", str(settings.path))
        yield StartWatchdog(command, str(folder.directory), 2 * ANSWER_SECONDS)


def plan_raise_open_files(settings: Settings, now_wall: float) -> Iterator[Planned]:
    """The living daemon and what it started may open as many files as their hard limit lets them."""
    daemon = read_supervision(settings).daemon
    if daemon is None:
        return
    tree = [daemon.identity, *(one.identity for one in processes.living(processes.descendants(daemon.pid)))]
    for one in tree:
        if one.uid != os.geteuid():
            yield Left(f"pid {one.pid} belongs to user {one.uid}")
            continue
        try:
            soft, hard = resource.prlimit(one.pid, resource.RLIMIT_NOFILE)
        except (ProcessLookupError, PermissionError):
            continue
        wanted = OPEN_FILES_AT_MOST if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES_AT_MOST)
        if soft != resource.RLIM_INFINITY and soft < wanted and processes.read_living(one) is not None:
            yield SetLimit(one, soft, wanted)


def plan_shared_memory(settings: Settings, now_wall: float) -> Iterator[Planned]:
    """What dead runs of this user left in shared memory, where nobody has it open, in whatever container."""
    found = read_shared_memory()
    for number, one in enumerate(found.leftovers[:FILES_AT_MOST], 1):
        path = Path(one.path)
        if now_wall - one.wall < YOUNG_SECONDS:
            yield Left(f"{path} was written just now")
            continue
        try:
            with opened(folder_of(path.parent)) as place, opened_file(place, path.name) as file:
                about = os.fstat(file)
                is_ours = about.st_uid == os.geteuid() and stat.S_ISREG(about.st_mode)
                is_open = is_open_elsewhere(file) if is_ours else True
        except FileNotFoundError:
            continue
        if is_open is False:
            yield keep(path, number, if_unopened=True)
        else:
            yield Left(f"{path} is open" if is_open else f"{path}: whether it is open cannot be found out")
