"""Requests: what a person asks of the watchdog that runs, and starting one where none does."""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from trainguard import processes
from trainguard.config import ExpectedError, Settings
from trainguard.policy import Phase, Request, State
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


def start_in_background(settings: Settings, call: Sequence[str], folder: RunFolder) -> None:
    """Start a watchdog, script and options, in a session of its own; wait until it has begun.

    It has begun once it has looked and decided, and the start that it decided on, if any, has been carried out.

    It writes to watchdog.log in the run folder. Raises ExpectedError, OSError.
    """
    begun = time.time()
    log = settings.logs.directory / "watchdog.log"
    with log.open("ab") as stream:
        child = subprocess.Popen(
            [sys.executable, str(Path(call[0]).resolve()), *call[1:], "--config", str(settings.path)],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    deadline = time.monotonic() + ANSWER_SECONDS
    while folder.watchdog() is None or not _has_begun(folder.load_state()[0], begun):
        if child.poll() == 0:
            return  # it found nothing to watch
        if child.poll() is not None:
            raise ExpectedError(f"the watchdog did not start; {log} says why")
        if time.monotonic() > deadline and _looks(folder.load_state()[0], begun):
            return  # to prepare a start may take its time
        _wait_until(deadline, f"the watchdog has not begun within {ANSWER_SECONDS:g} s; {log} may say why")


def _has_begun(state: State, since: float) -> bool:
    return _looks(state, since) and (state.phase not in (Phase.PREPARING, Phase.STARTING) or state.paused)


def _looks(state: State, since: float) -> bool:
    return state.looked_wall >= since


def _wait_until(deadline: float, complaint: str) -> None:
    if time.monotonic() > deadline:
        raise ExpectedError(complaint)
    time.sleep(0.02)
