"""What tests of checks need: one check's judgement over made-up values, and a run over the real machine."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from trainguard import processes
from trainguard.checks.running import judge, limits_of, run_checks
from trainguard.checks.values import Check, Facts, Result
from trainguard.config import DaemonSettings, Settings
from trainguard.identity import Identity
from trainguard.policy import Phase, Run, State
from trainguard.probes import Answer
from trainguard.run_folder import Holder
from trainguard.supervision import Row, Supervision
from trainguard.vitals import Past, Sample, key_of

WALL = 1_800_000_000.0
NOW = 50_000.0
DAEMON = Identity(4000, 77, "boot", 0)
WATCHDOG = Identity(3000, 55, "boot", 0)


def settings_of(daemon: Mapping[str, Any] | None = None, **sections: Any) -> Settings:
    """Settings without a file behind them."""
    values = {"name": "demo", "command": ("python", "train.py"), **(daemon or {})}
    return Settings(path=Path("/absent/config.yaml"), daemon=DaemonSettings(**values), **sections)


def told(
    checks: Sequence[Check],
    check_id: str,
    *values: object,
    settings: Settings | None = None,
    past: Past | None = None,
    answers: Mapping[str, Answer] | None = None,
) -> Result:
    """What one check tells of these values; `answers` are readings that gave nothing."""
    check = next(one for one in checks if one.id == check_id)
    settings = settings or settings_of()
    facts = Facts(settings, values, past or Past(), WALL)
    given = {reading.name: Answer() for reading in check.reads} | dict(answers or {})
    return judge(check, facts, limits_of(settings, checks)[check_id], given)


def looked(checks: Sequence[Check], settings: Settings, past: Past | None = None) -> dict[str, Result]:
    """What the checks tell of this machine now, by id."""
    results = run_checks(checks, settings, limits_of(settings, checks), past or Past())
    return {one.check.id: one for one in results}


def past_of(name: str, values: Sequence[float], every: float = 600.0, subject: str = "") -> Past:
    """Earlier looks at one number, the last one `every` seconds ago."""
    walls = [WALL - every * (len(values) - place) for place in range(len(values))]
    pairs = zip(walls, values, strict=True)
    return Past(tuple(Sample(wall, "boot", 0.0, {key_of(name, subject): value}) for wall, value in pairs))


def sentences(result: Result) -> str:
    """All that a check told, in one text."""
    return "\n".join(map(str, result.findings))


def supervision(**changes: Any) -> Supervision:
    """A healthy run that trains, watched, looked at a second ago; with changes."""
    run = Run(
        id="run-1",
        number=1,
        began=NOW - 5000,
        began_wall=WALL - 5000,
        identity=DAEMON,
        step=100,
        stepped=True,
        moved_at=NOW - 2,
    )
    state = State(
        phase=Phase.RUNNING,
        reason="running",
        boot="boot",
        looked_at=NOW - 1,
        looked_wall=WALL - 1,
        run=run,
        runs=1,
        has_source=True,
    )
    row = Row(DAEMON, "python", "S", ("python", "train.py"), "/work", "run-1", "/logs", "/logs/out.log")
    values: dict[str, Any] = {
        "now": NOW,
        "wall": WALL,
        "boot": "boot",
        "state": state,
        "state_problem": None,
        "has_state": True,
        "watchdog": Holder(WATCHDOG, WALL - 6000, "1"),
        "watchdog_state": "S",
        "holder": Holder(WATCHDOG, WALL - 6000, "1"),
        "daemon": row,
        "recorded": row,
        "leaders": (row,),
        "twins": (),
        "orphans": (),
        "directory": "/work",
        "pid_file": None,
        "request": None,
        "last_event": None,
        "parked_wall": None,
        "reloaded_wall": None,
        "restarts_day": 0,
        "has_events": True,
    }
    return Supervision(**(values | changes))


def with_state(now: Supervision | None = None, **changes: Any) -> Supervision:
    """The same with another saved state."""
    now = now or supervision()
    return msgspec.structs.replace(now, state=msgspec.structs.replace(now.state, **changes))


def with_run(now: Supervision | None = None, **changes: Any) -> Supervision:
    """The same with another saved run."""
    now = now or supervision()
    return with_state(now, run=msgspec.structs.replace(now.state.run, **changes))


def wait_for_state(pid: int, letters: str, limit: float = 10.0) -> None:
    """Wait until a process is in one of these states."""
    deadline = time.monotonic() + limit
    while (process := processes.read_process(pid)) is None or process.state not in letters:
        assert time.monotonic() < deadline, f"pid {pid} is not in state {letters}"
        time.sleep(0.01)
