"""Probes: questions that touch the machine, side by side in forked children that are abandoned when they hang.

What hangs in the kernel (a GPU driver, a network file system) hangs a child; that it did is the answer.
"""

import contextlib
import os
import selectors
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import msgspec

ANSWER_LIMIT = 64 << 20
GRACE_SECONDS = 0.05
# What the children are called, so that a look at the process table can tell them.
NAME = "tg-probe"
# A child whose parent was killed ends by itself.
LONE_SECONDS = 5.0
_CHUNK = 1 << 16
# The pipe to the parent, in a probe: one of its own that hangs would keep it open, and its answer without an end.
_to_parent: list[int] = []


class Probe(msgspec.Struct, frozen=True):
    """A question: `read` is called in a child and gives a value of the type `gives`, within so many seconds."""

    name: str
    read: Callable[[], object]
    gives: Any
    seconds: float


class Answer(msgspec.Struct, frozen=True):
    """What was read, or one clause that says why nothing was.

    `hung` where the child did not answer in time, `died` where it ended without an answer, as at a library's fault.
    """

    value: object = None
    problem: str | None = None
    hung: bool = False
    seconds: float = 0.0
    died: bool = False


class _Told(msgspec.Struct):
    value: bytes = b""
    problem: str | None = None


class _Child:
    def __init__(self, probe: Probe, pid: int, pipe: int, began: float) -> None:
        self.probe = probe
        self.pid = pid
        self.pipe = pipe
        self.began = began
        self.said = bytearray()


def ask(probes: Sequence[Probe], on_answer: Callable[[Probe], None] | None = None) -> dict[str, Answer]:
    """Ask all at once; the answers by name. Call it while this process has a single thread.

    `on_answer` is called after each. Raises OSError where not even a child can be made.
    """
    answers: dict[str, Answer] = {}
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()  # what a buffer holds would otherwise be written once more by each child
    with selectors.DefaultSelector() as selector:
        for probe in probes:
            child = _send(probe, [key.fd for key in selector.get_map().values()])
            selector.register(child.pipe, selectors.EVENT_READ, child)
        while selector.get_map():
            children: list[_Child] = [key.data for key in selector.get_map().values()]
            now = time.monotonic()
            nearest = min(child.began + child.probe.seconds for child in children)
            ready = {key.data for key, _ in selector.select(max(0.0, nearest - now))}
            now = time.monotonic()
            for child in children:
                if child in ready and not _has_ended(child):
                    continue
                is_late = now >= child.began + child.probe.seconds
                if child not in ready and not is_late:
                    continue
                selector.unregister(child.pipe)
                answers[child.probe.name] = _answer_of(child, child not in ready, now)
                if on_answer is not None:
                    on_answer(child.probe)
    return {probe.name: answers[probe.name] for probe in probes}


def _send(probe: Probe, others: Sequence[int]) -> _Child:
    reading, writing = os.pipe()
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        for descriptor in (reading, *others, *_to_parent):
            os.close(descriptor)
        _to_parent[:] = [writing]
        _read_and_leave(probe, writing)
    os.close(writing)
    return _Child(probe, pid, reading, began)


def _read_and_leave(probe: Probe, writing: int) -> NoReturn:
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, probe.seconds + LONE_SECONDS)
        Path("/proc/self/comm").write_text(NAME)
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nothing, descriptor)
        try:
            told = _Told(_encoded(probe.read()))
        except OSError as error:
            named = f"{error.filename}: " if error.filename else ""
            told = _Told(problem=f"{named}{error.strerror or error}")
        except Exception as error:
            told = _Told(problem=f"{type(error).__name__}: {error}")
        left = memoryview(msgspec.msgpack.encode(told))
        while left:
            left = left[os.write(writing, left) :]
    finally:
        # Nothing that the parent registered, and no buffer of its, is the child's to handle.
        os._exit(os.EX_OK)


def _encoded(value: object) -> bytes:
    try:
        return msgspec.msgpack.encode(value)
    except UnicodeEncodeError:  # a file's name need not be text
        return msgspec.msgpack.encode(escaped(msgspec.to_builtins(value)))


def escaped(content: object) -> object:
    """Builtin values, in which what no text can hold is written as an escape."""
    if isinstance(content, str):
        return content.encode("utf-8", "backslashreplace").decode()
    if isinstance(content, dict):
        return {escaped(name): escaped(held) for name, held in content.items()}
    if isinstance(content, list | tuple):
        return [escaped(one) for one in content]
    return content


def _has_ended(child: _Child) -> bool:
    """Take what a child has said; whether that was all."""
    said = os.read(child.pipe, _CHUNK)
    child.said += said
    return not said or len(child.said) > ANSWER_LIMIT


def _answer_of(child: _Child, is_late: bool, now: float) -> Answer:
    os.close(child.pipe)
    took = now - child.began
    _leave(child.pid)
    if is_late:
        return Answer(None, f"no answer within {child.probe.seconds:g} s", True, took)
    try:
        told = msgspec.msgpack.decode(bytes(child.said), type=_Told)
        if told.problem is not None:
            return Answer(None, told.problem, False, took)
        return Answer(msgspec.msgpack.decode(told.value, type=child.probe.gives), None, False, took)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Answer(None, "what was to read it died", False, took, died=True)


def _leave(pid: int) -> None:
    """End a child of ours that was not waited for, so that its number is nobody else's."""
    deadline = time.monotonic() + GRACE_SECONDS
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        if os.waitpid(pid, os.WNOHANG)[0]:
            return
        os.kill(pid, signal.SIGKILL)
        while not os.waitpid(pid, os.WNOHANG)[0] and time.monotonic() < deadline:
            time.sleep(0.001)
