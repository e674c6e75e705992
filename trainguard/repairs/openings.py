"""Repairs of folders and permissions: what is missing, closed to its own user, or open to everybody."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from trainguard.config import Settings
from trainguard.repairs.folders import Folder, folder_of
from trainguard.repairs.steps import MakeFolder, SetMode
from trainguard.repairs.values import Left, Planned

FSTAB = Path("/etc/fstab")


def plan_missing_folders(settings: Settings, now_wall: float) -> Iterator[Planned]:
    """The folders that the settings name and that are not there; none below a mount that is not mounted."""
    planned: set[str] = set()
    for wanted in wanted_folders(settings):
        missing = missing_parts(wanted)
        if not missing:
            continue
        nearest = missing[0].parent
        if (mount := unmounted_above(wanted, settings)) is not None:
            yield Left(f"{wanted} is missing, as {mount} is not mounted: mount it")
        elif missing[0].is_symlink():
            yield Left(f"{missing[0]} is a link to nothing: make its target or name another folder")
        elif not nearest.is_dir():
            yield Left(f"{nearest} is no folder: name another")
        else:
            real = Path(os.path.realpath(nearest))
            place = folder_of(real)
            for part in missing:
                if str(real / part.name) not in planned:
                    yield MakeFolder(place, part.name)
                real = real / part.name
                planned.add(str(real))
                place = Folder(str(real))


def wanted_folders(settings: Settings) -> list[Path]:
    """Every folder that the watchdog or the daemon writes to."""
    progress = settings.progress
    files = (settings.daemon.log, settings.daemon.pid_file, progress.status_file, progress.heartbeat_file)
    folders = [settings.logs.directory, *(file.parent for file in files if file is not None)]
    if settings.checkpoints.directory is not None:
        folders.append(settings.checkpoints.directory)
    return list(dict.fromkeys(folders))


def missing_parts(folder: Path) -> list[Path]:
    """The folders that are to be made, the outermost first."""
    missing = []
    while not folder.exists() and folder != folder.parent:
        missing.append(folder)
        folder = folder.parent
    return missing[::-1]


def unmounted_above(folder: Path, settings: Settings) -> Path | None:
    """The mount that the settings or fstab(5) expect at or above a folder, where it is not mounted."""
    expected = {*settings.health.mounts, *fstab_mounts()}
    above = (folder, *folder.parents)
    return next((one for one in above if one in expected and not os.path.ismount(one)), None)


def fstab_mounts(file: Path = FSTAB) -> list[Path]:
    """Where fstab(5) mounts something by itself; none where it cannot be read."""
    try:
        rows = [line.split() for line in file.read_text(errors="replace").splitlines()]
    except OSError:
        return []
    return [
        Path(row[1].replace("\\040", " "))
        for row in rows
        if len(row) >= 4 and row[0][0] != "#" and row[1].startswith("/") and "noauto" not in row[3].split(",")
    ]


def plan_closed_folders(settings: Settings, now_wall: float) -> Iterator[Planned]:
    """This user's own run folder and checkpoint folder, where it may not read, write or enter them."""
    for folder in (settings.logs.directory, settings.checkpoints.directory):
        if folder is not None:
            yield from _with_mode(folder, lambda mode: mode | stat.S_IRWXU)


def plan_open_permissions(settings: Settings, now_wall: float) -> Iterator[Planned]:
    """The configuration, from which commands are run, and the run folder."""
    yield from _with_mode(settings.path, lambda mode: mode & ~(stat.S_IWGRP | stat.S_IWOTH))
    yield from _with_mode(settings.logs.directory, lambda mode: mode & ~stat.S_IWOTH)


def _with_mode(path: Path, wanted: Callable[[int], int]) -> Iterator[Planned]:
    real = Path(os.path.realpath(path))
    try:
        about = real.lstat()
    except FileNotFoundError:
        return
    before = stat.S_IMODE(about.st_mode)
    after = wanted(before)
    # In a folder with the sticky bit, as /tmp, nobody renames what is another's.
    if before == after or before & stat.S_ISVTX:
        return
    if about.st_uid != os.geteuid():
        yield Left(f"{real} belongs to user {about.st_uid}: run this as that user")
    elif stat.S_ISREG(about.st_mode) and about.st_nlink != 1:
        yield Left(f"{real} has {about.st_nlink} names: its mode is left as it is")
    else:
        yield SetMode(folder_of(real.parent), real.name, about.st_ino, before, after)
