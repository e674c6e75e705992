"""Pointers: the small files that name the checkpoint to resume from, and the best one."""

import contextlib
import os
import string
from pathlib import Path

import msgspec

from trainguard.checkpoints.effort import Effort
from trainguard.checkpoints.json_files import verify_trainer_state
from trainguard.checkpoints.layouts import MEGATRON_TRACKER
from trainguard.checkpoints.listing import Checkpoint, list_checkpoints
from trainguard.checkpoints.verdicts import FaultError
from trainguard.files import opened, read_small

LATEST = "latest"  # deepspeed runtime/engine.py: the folder's name
POINTERS = (LATEST, MEGATRON_TRACKER)
TEXT_LIMIT = 4096
_IN_NAMES = frozenset(string.ascii_letters + string.digits + "._-+=")


class Pointer(msgspec.Struct, frozen=True):
    """A pointer file: what it says, and which folder beside it that names.

    `target` is None, and `problem` one clause, where it names none: torn, no regular file, or a folder that is
    not there. Frameworks crash on such a pointer or begin anew.
    """

    path: Path
    text: str
    target: Path | None
    problem: str | None = None


def read_pointer(path: Path) -> Pointer | None:
    """What a pointer file says, None where there is none. Never raises."""
    try:
        text = read_small(path, TEXT_LIMIT).decode("utf-8", "replace").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        return Pointer(path, "", None, f"{path.name} cannot be read: {error.strerror or error}")
    names = parse_pointer(path.name, text)
    if not names:
        return Pointer(path, text, None, f"{path.name} says {text[:40]!r}, which names no checkpoint")
    for name in names:
        with contextlib.suppress(OSError):
            if (path.parent / name).is_dir():
                return Pointer(path, text, path.parent / name)
    return Pointer(path, text, None, f"{path.name} names {names[0]}, which is missing")


def read_pointers(directory: Path) -> list[Pointer]:
    """The pointer files in a folder: where checkpoints lie, or inside Hugging Face's with DeepSpeed."""
    return [pointer for name in POINTERS if (pointer := read_pointer(directory / name)) is not None]


def parse_pointer(name: str, text: str) -> list[str]:
    """The folders that a pointer file of this name may mean, by its text; none where it is torn."""
    if name == LATEST:
        return [text] if text and _IN_NAMES.issuperset(text) and text not in (".", "..") else []
    if text == "release":  # Megatron-LM training/checkpointing.py, read_metadata: converted weights
        return [text]
    if text.isascii() and text.isdigit() and len(text) <= 16:
        return [f"iter_{int(text):07d}", f"global_step_{int(text)}"]
    return []


def pointer_text_for(name: str, checkpoint: Checkpoint) -> str:
    """What a pointer file of this name (`latest`, `latest_checkpointed_iteration.txt`) must say to name a checkpoint.

    For `latest` inside Hugging Face's checkpoint-N the checkpoint is the folder global_stepN in it.
    """
    return checkpoint.path.name if name == LATEST else str(checkpoint.step)


def best_of(directory: Path) -> Checkpoint | None:
    """The best checkpoint in a folder, as the newest trainer_state.json that can be read tells; None without.

    Raises OSError where the folder cannot be read.
    """
    listed = list_checkpoints(directory)
    for checkpoint in reversed(listed):
        try:
            with opened(checkpoint.path / "trainer_state.json") as descriptor:
                state = verify_trainer_state(descriptor, os.fstat(descriptor).st_size, Effort())
        except (OSError, FaultError):
            continue
        best = state.best_model_checkpoint
        # It may have been written elsewhere: the name counts, not the path.
        name = best.rstrip("/").rpartition("/")[2] if best else None
        return next((other for other in listed if other.path.name == name), None)
    return None
