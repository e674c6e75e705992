"""Reports: what `--status` says, as an object and as lines."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from trainguard import incidents, processes
from trainguard.config import Remedy, Settings
from trainguard.health import Status
from trainguard.moments import text_of as moment
from trainguard.policy import (
    OVER,
    Action,
    Fork,
    Lead,
    Phase,
    Prune,
    Record,
    SetAside,
    Signal,
    State,
    Tell,
    restarts_left,
)
from trainguard.run_folder import RunFolder

if TYPE_CHECKING:  # it costs memory, and a watchdog that idles does without
    from trainguard.accounting import Account


class StatusReport(msgspec.Struct, frozen=True):
    """One daemon's supervision now. Times are local ISO 8601, durations seconds, None is unknown or none."""

    name: str
    phase: str
    reason: str
    watchdog: int | None
    paused: bool
    pid: int | None
    run: str | None
    step: int | None
    total: int | None
    loss: float | None
    seconds_since_step: float | None
    restarts_left: int
    next_try: str | None
    seconds_to_next_try: float | None
    incident: str | None
    incidents: int
    status: str
    account: "Account | None" = None


def report_status(settings: Settings, folder: RunFolder, state: State) -> StatusReport:
    """Join the saved state with what lives now: a state may be older than its watchdog's death."""
    watchdog = folder.watchdog()
    run = state.run
    now, wall = time.monotonic(), time.time()
    same_boot = state.boot == _boot_id()
    living = None if run is None or run.identity is None else processes.read_living(run.identity)
    if living is None and watchdog is None and state.phase not in OVER:
        living = processes.find_leader(os.path.realpath(settings.logs.directory), settings.daemon.name)
    alive = None if living is None else living.pid
    phase, reason = state.phase.value, state.reason
    if watchdog is None and state.phase not in OVER and (alive is not None or state.phase is not Phase.NEW):
        if alive is not None:
            phase = "running" if state.phase is Phase.NEW else phase
            reason = "the daemon runs unwatched; daemon_watchdog.py --ensure watches it again"
        else:
            phase, reason = (
                "down",
                "neither the daemon nor a watchdog runs; daemon_watchdog.py --ensure starts both",
            )
    next_try = None if state.next_try is None or not same_boot or watchdog is None else state.next_try - now
    moved = (
        None if run is None or run.moved_at is None or not same_boot or alive is None else now - run.moved_at
    )
    known = incidents.list_records(folder.incidents)
    report = StatusReport(
        name=settings.daemon.name,
        phase=phase,
        reason=reason,
        watchdog=None if watchdog is None else watchdog.identity.pid,
        paused=state.paused,
        pid=alive,
        run=None if run is None else run.id,
        step=None if run is None else run.step,
        total=None if run is None else run.total,
        loss=None if run is None else run.loss,
        seconds_since_step=moved,
        restarts_left=restarts_left(state, now, settings) if same_boot else settings.restart.max_restarts,
        next_try=None if next_try is None else moment(wall + next_try),
        seconds_to_next_try=None if next_try is None else max(0.0, next_try),
        incident=str(incidents.folder_of(folder.incidents, known[-1].id)) if known else None,
        incidents=len(known),
        status="",
    )
    return msgspec.structs.replace(report, status=judge_status(report).name)


def with_account(report: StatusReport, settings: Settings, folder: RunFolder, state: State) -> StatusReport:
    """The report with what crashes and hangs have cost so far."""
    from trainguard.accounting import read_account

    return msgspec.structs.replace(report, account=read_account(settings, folder, state))


def judge_status(report: StatusReport) -> Status:
    """How that is: OK while it is watched and runs, or ended as it should; BAD where it lies still."""
    if report.phase in ("finished", "stopped", "new"):
        return Status.OK
    if report.phase in ("parked", "down"):
        return Status.BAD
    if report.phase == "running" and report.watchdog is not None and not report.paused:
        # It hangs, and is only observed.
        return Status.OK if report.reason == "running" else Status.BAD
    return Status.ATTENTION


def summary_of(report: StatusReport) -> str:
    """The report in one sentence."""
    if report.phase != "running":
        return report.reason
    step = "step unknown" if report.step is None else f"step {report.step} of {report.total or 'unknown'}"
    loss = "" if report.loss is None else f", loss {report.loss:.4g}"
    paused = ", paused by a person" if report.paused else ""
    more = "" if report.reason == "running" else f"; {report.reason}"
    left = _counted(report.restarts_left, "restart")
    return f"running as pid {report.pid}{paused}, {step}{loss}, {left} left{more}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def plan_of(actions: Sequence[Action], settings: Settings) -> list[str]:
    """What actions would do, a line each."""
    lines = []
    for action in actions:
        if isinstance(action, Fork):
            remedy = settings.restart.on_crash.get(action.run.remedy or "", Remedy())
            lines.append(f"would start: {' '.join((*settings.daemon.command, *remedy.arguments))}")
        elif isinstance(action, SetAside):
            lines.append(f"would rename {action.spoilt.path}, which is {action.spoilt.verdict}")
            lines += _pointers_led(action)
            if action.spoilt.copy:
                lines.append(f"would put its copy back: {action.spoilt.copy}")
        elif isinstance(action, Lead):
            lines.append(f"would set {action.path} to name {Path(action.resume).name}")
        elif isinstance(action, Prune):
            lines.append(f"would delete {action.path}, as checkpoints.prune says")
        elif isinstance(action, Signal):
            lines.append(f"would send {action.signal} to pid {action.target.pid}")
        elif isinstance(action, Tell):
            lines.append(f"would say: {action.text}")
        elif isinstance(action, Record):
            lines.append(f"would write incident {action.incident.id}: {action.incident.decision}")
    return lines or ["would do nothing"]


def _pointers_led(action: SetAside) -> list[str]:
    """The pointers that name what is to be set aside, and so are led to another."""
    from trainguard.checkpoints.pointers import read_pointers  # costs memory, and few need it

    path = Path(action.spoilt.path)
    if action.resume is None or action.spoilt.copy:
        return []
    named = [one.path for one in read_pointers(path.parent) if one.target == path]
    return [f"would set {one} to name {Path(action.resume).name}" for one in named]


def text_of(report: StatusReport) -> str:
    """The report as lines of name and text."""
    step = "unknown" if report.step is None else f"{report.step} of {report.total or 'unknown'}"
    rows = [
        ("phase", report.phase + (" (paused)" if report.paused else "")),
        ("reason", report.reason),
        ("daemon", "not running" if report.pid is None else f"pid {report.pid}"),
        ("watchdog", "not running" if report.watchdog is None else f"pid {report.watchdog}"),
        ("step", step + ("" if report.loss is None else f", loss {report.loss:.4g}")),
        ("restarts left", str(report.restarts_left)),
    ]
    if report.seconds_since_step is not None:
        rows.insert(5, ("last sign of progress", f"{report.seconds_since_step:.0f} s ago"))
    if report.next_try is not None:
        rows.append(("next try", report.next_try))
    if report.incident is not None:
        rows.append(
            ("latest incident", f"{Path(report.incident) / 'incident.json'} ({report.incidents} in all)")
        )
    if report.account is not None:
        from trainguard.accounting import rows_of

        rows += rows_of(report.account)
    return "\n".join(f"{name:<22}  {text}" for name, text in rows)


def _boot_id() -> str:
    try:
        return processes.boot_id()
    except OSError:
        return ""
