"""The example with the real Trainer: alone, resumed after SIGKILL, and as two ranks under torchrun."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent.parent.parent / "examples" / "hf_trainer.py"
LIMIT = 110.0


def train(folder: Path, *options: str, ranks: int = 0) -> subprocess.CompletedProcess[str]:
    """The finished run; `ranks` above 0 go through torchrun, which picks a free port by itself."""
    command = [sys.executable]
    if ranks:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command += [str(SCRIPT), "--output-dir", str(folder), "--step-seconds", "0", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT)


def last_state(folder: Path, step: int) -> dict:
    return json.loads((folder / f"checkpoint-{step}" / "trainer_state.json").read_text())


def checkpoint_names(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("checkpoint-*")}


def test_a_killed_run_resumes_from_its_newest_checkpoint_and_learns(tmp_path):
    folder = tmp_path / "run"
    options = ("--steps", "50", "--save-steps", "20", "--save-total-limit", "2", "--crash-at", "33")
    killed = train(folder, *options)
    assert killed.returncode == -9, killed.stderr
    assert checkpoint_names(folder) == {"checkpoint-20"}
    resumed = train(folder, *options)
    assert resumed.returncode == 0, resumed.stderr
    assert checkpoint_names(folder) == {"checkpoint-40", "checkpoint-50"}
    history = [entry for entry in last_state(folder, 50)["log_history"] if "loss" in entry]
    assert [entry["step"] for entry in history] == list(range(5, 55, 5))
    assert history[-1]["loss"] < history[0]["loss"] - 1
    first_line = next(line for line in resumed.stdout.splitlines() if line.startswith("{'loss': '"))
    assert f"'epoch': '{25 * 8 / 512:.4g}'" in first_line


def test_two_ranks_train_under_torchrun(tmp_path):
    folder = tmp_path / "run"
    result = train(folder, "--steps", "12", "--save-steps", "6", ranks=2)
    assert result.returncode == 0, result.stderr
    assert last_state(folder, 12)["global_step"] == 12
    states = {path.name for path in (folder / "checkpoint-12").glob("rng_state_*.pth")}
    assert states == {"rng_state_0.pth", "rng_state_1.pth"}
    assert "'train_runtime': '" in result.stdout
