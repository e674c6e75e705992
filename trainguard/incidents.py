"""Incidents: one folder for each crash or hang, with one `incident.json` that tells all that is known of it."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from trainguard import files
from trainguard.policy import Ending, How, Incident
from trainguard.processes import Pollable

LAST_LINES = 200
SNAPSHOT = "snapshot.json"
SNAPSHOT_SECONDS = 10.0
_LAST_BYTES = 256 << 10
_LIMIT = 8 << 20
_PROJECT = Path(__file__).resolve().parent.parent


class Told(msgspec.Struct, frozen=True):
    """How a run ended, in names: `exit_code`, `signal` and `unknown` exclude each other."""

    exit_code: int | None = None
    signal: str | None = None
    unknown: bool = False
    text: str = ""


class IncidentRecord(msgspec.Struct, frozen=True):
    """The content of incident.json. Times are local ISO 8601, durations seconds, `log` a byte range of a file."""

    id: str
    kind: str
    time: str
    run_id: str
    run_number: int
    pid: int | None
    ending: Told | None
    step: int | None
    total: int | None
    loss: float | None
    checkpoint: str | None
    checkpoint_step: int | None
    log: dict[str, str | int]
    decision: str
    orphans: list[dict[str, str | int]]
    next_run_id: str | None
    seconds_to_new_process: float | None
    seconds_to_new_step: float | None
    first_new_step: int | None
    steps_lost: int | None
    closed: bool
    last_lines: list[str]
    snapshot: dict[str, object] | None = None


def folder_of(incidents: Path, incident_id: str) -> Path:
    """The folder of one incident."""
    return incidents / incident_id


def record(incidents: Path, incident: Incident, log: Path) -> None:
    """Write or renew one incident.json; what was gathered for it before stays. Raises OSError."""
    folder = folder_of(incidents, incident.id)
    folder.mkdir(parents=True, exist_ok=True)
    earlier = read_record(folder)
    lines = earlier.last_lines if earlier is not None else []
    if not lines:
        lines = _last_lines(log, incident.log_start, incident.log_end)
    record = IncidentRecord(
        id=incident.id,
        kind=incident.kind,
        time=time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(incident.at_wall)),
        run_id=incident.run_id,
        run_number=incident.run_number,
        pid=incident.pid,
        ending=None if incident.ending is None else _told(incident.ending),
        step=incident.step,
        total=incident.total,
        loss=incident.loss,
        checkpoint=incident.checkpoint,
        checkpoint_step=incident.checkpoint_step,
        log={"file": str(log), "start": incident.log_start, "end": incident.log_end},
        decision=incident.decision,
        orphans=[{"pid": one.identity.pid, "name": one.name, "state": one.state} for one in incident.orphans],
        next_run_id=incident.next_run_id,
        seconds_to_new_process=incident.seconds_to_new_process,
        seconds_to_new_step=incident.seconds_to_new_step,
        first_new_step=incident.first_new_step,
        steps_lost=incident.steps_lost,
        closed=incident.closed,
        last_lines=lines,
        snapshot=earlier.snapshot if earlier is not None else None,
    )
    _write(folder, record)


def add_snapshot(folder: Path) -> None:
    """Move the machine's state, which a `Snapshot` left beside it, into incident.json. Raises OSError."""
    found, record = _read_snapshot(folder), read_record(folder)
    if found is not None and record is not None:
        _write(folder, msgspec.structs.replace(record, snapshot=found))
        (folder / SNAPSHOT).unlink(missing_ok=True)


def _write(folder: Path, record: IncidentRecord) -> None:
    content = msgspec.json.format(msgspec.json.encode(record), indent=2)
    files.write_whole(folder / "incident.json", content, durable=False)


def read_record(folder: Path) -> IncidentRecord | None:
    """The incident.json of a folder, None where there is none that can be understood."""
    try:
        return msgspec.json.decode(files.read_small(folder / "incident.json", _LIMIT), type=IncidentRecord)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def list_records(incidents: Path) -> list[IncidentRecord]:
    """All incidents that can be read, oldest first."""
    try:
        folders = [entry for entry in incidents.iterdir() if entry.is_dir()]
    except OSError:
        return []
    records = [one for one in map(read_record, folders) if one is not None]
    return sorted(records, key=lambda one: (one.time, one.run_number))


def _told(ending: Ending) -> Told:
    import signal

    if ending.how is How.EXIT:
        return Told(exit_code=ending.code)
    if ending.how is How.SIGNAL:
        try:
            return Told(signal=signal.Signals(ending.code or 0).name)
        except ValueError:
            return Told(signal=f"signal {ending.code}")
    return Told(unknown=True, text=ending.text or ending.how.value)


def _last_lines(log: Path, start: int, end: int) -> list[str]:
    try:
        content = files.read_range(log, max(start, end - _LAST_BYTES), end)
    except OSError:
        return []
    # A progress bar rewrites its line with carriage returns: only what a terminal would show is kept.
    lines = [line.rstrip(b"\r").rpartition(b"\r")[2] for line in content.split(b"\n")]
    return [line.decode(errors="replace") for line in lines if line.strip()][-LAST_LINES:]


# --- the machine at that moment, asked in a child that can be abandoned ---------------------------------------


class Snapshot:
    """A child that asks memory, disks and GPUs and writes the answers beside the incident."""

    def __init__(self, folder: Path, paths: Sequence[Path]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._deadline = time.monotonic() + SNAPSHOT_SECONDS
        self._child = subprocess.Popen(
            [sys.executable, "-m", "trainguard.incidents", str(folder / SNAPSHOT), *map(str, paths)],
            cwd=_PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.pid = self._child.pid
        self._descriptor = os.pidfd_open(self.pid)

    def fileno(self) -> int:
        """Readable once the child has ended."""
        return self._descriptor

    def is_over(self, now: float) -> bool:
        """Whether it has answered, or its time is over; then it is killed, and left behind if it cannot die."""
        if self._child.poll() is not None:
            return True
        if now < self._deadline:
            return False
        self._child.kill()
        return True

    def abandon(self) -> bool:
        """Stop asking; whether the child is gone for good. One that hangs in the kernel is left to itself."""
        if self._child.poll() is None:
            self._child.kill()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        try:
            self._child.wait(timeout=0.05)
        except subprocess.TimeoutExpired:
            return False
        return True


class Chronicle:
    """Writes the incidents of one run folder; each new one gets a snapshot of the machine, made by a child."""

    def __init__(self, incidents: Path, helpers: set[int]) -> None:
        """`helpers` is where the child's number is kept while it may live: it is nobody's orphan."""
        self._incidents = incidents
        self._helpers = helpers
        self._snapshot: Snapshot | None = None

    def write(self, incident: Incident, log: Path, places: Sequence[Path]) -> None:
        """Write or renew an incident; `places` are paths whose disks are of interest. Raises OSError."""
        folder = folder_of(self._incidents, incident.id)
        is_new = not folder.exists()
        record(self._incidents, incident, log)
        if is_new:
            self.stop_asking()
            self._snapshot = Snapshot(folder, places)
            self._helpers.add(self._snapshot.pid)

    def collect(self, now: float) -> None:
        """Put a finished snapshot into its incident. Raises OSError."""
        if self._snapshot is not None and self._snapshot.is_over(now):
            folder = self._snapshot.folder
            self.stop_asking()
            add_snapshot(folder)

    def stop_asking(self) -> None:
        """End the child, so that no child but the run's is there to be told apart."""
        if self._snapshot is not None and self._snapshot.abandon():
            self._helpers.discard(self._snapshot.pid)
        self._snapshot = None

    def wake_sources(self) -> list[Pollable]:
        """The child, whose end is worth a look at once."""
        return [] if self._snapshot is None else [self._snapshot]


def _read_snapshot(folder: Path) -> dict[str, object] | None:
    try:
        return msgspec.json.decode(files.read_small(folder / SNAPSHOT), type=dict[str, object])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def main(arguments: Sequence[str]) -> int:
    """Write a snapshot: what is quick first, so that a driver that hangs costs only its own part."""
    from trainguard import gpu, host

    target, paths = Path(arguments[0]), [Path(path) for path in arguments[1:]]
    told: dict[str, object] = {"gpu": {"error": f"no answer within {SNAPSHOT_SECONDS:g} s"}}
    told["host"] = msgspec.to_builtins(host.read_host(paths))
    files.write_whole(target, msgspec.json.encode(told), durable=False)
    told["gpu"] = msgspec.to_builtins(gpu.read_gpus())
    files.write_whole(target, msgspec.json.encode(told), durable=False)
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
