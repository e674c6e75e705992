"""The bundled training run, from outside: real processes, real signals, real checkpoints."""

import ast
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "examples" / "training_daemon.py"
FILES = (
    "config.json",
    "model.safetensors",
    "training_args.json",
    "optimizer.safetensors",
    "scheduler.json",
    "rng_state.json",
    "trainer_state.json",
)
LIMIT = 30.0


def wait_until(condition: Callable[[], object], limit: float = LIMIT) -> None:
    """Return as soon as `condition` holds; fail after `limit` seconds."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


class Daemon:
    """One started training run. Its worker is held by a pidfd, so that no signal can hit a stranger."""

    def __init__(self, folder: Path, *options: str, step_seconds: float = 0.0, steps: int = 40) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.log = folder.with_name(f"{folder.name}.log")
        command = [sys.executable, str(SCRIPT), "--output-dir", str(folder), "--steps", str(steps)]
        command += ["--step-seconds", str(step_seconds), *options]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, cwd=folder, start_new_session=True
            )
        self.worker_pid = 0
        self.worker = -1

    def output(self) -> str:
        return self.log.read_text().replace("\r", "\n")

    def metrics(self) -> list[dict[str, str]]:
        return [ast.literal_eval(line) for line in self.output().splitlines() if line.startswith("{'")]

    def step(self) -> int:
        status = self.folder / "training_status.json"
        return json.loads(status.read_text())["current_step"] if status.exists() else 0

    def until_step(self, step: int) -> "Daemon":
        wait_until(lambda: self.step() >= step)
        return self

    def with_worker(self) -> "Daemon":
        """Wait until the worker has given a batch, and hold on to it."""
        self.until_step(1)
        line = next(line for line in self.output().splitlines() if line.startswith("data worker: pid "))
        self.worker_pid = int(line.split()[-1])
        self.worker = os.pidfd_open(self.worker_pid)
        return self

    def worker_ended(self, within: float) -> bool:
        """Whether the worker has ended, after at most `within` seconds."""
        return bool(select.select([self.worker], [], [], within)[0])

    def returncode(self) -> int:
        return self.process.wait(LIMIT)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.worker >= 0:
            if not self.worker_ended(0):
                signal.pidfd_send_signal(self.worker, signal.SIGKILL)
            os.close(self.worker)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Starts a run in a folder of the test's own; whatever still lives is ended afterwards."""
    started: list[Daemon] = []

    def start_one(*options: str, folder: str = "run", step_seconds: float = 0.0, steps: int = 40) -> Daemon:
        started.append(Daemon(tmp_path / folder, *options, step_seconds=step_seconds, steps=steps))
        return started[-1]

    yield start_one
    for daemon in started:
        daemon.end()


def checkpoint_names(folder: Path) -> list[str]:
    return sorted((path.name for path in folder.glob("checkpoint-*")), key=lambda name: int(name[11:]))


def is_whole(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / "trainer_state.json").read_text())
    except (OSError, ValueError):
        return False
    return True


def stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on: state, parent, group, session, ..."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def test_the_loss_falls_and_the_last_line_sums_up(start):
    daemon = start(steps=200)
    assert daemon.returncode() == 0
    *lines, summary = daemon.metrics()
    assert len(lines) == 20
    assert list(lines[0]) == ["loss", "grad_norm", "learning_rate", "epoch"]
    assert float(lines[0]["loss"]) > 2.5 > 0.9 > float(lines[-1]["loss"])
    assert {"train_runtime", "train_samples_per_second", "train_loss", "epoch"} <= set(summary)
    status = json.loads((daemon.folder / "training_status.json").read_text())
    assert status["current_step"] == status["total_steps"] == 200
    assert 0 < status["loss"] < 1.5


def test_the_bar_has_the_form_of_tqdm(start):
    daemon = start(step_seconds=0.01)
    assert daemon.returncode() == 0
    bars = [line for line in daemon.output().splitlines() if "/40 [" in line]
    assert bars[-1].startswith("100%|██████████| 40/40 [00:0")
    assert bars[-1].endswith("it/s]")
    assert "<00:00, " in bars[-1]


def test_a_checkpoint_grows_file_by_file_and_trainer_state_makes_it_whole(start):
    daemon = start("--save-seconds", "0.6", steps=3)
    folder = daemon.folder / "checkpoint-3"
    seen: set[int] = set()

    def finished() -> bool:
        present = [name for name in FILES if (folder / name).exists()]
        assert present == list(FILES[: len(present)])
        seen.add(len(present))
        return len(present) == len(FILES)

    wait_until(finished)
    assert len(seen) > 3
    assert daemon.returncode() == 0
    written = [(folder / name).stat().st_mtime_ns for name in FILES]
    assert written == sorted(written)
    state = json.loads((folder / "trainer_state.json").read_text())
    assert (state["global_step"], state["max_steps"]) == (3, 3)


@pytest.mark.parametrize(("limit", "kept"), [("0", [10, 20, 30, 35]), ("1", [35]), ("2", [30, 35])])
def test_the_newest_checkpoints_are_kept(start, limit, kept):
    daemon = start("--save-steps", "10", "--save-total-limit", limit, steps=35)
    assert daemon.returncode() == 0
    assert checkpoint_names(daemon.folder) == [f"checkpoint-{step}" for step in kept]


def test_a_run_killed_at_any_moment_ends_with_the_weights_of_an_uninterrupted_one(start):
    whole = start(folder="whole", steps=120)
    for target in sorted(random.sample(range(1, 115), 3)):
        killed = start("--save-steps", "10", folder="killed", step_seconds=0.005, steps=120)
        killed.until_step(target)
        killed.process.kill()
        assert killed.returncode() == -signal.SIGKILL
        for name in checkpoint_names(killed.folder)[-1:]:
            if not is_whole(killed.folder / name):  # hit in the middle of a save
                shutil.rmtree(killed.folder / name)
    last = start("--save-steps", "10", folder="killed", steps=120)
    assert whole.returncode() == last.returncode() == 0
    assert "resuming from" in last.output()
    for name in ("model.safetensors", "optimizer.safetensors", "rng_state.json"):
        uninterrupted = (whole.folder / "checkpoint-120" / name).read_bytes()
        assert (last.folder / "checkpoint-120" / name).read_bytes() == uninterrupted


def test_a_finished_run_that_is_started_again_takes_no_step(start):
    assert start(steps=5).returncode() == 0
    again = start(steps=5)
    assert again.returncode() == 0
    assert [next(iter(line)) for line in again.metrics()] == ["train_runtime"]


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
    ("name", "damage", "error"),
    [
        ("model.safetensors", truncate, "SafetensorError"),
        ("optimizer.safetensors", truncate, "SafetensorError"),
        ("optimizer.safetensors", Path.unlink, "FileNotFoundError"),
        ("rng_state.json", truncate, "JSONDecodeError"),
        ("trainer_state.json", Path.unlink, "FileNotFoundError"),
    ],
)
def test_a_broken_newest_checkpoint_raises_and_no_older_one_is_taken(start, name, damage, error):
    first = start("--save-steps", "10", steps=20)
    assert first.returncode() == 0
    damage(first.folder / "checkpoint-20" / name)
    second = start("--save-steps", "10", steps=30)
    assert second.returncode() == 1
    assert error in second.output().splitlines()[-1]
    assert checkpoint_names(first.folder) == ["checkpoint-10", "checkpoint-20"]


@pytest.mark.parametrize(
    ("kind", "returncode", "text"),
    [
        ("exit1", 1, "error: giving up, as asked"),
        ("exception", 1, "RuntimeError: failing before step 25"),
        ("memory", 1, "Unable to allocate 1.00 EiB"),
        ("sigkill", -signal.SIGKILL, ""),
        ("sigsegv", -signal.SIGSEGV, ""),
    ],
)
def test_a_crash_comes_once_and_the_next_start_gets_past_it(start, kind, returncode, text):
    options = ("--save-steps", "10", "--crash-at", "25", "--crash-kind", kind)
    first = start(*options)
    assert first.returncode() == returncode
    assert text in first.output()
    assert first.step() == 24
    assert checkpoint_names(first.folder) == ["checkpoint-10", "checkpoint-20"]
    second = start(*options)
    assert second.returncode() == 0
    assert second.step() == 40


def test_with_every_run_the_crash_comes_again(start):
    for _ in range(2):
        daemon = start("--crash-at", "5", "--every-run")
        assert daemon.returncode() == 1
        assert daemon.step() == 4


def test_spoilt_weights_do_not_end_the_run(start):
    daemon = start("--crash-at", "25", "--crash-kind", "nan")
    assert daemon.returncode() == 0
    assert [line["loss"] == "nan" for line in daemon.metrics()[:-1]] == [False, False, True, True]
    assert json.loads((daemon.folder / "training_status.json").read_text())["loss"] is None


@pytest.mark.parametrize(
    ("kind", "returncode", "broken", "text"),
    [
        ("disk-full", 1, "model.safetensors", "OSError: [Errno 28] No space left on device: "),
        ("killed-in-save", -signal.SIGKILL, "optimizer.safetensors", ""),
    ],
)
def test_a_save_broken_off_leaves_a_checkpoint_that_the_next_start_fails_on(
    start, kind, returncode, broken, text
):
    options = ("--save-steps", "10", "--crash-at", "25", "--crash-kind", kind)
    first = start(*options)
    assert first.returncode() == returncode
    assert text in first.output()
    torn = first.folder / "checkpoint-25"
    assert {path.name for path in torn.iterdir()} == set(FILES[: FILES.index(broken) + 1])
    whole_size = (first.folder / "checkpoint-20" / broken).stat().st_size
    assert (torn / broken).stat().st_size == whole_size // 2
    second = start(*options)
    assert second.returncode() == 1
    assert "SafetensorError" in second.output()
    shutil.rmtree(torn)
    assert start(*options).returncode() == 0


@pytest.mark.parametrize(("kind", "state"), [("sleep", "S"), ("busy", "R"), ("stop", "T")])
def test_a_hang_is_alive_but_makes_no_progress(start, kind, state):
    daemon = start("--hang-at", "10", "--hang-kind", kind)
    faults = daemon.folder / "faults.txt"
    wait_until(lambda: faults.exists() and faults.read_text() == f"hang-at 10 {kind}\n")
    wait_until(lambda: stat_fields(daemon.process.pid)[0] == state)
    if kind == "busy":
        used = int(stat_fields(daemon.process.pid)[11])
        wait_until(lambda: int(stat_fields(daemon.process.pid)[11]) >= used + 10)
    assert daemon.process.poll() is None
    assert daemon.step() == 9
    if kind == "stop":
        daemon.process.send_signal(signal.SIGCONT)
        assert daemon.returncode() == 0
        assert daemon.step() == 40
    else:
        daemon.process.terminate()
        assert daemon.returncode() == -signal.SIGTERM


def test_failing_at_the_start_comes_once_or_in_every_run(start):
    assert start("--fail-at-start", steps=3).returncode() == 1
    assert start("--fail-at-start", steps=3).returncode() == 0
    last = start("--fail-at-start", "--every-run", steps=3)
    assert last.returncode() == 1
    assert last.output() == "error: failing at the start, as asked\n"


def test_sigterm_ends_the_run_without_a_save(start):
    daemon = start(step_seconds=0.02, steps=1000).until_step(3)
    daemon.process.terminate()
    assert daemon.returncode() == -signal.SIGTERM
    assert checkpoint_names(daemon.folder) == []


def test_with_save_on_term_the_whole_group_may_be_signalled_and_nothing_is_lost(start):
    whole = start(folder="whole", steps=60)
    stopped = start("--save-on-term", folder="stopped", step_seconds=0.02, steps=60).until_step(3)
    os.killpg(stopped.process.pid, signal.SIGTERM)
    assert stopped.returncode() == 143
    assert checkpoint_names(stopped.folder) == [f"checkpoint-{stopped.step()}"]
    assert f"saved checkpoint-{stopped.step()} on signal 15" in stopped.output()
    resumed = start(folder="stopped", steps=60)
    assert whole.returncode() == resumed.returncode() == 0
    model = "checkpoint-60/model.safetensors"
    assert (whole.folder / model).read_bytes() == (resumed.folder / model).read_bytes()


def test_the_data_worker_is_a_process_of_its_own_and_ends_with_the_run(start):
    daemon = start(step_seconds=0.02, steps=30).with_worker()
    _state, parent, group, session = stat_fields(daemon.worker_pid)[:4]
    assert int(parent) == int(group) == int(session) == daemon.process.pid
    assert daemon.returncode() == 0
    assert daemon.worker_ended(LIMIT)


def test_the_data_worker_ends_when_the_trainer_is_killed(start):
    daemon = start(step_seconds=0.02, steps=1000).with_worker()
    daemon.process.kill()
    assert daemon.returncode() == -signal.SIGKILL
    assert daemon.worker_ended(LIMIT)


def test_a_stubborn_data_worker_outlives_the_trainer_in_a_session_of_its_own_and_ignores_sigterm(start):
    options = ("--worker-ignores-parent", "--worker-setsid", "--worker-ignores-term")
    daemon = start(*options, step_seconds=0.02, steps=1000).with_worker()
    assert int(stat_fields(daemon.worker_pid)[3]) == daemon.worker_pid
    daemon.process.kill()
    assert daemon.returncode() == -signal.SIGKILL
    signal.pidfd_send_signal(daemon.worker, signal.SIGTERM)
    assert not daemon.worker_ended(0.5)
    signal.pidfd_send_signal(daemon.worker, signal.SIGKILL)
    assert daemon.worker_ended(LIMIT)


def test_a_stubborn_data_worker_still_ends_with_a_run_that_ends_by_itself(start):
    options = ("--worker-ignores-parent", "--worker-setsid", "--worker-ignores-term")
    daemon = start(*options, step_seconds=0.02, steps=30).with_worker()
    assert daemon.returncode() == 0
    assert daemon.worker_ended(LIMIT)


def test_a_killed_data_worker_ends_the_run_with_an_error(start):
    daemon = start(step_seconds=0.01, steps=2000).with_worker()
    signal.pidfd_send_signal(daemon.worker, signal.SIGKILL)
    assert daemon.returncode() == 1
    assert f"data worker (pid {daemon.worker_pid}) exited unexpectedly, exit code -9" in daemon.output()


def test_importing_the_script_does_nothing(tmp_path):
    code = f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import training_daemon"
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, timeout=LIMIT)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
    assert list(tmp_path.iterdir()) == []
