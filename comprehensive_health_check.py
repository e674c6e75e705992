#!/usr/bin/env python3
"""Is it safe to train here? A look at the machine, the GPUs, the daemon, the settings and the checkpoints.

    python3 comprehensive_health_check.py                  a line for each check, the worst first; nothing is changed
    python3 comprehensive_health_check.py --gate && start  only what must hold before a start
    python3 comprehensive_health_check.py --fix            mend what is safe to mend, and look again

    WARN     disk-free  disk /data: 3.1 GiB free, the next checkpoint needs 4.9 GiB; free space or ...

Every check is a row of one table: --list names all, --explain ID tells what one looks at and its limits, which
health.limits in config.yaml may set otherwise. What a person knows of is shown and does not count any more after
--ack ID, until the next boot or --until. A health check keeps its numbers in the run folder, for the next one.

exit codes: 0 fine, 1 attention (also a check that could not be decided), 2 bad, 3 the check itself failed;
with --gate attention counts as fine, since what must hold does
"""

from trainguard import packages

packages.require("msgspec", "yaml", "psutil")

import argparse
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainguard import (
    acknowledgements,
    checks,
    command_line,
    health_reports,
    moments,
    probes,
    processes,
    vitals,
)
from trainguard.acknowledgements import Acknowledgement, read_acknowledgements
from trainguard.checks import CHECKS, Check, Result
from trainguard.config import Settings, load_settings
from trainguard.health import Status

if TYPE_CHECKING:  # loading the repairs takes time, and few calls mend
    from trainguard.repairs import Outcome

RUN_FOLDER_SECONDS = 2.0


def look(chosen: Sequence[Check], settings: Settings, deep: bool) -> list[Result]:
    """Run the checks, told on the terminal as they go, and take off what a person has acknowledged."""
    limits = checks.limits_of(settings, CHECKS)
    names = [reading.name for reading in checks.readings_of(chosen)]
    line = health_reports.ProgressLine(sys.stderr, names)
    try:
        results = checks.run_checks(chosen, settings, limits, read_past(settings), deep, line.answered)
    finally:
        line.end()
    return checks.acknowledge(results, read_acknowledged(settings))


def ask_alone(what: str, read: Callable[[], object], gives: Any) -> Any:
    """Something about the run folder, which may lie where nobody answers; None, with a note, where it is not told."""
    answer = probes.ask([probes.Probe(what, read, gives, RUN_FOLDER_SECONDS)])[what]
    if answer.problem is not None:
        command_line.tell_notes([f"{what}: {answer.problem}"])
    return answer.value


def read_past(settings: Settings) -> vitals.Past:
    """The earlier health checks; without any, where they cannot be read, forecasts wait."""
    found = ask_alone("the past", lambda: vitals.read_past(settings.logs.directory), vitals.Past)
    return found or vitals.Past()


def read_acknowledged(settings: Settings) -> dict[str, Acknowledgement]:
    """What a person knows of; nothing, so that all counts, where the file is damaged."""

    def read() -> object:
        return read_acknowledgements(settings.logs.directory, processes.boot_id(), time.time())

    return ask_alone("known faults, all of which count now", read, dict[str, Acknowledgement]) or {}


def keep(results: Sequence[Result], settings: Settings) -> None:
    """Keep what was measured for the next time; who may not write there only looks."""
    sample = checks.sample_of(results, processes.boot_id(), time.time())

    def append() -> None:
        if settings.logs.directory.is_dir():
            vitals.append(settings.logs.directory, sample)

    ask_alone("the numbers are not kept", append, None)


def mend(results: Sequence[Result], settings: Settings, dry: bool) -> "list[Outcome]":
    """Carry out the repairs of what is not fine, or if `dry` only plan them."""
    from trainguard import repairs

    told = ask_alone("earlier repairs", lambda: repairs.unfinished(settings), list[repairs.Record])
    notes = (f"repair {one.id} was cut off; --undo {one.id} puts back what it did" for one in told or ())
    command_line.tell_notes(notes)
    wanted = {one.check.fix for one in results if one.status and one.acknowledged is None and one.check.fix}
    outcomes = []
    for plan in repairs.plan_repairs(wanted, settings, time.time()):
        if dry or not plan.steps:
            steps = tuple(step.describe() for step in plan.steps)
            outcomes.append(repairs.Outcome(plan.repair, None, steps, plan.left))
            continue
        # Planned anew once the ones before it are done: a pointer follows its checkpoint.
        (again,) = repairs.plan_repairs([plan.repair], settings, time.time())
        outcomes.append(repairs.carry_out(again, settings, time.time()))
    return outcomes


def undo(record: str, settings: Settings) -> Status:
    """Put back what a repair has changed, as far as that can be."""
    from trainguard import repairs

    lines = repairs.undo(settings, record)
    print("\n".join(map(command_line.printable, lines)))
    return Status.ATTENTION if any(line.startswith(repairs.STAYS) for line in lines) else Status.OK


def report(
    results: Sequence[Result], outcomes: "Sequence[Outcome]", arguments: Namespace, seconds: float
) -> None:
    """Tell the results as the command line wants them."""
    if arguments.prometheus is not None:
        health_reports.write_metrics(arguments.prometheus, results, time.time())
    if arguments.json:
        told = health_reports.object_of(results, seconds)
        mended = {"repairs": outcomes, "dry_run": arguments.dry_run} if arguments.fix else {}
        print(command_line.json_of({**told, **mended}))
    elif arguments.perfdata:
        print("\n".join(health_reports.plugin_lines(results, seconds)))
    else:
        for text in health_reports.repair_lines(outcomes, arguments.dry_run):
            print(text)
        for text in health_reports.lines_of(results, arguments.quiet):
            print(text)
        if not arguments.quiet:
            print(health_reports.summary_of(results, seconds))


def acknowledge(arguments: Namespace, settings: Settings) -> Status:
    """Remember that a person knows of the faults that these checks tell now."""
    chosen = checks.choose(CHECKS, arguments.ack)
    results = look(chosen, settings, False)
    faults = {one.check.id: checks.faults_of(one) for one in results if one.status}
    known = read_acknowledged(settings)
    acknowledgements.acknowledge(settings.logs.directory, known, faults, processes.boot_id(), arguments.until)
    known = read_acknowledged(settings)
    for one in results:
        told = known.get(one.check.id, "there is no fault to acknowledge")
        subjects = f" ({', '.join(faults[one.check.id])})" if one.check.id in faults else ""
        print(command_line.marked(Status.OK, f"{one.check.id}: {told}{subjects}"))
    return Status.OK if faults else Status.ATTENTION


def explain(arguments: Namespace, settings: Settings) -> Status:
    """Tell all that is known of some checks."""
    limits = checks.limits_of(settings, CHECKS)
    chosen = checks.choose(CHECKS, [arguments.explain])
    if arguments.json:
        print(command_line.json_of(health_reports.rows_of(chosen, limits)))
    else:
        for check in chosen:
            print("\n".join(health_reports.explanation_of(check, limits[check.id])))
    return Status.OK


def list_checks(arguments: Namespace, settings: Settings, chosen: Sequence[Check]) -> Status:
    """Tell the table."""
    if arguments.json:
        print(command_line.json_of(health_reports.rows_of(chosen, checks.limits_of(settings, CHECKS))))
    else:
        print("\n".join(health_reports.table_of(chosen)))
    return Status.OK


def run(arguments: Namespace) -> int:
    """Do what the command line says."""
    if arguments.check_config:
        return command_line.check_config(arguments.config)
    settings = load_settings(arguments.config)
    if arguments.ack:
        return acknowledge(arguments, settings)
    if arguments.explain:
        return explain(arguments, settings)
    if arguments.undo:
        return undo(arguments.undo, settings)
    skipped = [*settings.health.skip, *arguments.skip]
    chosen = checks.choose(CHECKS, arguments.only, skipped, arguments.component, arguments.gate)
    if arguments.list:
        return list_checks(arguments, settings, chosen)
    began = time.monotonic()
    results = look(chosen, settings, arguments.deep)
    outcomes = mend(results, settings, arguments.dry_run) if arguments.fix else []
    if any(one.done for one in outcomes) and not arguments.dry_run:
        results = look(chosen, settings, arguments.deep)
    if not arguments.dry_run:
        keep(results, settings)
    report(results, outcomes, arguments, time.monotonic() - began)
    worst = checks.worst_of(results)
    return Status.OK if arguments.gate and checks.only_attention(results) else worst


def end_of(text: str) -> float:
    """An argument that names a moment to come, in seconds since 1970. Raises ArgumentTypeError."""
    if (moment := moments.moment_after(time.time(), text)) is None or moment <= time.time():
        raise argparse.ArgumentTypeError(f"{text}: no time to come, such as 8h, 2d or 2027-01-05T09:00")
    return moment


def parse(argv: Sequence[str] | None) -> Namespace:
    """The command line."""
    parser = command_line.parser(__doc__, __file__)
    ids = {"metavar": "ID", "action": "append", "default": []}
    parser.add_argument("--only", **ids, help="this check alone, or those that fit disk-*; repeatable")
    parser.add_argument("--skip", **ids, help="all but this one; repeatable")
    parser.add_argument(
        "--component", **{**ids, "metavar": "NAME"}, help="the checks of this one; repeatable"
    )
    parser.add_argument("--gate", action="store_true", help="only what must hold before a start")
    parser.add_argument("--deep", action="store_true", help="read the newest checkpoints from end to end")
    parser.add_argument("--list", action="store_true", help="what is looked at, and exit")
    parser.add_argument("--explain", metavar="ID", help="all that is known of a check, and exit")
    parser.add_argument(
        "--ack", **ids, help="this fault is known: it is shown and does not count; repeatable"
    )
    parser.add_argument(
        "--until", metavar="TIME", type=end_of, help="with --ack: until then, else the next boot"
    )
    parser.add_argument("--fix", action="store_true", help="mend what is safe to mend, and look again")
    parser.add_argument("--dry-run", action="store_true", help="with --fix: only say what would be done")
    parser.add_argument("--undo", metavar="RECORD", help="put back what a repair has changed, and exit")
    parser.add_argument("--quiet", action="store_true", help="only what is not fine")
    parser.add_argument("--json", action="store_true", help="one JSON object, whose `checks` is the list")
    parser.add_argument("--perfdata", action="store_true", help="as a plugin of Nagios tells it")
    parser.add_argument(
        "--prometheus", metavar="FILE", type=Path, help="write metrics for node_exporter, too"
    )
    arguments = parser.parse_args(argv)
    if arguments.until is not None and not arguments.ack:
        parser.error("--until goes with --ack")
    if arguments.dry_run and not arguments.fix:
        parser.error("--dry-run goes with --fix")
    if arguments.perfdata and arguments.json:
        parser.error("--perfdata and --json are two answers; choose one")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of one call."""
    return command_line.guarded(lambda: run(parse(argv)), __file__)


if __name__ == "__main__":
    sys.exit(main())
