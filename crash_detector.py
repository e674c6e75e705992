#!/usr/bin/env python3
"""Say what crashed: the incidents that the watchdog recorded, the newest first.

    python3 crash_detector.py

shows the newest incident in full, how the daemon ended, at which step, what was decided, its last lines, and
one line for each earlier one. It reads the run folder of config.yaml and changes nothing.

    2026-01-05T03:12:44+0000  crash  died of SIGKILL at step 371, restarted after 0.004 s, 21 steps repeated

exit codes: 0 no incident, 1 the newest one was overcome, 2 it was not yet, 3 could not tell
"""

from trainguard import packages

packages.require("msgspec", "yaml")

import sys
from argparse import Namespace
from collections.abc import Sequence

import msgspec

from trainguard import command_line, incidents
from trainguard.config import ExpectedError, load_settings
from trainguard.health import Status
from trainguard.incidents import IncidentRecord
from trainguard.run_folder import RunFolder


def sentence(record: IncidentRecord) -> str:
    """One incident in a line."""
    ended = "still runs" if record.ending is None else ending(record)
    step = "at an unknown step" if record.step is None else f"at step {record.step}"
    restart = "not restarted yet"
    if record.seconds_to_new_process is not None:
        restart = f"restarted after {record.seconds_to_new_process:.3g} s"
    lost = "" if record.steps_lost is None else f", {record.steps_lost} steps repeated"
    return f"{record.time}  {record.kind:<5}  {ended} {step}, {restart}{lost}"


def ending(record: IncidentRecord) -> str:
    """How the run of an incident ended."""
    told = record.ending
    if told is None or told.unknown:
        return "ended in an unknown way"
    return f"died of {told.signal}" if told.signal else f"ended with exit code {told.exit_code}"


def in_full(record: IncidentRecord) -> list[str]:
    """The lines that tell one incident."""
    rows = {
        "pid": record.pid,
        "checkpoint": record.checkpoint,
        "decision": record.decision,
        "left behind": ", ".join(f"{one['name']} (pid {one['pid']})" for one in record.orphans),
        "log": "{file}, bytes {start} to {end}".format(**record.log),
    }
    told = [f"  {name:<12}{value}" for name, value in rows.items() if value not in (None, "")]
    return [sentence(record), *told, *(f"  | {line}" for line in record.last_lines[-20:])]


def judge(records: Sequence[IncidentRecord]) -> Status:
    """How it stands after these incidents, oldest first."""
    if not records:
        return Status.OK
    return Status.ATTENTION if records[-1].next_run_id is not None else Status.BAD


def run(arguments: Namespace) -> int:
    """Do what the command line says."""
    if arguments.check_config:
        return command_line.check_config(arguments.config)
    folder = RunFolder(load_settings(arguments.config).logs.directory)
    if not folder.directory.is_dir():
        raise ExpectedError(f"{folder.directory} is not there: no watchdog has run with this configuration")
    records = incidents.list_records(folder.incidents)
    if arguments.json:
        print(msgspec.json.format(msgspec.json.encode({"incidents": records[::-1]}), indent=2).decode())
    elif not records:
        print(command_line.marked(Status.OK, f"no incident in {folder.directory}"))
    else:
        print("\n".join([*in_full(records[-1]), *map(sentence, records[-2::-1])]))
    return judge(records)


def parse(argv: Sequence[str] | None) -> Namespace:
    """The command line."""
    parser = command_line.parser(__doc__, __file__)
    parser.add_argument("--json", action="store_true", help="one JSON object, whose `incidents` is the list")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of one call."""
    return command_line.guarded(lambda: run(parse(argv)), __file__)


if __name__ == "__main__":
    sys.exit(main())
