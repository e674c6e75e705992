"""Remedies: what is mended before a start. Without `prune`, which a user must ask for, nothing is deleted."""

import os
import time
from pathlib import Path

from trainguard import files
from trainguard.checkpoints import Checkpoint, parse_name

STAGED = ".put-back"


def set_aside(path: Path, verdict: str, resume: Path | None, staged: Path | None = None) -> Path | None:
    """Rename a checkpoint so that no framework sees it, and lead the pointers that name it to `resume`.

    Where a copy of it is `staged` beside it, that takes its place and its name, which pointers go on naming. The new
    path of the spoilt one, None where it is not there any more. The pointers are led away first: one that names a
    folder that is gone ends some frameworks. Raises OSError.
    """
    from trainguard.checkpoints.pointers import read_pointers  # costs memory, and only a spoilt one needs it

    if not os.path.lexists(path):
        return None
    stamp = time.strftime("%Y%m%dT%H%M%S")
    is_back = staged is not None and staged.exists()
    for pointer in () if is_back else read_pointers(path.parent):
        if pointer.target is None or pointer.target == path:
            _lead(pointer.path, pointer.text, resume, stamp)
    target = files.free_name(path.with_name(name_aside(path.name, verdict, stamp)))
    if staged is None or not is_back:
        path.rename(target)
        return target
    try:
        # A second name first, so that whoever dies in between leaves the spoilt one to be found again.
        os.link(path, target, follow_symlinks=False)
    except OSError:
        path.rename(target)
    staged.replace(path)
    return target


def staged_of(path: Path) -> Path:
    """Where the copy of a checkpoint lies that is to take its place."""
    return path.with_name(f".{path.name}{STAGED}")


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


def lead(pointer: Path, resume: Path) -> None:
    """Have a pointer file that names no checkpoint name this one; its text is kept beside it. Raises OSError."""
    from trainguard.checkpoints.pointers import read_pointer

    told = read_pointer(pointer)
    if told is not None:
        _lead(pointer, told.text, resume, time.strftime("%Y%m%dT%H%M%S"))


def _lead(pointer: Path, text: str, resume: Path | None, stamp: str) -> None:
    from trainguard.checkpoints.pointers import pointer_text_for

    kept = files.free_name(pointer.with_name(f"{pointer.name}.before-{stamp}"))
    step = None if resume is None else parse_name(resume.name)
    if resume is None or step is None:
        pointer.rename(kept)
        return
    files.write_whole(kept, text.encode())
    files.write_whole(pointer, pointer_text_for(pointer.name, Checkpoint(step, resume)).encode())
