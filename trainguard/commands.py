"""Commands of the machine, asked in a child that can be abandoned when it hangs."""

import contextlib
import os
import selectors
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

OUTPUT_LIMIT = 16 << 20
_CHUNK = 64 << 10
_GRACE_SECONDS = 0.2


class Reply(msgspec.Struct, frozen=True):
    """What a command said: `code` is its exit status, negative for the signal that ended it."""

    code: int
    output: bytes
    errors: bytes


def ask_command(arguments: Sequence[str], seconds: float, directory: Path | None = None) -> Reply:
    """Run a command to its end, without input and in the C locale, and give what it said.

    Raises TimeoutError after `seconds`, and OSError where it cannot be started or says more than 16 MiB. It is
    then killed; one that hangs in the kernel is left to itself, since waiting for it would hang as well.
    """
    deadline = time.monotonic() + seconds
    child = subprocess.Popen(
        list(arguments),
        cwd=directory,
        env={**os.environ, "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        output, errors = _read_both(child, deadline, arguments[0])
        code = child.wait(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise _no_answer(arguments[0]) from None
    finally:
        _leave(child)
    return Reply(code, output, errors)


def _read_both(child: "subprocess.Popen[bytes]", deadline: float, name: str) -> tuple[bytes, bytes]:
    assert child.stdout is not None and child.stderr is not None
    said = {child.stdout.fileno(): bytearray(), child.stderr.fileno(): bytearray()}
    output, errors = said.values()
    with selectors.DefaultSelector() as selector:
        for descriptor in said:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                raise _no_answer(name)
            for key, _ in selector.select(left):
                if data := os.read(key.fd, _CHUNK):
                    said[key.fd] += data
                else:
                    selector.unregister(key.fd)
            if len(output) + len(errors) > OUTPUT_LIMIT:
                raise OSError(None, f"said more than {OUTPUT_LIMIT >> 20} MiB", name)
    return bytes(output), bytes(errors)


def _leave(child: "subprocess.Popen[bytes]") -> None:
    for pipe in (child.stdout, child.stderr):
        if pipe is not None:
            pipe.close()
    if child.poll() is None:
        child.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=_GRACE_SECONDS)


def _no_answer(name: str) -> TimeoutError:
    return TimeoutError(None, "gave no answer in time", name)
