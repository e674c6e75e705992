"""Health reports: results as lines, as JSON, as a Nagios plugin's output, as Prometheus metrics, and the table."""

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import msgspec

from trainguard.checks.running import worst_of
from trainguard.checks.values import Check, Limit, Measure, Result, severity
from trainguard.command_line import counted, printable
from trainguard.health import Finding, Status, painted
from trainguard.quantities import size_text

if TYPE_CHECKING:
    from trainguard.repairs import Outcome

# https://nagios-plugins.org/doc/guidelines.html, the words of a plugin's first line.
NAGIOS = {Status.OK: "OK", Status.ATTENTION: "WARNING", Status.BAD: "CRITICAL", Status.UNKNOWN: "UNKNOWN"}
# The same place has the units that a number may bear.
UNITS = {"bytes": "B", "percent": "%", "seconds": "s", "total": "c"}


# --- for people ------------------------------------------------------------------------------------------------


def lines_of(results: Sequence[Result], quiet: bool = False) -> list[str]:
    """A line for each finding, the worst first; checks that wait for the same answer share one."""
    rows: list[tuple[Status, str, str]] = []
    waiting: dict[str, list[str]] = {}
    for result in sorted(results, key=lambda one: -severity(one.status)):
        if result.undecided is not None and result.acknowledged is None:
            waiting.setdefault(result.undecided, []).append(result.check.id)
            continue
        known = f" ({result.acknowledged})" if result.acknowledged else ""
        rows += [(one.status, result.check.id, printable(f"{one}{known}")) for one in result.findings]
    rows += [
        (Status.UNKNOWN, ids[0], printable(f"could not be decided: {why}{_others(ids[1:])}"))
        for why, ids in waiting.items()
    ]
    rows.sort(key=lambda row: -severity(row[0]))
    shown = [row for row in rows if not quiet or row[0] is not Status.OK]
    width = max((len(row[1]) for row in shown), default=0)
    return [
        f"{painted(status, sys.stdout, 7)}  {check_id:<{width}}  {text}" for status, check_id, text in shown
    ]


def _others(ids: Sequence[str]) -> str:
    return f"; nor {', '.join(ids)}" if ids else ""


def summary_of(results: Sequence[Result], seconds: float) -> str:
    """All in one line: `71 checks: 1 bad, 2 want attention, 60 fine, 8 do not apply here; 0.9 s`."""
    parts = []
    counts = [
        ("bad", lambda one: one.status is Status.BAD),
        ("want attention", lambda one: one.status is Status.ATTENTION),
        ("could not be decided", lambda one: one.status is Status.UNKNOWN),
    ]
    open_ones = [one for one in results if one.acknowledged is None and one.absent is None]
    parts += [f"{number} {words}" for words, fits in counts if (number := sum(map(fits, open_ones)))]
    fine = sum(one.status is Status.OK for one in open_ones)
    absent = sum(one.absent is not None for one in results)
    known = sum(one.acknowledged is not None for one in results)
    parts.append(f"{fine} fine")
    parts += [f"{known} known"] if known else []
    parts += [f"{absent} {'does' if absent == 1 else 'do'} not apply here"] if absent else []
    return f"{counted(len(results), 'check')}: {', '.join(parts)}; {seconds:.1f} s"


def table_of(checks: Sequence[Check]) -> list[str]:
    """`--list`: a line a check, by component."""
    width = max(len(check.id) for check in checks)
    lines = []
    for component in dict.fromkeys(check.component for check in checks):
        lines.append(f"{component}")
        lines += [f"  {one.id:<{width}}  {one.explain}" for one in checks if one.component == component]
    return lines


def explanation_of(check: Check, limits: dict[str, float]) -> list[str]:
    """`--explain`: all that is known of a check, with the limits that hold."""
    rows = [
        ("component", check.component),
        ("reads", ", ".join(reading.name for reading in check.reads)),
        ("at worst", check.worst.name),
        ("within", f"{check.seconds:g} s"),
        ("gate", "must hold before a start" if check.gates else "no"),
        ("--fix", check.fix or "nothing"),
    ]
    rows += [(f"limit {one.name}", _limit_text(one, limits[one.name])) for one in check.limits]
    width = max(len(name) for name, _ in rows)
    return [f"{check.id}: {check.explain}", *(f"  {name:<{width}}  {text}" for name, text in rows)]


def _limit_text(limit: Limit, value: float) -> str:
    own = "" if value == limit.default else f", where the default is {_number(limit.default, limit.unit)}"
    return f"{_number(value, limit.unit)}{own} ({limit.origin})"


def _number(value: float, unit: str) -> str:
    return size_text(value) if unit == "bytes" else f"{value:g} {unit}".strip()


def repair_lines(outcomes: "Sequence[Outcome]", dry: bool) -> list[str]:
    """What `--fix` did, or if `dry` would do: a line for each step, and one for what it leaves and why."""
    if not outcomes:
        return []
    from trainguard.repairs import REPAIRS  # costs time, and only who mends needs it

    lines = []
    for one in outcomes:
        can_be_undone = one.record is not None and REPAIRS[one.repair].undoable
        undo = f" (--undo {one.record})" if can_be_undone else ""
        lines += [
            printable(f"{'would' if dry else 'did'}    {one.repair}: {step}{undo}") for step in one.done
        ]
        lines += [printable(f"left   {one.repair}: {why}") for why in one.left]
    return lines


# --- for programs ----------------------------------------------------------------------------------------------


def object_of(results: Sequence[Result], seconds: float) -> dict[str, object]:
    """`--json`: the status that counts, and every check."""
    return {
        "status": worst_of(results).name,
        "seconds": round(seconds, 3),
        "checks": [_check_object(one) for one in results],
    }


def _check_object(result: Result) -> dict[str, object]:
    return {
        "id": result.check.id,
        "component": result.check.component,
        "status": result.status.name,
        "applies": result.absent is None,
        "why_not": result.absent,
        "acknowledged": result.acknowledged,
        "findings": [{**msgspec.structs.asdict(one), "status": one.status.name} for one in result.findings],
        "measures": [msgspec.structs.asdict(one) for one in result.measures],
        "seconds": round(result.seconds, 4),
    }


def rows_of(checks: Sequence[Check], limits: dict[str, dict[str, float]]) -> dict[str, object]:
    """`--list --json`: every row of the table."""
    return {
        "checks": [
            {
                "id": check.id,
                "component": check.component,
                "explain": check.explain,
                "reads": [reading.name for reading in check.reads],
                "worst": check.worst.name,
                "seconds": check.seconds,
                "gates": check.gates,
                "fix": check.fix,
                "limits": [
                    {**msgspec.structs.asdict(one), "value": limits[check.id][one.name]}
                    for one in check.limits
                ],
            }
            for check in checks
        ]
    }


def plugin_lines(results: Sequence[Result], seconds: float) -> list[str]:
    """`--perfdata`: a plugin's output for Nagios and its kin: the state, the findings, the numbers."""
    state = NAGIOS[worst_of(results)]
    worst = _worst_finding(results)
    head = f"HEALTH {state} - {summary_of(results, seconds)}"
    if worst is not None and worst.status is not Status.OK:
        head = f"HEALTH {state} - {_without_pipe(str(worst))} ({summary_of(results, seconds)})"
    numbers = " ".join(_performance(one) for result in results for one in result.measures)
    more = [
        _without_pipe(f"{NAGIOS[one.status]} {result.check.id}: {one}")
        for result in results
        for one in result.findings
        if one.status is not Status.OK
    ]
    first = f"{head} | {numbers}" if numbers else head
    return [first, *more]


def _worst_finding(results: Iterable[Result]) -> Finding | None:
    findings = [one for result in results if result.acknowledged is None for one in result.findings]
    return max(findings, key=lambda finding: severity(finding.status), default=None)


def _without_pipe(text: str) -> str:
    return printable(text).replace("|", "/")


def _performance(measure: Measure) -> str:
    label = re.sub(r"['=|]", "_", printable(f"{measure.name} {measure.subject}".strip()))
    unit = UNITS.get(measure.name.rpartition("_")[2], "")
    ranges = (measure.attention, measure.bad)
    limits = ["" if one is None else _plain(one) + (":" if measure.low_is_bad else "") for one in ranges]
    return f"'{label}'={_plain(measure.value)}{unit};{';'.join(limits)}"


def _plain(number: float) -> str:
    """Without an exponent, which plugins may not write."""
    return f"{number:.6f}".rstrip("0").rstrip(".")


def write_metrics(file: Path, results: Sequence[Result], now_wall: float) -> None:
    """`--prometheus`: write node_exporter's textfile whole. Raises OSError."""
    from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

    registry = CollectorRegistry()
    states = Gauge(
        "trainguard_check_status",
        "How a check was: 0 fine, 1 attention, 2 bad, 3 not decided",
        ("check", "component"),
        registry=registry,
    )
    known = Gauge(
        "trainguard_check_acknowledged", "1 where a person knows of it", ("check",), registry=registry
    )
    for result in results:
        if result.absent is None:
            states.labels(result.check.id, result.check.component).set(result.status)
            known.labels(result.check.id).set(result.acknowledged is not None)
    overall = Gauge("trainguard_health_status", "0 fine, 1 attention, 2 bad", registry=registry)
    overall.set(worst_of(results))
    when = Gauge("trainguard_health_time_seconds", "When it was looked last (Unix time)", registry=registry)
    when.set(now_wall)
    gauges: dict[str, Gauge] = {}
    for measure in (one for result in results for one in result.measures):
        name = f"trainguard_{measure.name}"
        if name not in gauges:
            # A gauge may not end as a counter does.
            gauges[name] = Gauge(
                name.removesuffix("_total"), "What a check has measured", ("subject",), registry=registry
            )
        gauges[name].labels(printable(measure.subject)).set(measure.value)
    write_to_textfile(str(file), registry)


class ProgressLine:
    """One line on a terminal, renewed as the answers come and taken away in the end; none elsewhere."""

    def __init__(self, stream: TextIO | None, names: Iterable[str]) -> None:
        self._stream = stream if stream is not None and stream.isatty() else None
        self._waiting = list(names)
        self._show()

    def answered(self, name: str) -> None:
        """Take a name off the line."""
        self._waiting.remove(name)
        self._show()

    def end(self) -> None:
        """Take the line away."""
        self._write("")

    def _show(self) -> None:
        more = f" and {len(self._waiting) - 4} more" if len(self._waiting) > 4 else ""
        self._write(f"looking at {', '.join(self._waiting[:4])}{more}" if self._waiting else "")

    def _write(self, text: str) -> None:
        if self._stream is not None:
            self._stream.write(f"\r\x1b[K{text}")
            self._stream.flush()
