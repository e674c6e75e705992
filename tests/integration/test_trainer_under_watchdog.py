"""The real Trainer under the watchdog: killed at random steps, alone and under torchrun, it ends where it should."""

import json
import random
import re
import signal
import time

import pytest
from support import ROOT, Sandbox, identity_of, lives, wait_for

from trainguard import checkpoints, processes
from trainguard.identity import Identity

SCRIPT = ROOT / "examples" / "hf_trainer.py"
KILLS, LAUNCHER_KILLS, SAVE_STEPS = 10, 3, 6
EXAMPLES = 512
BATCH = 8


class Trainer:
    """A Trainer under a sandbox's watchdog, as its log and its folder show it from outside."""

    def __init__(self, sandbox: Sandbox, steps: int, ranks: int) -> None:
        self.sandbox = sandbox
        self.folder = sandbox.folder / "run"
        self.log = sandbox.logs / "training_output.log"
        self.steps_per_epoch = EXAMPLES // BATCH // ranks
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        options = {"steps": steps, "save-steps": SAVE_STEPS, "logging-steps": 1, "step-seconds": 0.12}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        command = [
            "{python}",
            *(launcher if ranks > 1 else []),
            str(SCRIPT),
            "--output-dir",
            str(self.folder),
        ]
        sandbox.configure(
            daemon={
                "command": [*command, *words],
                "environment": {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
                "log": str(self.log),
            },
            progress={"status_file": None},
            checkpoints={"directory": str(self.folder)},
            restart={"max_restarts": KILLS + 1, "window": 600},
        )

    def identity(self, former: Identity | None) -> Identity | None:
        """The daemon that the watchdog has on record, once it is another than the former one."""
        told = (self.sandbox.state().get("run") or {}).get("identity")
        found = Identity(**told) if told else None
        return None if found == former else found

    def steps(self, start: int, end: int | None = None) -> list[int]:
        """The steps of the metrics in a range of the log: its epochs are told to four digits."""
        text = self.log.read_bytes()[start:end].decode() if self.log.exists() else ""
        epochs = re.findall(r"\{'loss': .*?'epoch': '([0-9.e-]+)'\}", text)
        return [round(float(epoch) * self.steps_per_epoch) for epoch in epochs]

    def is_whole(self) -> bool:
        """Whether the newest checkpoint has its last file."""
        newest = checkpoints.newest_checkpoint(self.folder)
        try:
            return newest is None or bool(json.loads((newest.path / "trainer_state.json").read_bytes()))
        except (OSError, ValueError):
            return False

    def newest(self) -> int:
        newest = checkpoints.newest_checkpoint(self.folder)
        return 0 if newest is None else newest.step


def seeded() -> random.Random:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    return random.Random(seed)


@pytest.mark.timeout(180)
def test_ten_kills_at_random_steps_and_each_time_it_goes_on_from_its_newest_checkpoint(
    sandbox: Sandbox,
) -> None:
    source, begun, last = seeded(), time.monotonic(), 60
    trainer = Trainer(sandbox, last, ranks=1)
    watchdog = sandbox.start()
    deaths: list[tuple[int, int]] = []
    starts = [0]
    identity: Identity | None = None
    for number in range(KILLS):
        identity = wait_for(lambda former=identity: trainer.identity(former), what="a new process")
        wanted = source.randint(1, 5) if number else SAVE_STEPS + 1
        while True:
            wait_for(lambda: len(trainer.steps(starts[-1])) >= wanted, 60, f"{wanted} steps")  # noqa: B023
            # Stopped for a moment: a Trainer that is killed while it saves cannot resume.
            processes.send_signal(identity, signal.SIGSTOP)
            wait_for(lambda: getattr(processes.read_process(identity.pid), "state", "T") in "Tt")  # noqa: B023
            steps = trainer.steps(starts[-1])
            if trainer.is_whole() and steps[-1] % SAVE_STEPS:
                break
            processes.send_signal(identity, signal.SIGCONT)
            wanted = len(steps) + 1
        deaths.append((steps[-1], trainer.newest()))
        starts.append(trainer.log.stat().st_size)
        processes.send_signal(identity, signal.SIGKILL)
        sandbox.wait_for_event("restarted", number + 1)
        assert not lives(identity)
    assert watchdog.wait(timeout=60) == 0, sandbox.output_tail()

    for index, (_, checkpoint) in enumerate(deaths, 1):
        end = starts[index + 1] if index < KILLS else None
        stop = deaths[index][0] if index < KILLS else last
        assert trainer.steps(starts[index], end) == list(range(checkpoint + 1, stop + 1))
    history = json.loads((trainer.folder / f"checkpoint-{last}" / "trainer_state.json").read_bytes())
    assert [one["step"] for one in history["log_history"] if "loss" in one] == list(range(1, last + 1))
    incidents = sorted(sandbox.incidents(), key=lambda one: one["run_number"])
    assert [one["ending"]["signal"] for one in incidents] == ["SIGKILL"] * KILLS
    assert [one["checkpoint_step"] for one in incidents] == [checkpoint for _, checkpoint in deaths]
    # The bar is drawn before the metrics are written, and after the step: it may be one ahead.
    seen = [(one["step"], step) for one, (step, _) in zip(incidents, deaths, strict=True)]
    assert all(0 <= told - step <= 1 for told, step in seen), seen
    told = [one["steps_lost"] for one in incidents]
    assert all(one["steps_lost"] in (None, one["step"] - one["checkpoint_step"]) for one in incidents), told
    repeated = [step - checkpoint for step, checkpoint in deaths]
    seconds = time.monotonic() - begun
    print(f"{KILLS} kills, {KILLS} resumes, steps repeated {repeated}, told {told}, {seconds:.1f} s")


@pytest.mark.timeout(180)
def test_no_rank_outlives_its_killed_launcher_into_the_next_start(sandbox: Sandbox) -> None:
    source, begun, last = seeded(), time.monotonic(), 32
    trainer = Trainer(sandbox, last, ranks=2)
    watchdog = sandbox.start()
    launcher: Identity | None = None
    start = looks = 0
    deaths: list[tuple[int, int]] = []
    workers: list[list[Identity]] = []
    for number in range(LAUNCHER_KILLS):
        launcher = wait_for(lambda former=launcher: trainer.identity(former), what="a new launcher")
        wanted = trainer.newest() + source.randint(1, 3) + (0 if number else SAVE_STEPS)
        wait_for(lambda: (trainer.steps(start) or [0])[-1] >= wanted, 60, f"step {wanted}")  # noqa: B023
        wait_for(trainer.is_whole)
        below = {one.identity for one in processes.descendants(launcher.pid)}
        ranks = [one for one in below if str(SCRIPT) in processes.read_command_line(one.pid)]
        assert len(ranks) == 2
        steps = trainer.steps(start)
        start = trainer.log.stat().st_size
        processes.send_signal(launcher, signal.SIGKILL)
        while (successor := new_launcher(watchdog.pid, launcher)) is None:
            looks += 1
        # The successor was seen first, at its gate or beyond: what lives now lives beside it.
        assert not [one for one in below if lives(one)]
        assert not lives(launcher)
        assert successor.start_time >= max(one.start_time for one in ranks)
        sandbox.wait_for_event("restarted", number + 1)
        deaths.append((steps[-1], trainer.newest()))
        workers.append(ranks)
    assert watchdog.wait(timeout=90) == 0, sandbox.output_tail()

    state = json.loads((trainer.folder / f"checkpoint-{last}" / "trainer_state.json").read_bytes())
    assert state["global_step"] == last
    assert [one["step"] for one in state["log_history"] if "loss" in one] == list(range(1, last + 1))
    incidents = sorted(sandbox.incidents(), key=lambda one: one["run_number"])
    assert [one["checkpoint_step"] for one in incidents] == [checkpoint for _, checkpoint in deaths]
    for incident, ranks in zip(incidents, workers, strict=True):
        assert incident["ending"]["signal"] == "SIGKILL"
        assert {one.pid for one in ranks} & {one["pid"] for one in incident["orphans"]}
    waits = [one["seconds_to_new_process"] for one in incidents]
    seconds = time.monotonic() - begun
    print(f"{LAUNCHER_KILLS} launchers killed, deaths and checkpoints {deaths}, {looks} looks between")
    print(f"from death to new launcher {waits}, {seconds:.1f} s in all")


def new_launcher(watchdog: int, former: Identity) -> Identity | None:
    """A launcher below the watchdog that is not the former one, also while it still stands at the gate."""
    for pid in processes.children_of(watchdog) or []:
        if "torch.distributed.run" in processes.read_command_line(pid) and pid != former.pid:
            return identity_of(pid)
    return None
