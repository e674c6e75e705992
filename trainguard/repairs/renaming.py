"""Renaming: steps that take something out of the way, in its folder or into the record's."""

import os
import stat
import time
from pathlib import Path

from trainguard import files
from trainguard.repairs.folders import folder_of
from trainguard.repairs.steps import Keep, Rename


def stamp(now_wall: float) -> str:
    """What stands behind the name of what was set aside."""
    return time.strftime("%Y%m%dT%H%M%S", time.localtime(now_wall))


def rename(path: Path, new_name: str) -> Rename:
    """Another name in the same folder, with a number where it is taken; a link only itself. Raises OSError."""
    place = folder_of(path.parent)
    free = files.free_name(Path(place.path, new_name))
    return Rename(place, path.name, free.name, path.lstat().st_ino)


def keep(path: Path, number: int, if_unopened: bool = False) -> Keep:
    """Into the record's folder, under a name that no other file of it has. Raises OSError."""
    return Keep(
        folder_of(path.parent),
        path.name,
        path.lstat().st_ino,
        f"{number}-{path.name.lstrip('.')}",
        if_unopened,
    )


def is_own_file(path: Path) -> bool:
    """Whether it is a regular file of this user. Raises OSError."""
    about = path.lstat()
    return stat.S_ISREG(about.st_mode) and about.st_uid == os.geteuid()
