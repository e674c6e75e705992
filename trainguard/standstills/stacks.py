"""Stacks: where the threads of a Python process stand, asked of py-spy, which is another program."""

import os
import re
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from trainguard import commands
from trainguard.standstills.readings import Frame, Reading, is_same, notable

# py-spy answers within some 25 ms; a machine whose processors are all busy takes longer.
SECONDS = 2.0
_LIBRARY = re.compile(r"^<|/(?:site|dist)-packages/|/lib(?:64)?/python\d|/bin/[^/.]+$")
_YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")
_NOT_PYTHON = "Failed to find python version"
_DENIED = "Permission Denied"


class PythonThread(msgspec.Struct, frozen=True):
    """One thread as py-spy tells it, its frames from the innermost to the outermost."""

    thread_name: str | None
    os_thread_id: int | None
    active: bool
    owns_gil: bool
    frames: tuple["PythonFrame", ...]


class PythonFrame(msgspec.Struct, frozen=True):
    name: str
    filename: str
    line: int


class Stacks(msgspec.Struct, frozen=True):
    """The threads of one process, or a sentence why they are unknown. `is_python` is None for unknown."""

    threads: tuple[PythonThread, ...] = ()
    why: str | None = None
    is_python: bool | None = None


def find_py_spy() -> str | None:
    """Its path: from PATH, or beside this Python, whose environment need not be activated."""
    beside = Path(sys.executable).parent / "py-spy"
    return shutil.which("py-spy") or (str(beside) if os.access(beside, os.X_OK) else None)


def ask_stacks(program: str, reading: Reading, deadline: float) -> Stacks:
    """Ask py-spy until one way answers, a process that stands before it without stopping it.

    `deadline` is on the monotonic clock. Raises nothing.
    """
    answer = Stacks(why="no time was left to ask py-spy")
    for way in ways(reading):
        seconds = min(SECONDS, deadline - time.monotonic())
        if seconds <= 0 or not is_same(reading):
            break
        answer = _ask(program, reading.pid, way, seconds)
        if answer.threads or answer.is_python is False or (answer.why or "").startswith(_DENIED):
            break
    # Meanwhile the number may have gone to another process.
    return answer if is_same(reading) else Stacks(why="it has ended")


def ways(reading: Reading) -> tuple[tuple[str, ...], ...]:
    """In which ways to ask. A process at work is stopped for a moment, so that its stack holds together.

    One that stands needs no stop. Where a thread is frozen or in the kernel's keeping a stop would never come.
    """
    states = {reading.state, *(thread.state for thread in reading.threads)}
    if states.intersection("DTt"):
        return (("--nonblocking",), ("--nonblocking",))
    if reading.share is not None and reading.share < 0.05:
        return (("--nonblocking",), ())
    return ((), ("--nonblocking",))


def _ask(program: str, pid: int, way: Sequence[str], seconds: float) -> Stacks:
    try:
        reply = commands.ask_command([program, "dump", "--json", *way, "--pid", str(pid)], seconds)
    except TimeoutError:
        return Stacks(why="py-spy gave no answer in time")
    except OSError as error:
        return Stacks(why=f"py-spy could not be asked: {error}")
    if reply.code != 0:
        return parse_refusal(reply.errors.decode(errors="replace"))
    return parse_stacks(reply.output)


def parse_stacks(output: bytes) -> Stacks:
    """What `py-spy dump --json` prints."""
    try:
        threads = msgspec.json.decode(output, type=tuple[PythonThread, ...])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return Stacks(why=f"py-spy's answer cannot be understood: {error}")
    return Stacks(threads, None if threads else "it has no Python thread", True)


def parse_refusal(errors: str) -> Stacks:
    """Why py-spy has no answer: the first line of what it says, and its causes."""
    if _NOT_PYTHON in errors:
        return Stacks(why="it is no Python", is_python=False)
    if _DENIED in errors:
        return Stacks(why=f"{_DENIED}: {_who_may()}")
    lines = errors.partition("Stack backtrace:")[0].splitlines()
    words = [line.strip() for line in lines if line.strip() not in ("", "Caused by:")]
    return Stacks(why="py-spy: " + ("; ".join(words)[:300] or "it failed without a word"))


def _who_may() -> str:
    try:
        scope = _YAMA.read_text().strip()
    except OSError:
        scope = "0"
    if scope == "0":
        return "py-spy reads processes of the same user only"
    return f"kernel.yama.ptrace_scope is {scope}, and with it only root reads another process's stack"


def main_thread(pid: int, stacks: Stacks) -> PythonThread | None:
    """The thread that bears the process's number, or the name that Python gives to its first."""
    for thread in stacks.threads:
        if thread.os_thread_id == pid:
            return thread
    return next((thread for thread in stacks.threads if thread.thread_name == "MainThread"), None)


def innermost(thread: PythonThread | None) -> Frame | None:
    """Where it stands."""
    return _frame(thread.frames[0]) if thread is not None and thread.frames else None


def innermost_own(thread: PythonThread | None) -> Frame | None:
    """The innermost line that is neither of Python's library nor of an installed package."""
    frames = thread.frames if thread is not None else ()
    return next((_frame(frame) for frame in frames if not _LIBRARY.search(frame.filename)), None)


def _frame(frame: PythonFrame) -> Frame:
    return Frame(frame.name, frame.filename, frame.line)


def render(reading: Reading, stacks: Stacks | None) -> str:
    """A process as a person reads it: its Python threads, innermost line first, and its kernel's."""
    rank = "" if reading.rank is None else f", rank {reading.rank}"
    share = "" if reading.share is None else f", {reading.share:.0%} of a processor"
    lines = [
        f"Process {reading.pid} ({reading.name}){rank}: "
        f"state {reading.state}{share}, {reading.thread_count} threads"
    ]
    lines += [
        f"  {file.mode} {file.path} at {file.position} of {file.size}" for file in reading.open_files or ()
    ]
    if reading.denied:
        lines.append(f"  not permitted: {', '.join(reading.denied)}")
    if stacks is not None and stacks.why:
        lines.append(f"  no Python stacks: {stacks.why}")
    first = main_thread(reading.pid, stacks) if stacks is not None else None
    for thread in sorted(stacks.threads if stacks is not None else (), key=lambda one: one is not first):
        does = "holds the GIL" if thread.owns_gil else "active" if thread.active else "idle"
        lines.append(f'  Python thread {thread.os_thread_id or "?"} "{thread.thread_name or ""}" ({does})')
        lines += [f"      {frame.name} ({frame.filename}:{frame.line})" for frame in thread.frames]
    spoken = notable(reading, len(reading.threads))
    for one in reading.threads:
        where = one.wait_channel or one.syscall or ""
        lines.append(f"  thread {one.number} {one.name} {one.state} {where}".rstrip())
        if one in spoken and one.stack:
            lines += [f"      {line}" for line in one.stack]
    return "\n".join(lines) + "\n"
