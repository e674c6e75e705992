"""Contents: what one look into a checkpoint found, file by file, without ever running or loading any of it."""

import stat
from pathlib import Path

import msgspec

from trainguard.checkpoints.layouts import Layout, layout_of
from trainguard.checkpoints.listing import Checkpoint, entries
from trainguard.checkpoints.pointers import Pointer, read_pointer
from trainguard.checkpoints.verdicts import Fault, FaultError, Verdict
from trainguard.checkpoints.verifying import Look, verify

FILE_LIMIT = 10_000
# LLaMA-Factory v1 and verl lie deepest: global_step_N/actor/huggingface/config.json.
FOLDER_DEPTH = 4


class File(msgspec.Struct, frozen=True):
    """A file of a checkpoint: its path in it, its size in bytes, its last change in wall seconds."""

    name: str
    size: int
    changed: float


class Contents(msgspec.Struct, frozen=True):
    """The facts of one checkpoint: its files, what is wrong with them, and what they tell.

    `layout` is None where none fits. `step` is the step by content, and `world` the number of data-parallel
    ranks that DeepSpeed wrote down. `pointer` is what the file beside says that names the newest one.
    """

    checkpoint: Checkpoint
    layout: Layout | None
    files: tuple[File, ...]
    faults: tuple[Fault, ...] = ()
    is_folder: bool = True
    step: int | None = None
    world: int | None = None
    pointer: Pointer | None = None

    @property
    def names(self) -> list[str]:
        return [file.name for file in self.files]

    @property
    def size_bytes(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def newest_mtime(self) -> float | None:
        return max((file.changed for file in self.files), default=None)

    @property
    def duration(self) -> float:
        """How many seconds passed from the first file of the save to the last."""
        changes = [file.changed for file in self.files]
        return max(changes) - min(changes) if changes else 0.0


def list_files(checkpoint: Checkpoint) -> Contents:
    """The files of a checkpoint and what is wrong with them at first sight; none is opened. Never raises."""
    files: list[File] = []
    faults: list[Fault] = []
    path = checkpoint.path
    try:
        is_folder = path.is_dir()
    except OSError:
        is_folder = False
    if not is_folder:
        _look_at(path, path.name, files, faults)
        return Contents(checkpoint, layout_of(path.name, None), tuple(files), tuple(faults), is_folder)
    _walk(path, "", FOLDER_DEPTH, files, faults)
    if len(files) >= FILE_LIMIT:
        faults.append(Fault(Verdict.SUSPECT, f"{path.name} holds {FILE_LIMIT} files or more"))
    files.sort(key=lambda file: file.name)
    layout = layout_of(path.name, [file.name for file in files])
    for name in layout.beside if layout else ():
        _look_at(path.parent / name, f"../{name}", files, [])
    return Contents(checkpoint, layout, tuple(files), tuple(faults), is_folder)


def read_checkpoint(checkpoint: Checkpoint) -> Contents:
    """The facts of a checkpoint, each of its files verified. Takes bounded time and memory, and never raises."""
    listed = list_files(checkpoint)
    faults = list(listed.faults)
    look = Look(checkpoint.path, {file.name: file.size for file in listed.files}, not listed.is_folder)
    for file in listed.files:
        path = checkpoint.path / file.name if listed.is_folder else checkpoint.path
        try:
            verify(path, file.name, look)
        except FaultError as fault:
            faults.append(Fault(fault.verdict, f"{file.name} {fault}"))
        except FileNotFoundError:
            faults.append(Fault(Verdict.INCOMPLETE, f"{file.name} vanished while it was looked at"))
        except OSError as error:
            faults.append(Fault(Verdict.SUSPECT, f"{file.name} cannot be read: {error.strerror or error}"))
    layout = listed.layout
    pointer = read_pointer(checkpoint.path.parent / layout.pointer) if layout and layout.pointer else None
    return msgspec.structs.replace(
        listed, faults=tuple(faults), step=look.step, world=look.world, pointer=pointer
    )


def _walk(folder: Path, prefix: str, depth: int, files: list[File], faults: list[Fault]) -> None:
    try:
        found = entries(folder)
    except OSError as error:
        faults.append(
            Fault(Verdict.SUSPECT, f"{prefix or folder.name} cannot be read: {error.strerror or error}")
        )
        return
    for entry in found:
        if len(files) >= FILE_LIMIT:
            return
        name = prefix + entry.name
        if not entry.is_dir(follow_symlinks=False):
            _look_at(folder / entry.name, name, files, faults)
        elif depth > 1:
            _walk(folder / entry.name, f"{name}/", depth - 1, files, faults)


def _look_at(path: Path, name: str, files: list[File], faults: list[Fault]) -> None:
    try:
        about = path.stat()
    except FileNotFoundError:
        faults.append(Fault(Verdict.INCOMPLETE, f"{name} is missing"))
        return
    except OSError as error:
        faults.append(Fault(Verdict.SUSPECT, f"{name} cannot be read: {error.strerror or error}"))
        return
    if stat.S_ISREG(about.st_mode):
        files.append(File(name, about.st_size, about.st_mtime))
    elif not stat.S_ISDIR(about.st_mode):
        faults.append(Fault(Verdict.SUSPECT, f"{name} is a FIFO, a device or a socket, not a file"))
