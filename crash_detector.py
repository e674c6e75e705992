#!/usr/bin/env python3
"""Say what crashed, why, and what to do.

    python3 crash_detector.py                 what is new in the logs of config.yaml
    python3 crash_detector.py run.log ranks/  these files, and the logs in these folders
    zcat old.log.gz | python3 crash_detector.py -

reads the logs once, however large, and tells for each crash what failed first and on which rank, what that set
off, whether a restart helps, and what to do about it. It changes nothing but its own history under logs/.

    BAD   cuda_oom on rank 3 at 2026-01-05T03:12:44+0100; a restart helps after the remedy
          logs/training_output.log:18231  torch.OutOfMemoryError: CUDA out of memory. Tried to allocate ...

exit codes: 0 no crash, 1 a restart cures it, 2 a person is needed, 3 could not tell
"""

from __future__ import annotations

from trainguard import packages

packages.require("msgspec", "yaml", "hyperscan")

import argparse
import re
import signal
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from trainguard import command_line, crash_reports, incidents, moments
from trainguard.config import ConfigError, ExpectedError, Settings, load_settings
from trainguard.health import Status
from trainguard.history import CrashRow, History, identify_in_file, take_position
from trainguard.investigation import evidence, sources
from trainguard.investigation.sources import Source

if TYPE_CHECKING:  # these take a while to load, and a scan with nothing new does without
    from trainguard.diagnosis import Crash
    from trainguard.investigation.investigating import Report

HISTORY_FILE = "crash_history.sqlite3"
FOLLOW_SECONDS = 1.0


# --- what is asked ---------------------------------------------------------------------------------------------


def sources_of(
    arguments: Namespace, settings: Settings | None, history: History | None, notes: list[str]
) -> list[Source]:
    """The parts of logs that the command line asks for."""
    if arguments.files:
        paths = sources.expand([Path(file) for file in arguments.files if file != "-"], notes)
        found = [Source("-")] if "-" in arguments.files else []
        found += [Source(str(path)) for path in paths]
    elif settings is None:
        raise ExpectedError("name the logs to read, or a configuration with --config FILE")
    elif arguments.incident is not None:
        record = incidents.find_record(settings.logs.directory / "incidents", arguments.incident)
        found = [sources.source_of(record)]
    else:
        records = incidents.list_records(settings.logs.directory / "incidents")
        found = sources.plan(settings, history, records, arguments.rotated, notes)
    if arguments.last_n_lines is not None:
        found = [sources.shortened(source, arguments.last_n_lines) for source in found]
    return found


# --- what is told ----------------------------------------------------------------------------------------------


def remember(history: History, report: Report) -> tuple[Crash, ...]:
    """Put the crashes into the history and the logs' ends into its positions; crashes with their counts."""
    incident_of = {one.source.path: one.source.incident for one in report.readings}
    counted = history.add([row_of(crash, incident_of.get(crash.root.file)) for crash in report.crashes])
    return tuple(
        msgspec.structs.replace(
            crash,
            count=seen.count,
            first_seen=moments.text_of(seen.first_seen),
            last_seen=moments.text_of(seen.last_seen),
        )
        for crash, seen in zip(report.crashes, counted, strict=True)
    )


def row_of(crash: Crash, incident: str | None) -> CrashRow:
    """A crash as the history keeps it; it is the same one if it stands at the same place of the same file."""
    path, changed = Path(crash.root.file), None
    try:
        identity, changed = identify_in_file(path, crash.root.offset), path.stat().st_mtime
    except (OSError, ValueError):
        identity = f"{incident or crash.root.file}:{crash.root.offset}:{crash.fingerprint}:{crash.time}"
    at = moments.seconds_of(crash.time) if crash.time is not None else changed
    text, place = crash.root.text, crash.root.offset
    return CrashRow(
        crash.fingerprint, crash.type, identity, crash.cause, crash.rank, at, text, crash.root.file, place
    )


def remember_positions(history: History, report: Report) -> None:
    """How far each log was read."""
    ends: dict[str, tuple[int, int | None]] = {}
    for one in report.readings:
        before, _ = ends.get(one.source.path, (0, None))
        ends[one.source.path] = max(one.end, before), one.source.inode
    positions = []
    for name, (end, inode) in ends.items():
        try:
            # What was rotated away while it was read is read again, rather than its successor never.
            if Path(name).stat().st_ino == inode:
                whole = report.was_whole(name)
                positions.append(take_position(Path(name), Path(name), end, None, whole))
        except OSError:
            continue  # it has gone since; there is nothing to go on with
    history.remember(positions)


def print_crashes(
    crashes: Sequence[Crash], report: Report | None, notes: Sequence[str], arguments: Namespace
) -> Status:
    """Say what was found; the exit code. `report` is None where there was nothing to read."""
    unread = bool(notes) and (report is None or not report.readings)
    status = crash_reports.judge(crashes[0]) if crashes else Status.UNKNOWN if unread else Status.OK
    files, size, seconds = ((), 0, 0.0) if report is None else (report.files, report.bytes, report.seconds)
    if arguments.json:
        scanned = {"files": files, "bytes": size, "seconds": round(seconds, 4)}
        print(command_line.json_of({"crashes": crashes, "scanned": scanned, "notes": notes}))
        return status
    complain(notes)
    if not crashes:
        where = f"in {len(files)} logs, {size / (1 << 20):.1f} MiB" if files else "(nothing new)"
        print(command_line.marked(status, f"no crash {where}"))
    elif arguments.quiet:
        print(crash_reports.in_a_line(crashes))
    else:
        print("\n\n".join("\n".join(crash_reports.in_full(crash)) for crash in crashes))
    return status


def print_history(history: History, as_json: bool) -> Status:
    """Say what the history holds."""
    summary = history.summary()
    if as_json:
        print(command_line.json_of({"history": summary, "notes": history.notes}))
        return Status.OK
    complain(history.notes)
    print("\n".join(crash_reports.of_history(summary)))
    return Status.OK


def complain(notes: Sequence[str]) -> None:
    """Notes on stderr, a line each."""
    for note in notes:
        command_line.complain(command_line.marked(Status.ATTENTION, note, sys.stderr))


# --- the story -------------------------------------------------------------------------------------------------


def read_settings(arguments: Namespace, notes: list[str]) -> Settings | None:
    """The settings; for logs that were named, a configuration that cannot be used is only a note."""
    try:
        return load_settings(arguments.config)
    except ConfigError as error:
        if not arguments.files:
            raise
        notes.append(f"{command_line.near(error.path)}: {error.problems[0]}; goes on without it")
        return None


def detect(
    arguments: Namespace, settings: Settings | None, history: History, notes: list[str], again: bool = False
) -> Status:
    """Read, diagnose, remember, tell; `again` only tells crashes."""
    from_start = arguments.all and not again
    if from_start:
        history.forget_all()
    wanted = sources_of(arguments, settings, None if from_start else history, notes)
    if not wanted:
        return Status.OK if again else print_crashes((), None, [*notes, *history.notes], arguments)
    report = investigate(arguments, settings, wanted, notes)
    crashes = remember(history, report)
    if not arguments.files and arguments.incident is None and arguments.last_n_lines is None:
        remember_positions(history, report)
    if again and not crashes:
        return Status.OK
    status = print_crashes(crashes, report, [*notes, *report.notes, *history.notes], arguments)
    command_line.flush()
    return status


def investigate(
    arguments: Namespace, settings: Settings | None, wanted: Sequence[Source], notes: list[str]
) -> Report:
    """Read the sources and say what crashed."""
    from trainguard.investigation import investigating

    rows = None if settings is None else settings.detector.signatures
    cache = None if settings is None or arguments.no_history else settings.logs.directory
    knowledge = investigating.open_knowledge(rows, cache, notes)
    at_hand = any(source.incident is not None for source in wanted)
    known = evidence.gather(arguments.kernel_log, arguments.gpus, arguments.slurm_job, at_hand, notes)
    with command_line.progress_bar("scanning", sources.size_of(wanted)) as advance:
        report = investigating.investigate(wanted, knowledge, known, advance)
    return investigating.since(report, arguments.since)


def follow(arguments: Namespace, settings: Settings | None, history: History, status: Status) -> Status:
    """Go on with what is appended, until Ctrl-C; the exit code is about the last crash."""
    ended = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: ended.set())
    while not ended.wait(FOLLOW_SECONDS):
        found = detect(arguments, settings, history, [], again=True)
        status = found if found in (Status.ATTENTION, Status.BAD) else status
    return status


def run(arguments: Namespace) -> int:
    """Do what the command line says."""
    if arguments.check_config:
        return command_line.check_config(arguments.config)
    if arguments.list or arguments.explain is not None:
        told = crash_reports.all_types() if arguments.list else crash_reports.explanation(arguments.explain)
        print("\n".join(told))
        return Status.OK
    notes: list[str] = []
    settings = read_settings(arguments, notes)
    folder = Path("/nonexistent") if settings is None else settings.logs.directory
    writable = settings is not None and not arguments.no_history
    history = History(folder / HISTORY_FILE, writable)
    try:
        if arguments.history:
            return print_history(history, arguments.json)
        status = detect(arguments, settings, history, notes)
        return follow(arguments, settings, history, status) if arguments.follow else status
    finally:
        history.close()


def parse_since(text: str) -> float:
    """A moment in seconds since 1970: a date, a date and a time, or how long ago."""
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw])(?:\s*ago)?", text.strip()):
        return time.time() - float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[match[2]]
    if (moment := moments.seconds_of(text.strip())) is None:
        raise argparse.ArgumentTypeError(f"{text}: no time such as '2026-01-05 03:00' or 6h")
    return moment


def parse(argv: Sequence[str] | None) -> Namespace:
    """The command line."""
    parser = command_line.parser(__doc__, __file__)
    parser.add_argument("files", nargs="*", metavar="LOG", help="logs, folders with logs, or - for stdin")
    parser.add_argument("--last-n-lines", type=int, metavar="N", help="read only the end of each log")
    parser.add_argument(
        "--since",
        type=parse_since,
        metavar="TIME",
        help="tell only what crashed since then: 2026-01-05, '2026-01-05 03:00', or 90m, 6h, 2d ago",
    )
    parser.add_argument(
        "--all", action="store_true", help="read from the beginning, not from where the last scan stopped"
    )
    parser.add_argument(
        "--rotated", action="store_true", help="also read on in the log that was rotated away since"
    )
    parser.add_argument(
        "--incident", metavar="ID", help="what the watchdog recorded: its part of the log and what it knows"
    )
    parser.add_argument(
        "--kernel-log",
        type=Path,
        metavar="FILE",
        help="a file with the kernel's lines (dmesg, journalctl -k)",
    )
    parser.add_argument(
        "--gpus", action="store_true", help="ask the GPUs too: ECC, remapped rows, who holds their memory"
    )
    parser.add_argument("--slurm-job", metavar="ID", help="ask Slurm how this job ended")
    parser.add_argument("--quiet", action="store_true", help="one line")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--no-history", action="store_true", help="write nothing: no history, no position")
    parser.add_argument("--follow", action="store_true", help="go on reading what is appended, until Ctrl-C")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--history", action="store_true", help="tell all crashes so far: counts, first and last, trend"
    )
    what.add_argument("--explain", metavar="TYPE", help="what a crash type or a cause is, and what to do")
    what.add_argument("--list", action="store_true", help="all crash types and causes")
    arguments = parser.parse_args(argv)
    if arguments.last_n_lines is not None and arguments.last_n_lines < 1:
        parser.error("--last-n-lines: expected a number of at least 1")
    if arguments.incident is not None and arguments.files:
        parser.error("--incident names its log itself")
    if arguments.follow and (arguments.files or arguments.incident):
        parser.error("--follow goes with the logs of config.yaml")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of one call."""
    return command_line.guarded(lambda: run(parse(argv)), __file__)


if __name__ == "__main__":
    sys.exit(main())
