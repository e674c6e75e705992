"""The chronicle: the incidents of one run folder, as they are written, and what children find out about each."""

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from trainguard import files, snapshots, standstills
from trainguard.cgroup import read_oom_kills
from trainguard.config import Settings
from trainguard.identity import Identity
from trainguard.incidents.records import LIMIT, RECORD, IncidentRecord, folder_of, read_record, record, write
from trainguard.inquiries import Desk
from trainguard.policy import Incident
from trainguard.processes import Pollable

SNAPSHOT = "snapshot.json"
DIAGNOSIS = "diagnosis.json"
STANDSTILL = "standstill.json"


class Chronicle:
    """Writes the incidents of one run folder.

    For each new one a child takes a snapshot of the machine, and then another reads the log of the run that
    ended; of a hung one a third gathers where its processes stand. What they found is put into the incident's
    record.
    """

    def __init__(self, settings: Settings, incidents: Path, helpers: set[int]) -> None:
        """`helpers` is where a child's number is kept while it may live: it is nobody's orphan."""
        self._settings = settings
        self._incidents = incidents
        self._reading = Desk(helpers)
        self._examination = Desk(helpers)
        self.examined: str | None = None
        self._oom_kills = read_oom_kills()

    def reload(self, settings: Settings) -> None:
        """Take new settings, from the next incident on."""
        self._settings = settings

    def write(self, incident: Incident, log: Path, places: Sequence[Path]) -> None:
        """Write or renew an incident; `places` are paths whose disks are of interest. Raises OSError."""
        folder = folder_of(self._incidents, incident.id)
        is_new = not (folder / RECORD).exists()
        record(self._incidents, incident, log, self._count_oom_kills() if is_new else None)
        if is_new:
            self.stop_asking()
            command = [sys.executable, "-m", "trainguard.snapshots", *map(str, places)]
            self._reading.ask(command, folder / SNAPSHOT, snapshots.SECONDS)

    def collect(self, now: float) -> IncidentRecord | None:
        """Put what a child has found into its incident; the record, once its diagnosis is there. Raises OSError."""
        self._end_examination(now)
        if self._reading.inquiry is None or not self._reading.has_ended(now):
            return None
        answer = self._reading.inquiry.answer
        self.stop_asking()
        if answer.name == SNAPSHOT:
            _add(answer, snapshot=snapshots.read_snapshot(answer))
            config = ["--config", str(self._settings.path)]
            command = [
                sys.executable,
                "crash_detector.py",
                *config,
                "--incident",
                answer.parent.name,
                "--json",
            ]
            self._reading.ask(command, answer.with_name(DIAGNOSIS), self._settings.detector.time_limit)
            return None
        return _add(answer, diagnosis=_read_diagnosis(answer))

    def examine(self, incident_id: str, targets: Sequence[Identity]) -> None:
        """Have what the processes of a hung run show gathered into an incident; `examined` names it in the end."""
        folder = folder_of(self._incidents, incident_id)
        saves = self._settings.checkpoints.directory
        command = [sys.executable, "-m", "trainguard.standstills", "--folder", str(folder)]
        command += [] if saves is None else ["--checkpoints", str(saves)]
        command += [f"{one.pid}:{one.start_time}" for one in targets]
        try:
            # A hung run has no use for the processors, so that this child need not stand behind it.
            self._examination.ask(command, folder / STANDSTILL, standstills.PATIENCE, niceness=0)
        except OSError:
            self.examined = incident_id

    def _end_examination(self, now: float) -> None:
        if self._examination.inquiry is None or not self._examination.has_ended(now):
            return
        answer = self._examination.inquiry.answer
        self.examined = answer.parent.name
        self._examination.clear()
        _add(answer, standstill=standstills.read_standstill(answer))

    def stop_asking(self) -> None:
        """End the child, so that no child but the run's is there to be told apart."""
        self._reading.clear()

    def wake_sources(self) -> list[Pollable]:
        """The children, whose ends are worth a look at once."""
        return [*self._reading.wake_sources(), *self._examination.wake_sources()]

    def _count_oom_kills(self) -> int | None:
        """How many there were since the last incident."""
        before, self._oom_kills = self._oom_kills, read_oom_kills()
        return None if before is None or self._oom_kills is None else self._oom_kills - before


def _add(answer: Path, **found: dict[str, object] | None) -> IncidentRecord | None:
    """Move what a child wrote into the record beside it."""
    record = read_record(answer.parent)
    if record is None or None in found.values():
        return None
    record = msgspec.structs.replace(record, **found)
    write(answer.parent, record)
    answer.unlink(missing_ok=True)
    return record


def _read_diagnosis(answer: Path) -> dict[str, object] | None:
    """The first crash that the detector told; it stays provisional where it found none."""
    try:
        told = msgspec.json.decode(files.read_small(answer, LIMIT), type=dict[str, object])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    crashes = told.get("crashes")
    first = crashes[0] if isinstance(crashes, list) and crashes else None
    return first if isinstance(first, dict) else None
