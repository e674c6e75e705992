"""Keeping: a child of the watchdog copies what is written over in place, whole and verified, and puts it back.

The copy of /data/out/ckpt.pt is copies/data/out/ckpt.pt in the run folder; `.before` is the one before it, and
`.retired` one whose original somebody has removed.
"""

import contextlib
import errno
import fcntl
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from trainguard import checkpoints, files
from trainguard.checkpoints.verdicts import FaultError
from trainguard.checkpoints.verifying import Look, verify
from trainguard.config import Settings, load_settings
from trainguard.copies.asking import COPY_SECONDS
from trainguard.files import free_bytes
from trainguard.health import Finding, Status
from trainguard.remedies import STAGED, staged_of

FOLDER = "copies"
BEFORE, RETIRED, PART = ".before", ".retired", ".part"
LOOSE = (".ckpt", ".pt", ".pth")
# Unchanged for so long, and a save is over; whether it is whole is verified all the same.
QUIET_SECONDS = 1.0
LOOK_SECONDS = 0.1
# Of so many times its size must be free: the copy, the one before it, and the next save of the trainer.
ROOM = 3
PIECE = 8 << 20
SYNC = 64 << 20
FICLONE = 0x40049409  # linux/fs.h


class Copy(msgspec.Struct, frozen=True):
    """A verified copy, and the step that its content tells."""

    path: Path
    step: int | None


class Signature(msgspec.Struct, frozen=True):
    """What changes when somebody writes to a file."""

    inode: int
    size: int
    changed_ns: int


def place_of(run_folder: Path, original: Path) -> Path:
    """Where the copy of a file belongs."""
    return run_folder / FOLDER / (original.parent.resolve() / original.name).relative_to("/")


def list_overwritten(directory: Path) -> list[Path]:
    """The single files in a run's folder that the trainer writes over in place, by their names.

    With a number in it a name is one of several, unless it is the only one of its kind. Raises OSError.
    """
    saves = checkpoints.list_saves(checkpoints.find_folder(directory))
    loose = [one for one in saves if not one.is_step and one.path.suffix in LOOSE and _is_own_file(one.path)]
    kinds = Counter(_kind(one.path) for one in loose)
    return [one.path for one in loose if one.step < 0 or kinds[_kind(one.path)] == 1]


def _kind(path: Path) -> str:
    return re.sub(r"[0-9]+", "#", path.name)


def _is_own_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


# --- keeping ---------------------------------------------------------------------------------------------------


def keep_copies(settings: Settings, seconds: float) -> list[Finding]:
    """Copy what has changed in the checkpoint folder since the last time; what is to be told. Raises OSError."""
    directory, run_folder = settings.checkpoints.directory, settings.logs.directory
    if directory is None:
        return []
    deadline = time.monotonic() + seconds
    with held(run_folder):
        for part in (run_folder / FOLDER).rglob(f".*{PART}"):
            part.unlink(missing_ok=True)
        overwritten = list_overwritten(directory)
        told = []
        for original in overwritten:
            try:
                told.append(keep_copy(original, place_of(run_folder, original), deadline))
            except OSError as error:
                told.append(_unkept(original, str(error.strerror or error)))
            if told[-1].status is Status.OK:
                _drop_superseded(run_folder, original, overwritten)
    return told


def keep_copy(original: Path, place: Path, deadline: float) -> Finding:
    """Keep a verified copy of one file at `place`, once no save is under way. Raises OSError."""
    part = place.with_name(f".{place.name}{PART}")
    is_kept = Finding(Status.OK, str(original), f"a verified copy is kept as {place}")
    try:
        while True:
            before = wait_until_quiet(original, deadline)
            if before is None:
                return _unkept(original, "it changes all the time")
            if _is_copy(place, before):
                return is_kept
            try:
                verified_step(original, original.name)
            except FaultError as fault:
                if signature(original) == before:
                    return _unkept(original, f"it {fault}")
                continue
            if not make_room(place, before.size):
                text = f"the disk of {place} must have {ROOM} times its size free, {ROOM * before.size} bytes"
                return _unkept(original, text)
            copy_file(original, part, deadline)
            if signature(original) != before:
                continue
            try:
                verified_step(part, original.name)
            except FaultError as fault:
                return _unkept(original, f"its copy {fault}")
            os.utime(part, ns=(time.time_ns(), before.changed_ns))
            _move_up(part, place, before.size)
            return is_kept
    finally:
        part.unlink(missing_ok=True)


def _unkept(original: Path, why: str) -> Finding:
    return Finding(Status.ATTENTION, str(original), f"no new copy is kept: {why}")


def wait_until_quiet(path: Path, deadline: float) -> Signature | None:
    """What the file is once it does not change any more, None if it never rests. Raises OSError."""
    last, since = signature(path), time.monotonic()
    while (now := time.monotonic()) < deadline:
        if now - since >= QUIET_SECONDS:
            return last
        time.sleep(LOOK_SECONDS)
        if (found := signature(path)) != last:
            last, since = found, time.monotonic()
    return None


def signature(path: Path) -> Signature:
    """What the file is now. Raises OSError."""
    about = path.stat()
    return Signature(about.st_ino, about.st_size, about.st_mtime_ns)


def verified_step(path: Path, name: str) -> int | None:
    """The step that a whole single-file checkpoint tells; `name` is what it is called as such.

    Raises FaultError where it is not whole, OSError where it cannot be read.
    """
    look = Look(path.parent, {name: path.stat().st_size}, True)
    verify(path, name, look)
    return look.step


def make_room(place: Path, size: int) -> bool:
    """Whether a copy may be made; the one before it goes first. Raises OSError."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if free_bytes(place.parent) < ROOM * size:
        place.with_name(place.name + BEFORE).unlink(missing_ok=True)
    return free_bytes(place.parent) >= ROOM * size


def _is_copy(place: Path, original: Signature) -> bool:
    """Whether it is the copy of exactly this: it bears the time of its original."""
    try:
        about = place.stat()
    except FileNotFoundError:
        return False
    return (about.st_size, about.st_mtime_ns) == (original.size, original.changed_ns)


def _move_up(part: Path, place: Path, size: int) -> None:
    if place.exists() and free_bytes(place.parent) >= ROOM * size:
        place.replace(place.with_name(place.name + BEFORE))
    part.replace(place)
    place.with_name(place.name + RETIRED).unlink(missing_ok=True)
    _sync_folder(place.parent)


def _drop_superseded(run_folder: Path, original: Path, overwritten: Sequence[Path]) -> None:
    """Delete copies of what this one has taken the place of: Lightning makes a folder for each start."""
    kept = {place_of(run_folder, one) for one in overwritten}
    for place, copied in list(_list_copies(run_folder)):
        if place not in kept and _kind(copied) == _kind(original):
            for suffix in ("", BEFORE, RETIRED):
                place.with_name(place.name + suffix).unlink(missing_ok=True)


def _list_copies(run_folder: Path) -> Iterator[tuple[Path, Path]]:
    """Each place of a copy, with the path of its original."""
    folder = run_folder / FOLDER
    endings = re.compile("|".join(map(re.escape, (BEFORE, RETIRED))) + "$")
    places = {path.with_name(endings.sub("", path.name)) for path in folder.rglob("*") if path.is_file()}
    for place in sorted(places):
        if place.suffix in LOOSE:
            yield place, Path("/") / place.relative_to(folder)


# --- putting back ----------------------------------------------------------------------------------------------


def find_copy(run_folder: Path, original: Path, below: int | None, notes: list[str]) -> Copy | None:
    """The newest copy of a file that is whole, and of a step before `below` (None: of any). Never raises."""
    place = place_of(run_folder, original)
    for path in (place, place.with_name(place.name + BEFORE)):
        try:
            step = verified_step(path, original.name)
        except FileNotFoundError:
            continue
        except (FaultError, OSError) as error:
            notes.append(f"its copy {path} is not used, it {_why(error)}")
            continue
        if below is None or step is None or step < below:
            return Copy(path, step)
    return None


def stage(copy: Copy, original: Path, seconds: float) -> Path:
    """Put a copy beside its original under another name, verified, so that a rename is all that is left to do.

    Raises OSError, FaultError; then nothing is left there.
    """
    staged = staged_of(original)
    about = copy.path.stat()
    staged.unlink(missing_ok=True)
    if free_bytes(original.parent) <= about.st_size:
        raise OSError(errno.ENOSPC, f"{about.st_size} bytes must be free in {original.parent}")
    try:
        copy_file(copy.path, staged, time.monotonic() + seconds)
        verified_step(staged, original.name)
        # Bearing the time of the copy, it is known as what was copied already.
        os.utime(staged, ns=(time.time_ns(), about.st_mtime_ns))
    except (OSError, FaultError):
        staged.unlink(missing_ok=True)
        raise
    return staged


def tidy(run_folder: Path, directory: Path, notes: list[str]) -> None:
    """Before a start: remove what was to be put back and was not, as the watchdog died in between, and retire copies
    whose originals are gone. Never raises.
    """
    with contextlib.suppress(OSError):
        for staged in checkpoints.find_folder(directory).glob(f".*{STAGED}"):
            staged.unlink(missing_ok=True)
        # A copy is replaced by a rename, so that one may be read while somebody else makes another.
        with held(run_folder):
            retire_copies(run_folder, notes)


def retire_copies(run_folder: Path, notes: list[str]) -> None:
    """Retire the copies of files that are not there any more: who removed them may want to begin anew.

    A copy of another experiment would otherwise be put back once the first save of the new one fails. Raises
    OSError.
    """
    for place, original in list(_list_copies(run_folder)):
        if os.path.lexists(original):
            continue
        retired = place.with_name(place.name + RETIRED)
        had = [path for path in (place.with_name(place.name + BEFORE), place) if path.exists()]
        for path in had:
            path.replace(retired)
        if had:
            notes.append(f"{original} is gone; its last copy stays as {retired} until another one is made")


def _why(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


# --- files -----------------------------------------------------------------------------------------------------


def copy_file(source: Path, target: Path, deadline: float) -> bool:
    """Copy a regular file to a new one, durably; whether the two share their blocks (a reflink).

    Raises OSError: also where that lasts beyond `deadline` (ETIMEDOUT).
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    with files.opened(source) as original:
        about = os.fstat(original)
        copy = os.open(target, flags, 0o600)
        try:
            is_shared = clone(original, copy)
            if not is_shared:
                _write_pieces(original, copy, deadline)
            os.fchmod(copy, about.st_mode & 0o777)
            with contextlib.suppress(PermissionError):
                os.fchown(copy, about.st_uid, about.st_gid)
            os.fsync(copy)
        finally:
            os.close(copy)
    return is_shared


def clone(source: int, target: int) -> bool:
    """Let a file share another one's blocks until one of them is written; false where the file system cannot.

    ioctl_ficlone(2): btrfs, XFS, bcachefs and others, within one file system.
    """
    try:
        fcntl.ioctl(target, FICLONE, source)
    except OSError:
        return False
    return True


def _write_pieces(source: int, target: int, deadline: float) -> None:
    unsynced = 0
    while piece := os.read(source, PIECE):
        if time.monotonic() >= deadline:
            raise TimeoutError(errno.ETIMEDOUT, "the time for the copy is over")
        view = memoryview(piece)
        while view:
            view = view[os.write(target, view) :]
        unsynced += len(piece)
        if unsynced >= SYNC:
            # What is written in one go at the end would hold up the trainer's own writes.
            os.fdatasync(target)
            unsynced = 0


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def held(run_folder: Path) -> Iterator[None]:
    """Be the only one who changes the copies, until the block ends.

    Raises BlockingIOError where somebody else is, as a child may outlive its watchdog, and OSError.
    """
    folder = run_folder / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def main(arguments: Sequence[str]) -> int:
    """Keep the copies, and print what is to be told, as JSON."""
    settings = load_settings(Path(arguments[0]))
    try:
        told = keep_copies(settings, COPY_SECONDS - 10 * QUIET_SECONDS)
    except OSError as error:
        told = [Finding(Status.ATTENTION, "copies of checkpoints", f"none is made: {_why(error)}")]
    sys.stdout.buffer.write(msgspec.json.encode(told))
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
