"""Listing: the checkpoints in a run's folder, by their names, in numeric order."""

import contextlib
import os
from pathlib import Path

import msgspec

from trainguard.checkpoints.layouts import rows_of, step_in

# Where a run's checkpoints lie, if not in its folder itself; Lightning makes a version for each start.
FOLDERS = ("checkpoints", "checkpoint", "current_model", "out")
LIGHTNING = "lightning_logs"
WEIGHTS = (".bin", ".ckpt", ".pt", ".pth", ".safetensors")
# What other frameworks save, of which no layout is known here.
OTHERS = (".distcp", ".h5", ".keras", ".msgpack", ".npz", ".orbax-checkpoint", ".pdparams")


class Checkpoint(msgspec.Struct, frozen=True):
    """A folder or a file that is named like a checkpoint; whether it is whole is not said.

    `step` is the number in its name: a step, or where not `is_step` only a count of saves or epochs, and -1
    where the name has none.
    """

    step: int
    path: Path
    is_step: bool = True


def parse_name(name: str) -> int | None:
    """The step in a checkpoint's name, or None where the whole name is not one or tells no step."""
    return step_in(name)


def list_checkpoints(directory: Path) -> list[Checkpoint]:
    """The checkpoints in `directory` whose names tell a step, in numeric order, by name among equals.

    A folder that does not exist has none. Raises OSError where it cannot be read or is no folder.
    """
    found = []
    for entry in entries(directory):
        step = parse_name(entry.name)
        if step is not None and (_is_folder(entry) or entry.name.endswith(".ckpt")):
            found.append(Checkpoint(step, directory / entry.name))
    return sorted(found, key=lambda checkpoint: (checkpoint.step, checkpoint.path.name))


def newest_checkpoint(directory: Path) -> Checkpoint | None:
    """The checkpoint with the largest step, or None. Raises OSError like `list_checkpoints`."""
    return max(list_checkpoints(directory), key=lambda checkpoint: checkpoint.step, default=None)


def list_saves(directory: Path) -> list[Checkpoint]:
    """All that a run may resume from in `directory`, the oldest first: also what tells no step in its name.

    What is numbered is in numeric order, with folders and Lightning's files above single files; names without
    a number are in order of their last change. A single `.pt` counts only where there is nothing else. Raises
    OSError like `list_checkpoints`.
    """
    numbered: list[tuple[Checkpoint, float]] = []
    others: list[tuple[Checkpoint, float]] = []
    for entry in entries(directory):
        fits = next(rows_of(entry.name, _is_folder(entry)), None)
        if fits is None:
            continue
        layout, number = fits
        save = (Checkpoint(number, directory / entry.name, layout.is_step), _changed(entry))
        (others if layout.is_file and not layout.is_step else numbered).append(save)
    if numbered:
        others = [save for save in others if save[0].path.name.endswith(".ckpt")]
    # Epochs and steps in one folder cannot be compared by number.
    is_mixed = len({save[0].is_step for save in numbered}) > 1
    return [*_in_order(others, any(save[0].step < 0 for save in others)), *_in_order(numbered, is_mixed)]


def find_folder(directory: Path) -> Path:
    """The folder that holds a run's checkpoints: `directory`, or one that frameworks make in it.

    Raises OSError where `directory` cannot be read.
    """
    if any(save.step >= 0 for save in list_saves(directory)):
        return directory
    inner = [directory / name for name in FOLDERS]
    for parent in (directory, directory / LIGHTNING):
        try:
            versions = [entry.path for entry in entries(parent) if entry.name.startswith("version_")]
            inner += [Path(version, "checkpoints") for version in versions]
        except OSError:
            continue
    changed = []
    for folder in inner:
        try:
            if list_saves(folder):
                changed.append((folder.stat().st_mtime, folder))
        except OSError:
            continue
    return max(changed, default=(0.0, directory))[1]


def is_loose(save: Checkpoint) -> bool:
    """A single file whose name tells no step: one that is written over, or one of a Lightning run's."""
    return not save.is_step and save.path.suffix in (".ckpt", ".pt", ".pth")


def find_weights(directory: Path) -> str | None:
    """A file of weights in a folder or right below it, by its name, whether or not it is in a checkpoint.

    Raises OSError where `directory` cannot be read.
    """
    inner: list[os.DirEntry[str]] = []
    found = entries(directory)
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            with contextlib.suppress(OSError):
                inner += entries(Path(entry.path))
    weights = (entry.path for entry in (*found, *inner) if entry.name.endswith((*WEIGHTS, *OTHERS)))
    first = min(weights, default=None)
    return None if first is None else os.path.relpath(first, directory)


def entries(directory: Path) -> list[os.DirEntry[str]]:
    """What lies in a folder; nothing where it does not exist. Raises OSError where it cannot be read."""
    try:
        with os.scandir(directory) as found:
            return list(found)
    except FileNotFoundError:
        return []


def _in_order(saves: list[tuple[Checkpoint, float]], by_change: bool) -> list[Checkpoint]:
    def place(save: tuple[Checkpoint, float]) -> tuple[float, int, str]:
        return save[1] if by_change else 0.0, save[0].step, save[0].path.name

    return [checkpoint for checkpoint, _ in sorted(saves, key=place)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of symbolic links
        return False


def _changed(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat().st_mtime
    except OSError:
        return 0.0
