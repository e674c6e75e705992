"""How a daemon is born, so that no death of the watchdog can make two of it.

The dangerous moment lies between deciding to start and knowing what was started. Between fork and exec a child
shows its parent's environment, so that no search would find it. The protocol:

1. The child is started as a shell that stands at a gate: it waits for one line on its standard input, a pipe
   whose other end only the watchdog holds (close-on-exec). It has done nothing yet.
2. The watchdog writes the child's identity, the run id and the restart count in one durable write.
3. Only then it opens the gate: it writes the line, and the shell becomes the daemon by exec, with the same
   number. Opening is the act; all before it is preparation.

If the watchdog dies before 3, the kernel closes the pipe, the shell reads the end of it and exits with 125,
whether anybody finds it or not. If it dies in or after 3, the identity is on disk: a successor looks at it
first. The lock of the run folder spans the fork too: the child holds a copy until its exec, so that a successor
cannot even begin before the child is visible.
"""

import os
import stat
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from trainguard.identity import Identity
from trainguard.processes.family import DAEMON, FOLDER, LEADER, RUN, Mark
from trainguard.processes.identify import read_process

GATE_CLOSED = 125
_SHELL = "/bin/sh"
_GATE = f'read -r _ || exit {GATE_CLOSED}; {LEADER}=$$; export {LEADER}; exec "$@" </dev/null'
_NOT_INHERITED = (LEADER, "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Newborn:
    """A child at the gate, or beyond it. `identity` is the daemon's own: exec keeps number and start time."""

    def __init__(self, process: "subprocess.Popen[bytes]", identity: Identity) -> None:
        self._process = process
        self.identity = identity

    def open_gate(self) -> None:
        """Let it become the daemon. A child that died at the gate is no error here: its end is seen as such."""
        pipe = self._process.stdin
        if pipe is None or pipe.closed:
            return
        try:
            pipe.write(b"go\n")
            pipe.close()
        except OSError:
            return

    def send_away(self) -> None:
        """Close the gate for good: the child exits by itself without having done anything."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    def exit_code(self) -> int | None:
        """None while it lives, else its exit code, negative for a signal; collects the zombie."""
        return self._process.poll()


def environment_of_run(base: Mapping[str, str], added: Mapping[str, str], mark: Mark) -> dict[str, str]:
    """The environment of a run's first process: the watchdog's own, the configured additions, and the mark.

    A daemon whose output is a file says nothing for minutes unless Python is told not to buffer.
    """
    environment = {name: value for name, value in base.items() if name not in _NOT_INHERITED}
    environment.setdefault("PYTHONUNBUFFERED", "1")
    environment.update(added)
    environment.update({RUN: mark.run, FOLDER: mark.folder, DAEMON: mark.daemon})
    return environment


def stand_at_gate(
    command: Sequence[str], environment: Mapping[str, str], directory: Path, log: Path
) -> Newborn:
    """Start a child in a session of its own that waits at the gate before it becomes `command`.

    Its output is appended to `log`. Raises OSError: no such directory, a log that cannot be written or is
    neither a file nor a character device, no process to be had.
    """
    descriptor = os.open(
        log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, 0o644
    )
    try:
        mode = os.fstat(descriptor).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISCHR(mode)):
            raise OSError(None, "the log is neither a file nor a character device", str(log))
        os.set_blocking(descriptor, True)
        process = subprocess.Popen(
            [_SHELL, "-c", _GATE, "trainguard-gate", *command],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=descriptor,
            stderr=descriptor,
            cwd=directory,
            env=dict(environment),
            start_new_session=True,
        )
    finally:
        os.close(descriptor)
    born = read_process(process.pid)
    if born is None:
        process.kill()
        process.wait()
        raise OSError(None, "the process table cannot be read", f"/proc/{process.pid}")
    return Newborn(process, born.identity)
