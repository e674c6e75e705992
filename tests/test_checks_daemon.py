"""Checks of the daemon and its watchdog: judged at their limits, and against real watchdogs and daemons."""

import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from judging import (
    NOW,
    WALL,
    looked,
    past_of,
    sentences,
    settings_of,
    supervision,
    told,
    wait_for_state,
    with_run,
    with_state,
)
from support import STUB, Sandbox, identity_of, lives, wait_for

from trainguard import processes
from trainguard.cgroup import Allowance
from trainguard.checks.daemon import APPETITE, CHECKS, INCIDENTS, STATUS, SUPERVISION, Standing
from trainguard.checks.values import Result
from trainguard.config import CheckpointSettings, load_settings
from trainguard.health import Status
from trainguard.identity import Identity
from trainguard.memory import Memory
from trainguard.policy import Ending, How, Phase, Work
from trainguard.probes import Answer
from trainguard.run_folder import Event
from trainguard.supervision import (
    Appetite,
    IncidentRow,
    Incidents,
    PidFile,
    Row,
    Supervision,
    Verdict,
    Waiting,
)
from trainguard.vitals import Past

GIB = float(1 << 30)
NOTHING = with_state(
    supervision(daemon=None, recorded=None, leaders=(), watchdog=None, watchdog_state=None, has_events=False),
    phase=Phase.NEW,
    run=None,
    runs=0,
)


def judged(check_id: str, *values: object, **more: Any) -> Result:
    return told(CHECKS, check_id, *values, **more)


def standing(**changes: Any) -> Standing:
    values: dict[str, Any] = {
        "name": "demo",
        "phase": "running",
        "status": Status.OK,
        "sentence": "running as pid 4000",
        "paused": False,
        "pid": 4000,
        "watchdog": 3000,
        "restarts_left": 3,
    }
    return Standing(**(values | changes))


def event(name: str, ago: float) -> Event:
    return Event(WALL - ago, name, "OK", name)


def memory(available: float, allowance: Allowance | None = None) -> Memory:
    return Memory(
        total=int(64 * GIB),
        available=int(available),
        swap_total=0,
        swap_free=0,
        huge_pages_free=0,
        huge_page_size=0,
        committed=0,
        commit_limit=0,
        overcommit=0,
        stalled=None,
        allowance=allowance,
        oom_kills=None,
    )


# --- the table -------------------------------------------------------------------------------------------------


def test_every_row_is_complete() -> None:
    assert len(CHECKS) == 15
    for check in CHECKS:
        assert check.component == "daemon" and len(check.explain) <= 110, check.id
        assert set(check.answers_for) <= set(check.reads)
    answered = [reading.name for check in CHECKS for reading in check.answers_for]
    assert sorted(answered) == sorted(one.name for one in (STATUS, SUPERVISION, APPETITE, INCIDENTS))


@pytest.mark.parametrize("check_id", ["daemon-state", "watchdog-alive", "daemon-memory", "daemon-incidents"])
def test_a_reading_that_hangs_is_told_as_bad_by_the_one_that_answers_for_it(check_id: str) -> None:
    check = next(one for one in CHECKS if one.id == check_id)
    name = check.answers_for[0].name
    result = judged(check_id, answers={name: Answer(None, "no answer within 5 s", True)})
    assert result.status is check.worst and "hangs: no answer within 5 s" in sentences(result)


def test_a_healthy_run_is_fine_in_every_check() -> None:
    values = (standing(), supervision(), Appetite(4000, WALL, 1, 1 << 30, 10, 1024, 4000), Incidents())
    for check in CHECKS:
        result = judged(check.id, *values, memory(32 * GIB))
        assert result.status is Status.OK, sentences(result)


# --- daemon-state ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"phase": "down", "status": Status.BAD, "pid": None, "watchdog": None}, "--ensure"),
        ({"phase": "parked", "status": Status.BAD, "pid": None}, "--resume"),
        ({"status": Status.ATTENTION, "watchdog": None}, "--ensure"),
        ({"status": Status.ATTENTION, "paused": True}, "--resume"),
        ({"phase": "cooling", "status": Status.ATTENTION}, "--status"),
    ],
)
def test_how_the_daemon_stands_has_its_remedy(changes: dict[str, Any], remedy: str) -> None:
    result = judged("daemon-state", standing(**changes))
    assert result.status is changes["status"] and remedy in result.findings[0].remedy


def test_before_anything_was_started_there_is_no_state_to_judge() -> None:
    result = judged("daemon-state", standing(phase="new", pid=None, watchdog=None))
    assert result.absent == "nothing was started yet"


# --- daemon-pid-file -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdict", "status"),
    [
        (Verdict.DAEMON, Status.OK),
        (Verdict.MISSING, Status.ATTENTION),
        (Verdict.UNREADABLE, Status.ATTENTION),
        (Verdict.GARBAGE, Status.ATTENTION),
        (Verdict.DEAD, Status.ATTENTION),
        (Verdict.STRANGER, Status.BAD),
    ],
)
def test_a_pid_file_is_as_good_as_whom_it_names(verdict: Verdict, status: Status) -> None:
    result = judged("daemon-pid-file", supervision(pid_file=PidFile("/x.pid", verdict, "names somebody")))
    assert result.status is status and result.findings[0].subject == "PID file /x.pid"


def test_a_missing_pid_file_is_fine_without_a_daemon_and_none_need_be_set() -> None:
    gone = supervision(daemon=None, pid_file=PidFile("/x.pid", Verdict.MISSING, "is not there"))
    assert judged("daemon-pid-file", gone).status is Status.OK
    assert judged("daemon-pid-file", supervision()).absent == "daemon.pid_file is not set"


# --- daemon-identity -------------------------------------------------------------------------------------------


def recorded(**changes: Any) -> Supervision:
    now = supervision()
    assert now.recorded is not None
    return msgspec.structs.replace(now, recorded=msgspec.structs.replace(now.recorded, **changes))


def test_a_reused_number_is_not_the_recorded_daemon() -> None:
    result = judged("daemon-identity", recorded(identity=Identity(4000, 78, "boot", 0), name="vim"))
    assert result.status is Status.ATTENTION and "is vim now" in sentences(result)


def test_a_mark_of_another_run_is_bad_and_none_wants_attention() -> None:
    assert judged("daemon-identity", recorded(run="run-2")).status is Status.BAD
    assert judged("daemon-identity", recorded(run=None)).status is Status.ATTENTION


def test_an_adopted_daemon_is_known_by_its_command_and_directory() -> None:
    now = with_run(recorded(run=None), marked=False)
    assert judged("daemon-identity", now).status is Status.OK
    other = with_run(recorded(run=None, directory="/other"), marked=False)
    assert "another directory than configured" in sentences(judged("daemon-identity", other))


def test_there_is_no_identity_to_prove_without_a_living_record() -> None:
    assert judged("daemon-identity", supervision(recorded=None)).absent == "the recorded daemon has ended"
    assert judged("daemon-identity", supervision(boot="another")).absent is not None
    assert judged("daemon-identity", with_run(ending=Ending(How.EXIT, 1))).absent is not None
    assert judged("daemon-identity", NOTHING).absent is not None


# --- daemon-single ---------------------------------------------------------------------------------------------


def test_a_second_leader_or_a_twin_is_bad() -> None:
    now = supervision()
    other = Row(Identity(4001, 80, "boot", 0), "python", "S", run="run-2", folder="/logs")
    two = judged("daemon-single", msgspec.structs.replace(now, leaders=(*now.leaders, other)))
    assert two.status is Status.BAD and "pid 4000, 4001" in sentences(two)
    twin = msgspec.structs.replace(other, run=None, folder=None)
    assert "nobody watches it" in sentences(
        judged("daemon-single", msgspec.structs.replace(now, twins=(twin,)))
    )
    watched = msgspec.structs.replace(other, folder="/other/logs")
    assert "watched in /other/logs" in sentences(
        judged("daemon-single", msgspec.structs.replace(now, twins=(watched,)))
    )


def test_a_daemon_that_a_person_started_beside_the_watched_one_is_noticed(sandbox: Sandbox) -> None:
    sandbox.configure()
    sandbox.start()
    wait_for(lambda: (sandbox.state().get("run") or {}).get("step"))
    command = [sys.executable, str(STUB), "--folder", str(sandbox.folder)]
    second = subprocess.Popen(command, cwd=sandbox.folder, stdin=subprocess.DEVNULL)
    sandbox.strangers.append(second)
    sandbox.wait_for_start(2)
    result = looked(CHECKS, load_settings(sandbox.config))["daemon-single"]
    assert result.status is Status.BAD and f"pid {second.pid}" in sentences(result)


# --- watchdog-alive, watchdog-fresh ----------------------------------------------------------------------------


def test_a_watchdog_should_run_unless_a_person_or_the_end_says_otherwise() -> None:
    gone = supervision(watchdog=None, watchdog_state=None)
    result = judged("watchdog-alive", gone)
    assert result.status is Status.BAD and "the last was pid 3000" in sentences(result)
    left = supervision(watchdog=None, last_event=event("left", 5))
    assert "it was told to end" in sentences(judged("watchdog-alive", left))
    for phase in (Phase.FINISHED, Phase.STOPPED):
        assert judged("watchdog-alive", with_state(gone, phase=phase)).status is Status.OK
    assert judged("watchdog-alive", NOTHING).absent == "nothing was started yet"


@pytest.mark.parametrize(
    ("age", "status"),
    [(89.9, Status.OK), (90.0, Status.ATTENTION), (329.9, Status.ATTENTION), (330.0, Status.BAD)],
)
def test_a_watchdog_that_is_late_beyond_its_interval_is_not_fresh(age: float, status: Status) -> None:
    assert judged("watchdog-fresh", with_state(looked_at=NOW - age)).status is status


def test_a_watchdog_that_has_just_begun_need_not_have_looked() -> None:
    fresh = msgspec.structs.replace(
        with_state(looked_at=NOW - 9999),
        watchdog=msgspec.structs.replace(supervision().watchdog, since_wall=WALL - 3),
    )
    assert judged("watchdog-fresh", fresh).status is Status.OK


def test_after_a_boot_the_wall_clock_tells_how_old_the_look_is() -> None:
    assert judged("watchdog-fresh", with_state(boot="before", looked_wall=WALL - 400)).status is Status.BAD


def test_a_watchdog_in_the_kernel_is_bad_once_it_is_late() -> None:
    assert judged("watchdog-fresh", supervision(watchdog_state="D")).status is Status.OK
    late = with_state(supervision(watchdog_state="D"), looked_at=NOW - 90)
    assert judged("watchdog-fresh", late).status is Status.BAD
    assert judged("watchdog-fresh", supervision(watchdog=None)).absent == "no watchdog runs"


def test_a_frozen_watchdog_is_noticed_and_a_killed_one_too(sandbox: Sandbox) -> None:
    sandbox.configure()
    watchdog = sandbox.start()
    wait_for(lambda: (sandbox.state().get("run") or {}).get("step"))
    settings = load_settings(sandbox.config)
    healthy = looked(CHECKS, settings)
    assert {one.status for one in healthy.values()} == {Status.OK}
    watchdog.send_signal(signal.SIGSTOP)
    wait_for_state(watchdog.pid, "T")
    frozen = looked(CHECKS, settings)
    assert frozen["watchdog-fresh"].status is Status.BAD
    assert frozen["watchdog-fresh"].findings[0].remedy == f"kill -CONT {watchdog.pid}"
    watchdog.kill()
    watchdog.wait()
    killed = looked(CHECKS, settings)
    assert killed["watchdog-alive"].status is Status.BAD
    assert "runs unwatched" in sentences(killed["daemon-state"])
    assert killed["daemon-progress"].status is Status.UNKNOWN


def test_a_daemon_that_is_down_with_its_watchdog_is_bad(sandbox: Sandbox) -> None:
    sandbox.configure()
    watchdog = sandbox.start()
    pid = wait_for(lambda: (sandbox.state().get("run") or {}).get("step")) and sandbox.starts()[0]["pid"]
    daemon = identity_of(pid)
    watchdog.kill()
    watchdog.wait()
    processes.send_signal(daemon, signal.SIGKILL)
    wait_for(lambda: not lives(daemon))
    results = looked(CHECKS, load_settings(sandbox.config))
    assert results["daemon-state"].status is Status.BAD
    assert "the daemon does not run either" in sentences(results["watchdog-alive"])
    assert results["daemon-memory"].absent == "the daemon does not run"


def test_what_a_person_stopped_is_fine(sandbox: Sandbox) -> None:
    sandbox.configure()
    sandbox.start()
    wait_for(lambda: (sandbox.state().get("run") or {}).get("step"))
    assert sandbox.call("--stop", "--with-daemon").returncode == 0
    results = looked(CHECKS, load_settings(sandbox.config))
    assert results["watchdog-alive"].status is Status.OK
    assert results["daemon-state"].status is Status.OK


# --- daemon-progress -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age", "status"),
    [(449.0, Status.OK), (450.0, Status.ATTENTION), (599.9, Status.ATTENTION), (600.0, Status.BAD)],
)
def test_a_run_without_a_step_is_judged_by_its_own_patience(age: float, status: Status) -> None:
    now = with_run(with_state(looked_at=NOW), work=Work.TRAINING, moved_at=NOW - age)
    result = judged("daemon-progress", now)
    assert result.status is status, sentences(result)
    assert result.measures[0].bad == 600.0


def test_a_run_that_waits_for_work_never_hangs_and_a_slow_start_has_its_hour() -> None:
    assert judged("daemon-progress", with_run(work=Work.IDLE, moved_at=NOW - 1e6)).status is Status.OK
    starting = with_run(with_state(looked_at=NOW), work=Work.STARTING, moved_at=NOW - 2000)
    assert judged("daemon-progress", starting).status is Status.OK


def test_where_nothing_tells_a_step_no_hang_can_be_noticed() -> None:
    silent = with_run(with_state(has_source=False), moved_at=None, step=None, stepped=False, began=NOW - 700)
    result = judged("daemon-progress", silent)
    assert result.status is Status.ATTENTION and "progress.status_file" in sentences(result)


def test_without_a_watchdog_the_last_step_is_unknown_and_without_a_daemon_there_is_none() -> None:
    assert judged("daemon-progress", supervision(watchdog=None)).status is Status.UNKNOWN
    assert judged("daemon-progress", with_state(boot="before")).status is Status.UNKNOWN
    assert judged("daemon-progress", supervision(daemon=None)).absent == "the daemon does not run"


# --- daemon-phase, daemon-parked -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "age", "status"),
    [
        (Phase.PREPARING, 299.0, Status.OK),
        (Phase.PREPARING, 300.0, Status.ATTENTION),
        # The ladder of stopping is 70 s, and a save may hold SIGKILL back for 600 s.
        (Phase.STOPPING, 969.0, Status.OK),
        (Phase.STOPPING, 970.0, Status.ATTENTION),
        (Phase.RUNNING, 99999.0, Status.OK),
    ],
)
def test_a_passing_phase_that_does_not_pass_wants_attention(phase: Phase, age: float, status: Status) -> None:
    now = with_state(supervision(last_event=event("ended", age)), phase=phase)
    assert judged("daemon-phase", now).status is status


def test_a_phase_that_nobody_ends_is_the_watchdogs_matter() -> None:
    assert (
        judged("daemon-phase", with_state(supervision(watchdog=None), phase=Phase.STOPPING)).absent
        is not None
    )


def test_cooling_down_may_last_until_its_next_try() -> None:
    cooling = with_state(supervision(last_event=event("limit", 5000)), phase=Phase.COOLING)
    assert judged("daemon-phase", with_state(cooling, next_try=NOW + 60)).status is Status.OK
    assert judged("daemon-phase", with_state(cooling, next_try=NOW - 301)).status is Status.ATTENTION
    assert judged("daemon-phase", NOTHING).absent is not None


def test_a_parked_daemon_tells_why_and_since_when() -> None:
    parked = with_state(
        supervision(parked_wall=WALL - 7200),
        phase=Phase.PARKED,
        why_parked="the disk is full",
        next_try=NOW + 60,
    )
    result = judged("daemon-parked", parked)
    assert result.status is Status.BAD
    assert "parked for 2 h 00 min: the disk is full; the next try in 60 s" in sentences(result)
    assert judged("daemon-parked", NOTHING).absent is not None


def test_a_daemon_that_parked_for_real_is_bad_while_its_watchdog_is_fine(sandbox: Sandbox) -> None:
    sandbox.configure("--exit-at-once", "1", restart={"max_restarts": 1, "window": 1.0, "rounds": 1})
    sandbox.start()
    sandbox.wait_for_event("parked")
    wait_for(lambda: sandbox.state().get("phase") == "parked")
    results = looked(CHECKS, load_settings(sandbox.config))
    assert results["daemon-parked"].status is Status.BAD
    assert "the next try in" in sentences(results["daemon-parked"])
    assert results["daemon-state"].status is Status.BAD
    assert results["watchdog-alive"].status is Status.OK
    assert results["daemon-single"].status is Status.OK


# --- daemon-restarts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "day", "status"),
    [(3, 9, Status.OK), (3, 10, Status.ATTENTION), (1, 0, Status.OK), (0, 0, Status.ATTENTION)],
)
def test_many_restarts_or_none_left_want_attention(left: int, day: int, status: Status) -> None:
    result = judged("daemon-restarts", standing(restarts_left=left), supervision(restarts_day=day))
    assert result.status is status


def test_restarts_are_compared_with_earlier_looks() -> None:
    past = past_of("daemon_restarts_day", [0.0, 2.0, 1.0])
    result = judged("daemon-restarts", standing(), supervision(restarts_day=3), past=past)
    assert "3 restarts in the last day, 2 at most at earlier looks" in sentences(result)
    assert judged("daemon-restarts", standing(), NOTHING).absent is not None


# --- daemon-memory, daemon-open-files --------------------------------------------------------------------------


def eating(size: float) -> Appetite:
    return Appetite(4000, WALL - 10 * 3600, 3, int(size), 10, 1024, 4000)


@pytest.mark.parametrize(
    ("available", "status"),
    [(24.1, Status.OK), (23.9, Status.ATTENTION), (2.1, Status.ATTENTION), (1.9, Status.BAD)],
)
def test_memory_that_grows_by_a_gibibyte_an_hour_is_forecast(available: float, status: Status) -> None:
    past = past_of("daemon_memory_bytes", [GIB * hour for hour in (1, 2, 3, 4)], every=3600)
    result = judged("daemon-memory", eating(5 * GIB), memory(available * GIB), past=past)
    assert result.status is status, sentences(result)


def test_the_cgroup_may_leave_less_than_the_machine() -> None:
    past = past_of("daemon_memory_bytes", [GIB * hour for hour in (1, 2, 3, 4)], every=3600)
    tight = memory(60 * GIB, Allowance(int(10 * GIB), int(9 * GIB)))
    assert judged("daemon-memory", eating(5 * GIB), tight, past=past).status is Status.BAD


def test_growth_of_an_earlier_run_or_of_a_few_minutes_is_no_forecast() -> None:
    growing = [GIB * hour for hour in (1, 2, 3, 4)]
    earlier = past_of("daemon_memory_bytes", growing, every=3600)
    young = msgspec.structs.replace(eating(5 * GIB), since_wall=WALL - 60)
    assert "too few looks" in sentences(judged("daemon-memory", young, memory(GIB), past=earlier))
    quick = past_of("daemon_memory_bytes", growing, every=60)
    assert "too few looks" in sentences(judged("daemon-memory", eating(5 * GIB), memory(GIB), past=quick))
    steady = past_of("daemon_memory_bytes", [5 * GIB] * 4, every=3600)
    assert "does not grow" in sentences(judged("daemon-memory", eating(5 * GIB), memory(GIB), past=steady))


def test_a_daemon_that_may_not_be_asked_is_unknown_and_one_that_is_dead_has_none() -> None:
    assert judged("daemon-memory", Appetite(4000, WALL), memory(GIB)).status is Status.UNKNOWN
    assert judged("daemon-open-files", Appetite(4000, WALL)).status is Status.UNKNOWN
    assert judged("daemon-memory", Appetite(), memory(GIB), past=Past()).absent is not None
    assert judged("daemon-open-files", Appetite()).absent is not None


@pytest.mark.parametrize(
    ("count", "status"),
    [(79, Status.OK), (80, Status.ATTENTION), (94, Status.ATTENTION), (95, Status.BAD)],
)
def test_open_files_are_held_against_the_soft_limit(count: int, status: Status) -> None:
    assert judged("daemon-open-files", Appetite(4000, WALL, 1, 1, count, 100, 4000)).status is status


def test_a_real_daemon_close_to_its_limit_of_files_is_noticed(sandbox: Sandbox) -> None:
    # Asleep it opens nothing, and so does not die of the limit.
    sandbox.configure("--hang-at", "2")
    sandbox.start()
    wait_for(lambda: (sandbox.folder / "hung").exists())
    pid = sandbox.starts()[0]["pid"]
    held = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (held, hard))
    result = looked(CHECKS, load_settings(sandbox.config))["daemon-open-files"]
    assert result.status is Status.BAD and f"{held} of the {held}" in sentences(result)


# --- daemon-request, daemon-state-file -------------------------------------------------------------------------


@pytest.mark.parametrize(("age", "status"), [(119.0, Status.OK), (120.0, Status.ATTENTION)])
def test_a_request_that_nobody_obeys_wants_attention(age: float, status: Status) -> None:
    assert judged("daemon-request", supervision(request=Waiting("pause", WALL - age))).status is status


def test_stopping_the_daemon_too_may_take_its_ladder() -> None:
    settings = settings_of(checkpoints=CheckpointSettings(save_timeout=0))
    waits = supervision(request=Waiting("stop-with-daemon", WALL - 189))
    assert judged("daemon-request", waits, settings=settings).status is Status.OK
    longer = supervision(request=Waiting("stop-with-daemon", WALL - 190))
    assert judged("daemon-request", longer, settings=settings).status is Status.ATTENTION


def test_a_damaged_request_and_one_without_a_watchdog_want_attention() -> None:
    damaged = supervision(request=Waiting(None, WALL))
    assert "cannot be understood" in sentences(judged("daemon-request", damaged))
    lonely = supervision(request=Waiting("pause", WALL), watchdog=None)
    assert "no watchdog runs" in sentences(judged("daemon-request", lonely))


def test_a_frozen_watchdog_leaves_a_real_request_waiting(sandbox: Sandbox) -> None:
    sandbox.configure(health={"limits": {"daemon-request.attention": 0.0}})
    watchdog = sandbox.start()
    wait_for(lambda: (sandbox.state().get("run") or {}).get("step"))
    watchdog.send_signal(signal.SIGSTOP)
    wait_for_state(watchdog.pid, "T")
    (sandbox.logs / "request.json").write_text('{"request": "pause"}')
    result = looked(CHECKS, load_settings(sandbox.config))["daemon-request"]
    assert result.status is Status.ATTENTION and "`pause` waits" in sentences(result)
    watchdog.send_signal(signal.SIGCONT)


def test_a_state_that_is_broken_or_gone_is_told(sandbox: Sandbox) -> None:
    sandbox.configure()
    settings = load_settings(sandbox.config)
    assert looked(CHECKS, settings)["daemon-state-file"].absent == "nothing was started yet"
    sandbox.logs.mkdir()
    (sandbox.logs / "state.json").write_bytes(b"\0" * 100)
    broken = looked(CHECKS, settings)["daemon-state-file"]
    assert broken.status is Status.ATTENTION and "cannot be read" in sentences(broken)
    (sandbox.logs / "state.json").unlink()
    line = msgspec.json.encode(Event(time.time(), "started", "OK", "started as pid 1"))
    (sandbox.logs / "events.jsonl").write_bytes(line + b"\n")
    gone = looked(CHECKS, settings)["daemon-state-file"]
    assert gone.status is Status.ATTENTION and "is not there" in sentences(gone)


# --- daemon-incidents ------------------------------------------------------------------------------------------


def incident(ago: float, **changes: Any) -> IncidentRow:
    row = IncidentRow("17-1", WALL - ago, "crash", "cuda_oom", diagnosed=True, closed=True)
    return msgspec.structs.replace(row, **changes)


@pytest.mark.parametrize(
    ("row", "status", "words"),
    [
        (incident(86_400), Status.OK, "none in the last day"),
        (incident(86_399), Status.ATTENTION, "a crash: cuda_oom"),
        (incident(601, diagnosed=False), Status.ATTENTION, "no diagnosis"),
        (incident(90_000, closed=False), Status.ATTENTION, "no new step was made since"),
    ],
)
def test_incidents_of_the_day_and_open_ones_want_attention(
    row: IncidentRow, status: Status, words: str
) -> None:
    result = judged("daemon-incidents", Incidents((row,), (), 1))
    assert result.status is status and words in sentences(result)


def test_an_incident_may_be_open_for_as_long_as_a_start_takes() -> None:
    young = judged("daemon-incidents", Incidents((incident(3599, closed=False),), (), 1))
    assert any(one.status is Status.OK and "no new step" in one.fact for one in young.findings)
    assert judged("daemon-incidents", Incidents()).status is Status.OK


def test_a_real_crash_is_told_with_its_incident(sandbox: Sandbox) -> None:
    sandbox.configure("--exit-at", "3", "--exit-code", "7")
    sandbox.start()
    wait_for(lambda: sandbox.incidents(), what=sandbox.output_tail())
    results = looked(CHECKS, load_settings(sandbox.config))
    assert results["daemon-incidents"].status is Status.ATTENTION
    assert sandbox.incidents()[0]["id"] in sentences(results["daemon-incidents"])
