"""The journal: every event is one line for a person and one record for later readers. It never fails its caller."""

import sys
import time
from typing import TextIO

from trainguard.health import MARKS, Finding, Status, painted
from trainguard.policy import State
from trainguard.run_folder import Event, RunFolder


class Journal:
    """Tells events on a stream and in events.jsonl. A closed terminal or a full disk silences it, no more."""

    def __init__(self, name: str, folder: RunFolder | None, stream: TextIO | None = None) -> None:
        self._name = name
        self._folder = folder
        self._stream = stream if stream is not None else sys.stdout
        self._findings: dict[str, str] = {}

    def tell(self, event: str, status: Status, text: str, state: State | None = None) -> None:
        """Say it, and keep it."""
        self.say(status, f"daemon {self._name}: {text}")
        if self._folder is None:
            return
        run = state.run.id if state is not None and state.run is not None else None
        incident = state.incident.id if state is not None and state.incident is not None else None
        record = Event(time.time(), event, MARKS[status], text, run, incident)
        try:
            self._folder.append_event(record)
        except OSError as error:
            self.note(
                Finding(
                    Status.ATTENTION, str(self._folder.events_file), f"cannot be written ({error.strerror})"
                )
            )

    def note(self, finding: Finding) -> None:
        """Say a finding once, and again only when it has changed."""
        if self._findings.get(finding.subject) != str(finding):
            self._findings[finding.subject] = str(finding)
            self.say(finding.status, str(finding))

    def forget(self, subject: str) -> bool:
        """A finding no longer holds; says whether it had been told."""
        return self._findings.pop(subject, None) is not None

    def say(self, status: Status, text: str) -> None:
        """One line, without a record."""
        mark = painted(status, self._stream, width=7)
        try:
            print(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {mark}  {text}", file=self._stream, flush=True)
        except (OSError, ValueError):
            return  # the terminal is gone, or the disk under the log is full
