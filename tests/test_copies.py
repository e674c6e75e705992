"""Verified copies of a checkpoint that is written over in place. Real watchdogs, real files, real kills."""

import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from checkpoint_files import Tensor, nanogpt, torch_zip
from support import ROOT, Sandbox, wait_for

from trainguard import checkpoints, remedies
from trainguard.checkpoints import Footprint
from trainguard.config import Settings, load_settings
from trainguard.copies import keeping
from trainguard.copies.asking import REST, Asked, is_due
from trainguard.copies.keeping import BEFORE, RETIRED, find_copy, keep_copies, place_of, stage
from trainguard.health import Status

KEEP = {"directory": "out", "keep_copy": True}
FREELY = {"max_restarts": 1000, "window": 300, "same_cause": 1000}

TRAINER = """
import json, os, sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
from checkpoint_files import Tensor, torch_zip
from stub_daemon import append, tell
from trainguard.copies.keeping import verified_step
folder, seconds = Path({folder!r}), {seconds!r}
path, step = folder / "out" / "ckpt.pt", 0
path.parent.mkdir(exist_ok=True)
if path.exists():  # torch.load fails on what is not whole, and so does this
    step = verified_step(path, "ckpt.pt")
append(folder / "starts.jsonl", json.dumps({{"pid": os.getpid(), "step": step}}))
weights = Tensor(64, 64, seed=1)
while True:
    for _ in range(10):
        time.sleep(seconds / 3)
        step += 1
        tell(folder, step, 100000)
    content = torch_zip({{"model": {{"weight": weights}}, "iter_num": step}})
    (folder / "saving").touch()
    with path.open("wb", buffering=0) as file:
        for place in range(0, len(content), 1024):
            file.write(content[place : place + 1024])
            time.sleep(seconds / 18)
    (folder / "saving").unlink()
"""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "QUIET_SECONDS", 0.1)
    monkeypatch.setattr(keeping, "LOOK_SECONDS", 0.01)


def nano(folder: Path, step: int) -> Path:
    return nanogpt(folder / "out", step)


def configured(folder: Path, **more: Any) -> Settings:
    told = {**KEEP, **more}
    text = {"daemon": {"command": ["{python}"]}, "checkpoints": told}
    (folder / "config.yaml").write_text(json.dumps(text))
    return load_settings(folder / "config.yaml")


def copies_of(settings: Settings, path: Path) -> Path:
    return place_of(settings.logs.directory, path)


def step_of(path: Path) -> int | None:
    return keeping.verified_step(path, "ckpt.pt")


def newest_copy(place: Path) -> int:
    try:
        return step_of(place) or 0
    except FileNotFoundError:
        return 0


# ---- the rule -----------------------------------------------------------------------------------------


def test_a_copy_is_due_for_what_was_written_since_the_last_one_was_begun() -> None:
    before, after = Footprint(1, 100, 5.0), Footprint(1, 100, 6.0)
    assert not is_due(None, None, 0.0)
    assert not is_due(Footprint(0, 0, None), None, 0.0)
    assert is_due(before, None, 0.0)
    assert not is_due(before, Asked(before, 10.0, 11.0), 1000.0)
    assert is_due(after, Asked(before, 10.0, 11.0), 1000.0)


def test_it_rests_after_a_copy_so_that_it_takes_a_fifth_of_the_time_at_most() -> None:
    last = Asked(Footprint(1, 100, 5.0), 10.0, 20.0)
    written = Footprint(1, 100, 6.0)
    assert not is_due(written, last, 20.0 + 10.0 * REST - 0.1)
    assert is_due(written, last, 20.0 + 10.0 * REST)


def test_only_files_that_are_written_over_are_copied(tmp_path: Path) -> None:
    content = torch_zip({"weight": Tensor(4), "iter_num": 3})
    names = ["ckpt.pt", "best.pt", "gpt2.pt", "model_1.pth", "model_2.pth", "scheduler.pt", "notes.txt"]
    for name in names:
        (tmp_path / name).write_bytes(content)
    (tmp_path / "link.pt").symlink_to("ckpt.pt")
    found = {path.name for path in keeping.list_overwritten(tmp_path)}
    assert found <= {"ckpt.pt", "best.pt", "gpt2.pt"}
    for name in names[2:5]:
        (tmp_path / name).unlink()
    assert {path.name for path in keeping.list_overwritten(tmp_path)} == {"ckpt.pt", "best.pt"}


# ---- keeping ------------------------------------------------------------------------------------------


def test_the_copy_and_the_one_before_it_are_kept_and_nothing_appears_beside_the_checkpoint(
    tmp_path: Path,
) -> None:
    settings = configured(tmp_path)
    for step in (10, 20, 30):
        path = nano(tmp_path, step)
        (told,) = keep_copies(settings, 30.0)
        assert told.status is Status.OK, told
    place = copies_of(settings, path)
    assert (step_of(place), step_of(place.with_name(place.name + BEFORE))) == (30, 20)
    assert sorted(one.name for one in place.parent.iterdir()) == ["ckpt.pt", "ckpt.pt.before"]
    assert [one.name for one in path.parent.iterdir()] == ["ckpt.pt"]


def test_what_was_copied_already_is_not_copied_again(tmp_path: Path) -> None:
    settings = configured(tmp_path)
    path = nano(tmp_path, 10)
    keep_copies(settings, 30.0)
    inode = copies_of(settings, path).stat().st_ino
    assert keep_copies(settings, 30.0)[0].status is Status.OK
    assert copies_of(settings, path).stat().st_ino == inode


@pytest.mark.parametrize("part", range(16))
def test_a_torn_file_is_never_copied_and_the_former_copy_stays(tmp_path: Path, part: int) -> None:
    settings = configured(tmp_path)
    path = nano(tmp_path, 10)
    keep_copies(settings, 30.0)
    nano(tmp_path, 20)
    os.truncate(path, path.stat().st_size * part // 16)
    (told,) = keep_copies(settings, 30.0)
    assert told.status is Status.ATTENTION and "no new copy is kept" in told.fact
    assert step_of(copies_of(settings, path)) == 10


def test_a_save_that_begins_while_it_is_copied_gives_no_torn_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = configured(tmp_path)
    path = nano(tmp_path, 10)
    copy_file, copied = keeping.copy_file, []

    def interrupted(source: Path, target: Path, deadline: float) -> bool:
        if not copied:
            nano(tmp_path, 20)
        copied.append(target)
        return copy_file(source, target, deadline)

    monkeypatch.setattr(keeping, "copy_file", interrupted)
    assert keep_copies(settings, 30.0)[0].status is Status.OK
    assert len(copied) == 2
    assert step_of(copies_of(settings, path)) == 20


def test_a_copy_that_came_out_damaged_takes_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = configured(tmp_path)
    path = nano(tmp_path, 10)
    keep_copies(settings, 30.0)
    nano(tmp_path, 20)
    copy_file = keeping.copy_file

    def damaged(source: Path, target: Path, deadline: float) -> bool:
        copy_file(source, target, deadline)
        os.truncate(target, target.stat().st_size - 10)
        return False

    monkeypatch.setattr(keeping, "copy_file", damaged)
    (told,) = keep_copies(settings, 30.0)
    assert told.status is Status.ATTENTION and "its copy" in told.fact
    place = copies_of(settings, path)
    assert step_of(place) == 10
    assert [one.name for one in place.parent.iterdir()] == ["ckpt.pt"]


def test_a_file_that_never_rests_is_given_up(tmp_path: Path) -> None:
    settings = configured(tmp_path)
    path = nano(tmp_path, 10)
    script = "import os, sys, time\nwhile True: os.utime(sys.argv[1]); time.sleep(0.02)"
    restless = subprocess.Popen([sys.executable, "-c", script, str(path)])
    try:
        began = path.stat().st_mtime_ns
        wait_for(lambda: path.stat().st_mtime_ns != began)
        (told,) = keep_copies(settings, 2.0)
    finally:
        restless.kill()
        restless.wait()
    assert "it changes all the time" in told.fact
    assert not copies_of(settings, path).exists()


@pytest.mark.parametrize(("spare", "status"), [(-1, Status.ATTENTION), (0, Status.OK)])
def test_a_copy_needs_three_times_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spare: int, status: Status
) -> None:
    settings = configured(tmp_path)
    path = nano(tmp_path, 10)
    free = 3 * path.stat().st_size + spare
    monkeypatch.setattr(keeping, "free_bytes", lambda folder: free)
    (told,) = keep_copies(settings, 30.0)
    assert told.status is status
    assert copies_of(settings, path).exists() is (status is Status.OK)


def test_where_there_is_no_room_for_two_the_one_before_goes_and_the_copy_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = configured(tmp_path)
    for step in (10, 20):
        path = nano(tmp_path, step)
        keep_copies(settings, 30.0)
    nano(tmp_path, 30)
    monkeypatch.setattr(keeping, "free_bytes", lambda folder: 0)
    assert "free" in keep_copies(settings, 30.0)[0].fact
    place = copies_of(settings, path)
    assert step_of(place) == 20
    assert not place.with_name(place.name + BEFORE).exists()


def test_only_one_child_at_a_time_touches_the_copies(tmp_path: Path) -> None:
    settings = configured(tmp_path)
    nano(tmp_path, 10)
    with keeping.held(settings.logs.directory), pytest.raises(BlockingIOError):
        keep_copies(settings, 30.0)


def test_a_reflink_that_is_refused_becomes_a_plain_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def refused(descriptor: int, request: int, argument: int) -> int:
        asked.append(request)
        raise OSError(95, "Operation not supported")

    path = nano(tmp_path, 10)
    monkeypatch.setattr(fcntl, "ioctl", refused)
    monkeypatch.setattr(keeping, "PIECE", 1000)
    monkeypatch.setattr(keeping, "SYNC", 2000)
    assert not keeping.copy_file(path, tmp_path / "copy", time.monotonic() + 30)
    assert asked == [0x40049409]
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()


def test_a_copy_that_lasts_too_long_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "clone", lambda source, target: False)
    path = nano(tmp_path, 10)
    with pytest.raises(TimeoutError):
        keeping.copy_file(path, tmp_path / "copy", time.monotonic())


@pytest.fixture
def sharing(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of its own that knows reflinks."""
    image, folder = tmp_path / "image", tmp_path / "mounted"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(400 << 20)
    for maker in (["mkfs.xfs", "-q", "-m", "reflink=1"], ["mkfs.btrfs", "-q"]):
        try:
            made = subprocess.run([*maker, str(image)], capture_output=True, check=False).returncode == 0
        except FileNotFoundError:
            continue
        mount = ["mount", "-o", "loop", str(image), str(folder)]
        if made and subprocess.run(mount, capture_output=True, check=False).returncode == 0:
            break
    else:
        pytest.skip("this machine makes no file system with reflinks")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_where_the_file_system_can_the_copy_shares_the_blocks(sharing: Path) -> None:
    path = nano(sharing, 10)
    assert keeping.copy_file(path, sharing / "copy", time.monotonic() + 30)
    before = path.read_bytes()
    nano(sharing, 20)
    assert (sharing / "copy").read_bytes() == before


# ---- putting back -------------------------------------------------------------------------------------


def test_a_copy_that_is_spoilt_is_not_used_and_the_one_before_is(tmp_path: Path) -> None:
    settings = configured(tmp_path)
    for step in (10, 20):
        path = nano(tmp_path, step)
        keep_copies(settings, 30.0)
    place, notes = copies_of(settings, path), []
    os.truncate(place, 500)
    copy = find_copy(settings.logs.directory, path, None, notes)
    assert copy is not None and copy.step == 10 and copy.path.name == "ckpt.pt.before"
    assert len(notes) == 1 and "is not used" in notes[0]
    os.truncate(copy.path, 500)
    assert find_copy(settings.logs.directory, path, None, notes) is None


def test_after_a_loss_that_was_no_number_an_earlier_copy_is_taken(tmp_path: Path) -> None:
    settings = configured(tmp_path)
    for step in (10, 20):
        path = nano(tmp_path, step)
        keep_copies(settings, 30.0)
    taken = [find_copy(settings.logs.directory, path, below, []) for below in (21, 20, 10)]
    assert [None if one is None else one.step for one in taken] == [20, 10, None]


def test_the_copy_takes_the_place_of_the_spoilt_one_which_is_kept(tmp_path: Path) -> None:
    settings = configured(tmp_path)
    path = nano(tmp_path, 10)
    keep_copies(settings, 30.0)
    whole, mode = path.read_bytes(), path.stat().st_mode
    os.truncate(path, 700)
    copy = find_copy(settings.logs.directory, path, None, [])
    assert copy is not None
    staged = stage(copy, path, 30.0)
    assert checkpoints.list_saves(path.parent) == [checkpoints.Checkpoint(-1, path, False)]
    aside = remedies.set_aside(path, "incomplete", path, staged)
    assert path.read_bytes() == whole and path.stat().st_mode == mode
    assert aside is not None and aside.stat().st_size == 700
    assert len(list(path.parent.iterdir())) == 2
    assert keep_copies(settings, 30.0)[0].status is Status.OK
    assert not copy.path.with_name(copy.path.name + BEFORE).exists()  # it was known as the same


def test_without_room_nothing_is_left_beside_the_spoilt_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = configured(tmp_path)
    path = nano(tmp_path, 10)
    keep_copies(settings, 30.0)
    copy = find_copy(settings.logs.directory, path, None, [])
    assert copy is not None
    monkeypatch.setattr(keeping, "free_bytes", lambda folder: path.stat().st_size)
    with pytest.raises(OSError, match="must be free"):
        stage(copy, path, 30.0)
    assert [one.name for one in path.parent.iterdir()] == ["ckpt.pt"]


def test_copies_of_what_somebody_removed_are_retired_until_there_is_a_new_one(tmp_path: Path) -> None:
    settings = configured(tmp_path)
    path = nano(tmp_path, 10)
    keep_copies(settings, 30.0)
    path.unlink()
    notes: list[str] = []
    for _ in range(2):
        keeping.retire_copies(settings.logs.directory, notes)
    retired = copies_of(settings, path).with_name("ckpt.pt" + RETIRED)
    assert len(notes) == 1 and str(retired) in notes[0]
    assert step_of(retired) == 10
    assert find_copy(settings.logs.directory, path, None, []) is None
    nano(tmp_path, 5)
    keep_copies(settings, 30.0)
    assert not retired.exists() and step_of(copies_of(settings, path)) == 5


# ---- the watchdog -------------------------------------------------------------------------------------


@pytest.fixture
def told(sandbox: Sandbox) -> Iterator[Sandbox]:
    """What a failing test needs to know."""
    yield sandbox
    print(sandbox.output_tail())


def train(sandbox: Sandbox, seconds: float, **kept: Any) -> Path:
    """Have a trainer that writes over one file watched; a save lasts about so many seconds."""
    script = sandbox.folder / "train.py"
    script.write_text(TRAINER.format(tests=str(ROOT / "tests"), folder=str(sandbox.folder), seconds=seconds))
    daemon = {
        "command": ["{python}", str(script)],
        "directory": str(sandbox.folder),
        "environment": {"PYTHONPATH": str(ROOT)},
    }
    sandbox.configure(daemon=daemon, restart=FREELY, checkpoints={"directory": "out", **kept})
    return sandbox.folder / "out" / "ckpt.pt"


def current_step(sandbox: Sandbox) -> int:
    try:
        return int(json.loads((sandbox.folder / "status.json").read_text())["current_step"])
    except FileNotFoundError:
        return 0


def kill_while_saving(sandbox: Sandbox, pid: int, after: float) -> None:
    """Kill the trainer in the middle of a save, `after` seconds from its beginning."""
    saving = sandbox.folder / "saving"
    saving.unlink(missing_ok=True)
    wait_for(saving.exists, what="a save")
    time.sleep(after)
    os.kill(pid, signal.SIGKILL)


def test_a_trainer_killed_while_it_writes_over_its_only_checkpoint_resumes_from_the_copy_every_time(
    told: Sandbox,
) -> None:
    original = train(told, 0.6, keep_copy=True)
    told.start()
    place = place_of(told.logs, original)
    source = random.Random(4)
    start, reached = told.wait_for_start(), []
    for number in range(10):
        # Sometimes the next save after a resume is the one that fails, and sometimes a later one.
        least = reached[-1] + 1 if number % 3 == 0 and reached else 1
        copied = wait_for(
            lambda least=least: newest_copy(place) >= least and newest_copy(place),
            what=f"a copy of step {least}; {told.output_tail()}",
        )
        kill_while_saving(told, start["pid"], source.uniform(0.0, 0.5))
        start = told.wait_for_start(number + 2)
        newest = newest_copy(place)
        assert start["step"] == newest and newest >= copied, told.output_tail()
        reached.append(start["step"])
    assert reached == sorted(reached) and len(set(reached)) >= 3, reached
    events = told.events("set_aside")
    assert len(events) == 10 and all("its verified copy is put back" in one["text"] for one in events)
    incident = told.incidents()[0]
    assert incident["set_aside"][0]["copy"] == str(place)
    names = [one.name for one in original.parent.iterdir() if one.name != "ckpt.pt"]
    assert len(names) == 10 and all(name.startswith("0-incomplete.ckpt.pt.") for name in names), names


def test_without_copies_the_same_kill_loses_all_that_was_learnt(told: Sandbox) -> None:
    train(told, 0.6)
    told.start()
    start = told.wait_for_start()
    wait_for(lambda: current_step(told) > 10)
    kill_while_saving(told, start["pid"], 0.3)
    assert told.wait_for_start(2)["step"] == 0
    assert not (told.logs / keeping.FOLDER).exists()


def test_without_the_watchdog_the_trainer_stays_dead(told: Sandbox) -> None:
    train(told, 0.2)
    script = [sys.executable, str(told.folder / "train.py")]
    trainer = subprocess.Popen(script, env={**os.environ, "PYTHONPATH": str(ROOT)})
    told.strangers.append(trainer)
    kill_while_saving(told, trainer.pid, 0.1)
    trainer.wait()
    again = subprocess.run(
        script, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert again.returncode == 1 and "FaultError" in again.stderr


def test_dry_run_shows_the_copy_that_would_be_put_back_and_changes_nothing(told: Sandbox) -> None:
    path = train(told, 0.2, keep_copy=True)
    settings = load_settings(told.config)
    nanogpt(path.parent, 40)
    keep_copies(settings, 30.0)
    os.truncate(path, 700)
    before = {one: one.stat().st_mtime_ns for one in told.folder.rglob("*")}
    answer = told.call("--dry-run")
    place = place_of(told.logs, path)
    assert answer.returncode == 0, answer.stderr
    assert f"would rename {path}, which is incomplete" in answer.stdout
    assert f"would put its copy back: {place}" in answer.stdout
    assert {one: one.stat().st_mtime_ns for one in told.folder.rglob("*")} == before


def test_a_copy_that_is_spoilt_too_is_told_and_the_run_begins_anew(told: Sandbox) -> None:
    path = train(told, 0.2, keep_copy=True)
    settings = load_settings(told.config)
    nanogpt(path.parent, 40)
    keep_copies(settings, 30.0)
    for one in (path, place_of(told.logs, path)):
        os.truncate(one, 700)
    told.start()
    assert told.wait_for_start()["step"] == 0
    assert "from the beginning" in told.wait_for_event("set_aside")["text"]
    assert "is not used" in told.wait_for_event("set_aside")["text"]


def test_a_watchdog_that_keeps_copies_needs_no_more_memory(told: Sandbox) -> None:
    used = {}
    for keep in (False, True):
        path = train(told, 0.6, keep_copy=keep)
        told.start()
        watchdog, place = told.watchdogs[-1], place_of(told.logs, path)
        wait_for(lambda: current_step(told) > 20, what=told.output_tail())
        wait_for(lambda place=place, keep=keep: place.exists() is keep, what=told.output_tail())
        status = Path(f"/proc/{watchdog.pid}/status").read_text()
        used[keep] = int(status.split("RssAnon:")[1].split()[0])
        told.call("--stop", "--with-daemon")
        watchdog.wait()
        for one in (told.folder / "status.json", path):
            one.unlink()
        shutil.rmtree(told.logs)
    assert used[True] - used[False] < 512, used  # KiB
