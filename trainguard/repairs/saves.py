"""Repairs of checkpoints, by what a watchdog does before a start: nothing is deleted, all keeps its folder."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from trainguard.checkpoints import Checkpoint, find_folder, parse_name
from trainguard.config import Settings
from trainguard.policy import Prepared
from trainguard.remedies import name_aside
from trainguard.repairs.folders import folder_of
from trainguard.repairs.openings import unmounted_above
from trainguard.repairs.renaming import rename, stamp
from trainguard.repairs.steps import WriteFile
from trainguard.repairs.values import Left, Planned
from trainguard.run_folder import RunFolder
from trainguard.supervision import read_supervision

CHECKPOINT_SECONDS = 60.0


def why_busy(settings: Settings) -> str | None:
    """Who may be saving right now, None where nobody of this daemon lives. Raises OSError."""
    seen = read_supervision(settings)
    living = [*([] if seen.daemon is None else [seen.daemon]), *seen.leaders, *seen.twins]
    if living:
        return f"the daemon runs as pid {living[0].pid} and may be saving"
    if seen.pid_file is not None and seen.pid_file.verdict.value == "daemon":
        return f"the PID file {seen.pid_file.text}, and may be saving"
    return "processes of a dead run live: stop-orphans comes first" if seen.orphans else None


def prepare(settings: Settings) -> tuple[Prepared, list[str]]:
    """What a start would find out about the checkpoints, and its notes."""
    from trainguard.preparations.resuming import with_checkpoints

    notes: list[str] = []
    state = RunFolder(settings.logs.directory).load_state()[0]
    return with_checkpoints(Prepared(""), settings, state.were_aside, None, notes, writes=False), notes


def plan_half_written(settings: Settings, now_wall: float) -> Iterator[Planned]:
    """The checkpoints that would spoil a resume are renamed, and pointers that name them led away before."""
    from trainguard.checkpoints.pointers import read_pointers

    prepared, notes = prepare(settings)
    if not prepared.verified and notes:
        yield Left(notes[-1])
    if not prepared.spoilt:
        return
    if not settings.checkpoints.set_aside:
        yield Left("checkpoints.set_aside is false: what would spoil a resume is only told")
        return
    if (busy := why_busy(settings)) is not None:
        yield Left(busy)
        return
    spoilt = {one.path for one in prepared.spoilt}
    resume = None if prepared.resume is None or prepared.resume in spoilt else Path(prepared.resume)
    led: set[Path] = set()
    for one in prepared.spoilt:
        path = Path(one.path)
        if one.copy:
            yield Left(f"{path} has a verified copy, {one.copy}: the next start puts it back")
            continue
        for pointer in read_pointers(path.parent):
            if pointer.path not in led and (pointer.target is None or pointer.target == path):
                led.add(pointer.path)
                yield from lead(pointer.path, resume, now_wall)
        yield rename(path, name_aside(path.name, one.verdict, stamp(now_wall)))


def plan_broken_pointer(settings: Settings, now_wall: float) -> Iterator[Planned]:
    """A pointer file that names no checkpoint is written anew, to name the one that a start would resume from."""
    prepared, _ = prepare(settings)
    if not prepared.misled or prepared.resume is None:
        return
    if (busy := why_busy(settings)) is not None:
        yield Left(busy)
        return
    for one in prepared.misled:
        yield from lead(Path(one.path), Path(prepared.resume), now_wall)


def lead(pointer: Path, resume: Path | None, now_wall: float) -> Iterator[Planned]:
    """Have a pointer name this checkpoint; where there is none, rename it, so that it names nothing."""
    from trainguard.checkpoints.pointers import TEXT_LIMIT, pointer_text_for

    step = None if resume is None else parse_name(resume.name)
    about = pointer.lstat()
    is_small = stat.S_ISREG(about.st_mode) and about.st_size <= TEXT_LIMIT and os.access(pointer, os.R_OK)
    if resume is None or step is None or not is_small:
        yield rename(pointer, f"{pointer.name}.before-{stamp(now_wall)}")
    if resume is None or step is None:
        return
    content = pointer_text_for(pointer.name, Checkpoint(step, resume)).encode()
    place = folder_of(pointer.parent)
    if is_small:
        before, mode = pointer.read_bytes(), stat.S_IMODE(about.st_mode)
        yield WriteFile(place, pointer.name, content, about.st_ino, before, mode, about.st_mtime_ns)
    else:
        yield WriteFile(place, pointer.name, content)


def plan_dangling_link(settings: Settings, now_wall: float) -> Iterator[Planned]:
    """Links in the checkpoint folder whose target is gone, as `last.ckpt` after a rotation."""
    directory = settings.checkpoints.directory
    if directory is None or not directory.is_dir():
        return
    folder = find_folder(directory)
    with os.scandir(folder) as entries:
        links = sorted(Path(entry.path) for entry in entries if entry.is_symlink())
    # What was renamed once, and what a pointer was before it was led elsewhere, is left to be put back.
    links = [
        link for link in links if not link.name.startswith("0-dangling.") and ".before-" not in link.name
    ]
    dangling = [link for link in links if not link.exists()]
    if dangling and (busy := why_busy(settings)) is not None:
        yield Left(busy)
        return
    for link in dangling:
        target = folder / link.readlink()
        if not target.parent.is_dir() or unmounted_above(target, settings) is not None:
            yield Left(f"{link} leads into {target.parent}, which is not there: is a disk not mounted?")
        else:
            yield rename(link, name_aside(link.name, "dangling", stamp(now_wall)))
