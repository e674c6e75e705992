"""Repairs of the run folder's files: what is broken, over-long, forgotten or waits for nobody."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from trainguard import files, vitals
from trainguard.acknowledgements import FILE as ACKNOWLEDGED
from trainguard.acknowledgements import Acknowledgement
from trainguard.config import Settings
from trainguard.history import HISTORY_FILE
from trainguard.incidents.records import RECORD, list_records, read_record
from trainguard.leftovers import read_temporary
from trainguard.policy import Phase, State
from trainguard.quantities import size_text
from trainguard.repairs.folders import folder_of
from trainguard.repairs.records import FOLDER
from trainguard.repairs.renaming import is_own_file, keep, rename, stamp
from trainguard.repairs.steps import CONTENT_LIMIT, WriteFile
from trainguard.repairs.values import Left, Planned
from trainguard.requests import ANSWER_SECONDS
from trainguard.run_folder import RunFolder
from trainguard.supervision import read_supervision

# As the check of their size has it.
LONG_BYTES = 1 << 30
LEFTOVERS_AT_MOST = 1000
STARTS = ("started", "restarted", "adopted")
ENDS = {"stopped": Phase.STOPPED, "finished": Phase.FINISHED}


def plan_long_logs(settings: Settings, now_wall: float) -> Iterator[Planned]:
    """The daemon's log, the watchdog's output and the events, where they are over-long."""
    folder, limit = settings.logs.directory, settings.health.limits.get("log-size.attention", LONG_BYTES)
    for path in dict.fromkeys((settings.daemon.log, folder / "watchdog.log", folder / "events.jsonl")):
        try:
            about = path.lstat()
        except FileNotFoundError:
            continue
        if not stat.S_ISREG(about.st_mode) or about.st_size < limit:
            continue
        why = _why_kept(settings, path)
        if why is not None:
            yield Left(f"{path} is {size_text(about.st_size)} long: {why}")
        else:
            yield rename(path, f"{path.name}.1-{stamp(now_wall)}")


def _why_kept(settings: Settings, path: Path) -> str | None:
    folder = RunFolder(settings.logs.directory)
    state = folder.load_state()[0]
    if path == folder.events_file:
        # Where the state is lost, they tell how often the daemon was restarted.
        is_lately = folder.restarts_told(settings.restart.window)
        return "the daemon was restarted lately, which it tells" if is_lately else None
    if path != settings.daemon.log:
        return None
    seen = read_supervision(settings)
    if seen.daemon is not None or seen.orphans or seen.twins:
        return "the daemon writes to it; rotate it with logrotate and copytruncate"
    is_open = state.incident is not None and not state.incident.closed
    return "the last crash in it is not recovered from yet" if is_open else None


def plan_broken_state(settings: Settings, now_wall: float) -> Iterator[Planned]:
    """As a watchdog begins that finds such a state: the old one set aside, the restarts by the events.

    The state is written over in one step: where it was missing for a moment, restarts would be forgotten.
    """
    folder = RunFolder(settings.logs.directory)
    finding = folder.load_state()[1]
    if finding is None:
        return
    about = folder.state_file.lstat()
    aside = f"state.json.broken-{int(now_wall)}"
    if not stat.S_ISREG(about.st_mode):
        yield Left(f"{folder.state_file} is no file: move it away")
    elif folder.recent_events() and folder.restarts_told(settings.restart.window):
        yield Left(
            f"{folder.state_file}: the daemon was restarted within restart.window; a watchdog that begins counts that"
        )
    else:
        content = msgspec.json.encode(msgspec.structs.replace(_ended_state(folder), looked_wall=now_wall))
        place = folder_of(folder.directory)
        yield WriteFile(
            place, "state.json", content, about.st_ino, None, stat.S_IMODE(about.st_mode), None, aside
        )


def _ended_state(folder: RunFolder) -> State:
    """A new state; where the last start or end that the events tell is an end, that stays so."""
    told = [one for one in folder.recent_events() if one.event in (*STARTS, *ENDS)]
    if not told or told[-1].event not in ENDS:
        return State()
    return State(phase=ENDS[told[-1].event], reason=told[-1].text)


def plan_stuck_request(settings: Settings, now_wall: float) -> Iterator[Planned]:
    """A request that nobody answers, as no watchdog runs."""
    path = settings.logs.directory / "request.json"
    try:
        about = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISREG(about.st_mode) and now_wall - about.st_mtime > ANSWER_SECONDS:
        yield keep(path, 1)


def plan_leftover_files(settings: Settings, now_wall: float) -> Iterator[Planned]:
    """Temporary files of ours in the run folder that are older than an hour."""
    kept = settings.logs.directory / FOLDER
    found = [Path(one.path) for one in read_temporary(settings.logs.directory).leftovers]
    found = [path for path in sorted(found) if path.parent == kept or kept not in path.parents]
    for number, path in enumerate(found[:LEFTOVERS_AT_MOST], 1):
        yield keep(path, number)


def plan_broken_history(settings: Settings, now_wall: float) -> Iterator[Planned]:
    """A damaged crash history is set aside, and made anew of the incidents."""
    path = settings.logs.directory / HISTORY_FILE
    try:
        about = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(about.st_mode):
        yield Left(f"{path} is no file: move it away")
        return
    damage, other = damage_of(path)
    if other:
        yield Left(f"{path} {other}")
    if not damage:
        return
    suffix = f"corrupt-{stamp(now_wall)}"
    journal = path.with_name(f"{path.name}-journal")
    if os.path.lexists(journal):
        # SQLite would play it into the new one.
        yield rename(journal, f"{journal.name}.{suffix}")
    content = rebuilt_history(settings)
    if len(content) > CONTENT_LIMIT:
        yield Left(f"{path}: made anew it has {size_text(len(content))}; the next scan begins another one")
        return
    aside = files.free_name(path.with_name(f"{path.name}.{suffix}")).name
    mode = stat.S_IMODE(about.st_mode)
    yield WriteFile(folder_of(path.parent), path.name, content, about.st_ino, None, mode, None, aside)


def damage_of(path: Path) -> tuple[str, str]:
    """What is damaged in a history, and what else keeps it from being used; both empty where it is whole."""
    import sqlite3
    from contextlib import closing

    from trainguard.history import History

    history = History(path, writable=False)
    history.summary()
    history.close()
    notes = [note.removeprefix(f"the crash history {path} ") for note in history.notes]
    if any(note.startswith("is damaged") for note in notes):
        return notes[0], ""
    if notes:
        return "", notes[0]
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            (verdict,) = database.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        return (
            ("", str(error)) if isinstance(error, sqlite3.OperationalError) else (f"is damaged ({error})", "")
        )
    return ("", "") if verdict == "ok" else (f"is damaged ({verdict})", "")


def rebuilt_history(settings: Settings) -> bytes:
    """A history with the crashes of all diagnosed incidents, as the bytes of its file. Raises OSError."""
    from tempfile import TemporaryDirectory

    from trainguard.diagnosis import Crash
    from trainguard.history import History
    from trainguard.investigation.remembering import row_of

    rows = []
    for record in list_records(settings.logs.directory / "incidents"):
        try:
            rows.append(row_of(msgspec.convert(record.diagnosis, Crash), record.id))
        except msgspec.ValidationError:
            continue
    if not rows:
        return b""
    with TemporaryDirectory() as folder:
        history = History(Path(folder) / HISTORY_FILE)
        history.add(rows)
        history.close()
        return history.path.read_bytes()


def plan_broken_records(settings: Settings, now_wall: float) -> Iterator[Planned]:
    """What health checks and incidents have written and nobody can understand any more."""
    folder, suffix = settings.logs.directory, f"broken-{stamp(now_wall)}"
    for name, is_broken in ((vitals.FILE, _is_no_past), (ACKNOWLEDGED, _is_no_acknowledgement)):
        path = folder / name
        if os.path.lexists(path) and not path.is_symlink() and is_broken(path):
            yield rename(path, f"{name}.{suffix}")
    incidents = folder / "incidents"
    for place in sorted(incidents.iterdir()) if incidents.is_dir() else ():
        path = place / RECORD
        if place.is_dir() and not place.is_symlink() and os.path.lexists(path) and read_record(place) is None:
            # A link leads elsewhere, and what may not be read is not broken.
            if is_own_file(path) and os.access(path, os.R_OK):
                yield rename(path, f"{RECORD}.{suffix}")
            else:
                yield Left(f"{path} cannot be read")


def _is_no_past(path: Path) -> bool:
    return not path.is_file() or (path.stat().st_size > 0 and not vitals.read_past(path.parent).samples)


def _is_no_acknowledgement(path: Path) -> bool:
    if not path.is_file():
        return True
    try:
        msgspec.json.decode(files.read_small(path), type=dict[str, Acknowledgement])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return True
    return False
