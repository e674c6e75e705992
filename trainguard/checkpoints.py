"""Checkpoints: the saved states in a run's folder, by the step that their names tell."""

import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import msgspec

STEP_LIMIT = 1 << 53
FILE_LIMIT = 10_000
# Two hold every layout known: DeepSpeed's checkpoint-N/global_stepN/, Megatron's iter_N/mp_rank_00_000/.
FOLDER_DEPTH = 3
WEIGHTS = (".bin", ".ckpt", ".pt", ".pth", ".safetensors")

# One row per layout: what a folder is called (files only for Lightning, which also writes folders so named).
LAYOUTS = {
    "hugging face": r"checkpoint-([0-9]+)",  # transformers trainer_utils.py, _re_checkpoint
    "deepspeed, verl": r"global_step_?([0-9]+)",  # deepspeed runtime/engine.py; verl checkpoint_manager.py
    "megatron": r"iter_([0-9]+)",  # Megatron-LM training/checkpointing.py, get_checkpoint_name
    "torchtitan, torchtune": r"step[-_]([0-9]+)",  # torchtitan components/checkpoint.py; torchtune training
    # lightning callbacks/model_checkpoint.py, format_checkpoint_name: a prefix before, a version behind
    "lightning": r"(?:.*-)?epoch=[0-9]+-step=([0-9]+)(?:-v[0-9]+)?\.ckpt",
}
_NAME = re.compile("|".join(LAYOUTS.values()))


class Checkpoint(msgspec.Struct, frozen=True):
    """A folder, or for Lightning a file, that is named like a checkpoint; whether it is whole is not said."""

    step: int
    path: Path


class Footprint(msgspec.Struct, frozen=True):
    """How much lies where a run saves: number of files, their size, and the newest change (wall seconds).

    `newest_mtime` is None where there is no file.
    """

    files: int
    size_bytes: int
    newest_mtime: float | None


def parse_name(name: str) -> int | None:
    """The step in a checkpoint's name, or None where the whole name is not one."""
    match = _NAME.fullmatch(name)
    digits = match[match.lastindex] if match and match.lastindex else ""
    # Sixteen digits hold every number below 2**53, with zeros in front for Megatron's seven.
    if not digits or len(digits) > 16 or int(digits) >= STEP_LIMIT:
        return None
    return int(digits)


def list_checkpoints(directory: Path) -> list[Checkpoint]:
    """The checkpoints in `directory` in numeric order of their steps, by name among equals.

    A folder that does not exist has none. Raises OSError where it cannot be read or is no folder.
    """
    found = []
    for entry in _entries(directory):
        step = parse_name(entry.name)
        if step is not None and (_is_folder(entry) or entry.name.endswith(".ckpt")):
            found.append(Checkpoint(step, directory / entry.name))
    return sorted(found, key=lambda checkpoint: (checkpoint.step, checkpoint.path.name))


def newest_checkpoint(directory: Path) -> Checkpoint | None:
    """The checkpoint with the largest step, or None. Raises OSError like `list_checkpoints`."""
    return max(list_checkpoints(directory), key=lambda checkpoint: checkpoint.step, default=None)


def measure(directory: Path) -> Footprint:
    """The footprint of the two checkpoint folders in `directory` that changed last, with what is inside them.

    Also of the weights that lie in `directory` itself: Lightning writes there, and nanoGPT its only file,
    over and over. At most 10,000 files in each, three folders deep, no symbolic link is followed. A folder
    that does not exist has nothing. Raises OSError where `directory` cannot be read; what vanishes meanwhile
    is left out.
    """
    folders: list[tuple[float, str]] = []
    files = []
    for entry in _entries(directory):
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


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except FileNotFoundError:
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of symbolic links
        return False


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
