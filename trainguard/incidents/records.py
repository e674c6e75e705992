"""Records: one `incident.json` for each crash or hang, which tells all that is known of it."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from trainguard import files
from trainguard.config import ExpectedError, clipped
from trainguard.moments import seconds_of, text_of
from trainguard.policy import Cause, Ending, How, Incident, Run

if TYPE_CHECKING:  # it costs memory, and only a crash needs it
    from trainguard.diagnosis import Facts

RECORD = "incident.json"
LAST_LINES = 200
HUNG = "no new step within its time"
LOOK_BYTES = 64 << 10
LAST_BYTES = 256 << 10
LIMIT = 8 << 20


class Told(msgspec.Struct, frozen=True):
    """How a run ended, in names: `exit_code`, `signal` and `unknown` exclude each other."""

    exit_code: int | None = None
    signal: str | None = None
    unknown: bool = False
    text: str = ""


class IncidentRecord(msgspec.Struct, frozen=True):
    """The content of incident.json. Times are local ISO 8601, durations seconds, `log` a byte range of a file.

    `diagnosis` is a crash as crash_detector.py --json tells it; `provisional` until the whole log was read.
    `seconds_unnoticed` passed before `time`, the other seconds from then: until nothing of the run lived any more,
    until the new process, its first step, and its first step beyond where it had ended.
    `cause` is what was known of it when the restart was decided on, `standstill` where the processes of a hung run
    stood (see trainguard.standstills).
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
    set_aside: list[dict[str, str | int]] = []
    cause: Cause | None = None
    standstill: dict[str, object] | None = None
    diagnosis: dict[str, object] | None = None
    seconds_unnoticed: float | None = None
    seconds_to_cleared: float | None = None
    seconds_to_first_step: float | None = None


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
        standstill=None if earlier is None else earlier.standstill,
        oom_kills=oom_kills if earlier is None else earlier.oom_kills,
        set_aside=[msgspec.to_builtins(one) for one in incident.set_aside],
        cause=incident.cause,
        diagnosis=None if earlier is None else earlier.diagnosis,
        seconds_unnoticed=incident.seconds_unnoticed,
        seconds_to_cleared=incident.seconds_to_cleared,
        seconds_to_first_step=incident.seconds_to_first_step,
    )
    if record.diagnosis is None:
        record = msgspec.structs.replace(record, diagnosis=_first_look(record))
    write(folder, record)


def write(folder: Path, record: IncidentRecord) -> None:
    content = msgspec.json.format(msgspec.json.encode(record), indent=2)
    files.write_whole(folder / RECORD, content, durable=False)


def read_record(folder: Path) -> IncidentRecord | None:
    """The incident.json of a folder, None where there is none that can be understood."""
    try:
        return msgspec.json.decode(files.read_small(folder / RECORD, LIMIT), type=IncidentRecord)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def list_records(incidents: Path) -> list[IncidentRecord]:
    """All incidents that can be read, oldest first; a folder that has another name than its record is a copy."""
    try:
        folders = [entry for entry in incidents.iterdir() if entry.is_dir()]
    except OSError:
        return []
    read = ((folder, read_record(folder)) for folder in folders)
    records = [one for folder, one in read if one is not None and one.id == folder.name]
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
    """One incident by its id, or by `last`. Raises ExpectedError where there is none that can be understood."""
    records = list_records(incidents)
    found = records[-1:] if incident_id == "last" else [one for one in records if one.id == incident_id]
    if incident_id == "last" and (broken := _newer_broken(incidents, found[-1:])) is not None:
        before = f"; the last one before it is {found[-1].id}" if found else ""
        raise ExpectedError(f"{broken / RECORD}: the newest incident, and it cannot be understood{before}")
    if not found and incident_id != "last" and (folder_of(incidents, incident_id) / RECORD).exists():
        raise ExpectedError(f"{folder_of(incidents, incident_id) / RECORD} cannot be understood")
    if not found:
        known = ", ".join(one.id for one in records[-5:])
        raise ExpectedError(
            f"{incident_id}: no such incident in {incidents}; the last are: {known or 'none'}"
        )
    return found[-1]


def _newer_broken(incidents: Path, last: list[IncidentRecord]) -> Path | None:
    """The newest folder whose record cannot be understood, if no record is newer; ids begin with their time."""
    try:
        broken = [
            folder
            for folder in incidents.iterdir()
            if (folder / RECORD).exists() and read_record(folder) is None
        ]
    except OSError:
        return None
    newest = max(broken, key=lambda folder: _numbers(folder.name), default=None)
    if newest is None or any(_numbers(one.id) >= _numbers(newest.name) for one in last):
        return None
    return newest


def _numbers(incident_id: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d{1,18}", incident_id)]


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
        content = files.read_range(log, max(start, end - LAST_BYTES), end)
    except OSError:
        return []
    # A progress bar rewrites its line with carriage returns: only what a terminal would show is kept.
    lines = [line.rstrip(b"\r").rpartition(b"\r")[2] for line in content.split(b"\n")]
    return [line.decode(errors="replace") for line in lines if line.strip()][-LAST_LINES:]


def facts_of(record: IncidentRecord) -> "Facts":
    """What the watchdog's incident knows of how its run ended."""
    from trainguard.diagnosis import Facts

    ended, host = record.ending, (record.snapshot or {}).get("host")
    host = host if isinstance(host, dict) else {}
    disks = host.get("disks")
    free = {
        str(disk["path"]): int(disk["free"])
        for disk in (disks if isinstance(disks, list) else [])
        if isinstance(disk, dict) and isinstance(disk.get("free"), int) and "path" in disk
    }
    memory = host.get("memory_available")
    pids = {record.pid, *(one.get("pid") for one in record.orphans)}
    return Facts(
        exit_code=None if ended is None else ended.exit_code,
        signal=None if ended is None else ended.signal,
        hang=HUNG if record.kind == "hang" else None,
        time=seconds_of(record.time),
        free_bytes=free,
        memory_available=memory if isinstance(memory, int) else None,
        oom_kills=record.oom_kills,
        pids=frozenset(pid for pid in pids if isinstance(pid, int)),
    )


def quick_facts(incident: Incident | None, run: Run) -> "Facts":
    """What is known at once of how a run ended."""
    from trainguard.diagnosis import Facts

    mine = incident is not None and incident.run_id == run.id
    ended = None if run.ending is None else _told(run.ending)
    return Facts(
        exit_code=None if ended is None else ended.exit_code,
        signal=None if ended is None else ended.signal,
        hang=HUNG if mine and incident is not None and incident.kind == "hang" else None,
        time=incident.at_wall if mine and incident is not None else None,
        pids=frozenset() if run.identity is None else frozenset({run.identity.pid}),
    )


def _first_look(record: IncidentRecord) -> dict[str, object] | None:
    """What the exit status and the end of the log tell at once, before anybody reads the whole log."""
    from trainguard import diagnosis  # costs memory, and only a crash needs it

    log, end = str(record.log["file"]), int(record.log["end"])
    start = max(int(record.log["start"]), end - LOOK_BYTES)
    try:
        content = files.read_range(Path(log), start, end)
    except OSError:
        content = b""
    lines = diagnosis.cut_lines(content, log, start, None)
    found = diagnosis.find_failures(diagnosis.Observer(_knows_nothing).observe(lines), facts_of(record))
    if not found:
        return None
    crash: dict[str, object] = msgspec.to_builtins(diagnosis.describe(found[-1]))
    return crash | {"provisional": True}


def _knows_nothing(_: str) -> tuple[()]:
    """The signatures are the detector's; what it needs for them stays out of the watchdog's memory."""
    return ()
