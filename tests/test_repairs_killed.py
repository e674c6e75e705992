"""A repair is killed before each of its calls: nothing is lost, and what follows finds its way, on or back."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import Sandbox, wait_for
from test_repairs import aged, broken_history, checkpoint, dead_pid, incident, plan, settings_of, tree

from trainguard import repairs
from trainguard.config import Settings
from trainguard.repairs import folders

# Shared memory is the machine's: what one test plans to move, another one may not look into meanwhile.
pytestmark = pytest.mark.xdist_group("shared memory")

CALLS = (
    "mkdir", "rename", "replace", "link", "unlink", "rmdir", "chmod", "fchmod", "write", "fsync", "utime", "open",
)  # fmt: skip
CALLS_AT_MOST = 200


def is_killed(number: int, work: Callable[[], object]) -> bool:
    """Do the work in a child that is killed before its call of this number; false where it makes fewer."""
    child = os.fork()
    if child == 0:
        own, count, opening = os.getpid(), [0], os.open

        def deadly(call: Callable[..., Any]) -> Callable[..., Any]:
            def counted(*arguments: Any, **named: Any) -> Any:
                is_reading = call is opening and not arguments[1] & (os.O_CREAT | os.O_WRONLY | os.O_RDWR)
                if os.getpid() == own and not is_reading:
                    count[0] += 1
                    if count[0] == number:
                        os.kill(own, signal.SIGKILL)
                return call(*arguments, **named)

            return counted

        try:
            for name in CALLS:
                setattr(os, name, deadly(getattr(os, name)))
            folders.move = deadly(folders.move)
            work()
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL, status
    return status != 0


def half_written(box: Sandbox) -> Settings:
    saves = box.folder / "out"
    checkpoint(saves, 100)
    checkpoint(saves, 200, whole=False)
    (saves / "latest").write_text("checkpoint-200")
    return settings_of(box, checkpoints={"directory": "out"})


def history(box: Sandbox) -> Settings:
    incident(box.logs, "one")
    broken_history(box.logs)
    return settings_of(box)


def state(box: Sandbox) -> Settings:
    (box.logs / "state.json").write_text('{"phase": "runn')
    return settings_of(box)


def permissions(box: Sandbox) -> Settings:
    settings = settings_of(box)
    box.config.chmod(0o666)
    return settings


def missing(box: Sandbox) -> Settings:
    return settings_of(box, checkpoints={"directory": "a/b/c"})


def leftovers(box: Sandbox) -> Settings:
    for number in range(3):
        file = box.logs / f".state.json.{number}.tmp"
        file.write_text(f"of {number}")
        aged(file)
    return settings_of(box)


def pointer(box: Sandbox) -> Settings:
    checkpoint(box.folder / "out", 100)
    (box.folder / "out" / "latest").write_text("checkp")
    return settings_of(box, checkpoints={"directory": "out"})


def link(box: Sandbox) -> Settings:
    checkpoint(box.folder / "out", 100)
    (box.folder / "out" / "last.ckpt").symlink_to("epoch=1-step=5.ckpt")
    return settings_of(box, checkpoints={"directory": "out"})


def closed(box: Sandbox) -> Settings:
    (box.folder / "out").mkdir(mode=0o500)
    return settings_of(box, checkpoints={"directory": "out"})


def stale(box: Sandbox) -> Settings:
    (box.folder / "daemon.pid").write_text(str(dead_pid()))
    aged(box.folder / "daemon.pid")
    return settings_of(box, daemon={"pid_file": "daemon.pid"})


def request(box: Sandbox) -> Settings:
    (box.logs / "request.json").write_text('{"request":"pause"}')
    aged(box.logs / "request.json")
    return settings_of(box)


def logs(box: Sandbox) -> Settings:
    for name in ("training_output.log", "watchdog.log", "events.jsonl"):
        (box.logs / name).write_text(name[0] * 1000)
    return settings_of(box, health={"limits": {"log-size.attention": 1000}})


def torn_records(box: Sandbox) -> Settings:
    (incident(box.logs, "torn") / "incident.json").write_text('{"id": "to')
    (box.logs / "health.jsonl").write_bytes(b"\xff" * 100)
    (box.logs / "acknowledged.json").write_text("[")
    return settings_of(box)


def contents(folder: Path) -> set[str]:
    """The content of every file that is there, wherever and under whatever name."""
    return {path.read_bytes().hex() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}


def undo_all(settings: Settings) -> None:
    for record in reversed(repairs.list_records(settings)):
        if record.undoable:
            told = repairs.undo(settings, record.id)
            assert all(line.startswith(("undone: ", "was not done")) for line in told), told


def settle(repair: str, settings: Settings) -> None:
    """What a later --fix does."""
    repairs.carry_out(plan(repair, settings), settings, time.time())
    assert plan(repair, settings).steps == ()


FAULTS = {
    "half-written-checkpoints": half_written,
    "broken-history": history,
    "broken-state": state,
    "open-permissions": permissions,
    "missing-folders": missing,
    "leftover-files": leftovers,
    "broken-pointer": pointer,
    "dangling-link": link,
    "closed-folder": closed,
    "stale-pid-file": stale,
    "stuck-request": request,
    "long-logs": logs,
    "broken-records": torn_records,
}


@pytest.mark.parametrize("repair", FAULTS)
@pytest.mark.parametrize("goes_on", [True, False], ids=["goes on", "goes back"])
def test_a_repair_that_is_killed_at_any_moment_loses_nothing(
    sandbox: Sandbox, repair: str, goes_on: bool
) -> None:
    sandbox.logs.mkdir()
    settings = FAULTS[repair](sandbox)
    before, had = tree(sandbox.folder), contents(sandbox.folder)
    kills = 0
    for number in range(1, CALLS_AT_MOST):
        made = plan(repair, settings)
        assert made.steps
        killed = is_killed(number, lambda made=made: repairs.carry_out(made, settings, time.time()))
        assert had <= contents(sandbox.folder) | {
            step.before.hex()
            for record in repairs.list_records(settings)
            for step in record.steps
            if getattr(step, "before", None) and isinstance(step.before, bytes)
        }
        if goes_on:
            settle(repair, settings)
            assert repairs.unfinished(settings) == []
        undo_all(settings)
        assert tree(sandbox.folder) == before, f"killed before call {number}"
        shutil.rmtree(sandbox.logs / "repairs", ignore_errors=True)
        if not killed:
            break
        kills += 1
    assert 5 < kills < CALLS_AT_MOST - 2


@pytest.mark.parametrize("repair", FAULTS)
def test_an_undoing_that_is_killed_is_undone_again(sandbox: Sandbox, repair: str) -> None:
    sandbox.logs.mkdir()
    settings = FAULTS[repair](sandbox)
    before = tree(sandbox.folder)
    kills = 0
    for number in range(1, CALLS_AT_MOST):
        outcome = repairs.carry_out(plan(repair, settings), settings, time.time())
        assert outcome.record is not None and outcome.left == ()
        killed = is_killed(number, lambda name=outcome.record: repairs.undo(settings, name))
        undo_all(settings)
        assert tree(sandbox.folder) == before, f"killed before call {number}"
        shutil.rmtree(sandbox.logs / "repairs", ignore_errors=True)
        if not killed:
            break
        kills += 1
    assert 3 < kills < CALLS_AT_MOST - 2


def plan_of(path: Path, settings: Settings) -> repairs.Plan | None:
    """What would be done with one file of the shared memory."""
    made = plan("leftover-shared-memory", settings)
    steps = tuple(step for step in made.steps if path.name in step.describe())
    return repairs.Plan(made.repair, made.now_wall, steps) if steps else None


def goes_on_with(path: Path, settings: Settings) -> bool:
    """Repair once more; whether the file is gone from there."""
    if (made := plan_of(path, settings)) is not None:
        repairs.carry_out(made, settings, time.time())
    return not path.exists()


@pytest.mark.parametrize("goes_on", [True, False], ids=["goes on", "goes back"])
def test_a_move_to_another_file_system_that_is_killed_loses_nothing(sandbox: Sandbox, goes_on: bool) -> None:
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == sandbox.folder.stat().st_dev:
        pytest.skip("/dev/shm is no file system of its own here")
    sandbox.logs.mkdir()
    settings = settings_of(sandbox)
    path = shared / f"torch_{dead_pid()}_{os.getpid()}_0"
    content = os.urandom(3 << 20)
    kills = 0
    try:
        for number in range(1, CALLS_AT_MOST):
            path.write_bytes(content)
            path.chmod(0o600)
            aged(path, 60.0)
            # Another look at /dev/shm on this machine may have it open for a moment.
            made = wait_for(lambda: plan_of(path, settings), what="a plan")
            killed = is_killed(number, lambda made=made: repairs.carry_out(made, settings, time.time()))
            assert path.exists() or content.hex() in contents(sandbox.logs)
            if goes_on:
                wait_for(lambda: goes_on_with(path, settings), what="the end of the repair")
            undo_all(settings)
            assert path.read_bytes() == content, f"killed before call {number}"
            shutil.rmtree(sandbox.logs / "repairs", ignore_errors=True)
            if not killed:
                break
            kills += 1
    finally:
        path.unlink(missing_ok=True)
    assert 10 < kills < CALLS_AT_MOST - 2
