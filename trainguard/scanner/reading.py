"""Reading: the bytes of a plain file, of a compressed one, or of a stream, into a buffer of the caller's."""

import bz2
import errno
import gzip
import io
import lzma
import os
import stat
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

HEAD = 8
# A compressed file may ask for this much memory to be read.
MEMORY_LIMIT = 256 << 20
_ZSTD_INPUT = 512
_KINDS = {
    stat.S_IFDIR: "a folder, not a log",
    stat.S_IFIFO: "a FIFO, which has no end; pipe it into `-`",
    stat.S_IFSOCK: "a socket, not a log",
    stat.S_IFCHR: "a device, not a log",
    stat.S_IFBLK: "a device, not a log",
}


class Readable(Protocol):
    """What bytes are read from; 0 is the end."""

    def readinto(self, buffer: memoryview, /) -> int | None: ...


class _Joined(io.RawIOBase):
    """A stream from which the first bytes have been taken, with these before it again."""

    def __init__(self, head: bytes, rest: Readable) -> None:
        self._head = head
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int | None:  # type: ignore[override]
        if self._head:
            taken = self._head[: len(buffer)]
            memoryview(buffer)[: len(taken)] = taken
            self._head = self._head[len(taken) :]
            return len(taken)
        return self._rest.readinto(buffer)


class _Eager:
    """Gives what was decompressed before the damage, where a file is damaged."""

    def __init__(self, file: gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile) -> None:
        self._file = file

    def readinto(self, buffer: memoryview, /) -> int:
        content = self._file.read1(len(buffer))
        buffer[: len(content)] = content
        return len(content)


class _Zstandard:
    """Decompresses little at a time, so that a small file which holds gigabytes is no danger."""

    def __init__(self, stream: io.RawIOBase) -> None:
        try:
            import zstandard
        except ImportError:
            raise OSError(errno.ENOPKG, "the package zstandard is needed to read it") from None
        self._stream = io.BufferedReader(stream, 64 << 10)
        self._new = zstandard.ZstdDecompressor(max_window_size=MEMORY_LIMIT >> 1).decompressobj
        self._frame = self._new()
        self._begun = False
        self._input = b""
        self._output = memoryview(b"")

    def readinto(self, buffer: memoryview, /) -> int:
        while not self._output:
            self._input = self._input or self._stream.read(_ZSTD_INPUT)
            if not self._input:
                if self._begun:
                    raise EOFError("it is cut short")
                return 0
            self._begun = True
            self._output = memoryview(self._frame.decompress(self._input))
            self._input = b""
            if self._frame.eof:
                self._input = self._frame.unused_data
                self._frame, self._begun = self._new(), False
        count = min(len(buffer), len(self._output))
        buffer[:count] = self._output[:count]
        self._output = self._output[count:]
        return count


def _open_zstandard(stream: io.RawIOBase) -> Readable:
    if sys.version_info >= (3, 14):
        from compression import zstd

        return zstd.ZstdFile(stream)
    return _Zstandard(stream)


_FORMATS: tuple[tuple[bytes, Callable[[io.RawIOBase], Readable]], ...] = (
    (b"\x1f\x8b", lambda stream: _Eager(gzip.GzipFile(fileobj=stream))),
    (b"BZh", lambda stream: _Eager(bz2.BZ2File(stream))),
    (b"\xfd7zXZ\0", lambda stream: _Eager(lzma.LZMAFile(io.BufferedReader(stream)))),  # noqa: SIM115
    (b"\x28\xb5\x2f\xfd", _open_zstandard),
)


def open_log(path: Path) -> tuple[io.FileIO, os.stat_result]:
    """A regular file, unbuffered. Raises OSError with a sentence for anything else; never blocks."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    about = os.fstat(descriptor)
    if not stat.S_ISREG(about.st_mode):
        os.close(descriptor)
        kind = _KINDS.get(stat.S_IFMT(about.st_mode), "not a regular file")
        raise OSError(errno.EINVAL, kind, str(path))
    return io.FileIO(descriptor, "rb"), about


def decompressed(stream: Readable) -> tuple[Readable, bool]:
    """The stream as text, told by its first bytes, and whether it is compressed."""
    head = b""
    buffer = memoryview(bytearray(HEAD))
    while len(head) < HEAD and (count := stream.readinto(buffer[: HEAD - len(head)])):
        head += bytes(buffer[:count])
    joined = _Joined(head, stream)
    for magic, opened in _FORMATS:
        if head.startswith(magic):
            return opened(joined), True
    return joined, False


def damage_errors() -> tuple[type[Exception], ...]:
    """What is raised where a file cannot be read on or decompressed."""
    errors: tuple[type[Exception], ...] = (OSError, EOFError, zlib.error, lzma.LZMAError)
    if sys.version_info >= (3, 14):
        from compression import zstd

        return (*errors, zstd.ZstdError)
    if "zstandard" in sys.modules:
        errors += (sys.modules["zstandard"].ZstdError,)
    return errors


def has_holes(about: os.stat_result) -> bool:
    """Whether a file takes less of the disk than it is long."""
    return hasattr(os, "SEEK_DATA") and about.st_blocks * 512 < about.st_size


def next_data(stream: io.FileIO, position: int) -> tuple[int, int]:
    """From a position in a file with holes: where the next bytes stand that were written, and their end."""
    end = os.fstat(stream.fileno()).st_size
    try:
        start = os.lseek(stream.fileno(), position, os.SEEK_DATA)
        return start, os.lseek(stream.fileno(), start, os.SEEK_HOLE)
    except OSError as error:
        # Nothing but a hole follows, or the file system cannot tell.
        return (end, end) if error.errno == errno.ENXIO else (position, end)
