"""The bundled trainer under the watchdog, killed again and again at random steps: nothing saved is lost."""

import json
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

from support import ROOT, Sandbox, lives, wait_for

from trainguard import checkpoints, processes
from trainguard.identity import Identity

SCRIPT = ROOT / "examples" / "training_daemon.py"
KILLS, STEPS, SAVE_STEPS, FARTHEST = 10, 180, 7, 17
SAME_IN_BOTH = ("model.safetensors", "optimizer.safetensors", "rng_state.json", "scheduler.json")


class Trainer:
    """The trainer of a sandbox as its files show it from outside."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.folder = sandbox.folder / "run"
        self.log = sandbox.logs / "training_output.log"
        self.status_file = self.folder / "training_status.json"
        self.former: tuple[int, int] | None = None

    def identity(self, former: Identity | None) -> Identity | None:
        """The daemon that the watchdog has on record, once it is another than the former one."""
        told = (self.sandbox.state().get("run") or {}).get("identity")
        found = Identity(**told) if told else None
        return None if found == former else found

    def step(self) -> int:
        """The step that the living trainer told; 0 until it has told one."""
        try:
            about, status = self.status_file.stat(), json.loads(self.status_file.read_bytes())
        except FileNotFoundError:
            return 0
        return 0 if (about.st_ino, about.st_mtime_ns) == self.former else status["current_step"]

    def kill(self, identity: Identity, steps: int) -> int:
        """SIGKILL once it has made so many steps more than its newest checkpoint held; the step it died at.

        It is stopped for the blink of an eye before: one killed while it saves cannot resume, and no
        watchdog can help that.
        """
        wait_for(lambda: self.step() > 0)
        target = self.step() + steps
        while True:
            wait_for(lambda: self.step() >= target, what=f"step {target}")  # noqa: B023
            processes.send_signal(identity, signal.SIGSTOP)
            wait_for(lambda: getattr(processes.read_process(identity.pid), "state", "T") in "Tt")
            step = self.step()
            if step % SAVE_STEPS:
                break
            processes.send_signal(identity, signal.SIGCONT)
            target = step + 1
        about = self.status_file.stat()
        self.former = about.st_ino, about.st_mtime_ns
        processes.send_signal(identity, signal.SIGKILL)
        return step

    def lives(self) -> list[tuple[int, list[int]]]:
        """Of each life that resumed: the checkpoint that it named, and the steps that its bar showed."""
        parts = re.split(r"resuming from \S*checkpoint-(\d+)\n", self.log.read_text())
        pairs = zip(parts[1::2], parts[2::2], strict=True)
        return [(int(number), sorted(set(steps_in(text)))) for number, text in pairs]


def steps_in(text: str) -> list[int]:
    """The steps of all progress bars in a text."""
    return [int(step) for step in re.findall(rf"\| (\d+)/{STEPS} \[", text)]


def arguments(folder: Path, step_seconds: float) -> list[str]:
    options = {"steps": STEPS, "save-steps": SAVE_STEPS, "logging-steps": 1, "step-seconds": step_seconds}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return [str(SCRIPT), "--output-dir", str(folder), *words]


def test_ten_kills_at_random_steps_lose_nothing_that_was_saved(sandbox: Sandbox) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    source = random.Random(seed)
    trainer = Trainer(sandbox)
    undisturbed = sandbox.folder / "undisturbed"
    subprocess.run([sys.executable, *arguments(undisturbed, 0)], capture_output=True, check=True, timeout=60)
    sandbox.configure(
        daemon={
            "command": ["{python}", *arguments(trainer.folder, 0.02)],
            "environment": {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"},
            "log": str(trainer.log),
        },
        progress={"status_file": str(trainer.status_file)},
        checkpoints={"directory": str(trainer.folder)},
        restart={"max_restarts": KILLS + 1, "window": 300},
    )
    watchdog = sandbox.start()
    deaths: list[tuple[int, int]] = []
    identity: Identity | None = None
    for number in range(KILLS):
        identity = wait_for(lambda former=identity: trainer.identity(former), what="a new process")
        # The first life is long enough for a checkpoint; a later one may die before its first new step.
        step = trainer.kill(identity, source.randint(1 if number else SAVE_STEPS, FARTHEST - 1))
        newest = checkpoints.newest_checkpoint(trainer.folder)
        assert newest is not None
        deaths.append((step, newest.step))
        sandbox.wait_for_event("restarted", number + 1)
        assert not lives(identity)
    assert watchdog.wait(timeout=30) == 0, sandbox.output_tail()

    resumed = trainer.lives()
    assert [number for number, _ in resumed] == [checkpoint for _, checkpoint in deaths]
    for (checkpoint, steps), (last, _) in zip(resumed, [*deaths[1:], (STEPS, STEPS)], strict=True):
        assert steps[0] == checkpoint + 1
        # The bar is drawn right after the status is told.
        assert steps == list(range(checkpoint + 1, steps[-1] + 1)) and last - 1 <= steps[-1] <= last
    incidents = sorted(sandbox.incidents(), key=lambda incident: incident["run_number"])
    assert [(one["ending"]["signal"], one["step"]) for one in incidents] == [
        ("SIGKILL", step) for step, _ in deaths
    ]
    assert [one["checkpoint_step"] for one in incidents] == [checkpoint for _, checkpoint in deaths]
    repeated = [step - checkpoint for step, checkpoint in deaths]
    assert all(0 < steps < SAVE_STEPS for steps in repeated)
    # Where the next death came before the first new step, nobody can say what was lost in the end.
    told = [one["steps_lost"] for one in incidents]
    assert all(lost in (None, steps) for lost, steps in zip(told, repeated, strict=True)), (told, repeated)
    assert told[-1] == repeated[-1]
    print(f"{KILLS} kills, {len(resumed)} resumes, {sum(repeated)} steps repeated: {repeated}, told {told}")

    assert checkpoints.newest_checkpoint(trainer.folder).step == STEPS  # type: ignore[union-attr]
    ends = [folder / f"checkpoint-{STEPS}" for folder in (trainer.folder, undisturbed)]
    for name in SAME_IN_BOTH:
        assert (ends[0] / name).read_bytes() == (ends[1] / name).read_bytes(), name
    histories = [json.loads((end / "trainer_state.json").read_bytes())["log_history"] for end in ends]
    assert histories[0] == histories[1]
    assert [entry["step"] for entry in histories[0]] == list(range(1, STEPS + 1))
