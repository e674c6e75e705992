"""Steps: what a repair is made of. Each knows its inverse, and tells from the world whether it was done.

So a record of steps is enough: whoever was killed in between leaves nothing that cannot be told and put back.
"""

import contextlib
import errno
import os
import resource
import signal
import stat
import time
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

import msgspec

from trainguard import processes
from trainguard.commands import ask_command
from trainguard.files import free_bytes
from trainguard.identity import Identity
from trainguard.policy.causes import ROOM
from trainguard.quantities import duration_text
from trainguard.repairs import folders
from trainguard.repairs.folders import Folder, Refused
from trainguard.run_folder import RunFolder

# A record holds what it replaces; what is larger is given a second name instead.
CONTENT_LIMIT = 8 << 20
PIECE = 1 << 20
KILL_SECONDS = 10.0


class Stand(Enum):
    """How far a step is: `HALF` where it was cut off between two calls, `CHANGED` where somebody else came along."""

    WAITS = "waits"
    HALF = "half"
    DONE = "done"
    CHANGED = "changed"


class MakeFolder(msgspec.Struct, frozen=True, tag=True):
    """Make a folder; undone while it is empty."""

    folder: Folder
    name: str

    def describe(self) -> str:
        return f"make the folder {self.folder.path}/{self.name}"

    def stand(self, kept: Path) -> Stand:
        with opened_or_none(self.folder) as place:
            about = None if place is None else folders.look_at(place, self.name)
        if about is None:
            return Stand.WAITS
        return Stand.DONE if stat.S_ISDIR(about.st_mode) else Stand.CHANGED

    def do(self, kept: Path) -> None:
        with folders.opened(self.folder) as place:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.name, 0o755, dir_fd=place)
            folders.sync(place)

    def undo(self, kept: Path) -> None:
        with folders.opened(self.folder) as place:
            try:
                os.rmdir(self.name, dir_fd=place)
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise
                raise Refused("it is used by now, so that it stays") from None


class Rename(msgspec.Struct, frozen=True, tag=True):
    """Give a file, folder or link another name in its folder."""

    folder: Folder
    name: str
    new_name: str
    inode: int

    def describe(self) -> str:
        return f"rename {self.folder.path}/{self.name} to {self.new_name}"

    def stand(self, kept: Path) -> Stand:
        with opened_or_none(self.folder) as place:
            if place is None:
                return Stand.CHANGED
            if folders.inode_of(place, self.name) == self.inode:
                return Stand.WAITS
            return Stand.DONE if folders.inode_of(place, self.new_name) == self.inode else Stand.CHANGED

    def do(self, kept: Path) -> None:
        self._move(self.name, self.new_name)

    def undo(self, kept: Path) -> None:
        self._move(self.new_name, self.name)

    def _move(self, name: str, new_name: str) -> None:
        with folders.opened(self.folder) as place:
            folders.move(place, name, place, new_name)
            if folders.inode_of(place, new_name) != self.inode:
                folders.move(place, new_name, place, name)
                raise Refused(f"{self.folder.path}/{name} was exchanged meanwhile")
            folders.sync(place)


class Keep(msgspec.Struct, frozen=True, tag=True):
    """Move a regular file into the record's folder; to another file system by a copy that is verified."""

    folder: Folder
    name: str
    inode: int
    kept_name: str
    if_unopened: bool = False

    def describe(self) -> str:
        return f"move {self.folder.path}/{self.name} into the record's folder"

    def stand(self, kept: Path) -> Stand:
        with opened_or_none(self.folder) as place:
            at_home = None if place is None else folders.inode_of(place, self.name)
        is_kept = os.path.lexists(kept / self.kept_name)
        if at_home == self.inode:
            is_begun = is_kept or os.path.lexists(kept / folders.part_of(self.kept_name))
            return Stand.HALF if is_begun else Stand.WAITS
        return Stand.DONE if is_kept else Stand.CHANGED

    def do(self, kept: Path) -> None:
        kept.mkdir(mode=0o700, exist_ok=True)
        with folders.opened(self.folder) as place, folders.opened(folders.folder_of(kept)) as keeping:
            with folders.opened_file(place, self.name) as file:
                if os.fstat(file).st_ino != self.inode:
                    raise Refused(f"{self.folder.path}/{self.name} was exchanged meanwhile")
                if self.if_unopened and is_open_elsewhere(file) is not False:
                    raise Refused(f"{self.folder.path}/{self.name} is open, or may be")
            _move_file(place, self.name, keeping, self.kept_name)

    def undo(self, kept: Path) -> None:
        with folders.opened(self.folder) as place, folders.opened(folders.folder_of(kept)) as keeping:
            folders.drop(keeping, folders.part_of(self.kept_name))
            if folders.look_at(place, self.name) is None:
                _move_file(keeping, self.kept_name, place, self.name)
            elif folders.look_at(keeping, self.kept_name) is None:
                return  # not even the copy was whole
            elif _is_same(place, self.name, keeping, self.kept_name):
                folders.drop(keeping, self.kept_name)
            else:
                raise Refused(f"{self.folder.path}/{self.name} is there anew; the former one stays in {kept}")


class SetMode(msgspec.Struct, frozen=True, tag=True):
    """Set the permissions of a file or folder of this user."""

    folder: Folder
    name: str
    inode: int
    before: int
    after: int

    def describe(self) -> str:
        return f"change the mode of {Path(self.folder.path, self.name)} from {self.before:04o} to {self.after:04o}"

    def stand(self, kept: Path) -> Stand:
        with opened_or_none(self.folder) as place:
            about = None if place is None else folders.look_at(place, self.name)
        if about is None or about.st_ino != self.inode:
            return Stand.CHANGED
        known = {self.before: Stand.WAITS, self.after: Stand.DONE}
        return known.get(stat.S_IMODE(about.st_mode), Stand.CHANGED)

    def do(self, kept: Path) -> None:
        self._set(self.before, self.after)

    def undo(self, kept: Path) -> None:
        self._set(self.after, self.before)

    def _set(self, former: int, mode: int) -> None:
        with folders.opened(self.folder) as place:
            file = os.open(self.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place)
            try:
                about = os.fstat(file)
                is_plain = stat.S_ISDIR(about.st_mode) or (
                    stat.S_ISREG(about.st_mode) and about.st_nlink == 1
                )
                if about.st_ino != self.inode or about.st_uid != os.geteuid() or not is_plain:
                    raise Refused(f"{Path(self.folder.path, self.name)} was exchanged meanwhile")
                if stat.S_IMODE(about.st_mode) != former:
                    raise Refused(f"the mode of {Path(self.folder.path, self.name)} was changed meanwhile")
                # fchmod(2) refuses a descriptor that was opened without reading, which a closed folder forbids.
                os.chmod(f"/proc/self/fd/{file}", mode)  # noqa: PTH101
            finally:
                os.close(file)


class WriteFile(msgspec.Struct, frozen=True, tag=True):
    """Give a file another content, or make it where `inode` is 0.

    What was there is in `before`, or keeps a second name, `aside`.
    """

    folder: Folder
    name: str
    content: bytes
    inode: int = 0
    before: bytes | None = None
    mode: int = 0o644
    mtime_ns: int | None = None
    aside: str = ""

    def describe(self) -> str:
        text = self.content.decode("utf-8", "replace").strip()
        shown = repr(text) if len(text) <= 60 else f"{len(self.content)} bytes"
        kept = f"; what was there stays as {self.aside}" if self.aside else ""
        return f"write {shown} to {self.folder.path}/{self.name}{kept}"

    def stand(self, kept: Path) -> Stand:
        with opened_or_none(self.folder) as place:
            if place is None:
                return Stand.CHANGED
            about = folders.look_at(place, self.name)
            is_former = (0 if about is None else about.st_ino) == self.inode
            if is_former or (self.before is not None and self._has(place, self.before)):
                is_named = self.aside and folders.inode_of(place, self.aside) == self.inode
                is_begun = is_named or folders.look_at(place, folders.part_of(self.name)) is not None
                return Stand.HALF if is_begun else Stand.WAITS
            return Stand.DONE if self._has(place, self.content) else Stand.CHANGED

    def do(self, kept: Path) -> None:
        with folders.opened(self.folder) as place:
            if self.before is not None and folders.read(place, self.name, CONTENT_LIMIT) != self.before:
                raise Refused(f"{self.folder.path}/{self.name} was changed meanwhile")
            if self.aside and folders.look_at(place, self.aside) is None:
                os.link(self.name, self.aside, src_dir_fd=place, dst_dir_fd=place, follow_symlinks=False)
                folders.sync(place)
            folders.write(place, self.name, self.content, self.mode)

    def undo(self, kept: Path) -> None:
        with folders.opened(self.folder) as place:
            folders.drop(place, folders.part_of(self.name))
            if not self.aside and folders.inode_of(place, self.name) == self.inode:
                return  # it was not written
            if self.aside and folders.inode_of(place, self.aside) == self.inode:
                if folders.inode_of(place, self.name) == self.inode:
                    folders.drop(place, self.aside)  # one of two names
                else:
                    os.rename(self.aside, self.name, src_dir_fd=place, dst_dir_fd=place)
            elif self.before is not None:
                folders.write(place, self.name, self.before, self.mode, self.mtime_ns)
            elif self.inode == 0:
                folders.drop(place, self.name)  # what it holds is in the record
            else:
                raise Refused(f"{self.folder.path}/{self.aside} is not there any more")
            folders.sync(place)

    def _has(self, place: int, content: bytes) -> bool:
        about = folders.look_at(place, self.name)
        is_file = about is not None and stat.S_ISREG(about.st_mode)
        return is_file and folders.read(place, self.name, len(content)) == content


class SetLimit(msgspec.Struct, frozen=True, tag=True):
    """Set a living process's soft limit of open files (prlimit(2))."""

    target: Identity
    before: int
    after: int

    def describe(self) -> str:
        return f"let pid {self.target.pid} open {self.after} files, where it may open {self.before}"

    def stand(self, kept: Path) -> Stand:
        with self._held() as lives:
            if not lives:
                return Stand.CHANGED
            soft = resource.prlimit(self.target.pid, resource.RLIMIT_NOFILE)[0]
        return {self.before: Stand.WAITS, self.after: Stand.DONE}.get(soft, Stand.CHANGED)

    def do(self, kept: Path) -> None:
        self._set(self.after)

    def undo(self, kept: Path) -> None:
        self._set(self.before)

    def _set(self, soft: int) -> None:
        # While its pidfd is open and it lives, its number is nobody else's.
        with self._held() as lives:
            if not lives:
                raise Refused(f"pid {self.target.pid} has ended")
            hard = resource.prlimit(self.target.pid, resource.RLIMIT_NOFILE)[1]
            resource.prlimit(self.target.pid, resource.RLIMIT_NOFILE, (soft, hard))

    @contextlib.contextmanager
    def _held(self) -> Iterator[bool]:
        handle = processes.open_handle(self.target)
        try:
            yield handle is not None
        finally:
            if handle is not None:
                handle.close()


class StopProcesses(msgspec.Struct, frozen=True, tag=True):
    """Stop processes: SIGTERM, and SIGKILL for those that live after `grace` seconds. Not undone."""

    targets: tuple[Identity, ...]
    names: tuple[str, ...]
    grace: float

    def describe(self) -> str:
        pids = ", ".join(
            f"{name} (pid {one.pid})" for one, name in zip(self.targets, self.names, strict=True)
        )
        return f"SIGTERM to {pids}, and SIGKILL after {duration_text(self.grace)}"

    def stand(self, kept: Path) -> Stand:
        return Stand.WAITS if self._living() else Stand.DONE

    def do(self, kept: Path) -> None:
        for one in self._living():
            processes.send_signal(one, signal.SIGTERM)
            # A stopped process gets to its signal handler only when it is continued.
            processes.send_signal(one, signal.SIGCONT)
        deadline = time.monotonic() + self.grace
        while self._living() and time.monotonic() < deadline:
            time.sleep(0.02)
        deadline = time.monotonic() + KILL_SECONDS
        while left := self._living():
            if time.monotonic() > deadline:
                raise Refused(f"SIGKILL has no effect on {', '.join(f'pid {one.pid}' for one in left)}")
            for one in left:
                processes.send_signal(one, signal.SIGKILL)
            time.sleep(0.02)

    def undo(self, kept: Path) -> None:
        raise Refused("what was stopped is not started again")

    def _living(self) -> list[Identity]:
        return [one for one in self.targets if processes.read_living(one) is not None]


class StartWatchdog(msgspec.Struct, frozen=True, tag=True):
    """Have a watchdog started by the script that keeps one running. Not undone."""

    command: tuple[str, ...]
    run_folder: str
    seconds: float

    def describe(self) -> str:
        return f"run {' '.join(self.command)}"

    def stand(self, kept: Path) -> Stand:
        return Stand.WAITS if RunFolder(Path(self.run_folder)).watchdog() is None else Stand.DONE

    def do(self, kept: Path) -> None:
        reply = ask_command(self.command, self.seconds)
        if reply.code != 0:
            words = (reply.errors or reply.output).decode("utf-8", "replace").strip().splitlines()
            raise Refused(words[-1] if words else f"it ended with {reply.code}")

    def undo(self, kept: Path) -> None:
        raise Refused("a watchdog that runs is ended with daemon_watchdog.py --stop")


Step = MakeFolder | Rename | Keep | SetMode | WriteFile | SetLimit | StopProcesses | StartWatchdog
UNDONE_BY_NOBODY = (StopProcesses, StartWatchdog)


@contextlib.contextmanager
def opened_or_none(folder: Folder) -> Iterator[int | None]:
    """The folder where it is there. Raises OSError where that cannot be found out, and Refused."""
    with contextlib.ExitStack() as stack:
        try:
            place = stack.enter_context(folders.opened(folder))
        except (FileNotFoundError, NotADirectoryError):
            place = None
        yield place


def is_open_elsewhere(file: int) -> bool | None:
    """Whether anybody else has this file open or mapped, in whatever container; None where that cannot be told.

    A write lease is granted only where nobody has (fcntl(2), F_SETLEASE). Whoever opens the file while it is held
    waits for its end, which comes at once.
    """
    import fcntl

    former = signal.signal(signal.SIGIO, signal.SIG_IGN)
    try:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return True if error.errno == errno.EAGAIN else None
    finally:
        signal.signal(signal.SIGIO, former)
    return False


def _move_file(source: int, name: str, target: int, new_name: str) -> None:
    """Move a regular file, to another file system by a copy. Raises OSError, Refused; then the source stands."""
    try:
        if folders.look_at(target, new_name) is None:
            folders.move(source, name, target, new_name)
            folders.sync(target)
            folders.sync(source)
            return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy_file(source, name, target, new_name)
    if not _is_same(source, name, target, new_name):
        raise Refused(f"{name} changes while it is copied")
    folders.drop(source, name)
    folders.sync(source)


def _copy_file(source: int, name: str, target: int, new_name: str) -> None:
    part = folders.part_of(new_name)
    folders.drop(target, part)
    with folders.opened_file(source, name) as original:
        about = os.fstat(original)
        if free_bytes(Path(f"/proc/self/fd/{target}")) < about.st_size + ROOM:
            raise OSError(errno.ENOSPC, f"{about.st_size + ROOM} bytes must be free for it", name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        copy = os.open(part, flags, 0o600, dir_fd=target)
        try:
            while piece := os.read(original, PIECE):
                view = memoryview(piece)
                while view:
                    view = view[os.write(copy, view) :]
            os.fchmod(copy, stat.S_IMODE(about.st_mode))
            os.utime(copy, ns=(about.st_atime_ns, about.st_mtime_ns))
            os.fsync(copy)
        except OSError:
            folders.drop(target, part)
            raise
        finally:
            os.close(copy)
    folders.move(target, part, target, new_name)
    folders.sync(target)


def _is_same(first: int, name: str, second: int, other: str) -> bool:
    with folders.opened_file(first, name) as one, folders.opened_file(second, other) as two:
        while (piece := os.read(one, PIECE)) == os.read(two, PIECE):
            if not piece:
                return True
    return False
