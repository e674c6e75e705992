"""Incidents: one folder for each crash or hang, with one `incident.json` that tells all that is known of it."""

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from trainguard import files, snapshots
from trainguard.cgroup import read_oom_kills
from trainguard.config import ExpectedError, Settings, clipped
from trainguard.inquiries import Inquiry
from trainguard.moments import text_of
from trainguard.policy import Ending, How, Incident
from trainguard.processes import Pollable

LAST_LINES = 200
SNAPSHOT = "snapshot.json"
DIAGNOSIS = "diagnosis.json"
HUNG = "no new step within its time"
LOOK_BYTES = 64 << 10
_LAST_BYTES = 256 << 10
_LIMIT = 8 << 20


class Told(msgspec.Struct, frozen=True):
    """How a run ended, in names: `exit_code`, `signal` and `unknown` exclude each other."""

    exit_code: int | None = None
    signal: str | None = None
    unknown: bool = False
    text: str = ""


class IncidentRecord(msgspec.Struct, frozen=True):
    """The content of incident.json. Times are local ISO 8601, durations seconds, `log` a byte range of a file.

    `diagnosis` is a crash as crash_detector.py --json tells it; `provisional` until the whole log was read.
    """

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
    oom_kills: int | None = None
    diagnosis: dict[str, object] | None = None


def folder_of(incidents: Path, incident_id: str) -> Path:
    """The folder of one incident."""
    return incidents / incident_id


def record(incidents: Path, incident: Incident, log: Path, oom_kills: int | None = None) -> None:
    """Write or renew one incident.json; what was gathered for it before stays. Raises OSError.

    `oom_kills` since the incident before counts for a new one.
    """
    folder = folder_of(incidents, incident.id)
    folder.mkdir(parents=True, exist_ok=True)
    earlier = read_record(folder)
    lines = earlier.last_lines if earlier is not None else []
    if not lines:
        lines = _last_lines(log, incident.log_start, incident.log_end)
    record = IncidentRecord(
        id=incident.id,
        kind=incident.kind,
        time=text_of(incident.at_wall),
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
        snapshot=None if earlier is None else earlier.snapshot,
        oom_kills=oom_kills if earlier is None else earlier.oom_kills,
        diagnosis=_first_look(incident, log)
        if earlier is None or earlier.diagnosis is None
        else earlier.diagnosis,
    )
    _write(folder, record)


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


def sentence(record: IncidentRecord) -> str:
    """What a diagnosed incident was, in a sentence."""
    from trainguard.crash_types import HELPS  # costs memory, and only a crash needs it

    told = record.diagnosis or {}
    cause, root = told.get("cause"), told.get("root")
    finer = f" ({cause})" if cause != told.get("type") else ""
    rank = "" if told.get("rank") is None else f" on rank {told['rank']}"
    text = str(root.get("text", "")) if isinstance(root, dict) else ""
    helps = next((f"which {text}" for retry, text in HELPS.items() if retry.value == told.get("retry")), "")
    return f"incident {record.id} was {told.get('type')}{finer}{rank}, {helps}: {clipped(text.strip(), 200)}"


def find_record(incidents: Path, incident_id: str) -> IncidentRecord:
    """One incident by its id, or by `last`. Raises ExpectedError where there is none."""
    records = list_records(incidents)
    found = records[-1:] if incident_id == "last" else [one for one in records if one.id == incident_id]
    if not found:
        known = ", ".join(one.id for one in records[-5:])
        raise ExpectedError(
            f"{incident_id}: no such incident in {incidents}; the last are: {known or 'none'}"
        )
    return found[-1]


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


# --- what children find out about an incident ------------------------------------------------------------------


class Chronicle:
    """Writes the incidents of one run folder.

    For each new one a child takes a snapshot of the machine, and then another reads the log of the run that
    ended. What they found is put into the incident's record.
    """

    def __init__(self, settings: Settings, incidents: Path, helpers: set[int]) -> None:
        """`helpers` is where a child's number is kept while it may live: it is nobody's orphan."""
        self._settings = settings
        self._incidents = incidents
        self._helpers = helpers
        self._inquiry: Inquiry | None = None
        self._oom_kills = read_oom_kills()

    def reload(self, settings: Settings) -> None:
        """Take new settings, from the next incident on."""
        self._settings = settings

    def write(self, incident: Incident, log: Path, places: Sequence[Path]) -> None:
        """Write or renew an incident; `places` are paths whose disks are of interest. Raises OSError."""
        folder = folder_of(self._incidents, incident.id)
        is_new = not folder.exists()
        record(self._incidents, incident, log, self._count_oom_kills() if is_new else None)
        if is_new:
            self.stop_asking()
            command = [sys.executable, "-m", "trainguard.snapshots", *map(str, places)]
            self._ask(command, folder / SNAPSHOT, snapshots.SECONDS)

    def collect(self, now: float) -> IncidentRecord | None:
        """Put what a child has found into its incident; the record, once its diagnosis is there. Raises OSError."""
        if self._inquiry is None or not self._inquiry.is_over(now):
            return None
        answer = self._inquiry.answer
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
            self._ask(command, answer.with_name(DIAGNOSIS), self._settings.detector.time_limit)
            return None
        return _add(answer, diagnosis=_read_diagnosis(answer))

    def stop_asking(self) -> None:
        """End the child, so that no child but the run's is there to be told apart."""
        inquiry, self._inquiry = self._inquiry, None
        if inquiry is not None and inquiry.end():
            self._helpers.discard(inquiry.pid)

    def wake_sources(self) -> list[Pollable]:
        """The child, whose end is worth a look at once."""
        return [] if self._inquiry is None else [self._inquiry]

    def _ask(self, command: Sequence[str], answer: Path, seconds: float) -> None:
        self._inquiry = Inquiry(command, answer, seconds)
        self._helpers.add(self._inquiry.pid)

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
    _write(answer.parent, record)
    answer.unlink(missing_ok=True)
    return record


def _read_diagnosis(answer: Path) -> dict[str, object] | None:
    """The first crash that the detector told; it stays provisional where it found none."""
    try:
        told = msgspec.json.decode(files.read_small(answer, _LIMIT), type=dict[str, object])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    crashes = told.get("crashes")
    first = crashes[0] if isinstance(crashes, list) and crashes else None
    return first if isinstance(first, dict) else None


def _first_look(incident: Incident, log: Path) -> dict[str, object] | None:
    """What the exit status and the end of the log tell at once, before anybody reads the whole log."""
    from trainguard import diagnosis  # costs memory, and only a crash needs it

    start, end = max(incident.log_start, incident.log_end - LOOK_BYTES), incident.log_end
    try:
        content = files.read_range(log, start, end)
    except OSError:
        content = b""
    told = None if incident.ending is None else _told(incident.ending)
    facts = diagnosis.Facts(
        exit_code=None if told is None else told.exit_code,
        signal=None if told is None else told.signal,
        hang=HUNG if incident.kind == "hang" else None,
        time=incident.at_wall,
    )
    lines = diagnosis.cut_lines(content, str(log), start, None)
    found = diagnosis.find_failures(diagnosis.Observer(_knows_nothing).observe(lines), facts)
    if not found:
        return None
    crash: dict[str, object] = msgspec.to_builtins(diagnosis.describe(found[-1]))
    return crash | {"provisional": True}


def _knows_nothing(_: str) -> tuple[()]:
    """The signatures are the detector's; what it needs for them stays out of the watchdog's memory."""
    return ()
