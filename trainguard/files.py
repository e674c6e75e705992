"""Files, touched safely: written whole, read with a bound, never through a trap somebody laid."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

READ_LIMIT = 1 << 20
BLOCK = 256 << 10


@contextlib.contextmanager
def opened(path: Path, follow: bool = True) -> Iterator[int]:
    """The descriptor of a regular file, to be read, until the block ends.

    Raises OSError: also for a folder, a FIFO or a device (which would block or never end), and for a symbolic
    link where `follow` is false (ELOOP).
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | (0 if follow else os.O_NOFOLLOW)
    descriptor = os.open(path, flags)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        yield descriptor
    finally:
        os.close(descriptor)


def read_small(path: Path, limit: int = READ_LIMIT, follow: bool = True) -> bytes:
    """The content of a regular file of at most `limit` bytes.

    Raises OSError like `opened`, and for a file over the limit (EFBIG).
    """
    with opened(path, follow) as descriptor:
        content = os.read(descriptor, limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit} bytes", str(path))
    return content


def read_range(path: Path, start: int, end: int) -> bytes:
    """Bytes `start` to `end` of a regular file, fewer where it is shorter. Raises OSError like `opened`."""
    with opened(path) as descriptor:
        return os.pread(descriptor, max(0, end - start), start)


def start_of_last_lines(path: Path, count: int, end: int | None = None) -> int:
    """The offset of the last `count` lines before `end` (default: the file's end). Raises OSError like `opened`."""
    with opened(path) as descriptor:
        size = os.fstat(descriptor).st_size
        at = size if end is None else min(end, size)
        wanted = count
        if at and os.pread(descriptor, 1, at - 1) == b"\n":
            wanted += 1
        while at > 0:
            start = max(0, at - BLOCK)
            block = os.pread(descriptor, at - start, start)
            found = block.count(b"\n")
            if found >= wanted:
                place = len(block)
                for _ in range(wanted):
                    place = block.rindex(b"\n", 0, place)
                return start + place + 1
            wanted -= found
            at = start
        return 0


def write_whole(path: Path, content: bytes, durable: bool = True) -> None:
    """Replace `path` by `content`: a reader sees the old or the new, never a part.

    `durable` waits until it would survive a power cut. Raises OSError; then the old content stands.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(
        temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644
    )
    try:
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(descriptor, view) :]
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def append_line(path: Path, line: bytes) -> None:
    """Append one line in one write, so that lines of several writers do not mix.

    Raises OSError, also for a symbolic link (ELOOP): somebody may have laid it there to have another file written.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o644)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        os.write(descriptor, (b"\n" if torn else b"") + line + b"\n")
    finally:
        os.close(descriptor)


def write_once(path: Path, content: bytes) -> bool:
    """Create `path` whole unless it exists already; says whether it did. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    temporary.write_bytes(content)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def free_name(path: Path) -> Path:
    """This path, or with a number behind it the next one that is free."""
    number, free = 1, path
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def free_bytes(folder: Path) -> int:
    """What a file system has left for us. Raises OSError."""
    about = os.statvfs(folder)
    return about.f_bavail * about.f_frsize
