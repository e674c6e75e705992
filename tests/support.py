"""What several tests need: a sandbox with real watchdogs and daemons, and waiting for conditions."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from trainguard import processes
from trainguard.identity import Identity

ROOT = Path(__file__).resolve().parent.parent
WATCHDOG = ROOT / "daemon_watchdog.py"
STUB = ROOT / "tests" / "stub_daemon.py"
T = TypeVar("T")


def wait_for(condition: Callable[[], T], limit: float = 30.0, what: str = "") -> T:
    """Wait until the condition holds, and give what it gave; fails the test after `limit` seconds."""
    deadline = time.monotonic() + limit
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {limit:g} s: {what or condition}")
        time.sleep(0.01)


def lives(identity: Identity) -> bool:
    """Whether exactly this process can still run."""
    process = processes.read_process(identity.pid)
    if process is None or processes.is_gone(process):
        return False
    return processes.same_process(process.identity, identity)


def identity_of(pid: int) -> Identity:
    """The process that has this number now."""
    process = processes.read_process(pid)
    assert process is not None, f"no process {pid}"
    return process.identity


class Sandbox:
    """A folder of its own with config.yaml and logs/; the daemon is tests/stub_daemon.py unless said otherwise."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "config.yaml"
        self.logs = folder / "logs"
        self.watchdogs: list[subprocess.Popen[bytes]] = []
        self.strangers: list[subprocess.Popen[Any]] = []

    def configure(self, *daemon_arguments: str, **sections: dict[str, Any]) -> None:
        """Write config.yaml: the stub with these arguments, short clocks, and what the sections override."""
        settings: dict[str, dict[str, Any]] = {
            "daemon": {
                "name": "sandbox",
                "command": ["{python}", str(STUB), "--folder", str(self.folder), *daemon_arguments],
                "stop": [["SIGTERM", 5], ["SIGKILL", 5]],
            },
            "progress": {"status_file": "status.json", "timeout": 60, "startup_timeout": 60},
            "watchdog": {"poll_interval": 0.2, "orphan_grace": 0.5},
        }
        for name, values in sections.items():
            settings.setdefault(name, {}).update(values)
        self.config.write_text(yaml.safe_dump(settings))

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start a watchdog in the foreground of a child; its output goes to watchdog.out."""
        with (self.folder / "watchdog.out").open("ab") as output:
            watchdog = subprocess.Popen(
                [sys.executable, str(WATCHDOG), "--config", str(self.config), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=options.pop("stdout", output),
                stderr=options.pop("stderr", output),
                **options,
            )
        self.watchdogs.append(watchdog)
        return watchdog

    def call(self, *arguments: str, limit: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run the watchdog's command line to its end."""
        return subprocess.run(
            [sys.executable, str(WATCHDOG), "--config", str(self.config), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )

    def status(self) -> dict[str, Any]:
        """What --status --json says."""
        answer = self.call("--status", "--json")
        assert answer.stdout, answer.stderr
        told: dict[str, Any] = json.loads(answer.stdout)
        return told

    def state(self) -> dict[str, Any]:
        """The saved state, empty if there is none."""
        try:
            told: dict[str, Any] = json.loads((self.logs / "state.json").read_bytes())
        except FileNotFoundError:
            return {}
        return told

    def output(self) -> str:
        """All that the watchdogs said."""
        return (self.folder / "watchdog.out").read_text(errors="replace")

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """The events so far, of one name or all."""
        try:
            lines = (self.logs / "events.jsonl").read_text().splitlines()
        except FileNotFoundError:
            return []
        events = [json.loads(line) for line in lines]
        return [event for event in events if name in (None, event["event"])]

    def incidents(self) -> list[dict[str, Any]]:
        """The incidents so far, oldest first."""
        records = [
            json.loads(file.read_bytes()) for file in (self.logs / "incidents").glob("*/incident.json")
        ]
        return sorted(records, key=lambda record: int(record["run_number"]))

    def starts(self) -> list[dict[str, Any]]:
        """One entry for each time that the stub began: its pid, run id and step."""
        try:
            lines = (self.folder / "starts.jsonl").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines]

    def violations(self) -> str:
        """What the stub wrote when it found a second one of itself beside it."""
        file = self.folder / "violations.txt"
        return file.read_text() if file.exists() else ""

    def wait_for_start(self, count: int = 1, limit: float = 30.0) -> dict[str, Any]:
        """Wait until the stub has begun that many times; the last beginning."""
        wait_for(lambda: len(self.starts()) >= count, limit, f"{count} starts; {self.output_tail()}")
        return self.starts()[count - 1]

    def wait_for_event(self, name: str, count: int = 1, limit: float = 30.0) -> dict[str, Any]:
        """Wait until an event was told that many times; the last of them."""
        wait_for(lambda: len(self.events(name)) >= count, limit, f"{count} of {name}; {self.output_tail()}")
        return self.events(name)[count - 1]

    def output_tail(self) -> str:
        """The end of what the watchdogs said, for a failing test."""
        file = self.folder / "watchdog.out"
        return file.read_text(errors="replace")[-2000:] if file.exists() else "no output"

    def members(self) -> list[processes.Process]:
        """Every living process that bears the mark of this sandbox's run folder."""
        folder = os.path.realpath(self.logs)
        marks = ((one, processes.read_mark(one.pid)) for one in processes.living(processes.all_processes()))
        return [
            one
            for one, mark in marks
            if mark is not None and mark.folder == folder and one.pid != os.getpid()
        ]

    def clean_up(self) -> None:
        """End what the test started: its own children, and what bears the mark of its run folder."""
        for child in [*self.watchdogs, *self.strangers]:
            if child.poll() is None:
                child.kill()
            child.wait()
        holder = self._background_watchdog()
        if holder is not None:
            processes.send_signal(holder, signal.SIGKILL)
        deadline = time.monotonic() + 20
        while (left := self.members()) and time.monotonic() < deadline:
            for one in left:
                processes.send_signal(one.identity, signal.SIGCONT)
                processes.send_signal(one.identity, signal.SIGKILL)
            time.sleep(0.01)

    def _background_watchdog(self) -> Identity | None:
        """The watchdog that wrote itself into this sandbox's lock file, if it lives."""
        try:
            told = json.loads((self.logs / "watchdog.lock").read_bytes())["identity"]
        except (OSError, ValueError, KeyError):
            return None
        identity = Identity(told["pid"], told["start_time"], told["boot_id"], told["uid"])
        return identity if lives(identity) and identity.pid != os.getpid() else None
