#!/usr/bin/env python3
"""Break it on purpose: in a sandbox, prove that the watchdog recovers on this machine.

    python3 test_edge_cases.py

starts a watchdog of its own over the bundled trainer in a temporary folder and kills, for real, first the
trainer, then the watchdog. The configuration that is given is read, the run that it describes is not touched.

    OK       killed daemon: restarted after 0.004 s at checkpoint 10

exit codes: 0 all promises held, 2 one is broken, 3 the run itself failed
"""

from trainguard import packages

packages.require("msgspec", "yaml", "numpy", "safetensors")

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from trainguard import command_line, incidents, processes
from trainguard.config import ExpectedError, load_settings
from trainguard.health import Status
from trainguard.run_folder import RunFolder

T = TypeVar("T")
HERE = Path(__file__).resolve().parent
LIMIT_SECONDS = 60.0


class Sandbox:
    """A temporary folder with a configuration of its own, and the watchdog that works in it."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "config.yaml"
        self.folder = RunFolder(folder / "logs")
        trainer = str(HERE / "examples" / "training_daemon.py")
        pace = ["--steps", "100000", "--step-seconds", "0.02", "--save-steps", "10"]
        settings = {
            "daemon": {
                "name": "edge-cases",
                "command": ["{python}", trainer, *pace, "--output-dir", str(folder / "run")],
            },
            "progress": {"status_file": "run/training_status.json"},
            "checkpoints": {"directory": "run"},
        }
        self.config.write_text(json.dumps(settings))  # JSON is YAML
        self.watchdog = self.start()

    def start(self) -> "subprocess.Popen[bytes]":
        """Start a watchdog as a user would."""
        command = [sys.executable, str(HERE / "daemon_watchdog.py"), "--config", str(self.config)]
        return subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

    def daemon(self) -> processes.Process | None:
        """The daemon that runs now: it bears the mark of this sandbox and leads its run."""
        return processes.find_leader(os.path.realpath(self.folder.directory), "edge-cases")

    def wait_for_checkpoint(self) -> processes.Process:
        """Wait until the daemon has saved; the daemon."""
        wait(
            lambda: any(self.config.parent.glob("run/checkpoint-*/trainer_state.json")),
            "no checkpoint was saved",
        )
        return wait(self.daemon, "no daemon runs")

    def close(self) -> None:
        """End what was started here, by the command that a user would give."""
        command = [sys.executable, str(HERE / "daemon_watchdog.py"), "--config", str(self.config)]
        subprocess.run(
            [*command, "--stop", "--with-daemon"], capture_output=True, timeout=LIMIT_SECONDS, check=False
        )
        self.watchdog.wait(LIMIT_SECONDS)


def killed_daemon(sandbox: Sandbox) -> str:
    """kill -9 of the daemon: a new one, and an incident that names the signal."""
    first = sandbox.wait_for_checkpoint()
    processes.send_signal(first.identity, signal.SIGKILL)
    wait(
        lambda: (now := sandbox.daemon()) is not None and now.identity != first.identity,
        "it was not restarted",
    )
    record = wait(lambda: incidents.list_records(sandbox.folder.incidents), "no incident was recorded")[-1]
    if record.ending is None or record.ending.signal != "SIGKILL" or record.seconds_to_new_process is None:
        raise ExpectedError(f"incident {record.id} does not tell how it ended")
    return f"restarted after {record.seconds_to_new_process:.3g} s at checkpoint {record.checkpoint_step}"


def killed_watchdog(sandbox: Sandbox) -> str:
    """kill -9 of the watchdog: the daemon goes on, the next watchdog adopts it and starts no second one."""
    daemon = sandbox.wait_for_checkpoint()
    sandbox.watchdog.kill()
    sandbox.watchdog.wait(LIMIT_SECONDS)
    sandbox.watchdog = sandbox.start()
    wait(lambda: any(one.event == "adopted" for one in sandbox.folder.recent_events()), "it was not adopted")
    now = sandbox.daemon()
    if now is None or now.identity != daemon.identity:
        raise ExpectedError("the daemon is not the one that ran before")
    return f"the next one adopted the daemon (pid {daemon.pid})"


SCENARIOS: dict[str, Callable[[Sandbox], str]] = {
    "killed daemon": killed_daemon,
    "killed watchdog": killed_watchdog,
}


def wait(condition: Callable[[], T | None], complaint: str) -> T:
    """Wait until the condition gives something."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise ExpectedError(f"{complaint} within {LIMIT_SECONDS:g} s")
        time.sleep(0.01)
    return value


def run(arguments: Namespace) -> int:
    """Do what the command line says."""
    if arguments.check_config:
        return command_line.check_config(arguments.config)
    load_settings(arguments.config)
    worst = Status.OK
    with tempfile.TemporaryDirectory(prefix="trainguard-") as folder:
        sandbox = Sandbox(Path(folder))
        try:
            for name, scenario in SCENARIOS.items():
                status, text = Status.OK, ""
                try:
                    text = scenario(sandbox)
                except ExpectedError as broken:
                    status, text = Status.BAD, str(broken)
                worst = max(worst, status)
                print(command_line.marked(status, f"{name}: {text}"), flush=True)
        finally:
            sandbox.close()
    return worst


def parse(argv: Sequence[str] | None) -> Namespace:
    """The command line."""
    return command_line.parser(__doc__, __file__).parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of one call."""
    return command_line.guarded(lambda: run(parse(argv)), __file__)


if __name__ == "__main__":
    sys.exit(main())
