"""Before a start: spoilt checkpoints are set aside, and the cause of the end decides. Real watchdogs, real files."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from checkpoint_files import deepspeed, lightning
from stub_daemon import save
from support import ROOT, Sandbox, wait_for

from trainguard.preparations import Preparation
from trainguard.run_folder import RunFolder

CHECKPOINTS = {"directory": "checkpoints"}
SLOW = ("--pace", "0.05")


def folder_of(sandbox: Sandbox) -> Path:
    return sandbox.folder / "checkpoints"


def names(sandbox: Sandbox) -> list[str]:
    return sorted(one.name for one in folder_of(sandbox).iterdir())


def wait_for_checkpoint(sandbox: Sandbox, step: int) -> Path:
    checkpoint = folder_of(sandbox) / f"checkpoint-{step}"
    wait_for((checkpoint / "trainer_state.json").exists, what=f"checkpoint {step}; {sandbox.output_tail()}")
    return checkpoint


def half_written(sandbox: Sandbox, step: int) -> Path:
    checkpoint = folder_of(sandbox) / f"checkpoint-{step}"
    shutil.copytree(folder_of(sandbox) / "checkpoint-10", checkpoint)
    (checkpoint / "trainer_state.json").unlink()
    return checkpoint


def last_incident(sandbox: Sandbox) -> dict[str, Any]:
    return wait_for(lambda: next(iter(sandbox.incidents()[-1:]), None))


@pytest.fixture
def told(sandbox: Sandbox) -> Iterator[Sandbox]:
    """What a failing test needs to know."""
    yield sandbox
    print(sandbox.output_tail())


def test_a_half_written_checkpoint_is_set_aside_and_the_run_resumes_from_the_one_before(
    told: Sandbox,
) -> None:
    told.configure(*SLOW, checkpoints=CHECKPOINTS)
    told.start()
    first = told.wait_for_start()
    wait_for_checkpoint(told, 10)
    half_written(told, 500)
    os.kill(first["pid"], signal.SIGKILL)
    second = told.wait_for_start(2)
    assert second["step"] < 500 and second["step"] % 10 == 0
    (aside,) = (name for name in names(told) if "-500" in name)
    assert aside.startswith("0-incomplete.checkpoint-500.")
    assert "trainer_state.json" in told.wait_for_event("set_aside")["text"]
    (record,) = last_incident(told)["set_aside"]
    assert (record["step"], record["verdict"]) == (500, "incomplete")


def test_the_first_start_verifies_too(told: Sandbox) -> None:
    told.configure(*SLOW, "--steps", "30", checkpoints=CHECKPOINTS)
    assert told.start().wait(60) == 0
    half_written(told, 500)
    assert told.call("--start").returncode == 0
    assert told.starts()[1]["step"] == 30
    assert any(name.startswith("0-incomplete.checkpoint-500.") for name in names(told))


def test_where_it_is_switched_off_a_spoilt_checkpoint_is_only_told(told: Sandbox) -> None:
    told.configure(*SLOW, checkpoints={**CHECKPOINTS, "set_aside": False})
    told.start()
    first = told.wait_for_start()
    wait_for_checkpoint(told, 10)
    half_written(told, 500)
    os.kill(first["pid"], signal.SIGKILL)
    assert told.wait_for_start(2)["step"] == 500
    assert "checkpoint-500" in names(told)
    assert "left as it is" in told.wait_for_event("spoilt")["text"]


def test_dry_run_shows_what_would_be_set_aside_and_changes_nothing(told: Sandbox) -> None:
    told.configure(*SLOW, "--steps", "30", checkpoints=CHECKPOINTS)
    assert told.start().wait(60) == 0
    half_written(told, 500)
    told.call("--start", "--json")  # refused: nothing happens
    state = RunFolder(told.logs).load_state()[0]
    assert state.phase.value == "finished"
    shutil.rmtree(told.logs)
    before = names(told)
    answer = told.call("--dry-run")
    assert answer.returncode == 0, answer.stderr
    assert "would rename" in answer.stdout and "checkpoint-500" in answer.stdout
    assert "would start" in answer.stdout
    assert names(told) == before


def test_a_pointer_that_names_a_spoilt_checkpoint_is_led_to_the_good_one_and_kept(told: Sandbox) -> None:
    told.configure(*SLOW, "--save-every", "100000", checkpoints=CHECKPOINTS)
    for step in (10, 20):
        deepspeed(folder_of(told), step)
    pointer = folder_of(told) / "latest"
    former = pointer.read_text()
    victim = folder_of(told) / "global_step20" / "mp_rank_00_model_states.pt"
    victim.write_bytes(victim.read_bytes()[:-100])
    told.start()
    told.wait_for_start()
    assert pointer.read_text().strip() == "global_step10"
    (kept,) = folder_of(told).glob("latest.before-*")
    assert kept.read_text() == former.strip() or kept.read_text() == former
    assert any(name.startswith("0-incomplete.global_step20.") for name in names(told))


def test_a_run_that_fails_twice_at_the_same_place_is_parked_and_resumed_by_a_person(told: Sandbox) -> None:
    script = told.folder / "train.py"
    script.write_text("import os, pathlib\nraise KeyError(f'labels of {os.getpid()}')\n")
    told.configure(daemon={"command": ["{python}", str(script)], "directory": str(told.folder)})
    told.start()
    event = told.wait_for_event("parked")
    assert "ended it 2 times" in event["text"] and "--resume" in event["text"]
    assert len(told.incidents()) == 2
    assert told.status()["phase"] == "parked"
    assert told.call("--resume").returncode == 0
    wait_for(lambda: len(told.incidents()) >= 4, what=told.output_tail())


def test_a_hardware_fault_parks_at_once(told: Sandbox) -> None:
    script = told.folder / "train.py"
    script.write_text(
        "raise RuntimeError('Unable to determine the device handle for GPU0000:3B:00.0: GPU is lost. "
        "Reboot the system to recover this GPU')\n"
    )
    told.configure(daemon={"command": ["{python}", str(script)], "directory": str(told.folder)})
    told.start()
    assert "gpu_lost" in told.wait_for_event("parked")["text"]
    assert len(told.incidents()) == 1


def test_a_remedy_is_applied_at_the_second_crash_of_its_cause(told: Sandbox) -> None:
    script = told.folder / "train.py"
    script.write_text(
        "import json, os, sys, time\n"
        f"with open({str(told.folder / 'calls.jsonl')!r}, 'a') as out:\n"
        "    print(json.dumps([sys.argv[1:], os.environ.get('REMEDY')]), file=out)\n"
        "if os.environ.get('REMEDY'):\n"
        "    time.sleep(3600)\n"
        "raise RuntimeError('CUDA out of memory. Tried to allocate 2.00 GiB')\n"
    )
    remedy = {"cuda_oom": {"environment": {"REMEDY": "yes"}, "arguments": ["--batch", "8"]}}
    told.configure(
        daemon={"command": ["{python}", str(script), "--lr", "1"], "directory": str(told.folder)},
        restart={"on_crash": remedy},
    )
    told.start()
    calls = told.folder / "calls.jsonl"
    wait_for(lambda: calls.exists() and len(calls.read_text().splitlines()) == 3, what=told.output_tail())
    assert [json.loads(line) for line in calls.read_text().splitlines()] == [
        [["--lr", "1"], None],
        [["--lr", "1"], None],
        [["--lr", "1", "--batch", "8"], "yes"],
    ]


WORKER = """
import os, sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
from stub_daemon import append, last_checkpoint, save
folder = Path({folder!r})
step = last_checkpoint(folder)
append(folder / "resumed.txt", str(step))
if os.fork():
    time.sleep(3600)
os.setsid()
while True:
    time.sleep(0.05)
    step += 1
    print(f"step {{step}}/1000 loss 0.5", flush=True)
    if step % 120 == 0:
        save(folder / "checkpoints" / f"checkpoint-{{step}}", step)
"""


def test_orphans_that_train_are_drained_and_the_run_resumes_from_what_they_saved(told: Sandbox) -> None:
    script = told.folder / "train.py"
    script.write_text(WORKER.format(tests=str(ROOT / "tests"), folder=str(told.folder)))
    told.configure(
        daemon={"command": ["{python}", str(script)], "directory": str(told.folder)},
        progress={"status_file": None},
        checkpoints=CHECKPOINTS,
        watchdog={"orphans": "drain", "drain_timeout": 50},
    )
    told.start()
    wait_for_checkpoint(told, 120)
    daemon = wait_for(lambda: told.state()["run"]["identity"])
    saved = max(int(name.partition("-")[2]) for name in names(told))
    os.kill(daemon["pid"], signal.SIGKILL)
    resumed = told.folder / "resumed.txt"
    wait_for(lambda: len(resumed.read_text().split()) == 2, what=told.output_tail())
    assert int(resumed.read_text().split()[1]) > saved
    assert "until their next checkpoint" in told.wait_for_event("draining")["text"]


@pytest.fixture
def small_disk(told: Sandbox) -> Iterator[Sandbox]:
    """A checkpoint folder on a file system of its own, of 24 MB."""
    folder_of(told).mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder_of(told))],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount a tmpfs here")
    yield told
    told.clean_up()
    subprocess.run(["umount", "-l", str(folder_of(told))], check=True)


def fill(sandbox: Sandbox, steps: range, size: int = 5 << 20) -> None:
    for step in steps:
        save(folder_of(sandbox) / f"checkpoint-{step}", step, size)


def test_a_start_waits_for_room_for_the_next_checkpoint_and_goes_on_when_there_is_some(
    small_disk: Sandbox,
) -> None:
    small_disk.configure(*SLOW, checkpoints=CHECKPOINTS)
    fill(small_disk, range(10, 50, 10))
    small_disk.start()
    assert "waiting for room" in small_disk.wait_for_event("disk")["text"]
    assert small_disk.status()["phase"] == "cooling"
    assert small_disk.starts() == []
    shutil.rmtree(folder_of(small_disk) / "checkpoint-10")
    assert small_disk.call("--resume").returncode == 0
    assert small_disk.wait_for_start()["step"] == 40


def test_where_the_user_asks_for_it_the_oldest_whole_checkpoints_make_room(small_disk: Sandbox) -> None:
    small_disk.configure(*SLOW, "--save-every", "100000", checkpoints={**CHECKPOINTS, "prune": True})
    fill(small_disk, range(10, 50, 10))
    best = folder_of(small_disk) / "checkpoint-10"
    state = {"global_step": 40, "log_history": [], "best_model_checkpoint": str(best)}
    (folder_of(small_disk) / "checkpoint-40" / "trainer_state.json").write_text(json.dumps(state))
    small_disk.start()
    assert small_disk.wait_for_start()["step"] == 40
    assert names(small_disk) == ["checkpoint-10", "checkpoint-30", "checkpoint-40"]
    assert "checkpoint-20" in small_disk.wait_for_event("pruned")["text"]


def test_a_remedy_for_an_unknown_cause_is_refused_with_the_nearest_name(told: Sandbox) -> None:
    told.configure(restart={"on_crash": {"cuda_om": {"arguments": ["--batch", "8"]}}})
    for arguments in ((), ("--check-config",)):
        answer = told.call(*arguments)
        assert answer.returncode == 3
        assert "did you mean `cuda_oom`" in answer.stderr and "on_crash.cuda_om" in answer.stderr


LOST = """
import os, sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
from stub_daemon import append, last_checkpoint, save
folder = Path({folder!r})
first = last_checkpoint(folder)
append(folder / "resumed.txt", str(first))
for step in range(first + 1, 1000):
    time.sleep(0.02)
    lost = step >= 12 and not (folder / "lost").exists()
    print({line}, flush=True)
    if step % 2 == 0:
        save(folder / "checkpoints" / f"checkpoint-{{step}}", step)
    if step == 17 and lost:
        (folder / "lost").touch()
        sys.exit(1)
"""


@pytest.mark.parametrize(
    "line",
    [
        "f'step {step}/1000 loss {\"nan\" if lost else 0.5}'",
        "f' {step / 10:.0f}%|#| {step}/1000 [00:01<00:09,  9.00it/s]' + chr(10) + str({'loss': 'nan' if lost else '1'"
        ", 'grad_norm': '1.0', 'learning_rate': '1e-05', 'epoch': '0.1'})",
    ],
)
def test_after_a_lost_loss_the_run_goes_back_to_the_checkpoint_before_it(told: Sandbox, line: str) -> None:
    script = told.folder / "train.py"
    script.write_text(LOST.format(tests=str(ROOT / "tests"), folder=str(told.folder), line=line))
    told.configure(
        daemon={"command": ["{python}", str(script)], "directory": str(told.folder)},
        progress={"status_file": None},
        checkpoints=CHECKPOINTS,
    )
    told.start()
    resumed = told.folder / "resumed.txt"
    wait_for(lambda: resumed.exists() and len(resumed.read_text().split()) == 2, what=told.output_tail())
    assert resumed.read_text().split() == ["0", "10"]
    aside = [name for name in names(told) if name.startswith("0-suspect.")]
    assert [name.split(".")[1] for name in aside] == ["checkpoint-12", "checkpoint-14", "checkpoint-16"]
    incident = wait_for(lambda: next((one for one in told.incidents() if one["closed"]), None))
    assert incident["steps_lost"] == incident["step"] - 10


@pytest.mark.parametrize("text", ["", "global_step40", "../../etc", "global_ste"])
def test_a_pointer_that_names_no_checkpoint_is_set_to_the_newest(told: Sandbox, text: str) -> None:
    told.configure(*SLOW, "--save-every", "100000", checkpoints=CHECKPOINTS)
    for step in (10, 20):
        deepspeed(folder_of(told), step)
    pointer = folder_of(told) / "latest"
    pointer.write_text(text)
    told.start()
    told.wait_for_start()
    assert pointer.read_text().strip() == "global_step20"
    (kept,) = folder_of(told).glob("latest.before-*")
    assert kept.read_text().strip() == text


def test_a_person_who_goes_back_by_the_pointer_is_followed(told: Sandbox) -> None:
    told.configure(*SLOW, "--save-every", "100000", checkpoints=CHECKPOINTS)
    for step in (10, 20, 30):
        deepspeed(folder_of(told), step)
    (folder_of(told) / "latest").write_text("global_step10")
    told.start()
    assert "at checkpoint 10" in told.wait_for_event("started")["text"]
    assert names(told) == ["global_step10", "global_step20", "global_step30", "latest"]


def test_a_checkpoint_that_a_person_has_put_back_is_left_alone(told: Sandbox) -> None:
    told.configure(*SLOW, "--save-every", "100000", checkpoints=CHECKPOINTS)
    for step in (10, 20):
        save(folder_of(told) / f"checkpoint-{step}", step)
    (folder_of(told) / "checkpoint-20" / "trainer_state.json").unlink()
    told.start()
    first = told.wait_for_start()
    os.kill(first["pid"], signal.SIGKILL)
    second = told.wait_for_start(2)
    aside = folder_of(told) / next(name for name in names(told) if name.startswith("0-incomplete."))
    aside.rename(folder_of(told) / "checkpoint-20")
    os.kill(second["pid"], signal.SIGKILL)
    told.wait_for_start(3)
    assert len(told.events("set_aside")) == 1
    assert "checkpoint-20" in names(told)
    assert "used all the same" in told.wait_for_event("note")["text"]


def test_a_checkpoint_with_weights_alone_is_told_also_where_no_other_has_more(told: Sandbox) -> None:
    told.configure(*SLOW, "--save-every", "100000", checkpoints=CHECKPOINTS)
    save(folder_of(told) / "checkpoint-10", 10)
    for name in ("optimizer.pt", "scheduler.pt"):
        (folder_of(told) / "checkpoint-10" / name).unlink(missing_ok=True)
    told.start()
    text = told.wait_for_event("note")["text"]
    assert "checkpoint-10 is weights-only: optimizer.pt is missing" in text and "used all the same" in text
    assert names(told) == ["checkpoint-10"]


def test_weights_in_an_unknown_layout_are_told_to_be_unverified(told: Sandbox) -> None:
    told.configure(*SLOW, "--save-every", "100000", checkpoints=CHECKPOINTS)
    (folder_of(told) / "state_at_10").mkdir(parents=True)
    (folder_of(told) / "state_at_10" / "params.msgpack").write_bytes(b"x" * 100)
    told.start()
    assert "state_at_10/params.msgpack is in no layout that is known" in told.wait_for_event("note")["text"]
    assert names(told) == ["state_at_10"]


def test_a_pointer_that_was_removed_is_told(told: Sandbox) -> None:
    told.configure(*SLOW, "--save-every", "100000", checkpoints=CHECKPOINTS)
    for step in (10, 20):
        deepspeed(folder_of(told), step)
    (folder_of(told) / "latest").unlink()
    told.start()
    assert "no latest names the checkpoint to resume from" in told.wait_for_event("note")["text"]
    assert names(told) == ["global_step10", "global_step20"]


def test_why_a_preparation_failed_is_told(tmp_path: Path) -> None:
    preparation = Preparation(tmp_path, set())
    preparation.ask(tmp_path / "absent.yaml", "1-1-a#1")
    found = wait_for(lambda: preparation.look(time.monotonic()))
    assert found.subject == "1-1-a#1" and not found.verified
    assert "no such file" in found.notes[0]
    assert list(tmp_path.iterdir()) == []


def test_a_torn_last_checkpoint_without_a_number_is_left_and_told(told: Sandbox) -> None:
    told.configure(*SLOW, "--save-every", "100000", checkpoints=CHECKPOINTS)
    whole = lightning(folder_of(told), 100)
    last = folder_of(told) / "last.ckpt"
    last.write_bytes(whole.read_bytes()[:-200])
    told.start()
    text = told.wait_for_event("note")["text"]
    assert "last.ckpt is incomplete" in text and "it is left" in text
    assert last.exists()


def test_dry_run_shows_the_pointer_that_would_be_led_and_says_nothing_against_itself(told: Sandbox) -> None:
    told.configure(*SLOW, "--save-every", "100000", checkpoints=CHECKPOINTS)
    for step in (10, 20):
        deepspeed(folder_of(told), step)
    victim = folder_of(told) / "global_step20" / "mp_rank_00_model_states.pt"
    victim.write_bytes(victim.read_bytes()[:-100])
    answer = told.call("--dry-run")
    assert f"would set {folder_of(told) / 'latest'} to name global_step10" in answer.stdout
    assert "used all the same" not in answer.stdout


def test_a_name_that_only_the_trainer_takes_for_a_checkpoint_is_told(told: Sandbox) -> None:
    told.configure(*SLOW, "--save-every", "100000", checkpoints=CHECKPOINTS)
    save(folder_of(told) / "checkpoint-10", 10)
    (folder_of(told) / f"checkpoint-{'9' * 30}").mkdir()
    told.start()
    told.wait_for_event("started")
    assert any("the Trainer would take it for its newest" in one["text"] for one in told.events("note"))


def test_a_run_that_dies_before_anybody_looked_is_known_by_its_log(told: Sandbox) -> None:
    script = told.folder / "train.py"
    script.write_text(
        "for step in (1, 2, 3):\n    print(f'step {step}/100 loss 0.5')\nraise RuntimeError('shapes differ')\n"
    )
    told.configure(
        daemon={"command": ["{python}", str(script)], "directory": str(told.folder)},
        watchdog={"poll_interval": 5},
    )
    told.start()
    told.wait_for_event("parked")
    assert [one["step"] for one in told.incidents()] == [3, 3]


def test_a_remedy_that_was_in_force_already_is_in_vain_at_the_second_end(told: Sandbox) -> None:
    script, calls = told.folder / "train.py", told.folder / "calls.txt"
    script.write_text(
        "import sys, time\n"
        f"calls = open({str(calls)!r}, 'a+')\n"
        "calls.seek(0)\n"
        "count = len(calls.readlines())\n"
        "print(*sys.argv[1:], file=calls, flush=True)\n"
        # The remedied run gets further than any before, and fails there for good.
        "for step in range(1, 5 if count < 2 else 41):\n"
        "    time.sleep(0.05)\n"
        "    print(f'step {step}/100 loss 0.5', flush=True)\n"
        "raise RuntimeError('CUDA out of memory. Tried to allocate 2.00 GiB')\n"
    )
    told.configure(
        daemon={"command": ["{python}", str(script)], "directory": str(told.folder)},
        restart={"on_crash": {"cuda_oom": {"arguments": ["--small"]}}, "max_restarts": 20},
    )
    told.start()
    told.wait_for_event("parked")
    assert told.wait_for_event("remedy")["text"].endswith("the remedy for cuda_oom")
    assert [line.strip() for line in calls.read_text().splitlines()] == ["", "", "--small", "--small"]
