"""Supervision: the watchdog, the daemon and all that bears this run folder's mark, as they are at one moment."""

import os
import time
from collections.abc import Collection, Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from trainguard import files, probes, processes
from trainguard.config import Settings
from trainguard.daemon import parse_pid, runs_command
from trainguard.identity import Identity
from trainguard.moments import seconds_of
from trainguard.policy import Alive, Phase, State
from trainguard.processes import Mark, Process
from trainguard.run_folder import Event, Holder, RunFolder
from trainguard.system import parse_limits

if TYPE_CHECKING:  # it costs time, and only the child that reads incidents needs it
    from trainguard.incidents import IncidentRecord

DAY = 86_400.0
PLACES_SECONDS = 1.5
INCIDENTS_AT_MOST = 200
TREE_AT_MOST = 10_000


class Row(msgspec.Struct, frozen=True):
    """One process: `run` and `folder` are what its mark says, None where it bears none."""

    identity: Identity
    name: str
    state: str
    command: tuple[str, ...] = ()
    directory: str | None = None
    run: str | None = None
    folder: str | None = None
    output: str | None = None

    @property
    def pid(self) -> int:
        return self.identity.pid


class Verdict(str, Enum):
    """What a PID file comes to."""

    MISSING = "missing"
    UNREADABLE = "unreadable"
    GARBAGE = "garbage"
    DEAD = "dead"
    STRANGER = "stranger"
    DAEMON = "daemon"


class PidFile(msgspec.Struct, frozen=True):
    """The configured PID file: its verdict, and in a clause what it names."""

    path: str
    verdict: Verdict
    text: str
    pid: int | None = None


class Waiting(msgspec.Struct, frozen=True):
    """A request that nobody has answered yet: what is asked (None: it cannot be understood), since when."""

    asked: str | None
    since_wall: float


class Supervision(msgspec.Struct, frozen=True):
    """How one run folder stands. `now` is monotonic, `wall` since 1970.

    `daemon` is the living daemon: the recorded one, else one whose mark says that it leads; `recorded` is who has
    the recorded number now. `leaders` are all that lead a run of this folder, `twins` run the daemon's command in
    its folder without its mark, `orphans` belong to a run that lives no more. `directory` is the real path of
    daemon.directory, None where it does not answer. `restarts_day` is how often the daemon was restarted in 24
    hours, as far as events.jsonl tells.
    """

    now: float
    wall: float
    boot: str
    state: State
    state_problem: str | None
    has_state: bool
    watchdog: Holder | None
    watchdog_state: str | None
    holder: Holder | None
    daemon: Row | None
    recorded: Row | None
    leaders: tuple[Row, ...]
    twins: tuple[Row, ...]
    orphans: tuple[Row, ...]
    directory: str | None
    pid_file: PidFile | None
    request: Waiting | None
    last_event: Event | None
    parked_wall: float | None
    reloaded_wall: float | None
    restarts_day: int
    has_events: bool


class Appetite(msgspec.Struct, frozen=True):
    """What the daemon and its descendants hold; None or 0 without a daemon.

    `memory` is anonymous memory in bytes: what processes share by files is in it no more than what is swapped.
    `open_files` and `open_limit` are those of the process that is nearest to its soft limit.
    """

    pid: int | None = None
    since_wall: float | None = None
    processes: int = 0
    memory: int | None = None
    open_files: int | None = None
    open_limit: int | None = None
    fullest: int | None = None


class IncidentRow(msgspec.Struct, frozen=True):
    """One incident: when, what of, whether its cause is known, and whether the run has come beyond it."""

    id: str
    wall: float
    kind: str
    cause: str | None
    diagnosed: bool
    closed: bool


class Incidents(msgspec.Struct, frozen=True):
    """The newest incidents, the oldest first; `damaged` are folders whose record cannot be understood."""

    rows: tuple[IncidentRow, ...] = ()
    damaged: tuple[str, ...] = ()
    folders: int = 0


def read_supervision(settings: Settings) -> Supervision:
    """All of it. The table is read before the state, so that a run that begins meanwhile is known. Raises OSError."""
    folder = RunFolder(settings.logs.directory)
    never = {os.getpid(), *processes.ancestors(os.getpid())}
    table = processes.living(processes.all_processes())
    marks = {one.pid: mark for one in table if (mark := processes.read_mark(one.pid)) is not None}
    state, finding = folder.load_state()
    holder, watchdog = folder.holder(), folder.watchdog()
    events = folder.recent_events()
    wall, run = time.time(), state.run
    named, directory = _read_places(settings)
    own = os.path.realpath(settings.logs.directory)
    leaders = _leaders(table, marks, own, None if named is None else named.pid)
    identity = None if run is None or run.ending is not None else run.identity
    recorded = None if identity is None else processes.read_process(identity.pid)
    recorded = None if processes.is_gone(recorded) else recorded
    daemon = None if identity is None else processes.read_living(identity)
    if daemon is not None and daemon.pid not in {one.pid for one in leaders}:
        leaders = [daemon, *leaders]
    chosen = daemon or next(iter(leaders), None)
    orphans = _orphans(settings, state, table, marks, leaders, watchdog, never)
    kept = {chosen.pid, *(one.pid for one in processes.descendants(chosen.pid))} if chosen else set()
    ours = {pid for pid, mark in marks.items() if mark.folder == own} | never | kept
    ours |= {one.pid for one in orphans}
    if named is not None and directory is not None:
        named = _judged(settings, named, chosen, marks, leaders)
        ours |= {named.pid} if named.pid is not None and named.verdict is Verdict.DAEMON else set()
    keeper = None if watchdog is None else processes.read_living(watchdog.identity)
    return Supervision(
        now=time.monotonic(),
        wall=wall,
        boot=processes.boot_id(),
        state=state,
        state_problem=None if finding is None else finding.fact,
        has_state=os.path.lexists(folder.state_file),
        watchdog=watchdog,
        watchdog_state=None if keeper is None else keeper.state,
        holder=holder,
        daemon=None if chosen is None else row_of(chosen, marks.get(chosen.pid)),
        recorded=None if recorded is None else row_of(recorded, marks.get(recorded.pid)),
        leaders=tuple(row_of(one, marks.get(one.pid)) for one in leaders),
        twins=_twins(settings, directory, table, marks, ours),
        orphans=tuple(row_of(one, marks.get(one.pid)) for one in orphans),
        directory=directory,
        pid_file=named,
        request=_read_request(folder),
        last_event=events[-1] if events else None,
        parked_wall=next((one.wall for one in reversed(events) if one.event == "parked"), None),
        reloaded_wall=next((one.wall for one in reversed(events) if one.event == "reloaded"), None),
        restarts_day=sum(one.event == "restarted" and 0 <= wall - one.wall < DAY for one in events),
        has_events=bool(events),
    )


def row_of(process: Process, mark: Mark | None = None) -> Row:
    """A process with what it runs; what may not be asked is empty."""
    try:
        output = os.readlink(f"/proc/{process.pid}/fd/1")  # noqa: PTH115 - a plain string is wanted
    except OSError:
        output = None
    return Row(
        process.identity,
        process.name,
        process.state,
        processes.read_command_line(process.pid),
        processes.read_directory(process.pid),
        None if mark is None else mark.run,
        None if mark is None else mark.folder,
        output,
    )


def _leaders(
    table: Collection[Process], marks: Mapping[int, Mark], folder: str, named: int | None
) -> list[Process]:
    """Who leads a run here: the first process of one, or the one that the PID file names after a double fork."""
    return [
        one
        for one in table
        if (mark := marks.get(one.pid)) is not None
        and mark.folder == folder
        and (mark.leader == one.pid or one.pid == named)
    ]


def _orphans(
    settings: Settings,
    state: State,
    table: Collection[Process],
    marks: Mapping[int, Mark],
    leaders: Collection[Process],
    watchdog: Holder | None,
    never: Collection[int],
) -> list[Process]:
    run, folder = state.run, os.path.realpath(settings.logs.directory)
    alive = {marks[one.pid].run for one in leaders if one.pid in marks}
    recorded = run is not None and any(one.identity == run.identity for one in leaders)
    # Between its gate and the next look of a watchdog a run has no leader that could be seen.
    begins = watchdog is not None and state.phase in (Phase.STARTING, Phase.RUNNING)
    if run is not None and (recorded or begins):
        alive.add(run.id)
    known = () if recorded or begins else state.descendants

    def is_orphan(one: Process) -> bool:
        mark = marks.get(one.pid)
        if mark is None or (mark.folder, mark.daemon) != (folder, settings.daemon.name):
            return False
        return mark.run not in alive

    lives = {below.pid for one in leaders for below in (one, *processes.descendants(one.pid))}
    keeper = set() if watchdog is None else {watchdog.identity.pid}
    members = processes.run_members(table, known, None, is_orphan, {*never, *lives, *keeper})
    members = processes.without_spared(members, settings.watchdog.spare)
    return [one for one in members if processes.read_living(one.identity) is not None]


def _twins(
    settings: Settings,
    directory: str | None,
    table: Collection[Process],
    marks: Mapping[int, Mark],
    ours: Collection[int],
) -> tuple[Row, ...]:
    found = [
        one
        for one in table
        if one.pid not in ours
        and runs_command(processes.read_command_line(one.pid), settings.daemon.command)
        and directory is not None
        and processes.read_directory(one.pid) == directory
    ]
    pids = {one.pid for one in found}
    return tuple(row_of(one, marks.get(one.pid)) for one in found if one.parent not in pids)


# --- the PID file ----------------------------------------------------------------------------------------------


def _read_places(settings: Settings) -> tuple[PidFile | None, str | None]:
    """What the PID file holds, and the real path of the daemon's folder; either may lie where nobody answers."""
    path, directory = settings.daemon.pid_file, settings.daemon.directory
    asked = [probes.Probe("directory", lambda: os.path.realpath(directory), str, PLACES_SECONDS)]
    if path is not None:
        asked.append(probes.Probe("PID file", lambda: _look_at(path), PidFile, PLACES_SECONDS))
    answers = probes.ask(asked)
    real = answers["directory"].value
    told = answers.get("PID file")
    named = None if told is None else told.value
    if told is not None and path is not None and not isinstance(named, PidFile):
        named = PidFile(str(path), Verdict.UNREADABLE, told.problem or "cannot be read")
    return named if isinstance(named, PidFile) else None, real if isinstance(real, str) else None


def _look_at(path: Path) -> PidFile:
    try:
        text = files.read_small(path, limit=64, follow=False)
    except FileNotFoundError:
        return PidFile(str(path), Verdict.MISSING, "is not there")
    except OSError as error:
        return PidFile(str(path), Verdict.UNREADABLE, f"cannot be used ({error.strerror})")
    pid = parse_pid(text)
    if pid is None:
        shown = text.strip()[:20].decode(errors="replace")
        return PidFile(str(path), Verdict.GARBAGE, f"holds {shown!r}, which is no process's number")
    return PidFile(str(path), Verdict.DEAD, f"names pid {pid}, which does not run", pid)


def _judged(
    settings: Settings,
    named: PidFile,
    daemon: Process | None,
    marks: Mapping[int, Mark],
    leaders: Collection[Process],
) -> PidFile:
    """Whom the file names: the daemon, a stranger, or nobody."""
    process = None if named.pid is None else processes.read_process(named.pid)
    if process is None or processes.is_gone(process):
        return named
    mark, runs = marks.get(process.pid), {marks[one.pid].run for one in leaders if one.pid in marks}
    is_member = mark is not None and mark.run in runs
    if is_member or (daemon is not None and daemon.pid == process.pid):
        text = f"names pid {process.pid}, which is the daemon's"
        return msgspec.structs.replace(named, verdict=Verdict.DAEMON, text=text)
    text = f"names pid {process.pid} ({process.name}), which is not the daemon"
    if daemon is not None:
        text += f" (pid {daemon.pid})"
    else:
        from trainguard.daemon import Daemon  # costs time, and few PID files name a stranger

        look = Daemon(settings).look(State(), time.monotonic())
        if isinstance(look.daemon, Alive) and look.daemon.identity.pid == process.pid:
            text = f"names pid {process.pid}, which a watchdog would adopt"
            return msgspec.structs.replace(named, verdict=Verdict.DAEMON, text=text)
        text = next((one.fact.removesuffix("; ignored") for one in look.findings), text)
    return msgspec.structs.replace(named, verdict=Verdict.STRANGER, text=text)


# --- requests and incidents ------------------------------------------------------------------------------------


def _read_request(folder: RunFolder) -> Waiting | None:
    path = folder.directory / "request.json"
    since = 0.0
    try:
        since = path.lstat().st_mtime
        content = files.read_small(path, follow=False)
        told = msgspec.json.decode(content, type=dict[str, str]).get("request")
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return Waiting(None, since)
    return Waiting(told, since)


def read_incidents(settings: Settings, at_most: int = INCIDENTS_AT_MOST) -> Incidents:
    """The newest incidents; none where there is no folder. Raises OSError where it cannot be read."""
    from trainguard.incidents import read_record

    place = RunFolder(settings.logs.directory).incidents
    try:
        with os.scandir(place) as entries:
            names = [entry.name for entry in entries if entry.is_dir()]
    except FileNotFoundError:
        return Incidents()
    rows, damaged = [], []
    for name in sorted(names, key=_numbers)[-at_most:]:
        record = read_record(place / name)
        if record is None:
            damaged.append(name)
        elif record.id == name:
            rows.append(_incident(record))
    return Incidents(tuple(sorted(rows, key=lambda one: one.wall)), tuple(damaged), len(names))


def _numbers(name: str) -> tuple[int, ...]:
    return tuple(int(part) for part in name.split("-") if part.isascii() and part.isdigit())


def _incident(record: "IncidentRecord") -> IncidentRow:
    told = record.diagnosis or {}
    cause = told.get("cause") or told.get("type")
    wall = seconds_of(record.time) or 0.0
    diagnosed = record.diagnosis is not None and not told.get("provisional")
    return IncidentRow(
        record.id, wall, record.kind, None if cause is None else str(cause), diagnosed, record.closed
    )


# --- what the daemon holds -------------------------------------------------------------------------------------


def read_appetite(settings: Settings) -> Appetite:
    """What the living daemon and its descendants hold now. Raises OSError where the table cannot be read."""
    state = RunFolder(settings.logs.directory).load_state()[0]
    run = state.run
    daemon = None if run is None or run.identity is None else processes.read_living(run.identity)
    daemon = daemon or processes.find_leader(os.path.realpath(settings.logs.directory), settings.daemon.name)
    if daemon is None:
        return Appetite()
    tree = [daemon, *processes.descendants(daemon.pid)][:TREE_AT_MOST]
    memory = [size for one in tree if (size := _anonymous(one.pid)) is not None]
    held = [
        (count, limit, one.pid)
        for one in tree
        if (count := _count_files(one.pid)) is not None and (limit := _file_limit(one.pid)) is not None
    ]
    fullest = max(held, key=lambda one: one[0] / max(1, one[1]), default=(None, None, None))
    uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
    age = uptime - daemon.identity.start_time / os.sysconf("SC_CLK_TCK")
    return Appetite(daemon.pid, time.time() - age, len(tree), sum(memory) if memory else None, *fullest)


def _anonymous(pid: int) -> int | None:
    try:
        text = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return None
    row = next((line for line in text.splitlines() if line.startswith("RssAnon:")), "")
    number = row.split()[1:2]
    return int(number[0]) * 1024 if number and number[0].isdigit() else None


def _count_files(pid: int) -> int | None:
    try:
        with os.scandir(f"/proc/{pid}/fd") as entries:
            return sum(1 for _ in entries)
    except OSError:
        return None


def _file_limit(pid: int) -> int | None:
    try:
        return parse_limits(Path(f"/proc/{pid}/limits").read_text()).get("Max open files")
    except OSError:
        return None
