"""Who a process is, and a signal that reaches it or nobody."""

import fcntl
import os
import signal
import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import msgspec

from trainguard.identity import Identity


class Process(msgspec.Struct, frozen=True):
    """One row of the process table: `state` is the letter of proc_pid_stat(5), `name` at most 15 bytes."""

    identity: Identity
    parent: int
    session: int
    state: str
    threads: int
    name: str

    @property
    def pid(self) -> int:
        return self.identity.pid


@lru_cache(maxsize=1)
def boot_id() -> str:
    """The kernel's random id of this boot. Raises OSError where /proc is missing."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def same_process(first: Identity, second: Identity) -> bool:
    """Whether both name one process: the uid may change in a life (setuid), number and start time cannot."""
    return (first.pid, first.start_time, first.boot_id) == (second.pid, second.start_time, second.boot_id)


def parse_stat(text: bytes) -> tuple[int, str, str, int, int, int, int]:
    """pid, name, state, parent, session, threads, start time from /proc/PID/stat.

    The name may hold spaces and brackets: it ends at the *last* bracket (proc_pid_stat(5)).
    Raises ValueError for anything else.
    """
    opening, closing = text.index(b"("), text.rindex(b")")
    fields = text[closing + 2 :].split()
    if len(fields) < 20:
        raise ValueError("a torn line of /proc/PID/stat")
    name = text[opening + 1 : closing].decode(errors="replace")
    return (
        int(text[:opening]),
        name,
        fields[0].decode(),
        int(fields[1]),
        int(fields[3]),
        int(fields[17]),
        int(fields[19]),
    )


def read_process(pid: int) -> Process | None:
    """The process with this number now, None if there is none, or one that /proc hides from this user.

    Raises OSError where /proc could not be read for another reason (no descriptors left, say): not knowing is
    not the same as being gone.
    """
    try:
        text = _read(f"/proc/{pid}/stat")
        status = _read(f"/proc/{pid}/status")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    try:
        _, name, state, parent, session, threads, start_time = parse_stat(text)
        uid = int(status[status.index(b"\nUid:") + 5 :].split(None, 1)[0])
    except (ValueError, IndexError) as error:
        raise OSError(None, "cannot be understood", f"/proc/{pid}") from error
    return Process(Identity(pid, start_time, boot_id(), uid), parent, session, state, threads, name)


def all_processes() -> Iterator[Process]:
    """Every process that /proc shows: a process that lives through the whole walk is always among them."""
    for entry in os.listdir("/proc"):  # noqa: PTH208 - a list of names is an order of magnitude cheaper
        if entry.isdigit():
            process = read_process(int(entry))
            if process is not None:
                yield process


def is_gone(process: Process | None) -> bool:
    """Whether nothing of it can run: no entry, or a zombie without a living thread (its leader may end first)."""
    return process is None or (process.state in "ZXx" and process.threads <= 1)


def read_living(identity: Identity) -> Process | None:
    """Exactly this process as it is now, None if it has ended. Raises OSError like `read_process`."""
    process = read_process(identity.pid)
    if process is None or is_gone(process) or not same_process(process.identity, identity):
        return None
    return process


class Pollable(Protocol):
    def fileno(self) -> int: ...


class Handle:
    """A pidfd of one process, proven to be the one that was meant. Readable (poll) once it has ended."""

    def __init__(self, identity: Identity, descriptor: int) -> None:
        self.identity = identity
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def send(self, number: int) -> bool:
        """Signal it; False if it has ended. Raises PermissionError if it is not ours to signal."""
        try:
            signal.pidfd_send_signal(self._descriptor, number)
        except ProcessLookupError:
            return False
        return True

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def open_handle(identity: Identity) -> Handle | None:
    """A handle of exactly this process, or None if it has ended.

    The pidfd is opened first and the start time read after it: a number that was given to somebody else
    before the opening shows another start time, and after the opening it cannot be given away.
    Raises OSError where that could not be found out.
    """
    if identity.boot_id != boot_id():
        return None
    try:
        descriptor = os.pidfd_open(identity.pid)
    except (ProcessLookupError, ValueError, OverflowError):
        return None
    if read_living(identity) is None:
        os.close(descriptor)
        return None
    return Handle(identity, descriptor)


def send_signal(identity: Identity, number: int) -> bool:
    """Signal exactly this process; False if it has ended. Raises PermissionError."""
    handle = open_handle(identity)
    if handle is None:
        return False
    try:
        return handle.send(number)
    finally:
        handle.close()


def self_test() -> str | None:
    """What keeps this machine from supervising processes safely, None if nothing does: told before it matters."""
    try:
        own = read_process(os.getpid())
        handle = None if own is None else open_handle(own.identity)
    except (OSError, AttributeError) as error:
        return f"/proc or pidfd cannot be used here ({error}); Linux 5.3 or newer with /proc is needed"
    if handle is None:
        return "/proc does not show this process; mount it without hidepid, or run as root"
    handle.close()
    return None if os.access("/bin/sh", os.X_OK) else "/bin/sh is missing; the daemon is started through it"


_PIDFD_GET_INFO_SIZE = 64
_PIDFD_GET_INFO = (3 << 30) | (_PIDFD_GET_INFO_SIZE << 16) | (0xFF << 8) | 11
_PIDFD_INFO_EXIT = 1 << 3


def read_exit_status(handle: Pollable) -> int | None:
    """The wait status of an ended process that is not our child, or None if the kernel does not tell (yet).

    Linux 6.15 and newer keep it with the pidfd (include/uapi/linux/pidfd.h: PIDFD_GET_INFO, PIDFD_INFO_EXIT,
    exit_code at byte 60), from the moment that its parent has reaped it.
    """
    buffer = bytearray(_PIDFD_GET_INFO_SIZE)
    struct.pack_into("Q", buffer, 0, _PIDFD_INFO_EXIT)
    try:
        fcntl.ioctl(handle.fileno(), _PIDFD_GET_INFO, buffer)
    except OSError:
        return None
    if not struct.unpack_from("Q", buffer, 0)[0] & _PIDFD_INFO_EXIT:
        return None
    status: int = struct.unpack_from("i", buffer, 60)[0]
    return status


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 8192)
    finally:
        os.close(descriptor)
