"""Repairs: each fault made for real, mended, looked at again, and put back as it was."""

import contextlib
import json
import mmap
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from support import Sandbox, identity_of, lives, wait_for

from trainguard import processes, repairs
from trainguard.config import Settings, load_settings
from trainguard.history import CrashRow, History
from trainguard.policy import Phase, State
from trainguard.processes import Mark
from trainguard.repairs import REPAIRS, Outcome, Plan
from trainguard.repairs.openings import fstab_mounts
from trainguard.run_folder import Event, RunFolder

# Shared memory is the machine's: what one test plans to move, another one may not look into meanwhile.
pytestmark = pytest.mark.xdist_group("shared memory")

# What a repair leaves in the run folder besides what it mends.
OWN = ("logs/repairs", "logs/watchdog.lock")
OLD = 4000.0
Tree = dict[str, tuple[int, int, str]]


def settings_of(box: Sandbox, **sections: dict[str, Any]) -> Settings:
    box.configure(**sections)
    box.config.chmod(0o644)
    return load_settings(box.config)


def tree(folder: Path, with_times: bool = False) -> Tree:
    """Every name below a folder, with its mode, the time of its last change where asked for, and its content."""
    found: Tree = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if name.startswith(OWN):
            continue
        about = path.lstat()
        content = ""
        if path.is_symlink():
            content = str(path.readlink())
        elif stat.S_ISREG(about.st_mode):
            content = path.read_bytes().hex()
        found[name] = (stat.S_IMODE(about.st_mode), about.st_mtime_ns if with_times else 0, content)
    return found


def plan(repair: str, settings: Settings) -> Plan:
    (found,) = repairs.plan_repairs([repair], settings, time.time())
    return found


def mend(repair: str, settings: Settings) -> Outcome:
    outcome = repairs.carry_out(plan(repair, settings), settings, time.time())
    assert outcome.left == ()
    assert outcome.record is not None
    return outcome


def proves_itself(repair: str, settings: Settings, folder: Path) -> Callable[[], None]:
    """A fault is planned for, which changes nothing; it is mended; nothing more is planned. Gives the way back."""
    before, dated = tree(folder), tree(folder, with_times=True)
    made = plan(repair, settings)
    assert made.steps, made.left
    assert all(step.describe() for step in made.steps)
    assert tree(folder, with_times=True) == dated
    assert not (folder / "logs" / "repairs").exists()
    outcome = mend(repair, settings)
    assert plan(repair, settings).steps == ()
    assert tree(folder) != before

    def undo() -> None:
        told = repairs.undo(settings, outcome.record or "")
        assert all(line.startswith("undone: ") for line in told), told
        assert tree(folder) == before
        assert plan(repair, settings).steps != ()

    return undo


def aged(path: Path, seconds: float = OLD) -> Path:
    moment = time.time() - seconds
    os.utime(path, (moment, moment))
    return path


def checkpoint(folder: Path, step: int, whole: bool = True) -> Path:
    """A checkpoint as transformers saves it, or one that was cut off before its trainer_state.json."""
    from checkpoint_files import numbers

    place = folder / f"checkpoint-{step}"
    place.mkdir(parents=True)
    head = json.dumps({"w": {"dtype": "F32", "shape": [64], "data_offsets": [0, 256]}}).encode()
    (place / "model.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + numbers(64))
    if whole:
        (place / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": []}))
    for file in place.iterdir():
        aged(file)
    return aged(place)


def dead_pid() -> int:
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


def test_there_are_fifteen_repairs_and_each_says_what_it_does() -> None:
    assert len(REPAIRS) >= 15
    assert all(row.id == name and row.explain.endswith(".") for name, row in REPAIRS.items())
    assert all(len(row.explain) <= 110 for row in REPAIRS.values())


# --- folders and permissions -----------------------------------------------------------------------------------


def test_missing_folders_are_made(sandbox: Sandbox) -> None:
    sandbox.logs.mkdir()
    settings = settings_of(
        sandbox, checkpoints={"directory": "out/run"}, progress={"heartbeat_file": "a/b/beat"}
    )
    undo = proves_itself("missing-folders", settings, sandbox.folder)
    assert (sandbox.folder / "out" / "run").is_dir() and (sandbox.folder / "a" / "b").is_dir()
    undo()


def test_a_missing_run_folder_is_made_and_stays_for_its_record(sandbox: Sandbox) -> None:
    settings = settings_of(sandbox, checkpoints={"directory": "out"})
    outcome = mend("missing-folders", settings)
    assert sandbox.logs.is_dir()
    told = repairs.undo(settings, outcome.record or "")
    assert sum("it is used by now" in line for line in told) == 1
    assert sandbox.logs.is_dir() and not (sandbox.folder / "out").exists()


def test_no_folder_is_made_below_a_mount_that_is_not_mounted(sandbox: Sandbox) -> None:
    (sandbox.folder / "data").mkdir()
    sandbox.logs.mkdir()
    where = {"checkpoints": {"directory": "data/run"}, "health": {"mounts": ["data"]}}
    found = plan("missing-folders", settings_of(sandbox, **where))
    assert found.steps == () and "is not mounted" in found.left[0]


def test_what_fstab_mounts_by_itself_is_expected(tmp_path: Path) -> None:
    file = tmp_path / "fstab"
    file.write_text(
        "# x\n/dev/a /data ext4 defaults 0 2\n/dev/b /tape ext4 noauto 0 0\n/dev/c none swap sw 0 0\n"
    )
    assert fstab_mounts(file) == [Path("/data")]


def test_a_used_folder_stays_when_its_making_is_undone(sandbox: Sandbox) -> None:
    sandbox.logs.mkdir()
    settings = settings_of(sandbox, checkpoints={"directory": "out"})
    record = mend("missing-folders", settings).record
    (sandbox.folder / "out" / "checkpoint-1").mkdir()
    assert "it is used by now" in repairs.undo(settings, record or "")[0]
    assert (sandbox.folder / "out" / "checkpoint-1").is_dir()


def test_open_permissions_are_taken_away(sandbox: Sandbox) -> None:
    sandbox.logs.mkdir()
    settings = settings_of(sandbox)
    sandbox.config.chmod(0o664)
    sandbox.logs.chmod(0o777)
    undo = proves_itself("open-permissions", settings, sandbox.folder)
    assert stat.S_IMODE(sandbox.config.stat().st_mode) == 0o644
    assert stat.S_IMODE(sandbox.logs.stat().st_mode) == 0o775
    undo()


def test_nothing_else_is_mended_where_everybody_may_write(sandbox: Sandbox) -> None:
    sandbox.logs.mkdir()
    settings = settings_of(sandbox, checkpoints={"directory": "out"})
    sandbox.logs.chmod(0o777)
    outcome = repairs.carry_out(plan("missing-folders", settings), settings, time.time())
    assert outcome.record is None and "open-permissions comes first" in outcome.left[0]


def test_a_closed_folder_is_opened(sandbox: Sandbox) -> None:
    sandbox.logs.mkdir()
    saves = sandbox.folder / "out"
    saves.mkdir(mode=0o500)
    settings = settings_of(sandbox, checkpoints={"directory": "out"})
    sandbox.logs.chmod(0o555)
    undo = proves_itself("closed-folder", settings, sandbox.folder)
    assert stat.S_IMODE(saves.stat().st_mode) == 0o700
    undo()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_what_belongs_to_another_user_is_left(sandbox: Sandbox) -> None:
    sandbox.logs.mkdir()
    place = sandbox.folder / "theirs"
    place.mkdir()
    os.chown(place, 12345, 12345)
    settings = settings_of(sandbox, checkpoints={"directory": "theirs/run"})
    outcome = repairs.carry_out(plan("missing-folders", settings), settings, time.time())
    assert outcome.done == () and "belongs to user 12345" in outcome.left[0]
    assert not (place / "run").exists()


def test_a_link_that_is_planted_after_the_plan_leads_nowhere(sandbox: Sandbox) -> None:
    sandbox.logs.mkdir()
    (sandbox.folder / "work").mkdir()
    (sandbox.folder / "elsewhere").mkdir()
    settings = settings_of(sandbox, checkpoints={"directory": "work/run"})
    step = plan("missing-folders", settings).steps[0]
    (sandbox.folder / "work").rmdir()
    (sandbox.folder / "work").symlink_to(sandbox.folder / "elsewhere")
    with pytest.raises(OSError):
        step.do(sandbox.logs)
    assert list((sandbox.folder / "elsewhere").iterdir()) == []


# --- the run folder's files ------------------------------------------------------------------------------------


def test_a_stale_pid_file_is_renamed(sandbox: Sandbox) -> None:
    sandbox.logs.mkdir()
    settings = settings_of(sandbox, daemon={"pid_file": "daemon.pid"})
    (sandbox.folder / "daemon.pid").write_text(str(dead_pid()))
    aged(sandbox.folder / "daemon.pid")
    proves_itself("stale-pid-file", settings, sandbox.folder)()


def test_a_pid_file_that_proves_nothing_is_left(sandbox: Sandbox) -> None:
    sandbox.logs.mkdir()
    settings = settings_of(sandbox, daemon={"pid_file": "daemon.pid"})
    file = sandbox.folder / "daemon.pid"
    file.write_text("nonsense")
    assert plan("stale-pid-file", settings).steps == ()
    file.write_text(str(dead_pid()))
    assert "just now" in plan("stale-pid-file", settings).left[0]
    file.write_text(str(os.getppid()))
    aged(file, 5.0)
    assert plan("stale-pid-file", settings).steps == ()


def test_a_stuck_request_is_taken_away(sandbox: Sandbox) -> None:
    sandbox.logs.mkdir()
    settings = settings_of(sandbox)
    (sandbox.logs / "request.json").write_text('{"request":"pause"}')
    assert plan("stuck-request", settings).steps == ()  # whoever asked may be waiting
    aged(sandbox.logs / "request.json")
    proves_itself("stuck-request", settings, sandbox.folder)()


def test_a_broken_state_is_set_aside_in_one_step(sandbox: Sandbox) -> None:
    sandbox.logs.mkdir()
    settings = settings_of(sandbox)
    (sandbox.logs / "state.json").write_text('{"phase": "runn')
    undo = proves_itself("broken-state", settings, sandbox.folder)
    assert RunFolder(sandbox.logs).load_state()[1] is None
    undo()


def test_what_a_person_stopped_stays_stopped_without_its_state(sandbox: Sandbox) -> None:
    sandbox.logs.mkdir()
    settings = settings_of(sandbox)
    (sandbox.logs / "state.json").write_text("{")
    folder = RunFolder(sandbox.logs)
    folder.append_event(Event(time.time() - 9000, "started", "ok", "started as pid 1"))
    folder.append_event(Event(time.time() - 8000, "stopped", "ok", "stopped by a person"))
    mend("broken-state", settings)
    assert folder.load_state()[0].phase is Phase.STOPPED
    assert plan("ensure-watchdog", settings).steps == ()


def test_a_state_is_left_to_the_watchdog_where_restarts_would_be_forgotten(sandbox: Sandbox) -> None:
    sandbox.logs.mkdir()
    settings = settings_of(sandbox)
    (sandbox.logs / "state.json").write_text("{")
    RunFolder(sandbox.logs).append_event(Event(time.time() - 10, "restarted", "warn", "restarted"))
    found = plan("broken-state", settings)
    assert found.steps == () and "a watchdog that begins counts that" in found.left[0]


def test_long_logs_are_renamed(sandbox: Sandbox) -> None:
    sandbox.logs.mkdir()
    settings = settings_of(sandbox, health={"limits": {"log-size.attention": 1000}})
    for name in ("training_output.log", "watchdog.log", "events.jsonl"):
        (sandbox.logs / name).write_text("x" * 1000)
    (sandbox.logs / "health.jsonl").write_text("x" * 2000)
    undo = proves_itself("long-logs", settings, sandbox.folder)
    assert len(list(sandbox.logs.glob("*.1-*"))) == 3
    undo()


def test_events_that_tell_a_late_restart_stay(sandbox: Sandbox) -> None:
    sandbox.logs.mkdir()
    settings = settings_of(sandbox, health={"limits": {"log-size.attention": 10}})
    RunFolder(sandbox.logs).append_event(Event(time.time() - 10, "restarted", "warn", "restarted"))
    found = plan("long-logs", settings)
    assert found.steps == () and "restarted lately" in found.left[0]


def test_leftover_files_of_ours_are_moved(sandbox: Sandbox) -> None:
    (sandbox.logs / "incidents" / "1").mkdir(parents=True)
    settings = settings_of(sandbox)
    for name in (".state.json.77.tmp", ".request.json.78.new", "incidents/1/.incident.json.79.tmp"):
        (sandbox.logs / name).write_text(name)
        aged(sandbox.logs / name)
    (sandbox.logs / ".young.80.tmp").write_text("still written")
    (sandbox.logs / "notes.tmp").write_text("a person's")
    aged(sandbox.logs / "notes.tmp")
    undo = proves_itself("leftover-files", settings, sandbox.folder)
    assert (sandbox.logs / ".young.80.tmp").exists() and (sandbox.logs / "notes.tmp").exists()
    undo()


def incident(folder: Path, name: str, diagnosed: bool = True) -> Path:
    place = folder / "incidents" / name
    place.mkdir(parents=True)
    evidence = {
        "file": "/nowhere/train.log",
        "line": 3,
        "offset": 10,
        "text": "CUDA out of memory",
        "time": None,
    }
    crash = {
        "type": "cuda_oom", "cause": "cuda_oom", "class": "resource", "retry": "clean", "root": evidence,
        "rank": None, "exception": None, "consequences": [], "evidence": [], "advice": [],
        "fingerprint": f"f-{name}", "time": "2026-01-05T03:12:44+00:00",
    }  # fmt: skip
    told = {
        "id": name, "kind": "crash", "time": "2026-01-05T03:12:44+00:00", "run_id": "r", "run_number": 1,
        "pid": 5, "ending": {"exit_code": 1}, "step": 1, "total": 2, "loss": None, "checkpoint": None,
        "checkpoint_step": None, "log": {"file": "/nowhere/train.log", "start": 0, "end": 9}, "decision": "",
        "orphans": [], "next_run_id": None, "seconds_to_new_process": None, "seconds_to_new_step": None,
        "first_new_step": None, "steps_lost": None, "closed": True, "last_lines": [],
        "diagnosis": crash if diagnosed else None,
    }  # fmt: skip
    (place / "incident.json").write_text(json.dumps(told))
    return place


def broken_history(logs: Path) -> Path:
    history = History(logs / "crash_history.sqlite3")
    history.add([CrashRow("f", "hang", f"i{number}", text="x" * 500) for number in range(200)])
    history.close()
    content = bytearray(history.path.read_bytes())
    content[8192 : len(content) - 4096] = os.urandom(len(content) - 12288)
    history.path.write_bytes(content)
    return history.path


def test_a_broken_history_is_made_anew_of_the_incidents(sandbox: Sandbox) -> None:
    sandbox.logs.mkdir()
    settings = settings_of(sandbox)
    incident(sandbox.logs, "one")
    incident(sandbox.logs, "two")
    incident(sandbox.logs, "three", diagnosed=False)
    path = broken_history(sandbox.logs)
    undo = proves_itself("broken-history", settings, sandbox.folder)
    history = History(path, writable=False)
    assert history.summary().count == 2 and history.notes == []
    history.close()
    undo()


def test_a_database_of_something_else_is_left(sandbox: Sandbox) -> None:
    import sqlite3

    sandbox.logs.mkdir()
    with contextlib.closing(sqlite3.connect(sandbox.logs / "crash_history.sqlite3")) as database:
        database.execute("CREATE TABLE mine (x)")
        database.commit()
    found = plan("broken-history", settings_of(sandbox))
    assert found.steps == () and "something else" in found.left[0]


def test_broken_records_are_set_aside(sandbox: Sandbox) -> None:
    sandbox.logs.mkdir()
    settings = settings_of(sandbox)
    incident(sandbox.logs, "whole")
    (incident(sandbox.logs, "torn") / "incident.json").write_text('{"id": "to')
    (sandbox.logs / "health.jsonl").write_bytes(os.urandom(100).replace(b"\n", b"x"))
    (sandbox.logs / "acknowledged.json").write_text("[")
    undo = proves_itself("broken-records", settings, sandbox.folder)
    assert (sandbox.logs / "incidents" / "whole" / "incident.json").exists()
    undo()


# --- checkpoints -----------------------------------------------------------------------------------------------


def test_half_written_checkpoints_are_renamed_and_pointers_led_away(sandbox: Sandbox) -> None:
    sandbox.logs.mkdir()
    settings = settings_of(sandbox, checkpoints={"directory": "out"})
    saves = sandbox.folder / "out"
    checkpoint(saves, 100)
    checkpoint(saves, 200, whole=False)
    (saves / "latest").write_text("checkpoint-200")
    undo = proves_itself("half-written-checkpoints", settings, sandbox.folder)
    assert (saves / "latest").read_text() == "checkpoint-100"
    assert (saves / "checkpoint-100").is_dir() and not (saves / "checkpoint-200").exists()
    undo()


def test_checkpoints_are_only_told_where_the_settings_say_so(sandbox: Sandbox) -> None:
    settings = settings_of(sandbox, checkpoints={"directory": "out", "set_aside": False})
    checkpoint(sandbox.folder / "out", 100)
    checkpoint(sandbox.folder / "out", 200, whole=False)
    found = plan("half-written-checkpoints", settings)
    assert found.steps == () and "set_aside is false" in found.left[0]


def test_a_broken_pointer_names_the_checkpoint_to_resume_from(sandbox: Sandbox) -> None:
    sandbox.logs.mkdir()
    settings = settings_of(sandbox, checkpoints={"directory": "out"})
    checkpoint(sandbox.folder / "out", 100)
    (sandbox.folder / "out" / "latest").write_text("checkp")
    undo = proves_itself("broken-pointer", settings, sandbox.folder)
    assert (sandbox.folder / "out" / "latest").read_text() == "checkpoint-100"
    undo()


def test_a_dangling_link_is_renamed(sandbox: Sandbox) -> None:
    sandbox.logs.mkdir()
    settings = settings_of(sandbox, checkpoints={"directory": "out"})
    checkpoint(sandbox.folder / "out", 100)
    (sandbox.folder / "out" / "last.ckpt").symlink_to("epoch=1-step=5.ckpt")
    (sandbox.folder / "out" / "best").symlink_to("checkpoint-100")
    (sandbox.folder / "out" / "away").symlink_to("/not-mounted-here/checkpoint-7")
    found = plan("dangling-link", settings)
    assert len(found.steps) == 1 and "is a disk not mounted?" in found.left[0]
    (sandbox.folder / "out" / "away").unlink()
    undo = proves_itself("dangling-link", settings, sandbox.folder)
    assert (sandbox.folder / "out" / "best").is_symlink()
    undo()


# --- what lives and what has died ------------------------------------------------------------------------------


@contextlib.contextmanager
def marked(box: Sandbox, run: str, leads: bool = False, name: str = "sandbox") -> Iterator[int]:
    """A process that bears the mark of a run, as its leader or as what it left."""
    mark = Mark(run, os.path.realpath(box.logs), name, None)
    environment = processes.environment_of_run(os.environ, {}, mark)
    text = "import time, os; print(flush=True); time.sleep(600)"
    command = [sys.executable, "-c", text]
    if leads:
        command = ["/bin/sh", "-c", 'TRAINGUARD_PID=$$; export TRAINGUARD_PID; exec "$@"', "sh", *command]
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, start_new_session=True)
    box.strangers.append(child)
    assert child.stdout is not None
    child.stdout.readline()
    try:
        yield child.pid
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def test_orphans_are_stopped_and_bystanders_are_not(sandbox: Sandbox) -> None:
    sandbox.logs.mkdir()
    settings = settings_of(sandbox)
    with marked(sandbox, "1-1-dead") as orphan, marked(sandbox, "1-1-dead", name="another") as bystander:
        who, other = identity_of(orphan), identity_of(bystander)
        os.kill(orphan, signal.SIGSTOP)
        assert plan("stop-orphans", settings).steps
        outcome = mend("stop-orphans", settings)
        assert not lives(who) and lives(other)
        assert plan("stop-orphans", settings).steps == ()
        assert "is not started again" in repairs.undo(settings, outcome.record or "")[0]


def test_orphans_are_left_where_the_settings_say_so(sandbox: Sandbox) -> None:
    sandbox.logs.mkdir()
    settings = settings_of(sandbox, watchdog={"orphans": "report"})
    with marked(sandbox, "1-1-dead"):
        found = plan("stop-orphans", settings)
        assert found.steps == () and "orphans is report" in found.left[0]


def test_nothing_is_renamed_while_the_daemon_may_be_saving(sandbox: Sandbox) -> None:
    sandbox.logs.mkdir()
    settings = settings_of(sandbox, checkpoints={"directory": "out"})
    checkpoint(sandbox.folder / "out", 100)
    checkpoint(sandbox.folder / "out", 200, whole=False)
    before = tree(sandbox.folder)
    with marked(sandbox, "1-1-alive", leads=True) as leader:
        found = plan("half-written-checkpoints", settings)
        assert found.steps == () and f"pid {leader}" in found.left[0]
    assert tree(sandbox.folder) == before


def test_the_soft_limit_of_open_files_is_raised_and_put_back(sandbox: Sandbox) -> None:
    sandbox.logs.mkdir()
    settings = settings_of(sandbox)
    with marked(sandbox, "1-1-alive", leads=True) as leader:
        hard = resource.prlimit(leader, resource.RLIMIT_NOFILE)[1]
        if 0 <= hard <= 256:
            pytest.skip("the hard limit of open files leaves no room here")
        resource.prlimit(leader, resource.RLIMIT_NOFILE, (256, hard))
        outcome = mend("raise-open-files", settings)
        assert resource.prlimit(leader, resource.RLIMIT_NOFILE)[0] > 256
        assert plan("raise-open-files", settings).steps == ()
        assert repairs.undo(settings, outcome.record or "")[0].startswith("undone: ")
        assert resource.prlimit(leader, resource.RLIMIT_NOFILE) == (256, hard)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A file in shared memory that a dead process of PyTorch would have left."""
    if not Path("/dev/shm").is_dir():
        pytest.skip("there is no /dev/shm")
    path = Path(f"/dev/shm/torch_{dead_pid()}_{os.getpid()}_0")
    path.write_bytes(os.urandom(100_000))
    yield aged(path, 60.0)
    path.unlink(missing_ok=True)


def test_shared_memory_of_dead_runs_is_moved_and_put_back(sandbox: Sandbox, shared: Path) -> None:
    sandbox.logs.mkdir()
    settings = settings_of(sandbox)
    content, mode = shared.read_bytes(), shared.stat().st_mode
    made = plan("leftover-shared-memory", settings)
    ours = [step for step in made.steps if shared.name in step.describe()]
    assert len(ours) == 1
    outcome = repairs.carry_out(replace(made, steps=tuple(ours)), settings, time.time())
    assert outcome.left == () and not shared.exists()
    (kept,) = (sandbox.logs / "repairs" / str(outcome.record)).iterdir()
    assert kept.read_bytes() == content
    assert repairs.undo(settings, outcome.record or "")[0].startswith("undone: ")
    assert shared.read_bytes() == content and shared.stat().st_mode == mode


def test_shared_memory_that_is_mapped_is_left(sandbox: Sandbox, shared: Path) -> None:
    sandbox.logs.mkdir()
    settings = settings_of(sandbox)
    made = plan("leftover-shared-memory", settings)
    (ours,) = [step for step in made.steps if shared.name in step.describe()]
    with shared.open("r+b") as stream, mmap.mmap(stream.fileno(), 0):
        stream.close()
        assert not [step for step in plan("leftover-shared-memory", settings).steps if step == ours]
        with pytest.raises(repairs.carrying.Refused, match="open"):
            ours.do(sandbox.logs / "kept")
    assert shared.exists()


def test_a_watchdog_that_should_run_is_started(sandbox: Sandbox) -> None:
    settings = settings_of(sandbox)
    watchdog = sandbox.start()
    sandbox.wait_for_start()
    wait_for(lambda: sandbox.state().get("phase") == "running")
    watchdog.kill()
    watchdog.wait()
    mend("ensure-watchdog", settings)
    holder = RunFolder(sandbox.logs).watchdog()
    assert holder is not None and holder.identity.pid != watchdog.pid
    assert plan("ensure-watchdog", settings).steps == ()
    assert len(sandbox.starts()) == 1
    sandbox.call("--stop", "--with-daemon")
    assert plan("ensure-watchdog", settings).steps == ()


def test_no_watchdog_is_started_where_none_ever_ran(sandbox: Sandbox) -> None:
    sandbox.logs.mkdir()
    assert plan("ensure-watchdog", settings_of(sandbox)).steps == ()


@pytest.mark.parametrize("phase", [Phase.FINISHED, Phase.STOPPED])
def test_what_is_finished_or_stopped_stays_so(sandbox: Sandbox, phase: Phase) -> None:
    sandbox.logs.mkdir()
    RunFolder(sandbox.logs).save_state(State(phase=phase), durable=True)
    assert plan("ensure-watchdog", settings_of(sandbox)).steps == ()


# --- the lock --------------------------------------------------------------------------------------------------


def test_a_watchdog_that_lives_is_not_mended_under(sandbox: Sandbox) -> None:
    settings = settings_of(sandbox, checkpoints={"directory": "out"})
    saves = sandbox.folder / "out"
    checkpoint(saves, 100)
    (saves / "last.ckpt").symlink_to("gone.ckpt")
    sandbox.logs.mkdir()
    made = plan("dangling-link", settings)
    sandbox.start()
    sandbox.wait_for_start()
    outcome = repairs.carry_out(made, settings, time.time())
    assert (
        outcome.record is None and "held by the watchdog" in outcome.left[0] and "--stop" in outcome.left[0]
    )
    assert (saves / "last.ckpt").is_symlink()


def test_the_lock_leaves_a_request_and_the_last_holder_alone(sandbox: Sandbox) -> None:
    sandbox.logs.mkdir()
    folder = RunFolder(sandbox.logs)
    (sandbox.logs / "request.json").write_text("{}")
    folder.lock(0.0)
    assert folder.holder() is None and (sandbox.logs / "request.json").exists()
    folder.leave()


def test_what_is_not_so_any_more_is_not_done(sandbox: Sandbox) -> None:
    sandbox.logs.mkdir()
    settings = settings_of(sandbox)
    (sandbox.logs / "request.json").write_text("{}")
    aged(sandbox.logs / "request.json")
    made = plan("stuck-request", settings)
    (sandbox.logs / "request.json").unlink()
    outcome = repairs.carry_out(made, settings, time.time())
    assert outcome.record is None and outcome.done == () and "not so any more" in outcome.left[0]


def test_a_record_that_somebody_else_could_write_is_not_believed(sandbox: Sandbox) -> None:
    sandbox.logs.mkdir()
    settings = settings_of(sandbox)
    (sandbox.logs / "request.json").write_text("{}")
    aged(sandbox.logs / "request.json")
    record = mend("stuck-request", settings).record
    (sandbox.logs / "repairs" / f"{record}.json").chmod(0o666)
    with pytest.raises(repairs.UnknownRecordError):
        repairs.undo(settings, record or "")
    with pytest.raises(repairs.UnknownRecordError):
        repairs.undo(settings, "../../etc/passwd")


def test_what_is_there_anew_is_not_written_over_by_an_undo(sandbox: Sandbox) -> None:
    sandbox.logs.mkdir()
    settings = settings_of(sandbox)
    (sandbox.logs / "request.json").write_text("{}")
    aged(sandbox.logs / "request.json")
    record = mend("stuck-request", settings).record
    (sandbox.logs / "request.json").write_text('{"request":"pause"}')
    assert "is there anew" in repairs.undo(settings, record or "")[0]
    assert "pause" in (sandbox.logs / "request.json").read_text()


def test_what_cannot_be_put_back_now_can_be_later(sandbox: Sandbox) -> None:
    sandbox.logs.mkdir()
    settings = settings_of(sandbox, checkpoints={"directory": "out"})
    saves = sandbox.folder / "out"
    checkpoint(saves, 100)
    checkpoint(saves, 200, whole=False)
    before = tree(saves)
    outcome = mend("half-written-checkpoints", settings)
    saves.rename(sandbox.folder / "away")
    saves.mkdir()
    assert any(line.startswith(repairs.STAYS) for line in repairs.undo(settings, outcome.record or ""))
    saves.rmdir()
    (sandbox.folder / "away").rename(saves)
    assert not any(line.startswith(repairs.STAYS) for line in repairs.undo(settings, outcome.record or ""))
    assert tree(saves) == before
