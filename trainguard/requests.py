"""Requests: what a person asks of the watchdog that runs, and starting one where none does."""

import signal
import subprocess
import sys
import time
from pathlib import Path

from trainguard import processes
from trainguard.config import ExpectedError, Settings
from trainguard.policy import Request
from trainguard.run_folder import Holder, RunFolder

ANSWER_SECONDS = 15.0


def ask(folder: RunFolder, holder: Holder, request: Request, patience: float = ANSWER_SECONDS) -> None:
    """Hand a request to the watchdog that holds the folder, and wait until it has obeyed.

    Raises ExpectedError if it has not within `patience` seconds; then the request is withdrawn.
    """
    pid, deadline = holder.identity.pid, time.monotonic() + patience
    while not folder.ask(request):
        _wait_until(deadline, f"the watchdog (pid {pid}) is busy with another request")
    processes.send_signal(holder.identity, signal.SIGUSR1)
    ends = request in (Request.STOP, Request.STOP_WITH_DAEMON)
    try:
        while (folder.watchdog() == holder) if ends else folder.is_asked():
            _wait_until(deadline, f"the watchdog (pid {pid}) has not obeyed within {patience:g} s")
    except ExpectedError:
        folder.answer_request()
        raise


def start_in_background(settings: Settings, script: str, folder: RunFolder) -> None:
    """Start `script` as a watchdog of its own session that writes to watchdog.log. Raises ExpectedError, OSError."""
    log = settings.logs.directory / "watchdog.log"
    with log.open("ab") as stream:
        child = subprocess.Popen(
            [sys.executable, str(Path(script).resolve()), "--config", str(settings.path)],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    deadline = time.monotonic() + ANSWER_SECONDS
    while folder.watchdog() is None:
        if child.poll() == 0:
            return  # it found nothing to watch
        if child.poll() is not None:
            raise ExpectedError(f"the watchdog did not start; {log} says why")
        _wait_until(deadline, f"the watchdog has not begun within {ANSWER_SECONDS:g} s; {log} may say why")


def _wait_until(deadline: float, complaint: str) -> None:
    if time.monotonic() > deadline:
        raise ExpectedError(complaint)
    time.sleep(0.02)
