"""Leftovers: files that dead runs have left behind, in shared memory and in the run folder."""

import os
import re
import stat
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import msgspec

SHARED = Path("/dev/shm")
PROC = Path("/proc")
ENTRIES_AT_MOST = 20_000
FOLDERS_AT_MOST = 2_000
MAPS_LIMIT = 16 << 20
# Who writes whole or copies is done within this; see trainguard.copies for the longest.
AGED_SECONDS = 3600.0

# torch.multiprocessing names its creator (torch/lib/libshm: torch_PID_RANDOM_COUNT), multiprocessing.shared_memory
# and NCCL (nccl-RANDOM) do not.
_CREATED_BY = re.compile(r"torch_(\d{1,10})_")
_NAMELESS = ("psm_", "nccl-")
_TEMPORARY = re.compile(r"\..+\.(?:tmp|new|part|errors)")


class Leftover(msgspec.Struct, frozen=True):
    """One file: its size in bytes, when it was changed, and which file it is, so that no other is taken for it."""

    path: str
    size: int
    wall: float
    device: int
    inode: int


class SharedMemory(msgspec.Struct, frozen=True):
    """What dead processes of this user left in shared memory, its size, and how many may not be asked for it."""

    leftovers: tuple[Leftover, ...] = ()
    total: int = 0
    hidden: int = 0
    looked_at: int = 0


class Temporary(msgspec.Struct, frozen=True):
    """Temporary files of a run folder that are older than `AGED_SECONDS`, and how many files were looked at."""

    leftovers: tuple[Leftover, ...] = ()
    looked_at: int = 0


def creator_of(name: str) -> int | None:
    """The process that a file in shared memory names as its creator, None where it names none."""
    found = _CREATED_BY.match(name)
    return int(found[1]) if found else None


def is_known(name: str) -> bool:
    """Whether training makes files of such a name in shared memory."""
    return _CREATED_BY.match(name) is not None or name.startswith(_NAMELESS)


def is_temporary(name: str) -> bool:
    """Whether this project itself gives such names to files that are not whole yet."""
    return _TEMPORARY.fullmatch(name) is not None


def read_shared_memory(folder: Path = SHARED, proc: Path = PROC) -> SharedMemory:
    """The leftovers in shared memory: this user's, opened and mapped by nobody, of a creator that is dead.

    Where a name tells no creator, it is older than an hour. Raises OSError where the folder cannot be read.
    """
    wall, own = time.time(), os.geteuid()
    found, looked_at = [], 0
    with os.scandir(folder) as entries:
        for entry in entries:
            looked_at += 1
            if looked_at > ENTRIES_AT_MOST:
                break
            if is_known(entry.name) and (about := _about(entry)) is not None and about.st_uid == own:
                creator = creator_of(entry.name)
                is_dead = creator is not None and not (proc / str(creator)).exists()
                if is_dead or (creator is None and wall - about.st_mtime > AGED_SECONDS):
                    found.append(_leftover(entry.path, about))
    told = os.statvfs(folder)
    hidden = 0
    if found:
        used, hidden = _in_use(proc, folder, own)
        found = [one for one in found if (one.device, one.inode) not in used]
    return SharedMemory(tuple(found), told.f_frsize * told.f_blocks, hidden, looked_at)


def read_temporary(directory: Path, aged: float = AGED_SECONDS) -> Temporary:
    """The temporary files of ours below a run folder; none where there is no folder. Raises OSError."""
    wall, own, looked_at = time.time(), os.geteuid(), 0
    found = []
    for entry in _files_below(directory):
        looked_at += 1
        about = _about(entry) if is_temporary(entry.name) else None
        if about is not None and about.st_uid == own and wall - about.st_mtime > aged:
            found.append(_leftover(entry.path, about))
    return Temporary(tuple(found), looked_at)


def _files_below(directory: Path) -> "Iterator[os.DirEntry[str]]":
    """Regular files in a folder and those below it, links not followed, so many at most."""
    folders, seen = [str(directory)], 0
    for place in range(FOLDERS_AT_MOST):
        if place >= len(folders):
            return
        try:
            listing = os.scandir(folders[place])
        except FileNotFoundError:
            continue
        except OSError:
            if place == 0:
                raise
            continue
        with listing as entries:
            for entry in entries:
                seen += 1
                if seen > ENTRIES_AT_MOST:
                    return
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    yield entry


def _about(entry: "os.DirEntry[str]") -> os.stat_result | None:
    try:
        about = entry.stat(follow_symlinks=False)
    except OSError:
        return None
    return about if stat.S_ISREG(about.st_mode) else None


def _leftover(path: str, about: os.stat_result) -> Leftover:
    return Leftover(path, about.st_size, about.st_mtime, about.st_dev, about.st_ino)


def _in_use(proc: Path, folder: Path, own: int) -> tuple[set[tuple[int, int]], int]:
    """The files below a folder that any process has opened or mapped, by device and inode; and of how many
    processes of this user that could not be found out."""
    used: set[tuple[int, int]] = set()
    hidden = 0
    for name in os.listdir(proc):  # noqa: PTH208 - a list of names is an order of magnitude cheaper
        if not name.isdigit():
            continue
        try:
            used.update(_mapped(proc / name / "maps", os.fsencode(folder)))
            used.update(_opened(proc / name / "fd", str(folder)))
        except (FileNotFoundError, ProcessLookupError):
            continue
        except OSError:
            hidden += _uid_of(proc / name) == own
    return used, hidden


def _mapped(maps: Path, folder: bytes) -> Iterator[tuple[int, int]]:
    with maps.open("rb") as listing:
        text = listing.read(MAPS_LIMIT)
    if folder + b"/" not in text:
        return
    for line in text.splitlines():
        # address, rights, offset, device, inode, path: see proc_pid_maps(5).
        words = line.split(None, 5)
        if len(words) == 6 and words[5].startswith(folder + b"/"):
            major, _, minor = words[3].partition(b":")
            yield os.makedev(int(major, 16), int(minor, 16)), int(words[4])


def _opened(folder: Path, shared: str) -> Iterator[tuple[int, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                if os.readlink(entry.path).startswith(f"{shared}/"):  # noqa: PTH115 - a plain string is wanted
                    about = entry.stat()
                    yield about.st_dev, about.st_ino
            except OSError:
                continue


def _uid_of(place: Path) -> int | None:
    try:
        return place.stat().st_uid
    except OSError:
        return None


def total_of(leftovers: Collection[Leftover]) -> int:
    """Their sizes together, in bytes."""
    return sum(one.size for one in leftovers)
