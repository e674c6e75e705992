"""Readings: one process of a run as /proc shows it at two moments, without touching it."""

import contextlib
import os
import time
from collections.abc import Collection, Sequence
from pathlib import Path

import msgspec

from trainguard import processes

_TICKS = os.sysconf("SC_CLK_TCK")
_FILES = 64
_THREADS = 512
_TEXT_LIMIT = 16 << 10
_ENVIRONMENT_LIMIT = 4 << 20
# torchrun and accelerate, Open MPI, MPICH and its kin, Slurm.
_RANKS = (b"RANK", b"OMPI_COMM_WORLD_RANK", b"PMI_RANK", b"SLURM_PROCID")


class Thread(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thread: `state` is the letter of proc_pid_stat(5), `cpu` processor seconds since its birth.

    `wait_channel` is the kernel's function that it sleeps in, `syscall` and `stack` are /proc's own text; None
    where it runs or may not be asked. `share` is processor seconds a second between both moments.
    """

    number: int
    name: str
    state: str
    cpu: float
    wait_channel: str | None = None
    syscall: str | None = None
    stack: tuple[str, ...] | None = None
    state_later: str | None = None
    share: float | None = None


class OpenFile(msgspec.Struct, frozen=True):
    """An open file below a checkpoint folder; bytes, None for unknown. `mode` is r, w or rw."""

    path: str
    mode: str | None
    position: int | None
    size: int | None


class InputOutput(msgspec.Struct, frozen=True):
    """Bytes since a process's birth: from and to storage, and in all calls together (proc_pid_io(5))."""

    read: int
    written: int
    read_by_calls: int
    written_by_calls: int


class Frame(msgspec.Struct, frozen=True):
    """One line of a Python stack."""

    function: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.function} ({self.file.rpartition('/')[2]}:{self.line})"


class Reading(msgspec.Struct, frozen=True, omit_defaults=True):
    """One process. `at` is its first moment on the monotonic clock; `state_later` is X once it has ended.

    `share` is processor seconds a second between both moments, `io_rate` bytes a second. `waits` counts the
    threads by wait channel. `rank` is the number that its launcher gave it in the environment. `own_frame` is
    the innermost line of the user's code in the main thread, `frame` the innermost of all. `denied` names what
    this user may not see, `no_stacks` why Python's are unknown.
    """

    pid: int
    start_time: int
    name: str
    parent: int
    state: str
    at: float
    cpu: float
    thread_count: int
    threads: tuple[Thread, ...] = ()
    waits: dict[str, int] = {}
    io: InputOutput | None = None
    children: tuple[int, ...] | None = None
    denied: tuple[str, ...] = ()
    state_later: str | None = None
    share: float | None = None
    io_rate: InputOutput | None = None
    rank: int | None = None
    is_python: bool | None = None
    open_files: tuple[OpenFile, ...] | None = None
    own_frame: Frame | None = None
    frame: Frame | None = None
    no_stacks: str | None = None


class Belongings(msgspec.Struct, frozen=True):
    """What costs more to ask, and may hang with a dead mount or with the process's memory map."""

    rank: int | None
    is_python: bool | None
    open_files: tuple[OpenFile, ...] | None


def read_process(pid: int, start_time: int | None) -> Reading | str:
    """The process at a first moment, or a sentence why there is none to read."""
    try:
        process = processes.read_process(pid)
    except OSError as error:
        return f"cannot be read: {error}"
    if process is None:
        return "has ended"
    if start_time is not None and process.identity.start_time != start_time:
        return "has ended; its number belongs to another process, which was left alone"
    denied: dict[str, None] = {}
    at = time.monotonic()
    text = _read(f"/proc/{pid}/stat", denied)
    if text is None:
        return "has ended"
    io = parse_io(_read(f"/proc/{pid}/io", denied))
    threads = _read_threads(pid, denied)
    waits: dict[str, int] = {}
    for thread in threads:
        if thread.wait_channel is not None:
            waits[thread.wait_channel] = waits.get(thread.wait_channel, 0) + 1
    children = processes.children_of(pid)
    return Reading(
        pid=pid,
        start_time=process.identity.start_time,
        name=process.name,
        parent=process.parent,
        state=process.state,
        at=at,
        cpu=parse_cpu(text) or 0.0,
        thread_count=process.threads,
        threads=threads,
        waits=waits,
        io=io,
        children=None if children is None else tuple(children),
        denied=tuple(denied),
    )


def read_again(first: Reading) -> Reading:
    """The same process some time later: what it used meanwhile."""
    now = time.monotonic()
    seconds = max(now - first.at, 1e-3)
    text = _read(f"/proc/{first.pid}/stat")
    try:
        fields = None if text is None else processes.parse_stat(text)
    except ValueError:
        fields = None
    cpu = None if text is None else parse_cpu(text)
    if fields is None or cpu is None or fields[6] != first.start_time or fields[2] in "ZXx":
        return msgspec.structs.replace(first, state_later="X")
    io = None if first.io is None else parse_io(_read(f"/proc/{first.pid}/io"))
    return msgspec.structs.replace(
        first,
        state_later=fields[2],
        share=round((cpu - first.cpu) / seconds, 3),
        io_rate=None if first.io is None or io is None else _rate(first.io, io, seconds),
        threads=tuple(_read_thread_again(first.pid, thread, first.at) for thread in first.threads),
    )


def read_belongings(pid: int, folders: Collection[Path]) -> Belongings:
    """The rank of a process, whether its program is Python, and its open files below these folders."""
    return Belongings(_read_rank(pid), _is_python(pid), _read_open_files(pid, folders))


def is_same(reading: Reading) -> bool:
    """Whether the number still belongs to the process that was read."""
    try:
        process = processes.read_process(reading.pid)
    except OSError:
        return False
    return process is not None and process.identity.start_time == reading.start_time


def parse_cpu(stat: bytes) -> float | None:
    """Processor seconds, in user and kernel mode, from /proc/PID/stat or a thread's (proc_pid_stat(5))."""
    fields = stat[stat.rfind(b")") + 2 :].split()
    try:
        return (int(fields[11]) + int(fields[12])) / _TICKS
    except (ValueError, IndexError):
        return None


def parse_io(text: bytes | None) -> InputOutput | None:
    """The counters of /proc/PID/io, None if one of them is missing."""
    if text is None:
        return None
    words = dict(line.split(b": ", 1) for line in text.splitlines() if b": " in line)
    try:
        return InputOutput(
            *(int(words[name]) for name in (b"read_bytes", b"write_bytes", b"rchar", b"wchar"))
        )
    except (KeyError, ValueError):
        return None


def parse_rank(environment: bytes) -> int | None:
    """The rank that a launcher has put into a block of NUL-separated NAME=VALUE words."""
    words = dict(word.split(b"=", 1) for word in environment.split(b"\0") if b"=" in word)
    for name in _RANKS:
        if words.get(name, b"").isdigit():
            return int(words[name])
    return None


def _rate(first: InputOutput, later: InputOutput, seconds: float) -> InputOutput:
    before, after = msgspec.structs.astuple(first), msgspec.structs.astuple(later)
    return InputOutput(*(round((end - start) / seconds) for start, end in zip(before, after, strict=True)))


def _read_threads(pid: int, denied: dict[str, None]) -> tuple[Thread, ...]:
    try:
        numbers = sorted(int(entry) for entry in os.listdir(f"/proc/{pid}/task"))  # noqa: PTH208
    except OSError:
        return ()
    threads = (_read_thread(pid, number, denied) for number in numbers[:_THREADS])
    return tuple(thread for thread in threads if thread is not None)


def _read_thread(pid: int, number: int, denied: dict[str, None]) -> Thread | None:
    place = f"/proc/{pid}/task/{number}"
    text = _read(f"{place}/stat")
    try:
        fields = None if text is None else processes.parse_stat(text)
    except ValueError:
        fields = None
    if text is None or fields is None:
        return None
    syscall = _read(f"{place}/syscall", denied)
    # Running in the kernel without sleeping shows the same 0 as not being allowed to know.
    channel = _text(_read(f"{place}/wchan", denied))
    stack = _text(_read(f"{place}/stack", denied))
    return Thread(
        number=number,
        name=fields[1],
        state=fields[2],
        cpu=parse_cpu(text) or 0.0,
        wait_channel=channel if channel not in ("", "0") else None,
        syscall=_text(syscall) or None,
        stack=tuple(line.removeprefix("[<0>] ") for line in stack.splitlines()) if stack else None,
    )


def _read_thread_again(pid: int, thread: Thread, at: float) -> Thread:
    text = _read(f"/proc/{pid}/task/{thread.number}/stat")
    seconds = max(time.monotonic() - at, 1e-3)
    cpu = None if text is None else parse_cpu(text)
    if text is None or cpu is None:
        return msgspec.structs.replace(thread, state_later="X")
    state = text[text.rfind(b")") + 2 :][:1].decode(errors="replace")
    return msgspec.structs.replace(thread, state_later=state, share=round((cpu - thread.cpu) / seconds, 3))


def _read_rank(pid: int) -> int | None:
    environment = _read(f"/proc/{pid}/environ", limit=_ENVIRONMENT_LIMIT)
    return None if environment is None else parse_rank(environment)


def _is_python(pid: int) -> bool | None:
    """By the name of its program; a program of another name may still have Python within it."""
    try:
        program = os.readlink(f"/proc/{pid}/exe")  # noqa: PTH115 - a plain string is wanted
    except OSError:
        return None
    return "python" in program.rpartition("/")[2]


def _read_open_files(pid: int, folders: Collection[Path]) -> tuple[OpenFile, ...] | None:
    starts = tuple(os.path.realpath(folder).rstrip("/") + "/" for folder in folders)
    found: list[OpenFile] = []
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208
    except OSError:
        return None
    for descriptor in sorted(descriptors, key=int):
        place = f"/proc/{pid}/fd/{descriptor}"
        try:
            path = os.readlink(place)  # noqa: PTH115
        except OSError:
            continue
        if starts and path.startswith(starts) and len(found) < _FILES:
            found.append(_read_open_file(path, place, f"/proc/{pid}/fdinfo/{descriptor}"))
    return tuple(found)


def _read_open_file(path: str, place: str, information: str) -> OpenFile:
    position: int | None = None
    mode: str | None = None
    size: int | None = None
    with contextlib.suppress(OSError):
        size = os.stat(place).st_size  # noqa: PTH116 - through the descriptor, also when it is deleted
    for line in (_read(information) or b"").splitlines():
        name, _, value = line.partition(b":")
        with contextlib.suppress(ValueError):
            if name == b"pos":
                position = int(value)
            elif name == b"flags":
                mode = {os.O_RDONLY: "r", os.O_WRONLY: "w"}.get(int(value, 8) & os.O_ACCMODE, "rw")
    return OpenFile(path, mode, position, size)


def notable(reading: Reading, most: int) -> Sequence[Thread]:
    """The main thread, and those that do not merely sleep, at most so many."""
    first = [thread for thread in reading.threads if thread.number == reading.pid]
    others = [
        thread
        for thread in reading.threads
        if thread.number != reading.pid and (thread.state not in "SIZX" or (thread.share or 0.0) >= 0.05)
    ]
    others.sort(key=lambda thread: -(thread.share or 0.0))
    return (first + others)[:most]


def _read(path: str, denied: dict[str, None] | None = None, limit: int = _TEXT_LIMIT) -> bytes | None:
    """A file of /proc; None where it is gone or not to be seen, which `denied` is then told."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(descriptor, limit)
        finally:
            os.close(descriptor)
    except PermissionError:
        if denied is not None:
            denied[path.rpartition("/")[2]] = None
    except OSError:
        pass
    return None


def _text(content: bytes | None) -> str:
    return "" if content is None else content.decode(errors="replace").strip()
