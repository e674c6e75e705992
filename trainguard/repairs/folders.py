"""Folders, held so that nobody leads an act elsewhere: opened name by name, links not followed, known by inode."""

import contextlib
import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

_RENAME_NOREPLACE = 1  # linux/fs.h
_LIBRARY = ctypes.CDLL(None, use_errno=True)


class Refused(Exception):  # noqa: N818 - it is no error: what was found is not what was meant
    """A step finds the world otherwise than it was planned for; one clause says how."""


class Folder(msgspec.Struct, frozen=True):
    """A folder by its real path and its inode, 0 where it is made by a step before."""

    path: str
    inode: int = 0


def folder_of(path: Path) -> Folder:
    """The folder at a path, links followed. Raises OSError."""
    real = os.path.realpath(path)
    return Folder(real, os.stat(real).st_ino)  # noqa: PTH116 - a plain string is at hand


@contextlib.contextmanager
def opened(folder: Folder) -> Iterator[int]:
    """A descriptor of exactly this folder, for the calls that take `dir_fd`.

    Its path was real when it was planned: whatever is a link on the way now was planted since. Raises Refused
    where it is another folder, or belongs to a user who is neither this one nor root, who could exchange what lies in
    it; OSError where it cannot be opened.
    """
    descriptor = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in Path(folder.path).parts[1:]:
            flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            inner = os.open(part, flags, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        about = os.fstat(descriptor)
        if folder.inode and about.st_ino != folder.inode:
            raise Refused(f"another folder is {folder.path} now")
        if about.st_uid not in (os.geteuid(), 0):
            raise Refused(f"{folder.path} belongs to user {about.st_uid}: run this as that user")
        yield descriptor
    finally:
        os.close(descriptor)


def look_at(descriptor: int, name: str) -> os.stat_result | None:
    """What a name in a folder is, itself where it is a link; None where there is none. Raises OSError."""
    try:
        return os.stat(name, dir_fd=descriptor, follow_symlinks=False)
    except FileNotFoundError:
        return None


def inode_of(descriptor: int, name: str) -> int | None:
    """The inode of a name in a folder, None where there is none. Raises OSError."""
    about = look_at(descriptor, name)
    return None if about is None else about.st_ino


def move(source: int, name: str, target: int, new_name: str) -> None:
    """Rename, never over something that is there. Raises FileExistsError, OSError."""
    result = _LIBRARY.renameat2(source, os.fsencode(name), target, os.fsencode(new_name), _RENAME_NOREPLACE)
    if result == 0:
        return
    number = ctypes.get_errno()
    if number not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(number, os.strerror(number), name)
    # Some network file systems cannot promise it.
    if look_at(target, new_name) is not None:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new_name)
    os.rename(name, new_name, src_dir_fd=source, dst_dir_fd=target)


def sync(descriptor: int) -> None:
    """Have a folder's names survive a power cut, where its file system can. Raises OSError."""
    folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=descriptor)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def opened_file(descriptor: int, name: str) -> Iterator[int]:
    """A regular file in a folder, to be read. Raises OSError, also for a link, a FIFO or a device."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW
    file = os.open(name, flags, dir_fd=descriptor)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", name)
        yield file
    finally:
        os.close(file)


def read(descriptor: int, name: str, limit: int) -> bytes | None:
    """The content of a regular file of at most `limit` bytes, None where there is none such. Raises OSError."""
    try:
        with opened_file(descriptor, name) as file:
            content = bytearray()
            while len(content) <= limit and (piece := os.read(file, limit + 1 - len(content))):
                content += piece
            return bytes(content) if len(content) <= limit else None
    except FileNotFoundError:
        return None


def write(descriptor: int, name: str, content: bytes, mode: int, mtime_ns: int | None = None) -> None:
    """Make `content` the file of this name, whole and durably, over one that is there. Raises OSError."""
    part = part_of(name)
    drop(descriptor, part)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(part, flags, 0o600, dir_fd=descriptor)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(file, view) :]
        os.fchmod(file, mode)
        if mtime_ns is not None:
            os.utime(file, ns=(mtime_ns, mtime_ns))
        os.fsync(file)
    finally:
        os.close(file)
    os.rename(part, name, src_dir_fd=descriptor, dst_dir_fd=descriptor)
    sync(descriptor)


def part_of(name: str) -> str:
    """What a file is called while it is not whole."""
    return f".{name}.repair.tmp"


def drop(descriptor: int, name: str) -> None:
    """Remove a file that this room has made. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=descriptor)
