#!/usr/bin/env python3
"""Say what crashed, why, and what to do.

    python3 crash_detector.py                 what is new in the logs of config.yaml
    python3 crash_detector.py run.log ranks/  these files, and the logs in these folders
    zcat old.log.gz | python3 crash_detector.py -

reads the logs once, however large, and tells for each crash what failed first and on which rank, what that set
off, whether a restart helps, and what to do about it. It changes nothing but its own history under logs/.

    BAD   cuda_oom on rank 3 at 2026-01-05T03:12:44+0100; a restart helps after the remedy
          logs/training_output.log:18231  torch.OutOfMemoryError: CUDA out of memory. Tried to allocate ...

exit codes: 0 no crash, 1 a restart cures it, 2 a person is needed, 3 could not tell: no crash was found, but
nothing could be read of a log that was asked for (one that is empty, or was read in part, is only a note)
"""

from __future__ import annotations

from trainguard import packages

packages.require("msgspec", "yaml", "hyperscan")

import signal
import sys
import threading
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainguard import command_line, crash_reports, incidents
from trainguard.config import ConfigError, ExpectedError, Settings, load_settings
from trainguard.health import Status
from trainguard.history import HISTORY_FILE, History
from trainguard.investigation import remembering, sources
from trainguard.investigation.sources import Source
from trainguard.investigation.unread import list_asked, list_empty, list_unread
from trainguard.run_folder import RunFolder

if TYPE_CHECKING:  # these take a while to load, and a scan with nothing new does without
    from trainguard.diagnosis import Crash
    from trainguard.investigation.investigating import Report

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
        found = sources.plan(settings, history, records, notes)
    if arguments.last_n_lines is not None:
        found = [sources.shortened(source, arguments.last_n_lines) for source in found]
    return found


# --- what is told ----------------------------------------------------------------------------------------------


def print_crashes(
    crashes: Sequence[Crash],
    report: Report | None,
    unread: Sequence[str],
    notes: Sequence[str],
    arguments: Namespace,
) -> Status:
    """Say what was found; the exit code. `report` is None where there was nothing to read."""
    status = crash_reports.judge(crashes[0]) if crashes else Status.UNKNOWN if unread else Status.OK
    files, size, seconds = ((), 0, 0.0) if report is None else (report.files, report.bytes, report.seconds)
    if arguments.json:
        scanned = {"files": files, "bytes": size, "seconds": round(seconds, 4)}
        print(command_line.json_of({"crashes": crashes, "scanned": scanned, "notes": notes}))
        return status
    command_line.tell_notes(notes)
    if not crashes:
        print(crash_reports.no_crash(files, size, unread))
    elif arguments.quiet:
        print(crash_reports.in_a_line(crashes))
    else:
        print("\n\n".join("\n".join(crash_reports.in_full(crash)) for crash in crashes))
    return status


def print_explanation(arguments: Namespace) -> Status:
    """Say what one crash type or cause is, or which there are."""
    if arguments.list:
        lines, content = crash_reports.all_types(), crash_reports.all_types_for_json()
    else:
        found = crash_reports.find_type(arguments.explain)
        lines, content = crash_reports.explanation(found), crash_reports.explanation_for_json(found)
    print(command_line.json_of(content) if arguments.json else "\n".join(lines))
    return Status.OK


def print_history(history: History, settings: Settings | None, as_json: bool) -> Status:
    """Say what the history holds, and what crashes have cost the watched daemon."""
    from trainguard.accounting import Account, read_account

    summary, account = history.summary(), Account()
    if settings is not None:
        folder = RunFolder(settings.logs.directory)
        account = read_account(settings, folder, folder.load_state()[0])
    if as_json:
        print(command_line.json_of({"history": summary, "account": account, "notes": history.notes}))
        return Status.OK
    command_line.tell_notes(history.notes)
    print("\n".join([*crash_reports.of_history(summary), *crash_reports.of_account(account)]))
    return Status.OK


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
    report: Report | None = None
    crashes: tuple[Crash, ...] = ()
    if wanted:
        report = investigate(arguments, settings, wanted, notes)
        crashes = remembering.remember(history, report)
        notes += report.notes
        if not arguments.files and arguments.incident is None and arguments.last_n_lines is None:
            remembering.remember_positions(history, report)
    if again and not crashes:
        return Status.OK
    asked = list_asked(arguments.files, None if arguments.incident is not None else settings)
    unread = list_unread([*asked, *(source.path for source in wanted)], report, notes)
    if arguments.files and report is not None:
        notes += (f"{path}: it is empty" for path in list_empty(asked, report, unread))
    status = print_crashes(crashes, report, unread, [*notes, *history.notes], arguments)
    command_line.flush()
    return status


def investigate(
    arguments: Namespace, settings: Settings | None, wanted: Sequence[Source], notes: list[str]
) -> Report:
    """Read the sources and say what crashed."""
    packages.require("regex")
    from trainguard.investigation import evidence, investigating
    from trainguard.observer import places_of

    rows = None if settings is None else settings.detector.signatures
    cache = None if settings is None or arguments.no_history else settings.logs.directory
    knowledge = investigating.open_knowledge(rows, cache, notes)
    at_hand = any(source.incident is not None for source in wanted)
    places = [] if settings is None else places_of(settings)
    known = evidence.gather(arguments.kernel_log, arguments.gpus, arguments.slurm_job, at_hand, notes, places)
    with command_line.progress_bar("scanning", sources.size_of(wanted)) as advance:
        report = investigating.investigate(wanted, knowledge, known, advance)
    notes += knowledge.matcher.notes
    return investigating.since(report, arguments.since)


def follow(arguments: Namespace, settings: Settings | None, history: History, status: Status) -> Status:
    """Go on with what is appended, until Ctrl-C; the exit code is about the last crash."""
    ended = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: ended.set())
    while not ended.wait(FOLLOW_SECONDS):
        found = detect(arguments, settings, history, [], again=True)
        status = found if found in (Status.ATTENTION, Status.BAD) else status
    return status


def answer(arguments: Namespace) -> int:
    """Do what the command line says; with --json, what keeps it from that is told in the object too."""
    if arguments.check_config:
        return command_line.check_config(arguments.config)
    try:
        return run(arguments)
    except BrokenPipeError:
        raise
    except (ExpectedError, OSError) as error:
        if not arguments.json:
            raise
        print_crashes((), None, (), command_line.sentences_of(error), arguments)
        return Status.UNKNOWN


def run(arguments: Namespace) -> int:
    """Look, and tell."""
    if arguments.list or arguments.explain is not None:
        return print_explanation(arguments)
    notes: list[str] = []
    settings = read_settings(arguments, notes)
    folder = Path("/nonexistent") if settings is None else settings.logs.directory
    writable = settings is not None and not arguments.no_history
    history = History(folder / HISTORY_FILE, writable)
    try:
        if arguments.history:
            return print_history(history, settings, arguments.json)
        status = detect(arguments, settings, history, notes)
        return follow(arguments, settings, history, status) if arguments.follow else status
    finally:
        history.close()


def parse(argv: Sequence[str] | None) -> Namespace:
    """The command line."""
    parser = command_line.parser(__doc__, __file__)
    filled, path_of, moment_of = command_line.filled, command_line.path_of, command_line.moment_of
    add = parser.add_argument
    add("files", nargs="*", type=filled, metavar="LOG", help="logs, folders with logs, or - for stdin")
    add("--last-n-lines", type=int, metavar="N", help="read only the end of each log")
    add("--since", type=moment_of, metavar="TIME", help="only crashes since '2026-01-05 03:00', or 6h ago")
    add("--all", action="store_true", help="read from the beginning, not from where the last scan stopped")
    add("--incident", type=filled, metavar="ID", help="what the watchdog recorded: its log, what it knows")
    add(
        "--kernel-log",
        type=path_of,
        metavar="FILE",
        help="the kernel's lines: dmesg, journalctl -k; - for stdin",
    )
    add("--gpus", action="store_true", help="ask the GPUs too: ECC, remapped rows, who holds their memory")
    add("--slurm-job", type=filled, metavar="ID", help="ask Slurm how this job ended")
    add("--quiet", action="store_true", help="one line")
    add("--json", action="store_true", help="one JSON object, also with --history, --explain and --list")
    add("--no-history", action="store_true", help="write nothing: no history, no position")
    add("--follow", action="store_true", help="go on reading what is appended, until Ctrl-C")
    only = parser.add_mutually_exclusive_group().add_argument
    only("--history", action="store_true", help="tell all crashes so far: counts, first and last, trend")
    only("--explain", type=filled, metavar="TYPE", help="what a crash type or a cause is, and what to do")
    only("--list", action="store_true", help="all crash types and causes")
    arguments = parser.parse_args(argv)
    if arguments.last_n_lines is not None and arguments.last_n_lines < 1:
        parser.error("--last-n-lines: expected a number of at least 1")
    for other in ("history", "explain", "list"):
        if getattr(arguments, other) and arguments.files:
            parser.error(f"--{other} takes no log")
    if arguments.kernel_log == Path("-") and "-" in arguments.files:
        parser.error("--kernel-log -: stdin is the log already")
    if arguments.incident is not None and arguments.files:
        parser.error("--incident names its log itself")
    if arguments.follow and (arguments.files or arguments.incident):
        parser.error("--follow goes with the logs of config.yaml")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of one call."""
    return command_line.guarded(lambda: answer(parse(argv)), __file__)


if __name__ == "__main__":
    sys.exit(main())
