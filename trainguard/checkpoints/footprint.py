"""The footprint: how much lies where a run saves, and whether it grows."""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import msgspec

from trainguard.checkpoints.listing import WEIGHTS, entries, parse_name

FILE_LIMIT = 10_000
# Two hold every layout known: DeepSpeed's checkpoint-N/global_stepN/, Megatron's iter_N/mp_rank_00_000/.
FOLDER_DEPTH = 3


class Footprint(msgspec.Struct, frozen=True):
    """How much lies where a run saves: number of files, their size, and the newest change (wall seconds).

    `newest_mtime` is None where there is no file.
    """

    files: int
    size_bytes: int
    newest_mtime: float | None


def measure(directory: Path) -> Footprint:
    """The footprint of the two checkpoint folders in `directory` that changed last, with what is inside them.

    Also of the weights that lie in `directory` itself: Lightning writes there, and nanoGPT its only file,
    over and over. At most 10,000 files in each, three folders deep, no symbolic link is followed. A folder
    that does not exist has nothing. Raises OSError where `directory` cannot be read; what vanishes meanwhile
    is left out.
    """
    folders: list[tuple[float, str]] = []
    files = []
    for entry in entries(directory):
        about = _about(entry)
        if about is None:
            continue
        if entry.is_dir(follow_symlinks=False):
            if parse_name(entry.name) is not None:
                folders.append((about.st_mtime, entry.path))
        elif entry.name.endswith(WEIGHTS):
            files.append(about)
    for _, folder in sorted(folders)[-2:]:
        files.extend(islice(_files(folder, FOLDER_DEPTH), FILE_LIMIT))
    newest = max((about.st_mtime for about in files), default=None)
    return Footprint(len(files), sum(about.st_size for about in files), newest)


def has_grown(before: Footprint, after: Footprint) -> bool:
    """Whether something was written between two looks. Mere deletion, as when old ones are pruned, is not."""
    if after.files > before.files or after.size_bytes > before.size_bytes:
        return True
    return after.newest_mtime is not None and (
        before.newest_mtime is None or after.newest_mtime > before.newest_mtime
    )


def _about(entry: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return entry.stat(follow_symlinks=False)
    except OSError:
        return None


def _files(folder: str, depth: int) -> Iterator[os.stat_result]:
    """What is known of the files below a folder; a part that cannot be read is left out."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if depth > 1:
                        yield from _files(entry.path, depth - 1)
                elif (about := _about(entry)) is not None:
                    yield about
    except OSError:
        return
