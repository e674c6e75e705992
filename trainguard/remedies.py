"""Remedies: what is mended before a start. Without `prune`, which a user must ask for, nothing is deleted."""

import os
import time
from pathlib import Path

from trainguard import files
from trainguard.checkpoints import Checkpoint, parse_name


def set_aside(path: Path, verdict: str, resume: Path | None) -> Path | None:
    """Rename a checkpoint so that no framework sees it, and lead the pointers that name it to `resume`.

    Its new path, None where it is not there any more. The pointers are led away first: one that names a folder
    that is gone ends some frameworks. Raises OSError.
    """
    from trainguard.checkpoints.pointers import read_pointers  # costs memory, and only a spoilt one needs it

    if not os.path.lexists(path):
        return None
    stamp = time.strftime("%Y%m%dT%H%M%S")
    for pointer in read_pointers(path.parent):
        if pointer.target is None or pointer.target == path:
            _lead(pointer.path, pointer.text, resume, stamp)
    target = files.free_name(path.with_name(name_aside(path.name, verdict, stamp)))
    path.rename(target)
    return target


def prune(path: Path) -> None:
    """Delete an old checkpoint; a link only itself. Raises OSError."""
    import shutil  # costs memory, and only who asked for it needs it

    if path.is_symlink() or not path.is_dir():
        path.unlink()
    else:
        shutil.rmtree(path)


def name_aside(name: str, verdict: str, stamp: str) -> str:
    """A name that no framework takes for a checkpoint's.

    `checkpoint-12.incomplete-...` would do for transformers' get_last_checkpoint alone: its rotation, axolotl and
    LLaMA-Factory look for checkpoint-* and take the last number, diffusers' scripts whatever stands behind the
    first hyphen, Accelerate the first number of any name, torchtitan before 2026 a step-N in any place.
    """
    return f"0-{verdict}.{name.replace('step-', 'step_')}.{stamp}"


def _lead(pointer: Path, text: str, resume: Path | None, stamp: str) -> None:
    from trainguard.checkpoints.pointers import pointer_text_for

    kept = files.free_name(pointer.with_name(f"{pointer.name}.before-{stamp}"))
    step = None if resume is None else parse_name(resume.name)
    if resume is None or step is None:
        pointer.rename(kept)
        return
    files.write_whole(kept, text.encode())
    files.write_whole(pointer, pointer_text_for(pointer.name, Checkpoint(step, resume)).encode())
