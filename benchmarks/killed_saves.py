"""The real Trainer killed while it saves: what it resumes from under the watchdog, and what becomes of it without.

    OMP_NUM_THREADS=1 .venv-integration/bin/python benchmarks/killed_saves.py [--kills 50] [--torchrun-kills 12]

A tiny GPT-2 whose checkpoints take some tenths of a second to write gets SIGKILL at a random moment between the
making of a checkpoint's folder and the end of its trainer_state.json. Beside it a copy of what the kill left is
resumed by hand, as a loop in a shell would. Then the damages that nothing tells of: a lost optimizer.pt, NaN weights.
"""

import argparse
import array
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support import Sandbox, lives, wait_for  # noqa: E402

from trainguard import processes  # noqa: E402
from trainguard.identity import Identity  # noqa: E402

SCRIPT = ROOT / "examples" / "hf_trainer.py"
POSITIONS = 200_000  # 78 MB to save
SAVE_STEPS = 3
STEPS_PER_EPOCH = 64
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
# What is left of the group when one of these is killed, the watchdog has to end.
VICTIMS = ("launcher", "rank 0", "rank 1", "all")
# The order in which transformers 5 writes; see Trainer._save_checkpoint.
ORDER = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")

# Each line of its input is one call of the example: a file for the output, then the arguments. Every call is a
# process of its own, with its own exit code; only the seconds of the imports are shared.
HAND = """
import contextlib, json, os, runpy, sys
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
import torch
from transformers import GPT2LMHeadModel, Trainer
with contextlib.suppress(ImportError):
    import deepspeed  # accelerate imports it where it is installed
script = sys.argv[1]
while line := sys.stdin.readline():
    output, *words = json.loads(line)
    child = os.fork()
    if child == 0:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.argv = [script, *words]
        runpy.run_path(script, run_name="__main__")
        sys.exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)
"""


def options(folder: Path, steps: int) -> list[str]:
    """The example's arguments for a run in `folder` up to step `steps`."""
    told = {
        "output-dir": folder,
        "steps": steps,
        "save-steps": SAVE_STEPS,
        "logging-steps": 1,
        "step-seconds": 0.02,
        "positions": POSITIONS,
    }
    return [word for name, value in told.items() for word in (f"--{name}", str(value))]


class Hand:
    """Somebody who starts the example in a shell, again and again, and reads its exit code and its output."""

    def __init__(self, folder: Path) -> None:
        self.output = folder / "by-hand.out"
        self.process = subprocess.Popen(
            [sys.executable, "-c", HAND, str(SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **ENVIRONMENT},
            text=True,
        )

    def resume(self, folder: Path, steps: int) -> int:
        """Exit code of one start in `folder`; negative: the signal that ended it."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None and stdout is not None
        stdin.write(json.dumps([str(self.output), *options(folder, steps)]) + "\n")
        stdin.flush()
        return int(stdout.readline())

    def last_words(self) -> str:
        """The exception that ended the last one, without the folder's name; of several ranks the first one's."""
        told = re.findall(r"\b\w+(?:Error|Exception): .*", self.output.read_text(errors="replace"))
        return re.sub(r"'?/\S*/", "", told[0]) if told else ""

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


@contextmanager
def by_hand(folder: Path) -> Iterator[Hand]:
    """A hand for a while."""
    hand = Hand(folder)
    try:
        yield hand
    finally:
        hand.end()


# --- a checkpoint, as its files show it, without the project's own judgement ------------------------------------


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def is_whole(checkpoint: Path, model_bytes: int) -> bool:
    """Whether every file that the Trainer writes is there to its end."""
    ranks: list[str] = []
    for one in checkpoint.parent.glob("checkpoint-*"):
        # The Trainer's rotation may remove it meanwhile.
        with suppress(FileNotFoundError):
            ranks += [file.name for file in one.glob("rng_state*")]
    states = set(ranks) or {"rng_state.pth"}
    try:
        return (
            (checkpoint / "model.safetensors").stat().st_size == model_bytes
            and all(
                zipfile.is_zipfile(checkpoint / name) for name in ("optimizer.pt", "scheduler.pt", *states)
            )
            and json.loads((checkpoint / "trainer_state.json").read_bytes())["global_step"] > 0
        )
    except (OSError, ValueError):
        return False


def stage_of(checkpoint: Path, model_bytes: int) -> str:
    """How far the save had come, by the first of its files that is absent or cut short."""
    for name in ORDER:
        file = checkpoint / name
        if name == "rng_state.pth" and not file.exists():
            found = sorted(checkpoint.glob("rng_state*"))
            file = found[0] if found else file
        if not file.exists():
            # safetensors writes another name first.
            begun = name == "model.safetensors" and any(checkpoint.glob(".tmp*"))
            return f"{'within' if begun else 'before'} {name}"
        if name == "model.safetensors":
            whole = file.stat().st_size == model_bytes
        elif name == "trainer_state.json":
            whole = file.read_bytes().endswith(b"}\n")
        else:
            whole = zipfile.is_zipfile(file)
        if not whole:
            return f"within {name}"
    return "whole"


def model_size(checkpoint: Path) -> int:
    return (checkpoint / "model.safetensors").stat().st_size


def save_seconds(checkpoint: Path) -> float:
    """How long the save of a whole one took, from the making of its folder (which Python cannot tell)."""
    call = ["stat", "--format=%.W", str(checkpoint)]
    made = float(subprocess.run(call, stdout=subprocess.PIPE, check=True, text=True).stdout)
    return (checkpoint / "trainer_state.json").stat().st_mtime - made


def history_of(checkpoint: Path) -> dict[int, dict[str, Any]]:
    """The metrics of each step."""
    told = json.loads((checkpoint / "trainer_state.json").read_bytes())["log_history"]
    return {one["step"]: one for one in told if "loss" in one}


def lose_optimizer(checkpoint: Path) -> None:
    (checkpoint / "optimizer.pt").unlink()


def spoil_weights(checkpoint: Path) -> None:
    """All weights NaN, as one step with a NaN gradient leaves them."""
    with (checkpoint / "model.safetensors").open("r+b") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        count = (os.fstat(file.fileno()).st_size - start) // 4
        file.seek(start)
        file.write(array.array("f", [float("nan")]) * count)


def share_of_nan(checkpoint: Path) -> float:
    """The part of the weights that is NaN."""
    content = (checkpoint / "model.safetensors").read_bytes()
    values = array.array("f", content[8 + int.from_bytes(content[:8], "little") :])
    return sum(one != one for one in values) / len(values)


# --- a run under the watchdog -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Death:
    """What one kill left, and how it went on. Steps; `hand` are the exit codes without the watchdog."""

    step: int
    victim: str
    stage: str
    aside: str | None
    verdict: str
    good: int
    resumed: int
    start: int
    seconds: float
    copy: Path | None
    hand: tuple[int, ...] = ()
    last_words: str = ""


class Run:
    """A Trainer under a sandbox's watchdog, as its log and its folder show it from outside."""

    def __init__(self, sandbox: Sandbox, steps: int, model_bytes: int, ranks: int = 1) -> None:
        self.sandbox = sandbox
        self.folder = sandbox.folder / "run"
        self.log = sandbox.logs / "training_output.log"
        self.steps = steps
        self.ranks = ranks
        self.deaths: list[Death] = []
        self.start = 0  # where the log of this life begins
        self.inodes: set[int] = set()
        self.model_bytes = model_bytes
        sandbox.configure(
            daemon={
                "command": self.command(self.folder, steps),
                "environment": ENVIRONMENT,
                "log": str(self.log),
            },
            progress={"status_file": None},
            checkpoints={"directory": str(self.folder)},
            restart={"max_restarts": 1000, "window": 86_400},
        )
        self.watchdog = sandbox.start()
        self.identity = self._new_identity(None)

    def command(self, folder: Path, steps: int) -> list[str]:
        launcher = [*TORCHRUN, str(self.ranks)] if self.ranks > 1 else []
        return [sys.executable, *launcher, str(SCRIPT), *options(folder, steps)]

    def checkpoint(self, step: int) -> Path:
        return self.folder / f"checkpoint-{step}"

    def told_steps(self, start: int, end: int | None = None) -> list[int]:
        """The steps of the metrics in a range of the log: its epochs are told to four digits."""
        text = self.log.read_bytes()[start:end].decode(errors="replace") if self.log.exists() else ""
        epochs = re.findall(r"\{'loss': .*?'epoch': '([0-9.e-]+)'\}", text)
        return [round(float(epoch) * STEPS_PER_EPOCH / self.ranks) for epoch in epochs]

    def whole(self) -> list[Path]:
        """The whole checkpoints, the newest last."""
        found = sorted(self.folder.glob("checkpoint-*"), key=step_of)
        return [one for one in found if is_whole(one, self.model_bytes)]

    def victims(self, victim: str) -> list[Identity]:
        """Who is to be killed, the launcher first; waits until all ranks are there."""
        if self.ranks == 1:
            return [self.identity]
        ranks = wait_for(self._ranks, 90, "all ranks")
        chosen = {"launcher": [self.identity], "all": [self.identity, *ranks]}
        return chosen.get(victim) or [ranks[int(victim[-1])]]

    def kill_while_saving(self, step: int, victim: str, moment: float) -> bool:
        """Kill it that many seconds after the beginning of a save; False where the save had ended by then."""
        victims = self.victims(victim)
        everyone = [self.identity, *(one.identity for one in processes.descendants(self.identity.pid))]
        inode = inode_when_made(self.checkpoint(step), 120)
        time.sleep(moment)
        for one in victims:
            processes.send_signal(one, signal.SIGKILL)
        return self._observe(step, victim, everyone, inode, time.monotonic())

    def damage_and_kill(self, least: int, name: str, damage: Callable[[Path], None]) -> Death:
        """Damage the newest checkpoint from outside once it is of step `least` or later, then kill."""
        while True:
            wait_for(lambda: self.whole() and step_of(self.whole()[-1]) >= least, 120, f"checkpoint {least}")
            # Stopped meanwhile, so that no newer one is made.
            processes.send_signal(self.identity, signal.SIGSTOP)
            wait_for(lambda: getattr(processes.read_process(self.identity.pid), "state", "T") in "Tt")
            newest = max(self.folder.glob("checkpoint-*"), key=step_of)
            if newest in self.whole():
                break
            processes.send_signal(self.identity, signal.SIGCONT)
        damage(newest)
        processes.send_signal(self.identity, signal.SIGKILL)
        self._observe(step_of(newest), name, [self.identity], newest.stat().st_ino, time.monotonic())
        return self.deaths[-1]

    def _observe(
        self,
        step: int,
        victim: str,
        former: Sequence[Identity],
        inode: int,
        killed: float,
    ) -> bool:
        """What became of it: after the restart, while the new process still imports its libraries."""
        self.identity = self._new_identity(self.identity)
        assert not [one for one in former if lives(one)], "two daemons at a time"
        self.sandbox.wait_for_event("restarted", len(self.deaths) + 1)
        end, seconds = self.log.stat().st_size, time.monotonic() - killed
        self._check_life(end)
        aside = next((one for one in self.asides() if one.stat().st_ino == inode), None)
        assert aside is not None or self.checkpoint(step).stat().st_ino == inode, "the checkpoint is lost"
        # A kill that came very late may have met the next save.
        self.inodes.update(one.stat().st_ino for one in self.asides())
        left = self.checkpoint(step) if aside is None else aside
        stage = stage_of(left, self.model_bytes)
        copy = None
        if aside is not None:
            # A copy of what the kill left, and of the good one before it, for a resume by hand.
            copy = self.sandbox.folder / f"without-{len(self.deaths)}"
            for one in self.whole()[-1:]:
                shutil.copytree(one, copy / one.name, copy_function=os.link)
            shutil.copytree(aside, copy / f"checkpoint-{step}")
        good = step_of(self.whole()[-1]) if self.whole() else 0
        verdict = "" if aside is None else aside.name.partition(".")[0].removeprefix("0-")
        told = wait_for(lambda: self.told_steps(end), 120, f"a step; {self.sandbox.output_tail()}")
        self.start = end
        death = Death(
            step,
            victim,
            stage,
            None if aside is None else aside.name,
            verdict,
            good,
            told[0] - 1,
            end,
            seconds,
            copy,
        )
        self.deaths.append(death)
        return aside is not None

    def finish(self) -> Path:
        """Wait for its end; its last checkpoint."""
        code = self.watchdog.wait(timeout=240)
        assert code == 0, self.sandbox.output_tail()
        self._check_life(self.log.stat().st_size)
        # All that was set aside is still there, and nothing else than checkpoints was made.
        assert {one.stat().st_ino for one in self.asides()} == self.inodes
        others = {one.name for one in self.folder.iterdir()} - {one.name for one in self.asides()}
        assert all(re.fullmatch(r"checkpoint-\d+|runs", name) for name in others), others
        return self.checkpoint(self.steps)

    def asides(self) -> list[Path]:
        return sorted(self.folder.glob("0-*"))

    def _check_life(self, end: int) -> None:
        """Each life goes on step by step from where it resumed: no other process wrote between."""
        steps = self.told_steps(self.start, end)
        assert steps == list(range(steps[0], steps[0] + len(steps))) if steps else True, steps

    def resume_by_hand(self, death: Death, hand: Hand, tries: int) -> Death:
        """The same death with what becomes of it without the watchdog; its copy is used up."""
        if death.copy is None:
            return death
        codes = [self._start_by_hand(death.copy, death.step + 1, hand) for _ in range(tries)]
        shutil.rmtree(death.copy)
        return replace(death, copy=None, hand=tuple(codes), last_words=hand.last_words())

    def _start_by_hand(self, folder: Path, steps: int, hand: Hand) -> int:
        if self.ranks == 1:
            return hand.resume(folder, steps)
        environment = {**os.environ, **ENVIRONMENT}
        with hand.output.open("wb") as output:
            call = subprocess.run(
                self.command(folder, steps), env=environment, stdout=output, stderr=output, timeout=120
            )
        return call.returncode

    def _ranks(self) -> list[Identity]:
        """The living ranks in their order; empty until all are there."""
        below = [one.identity for one in processes.descendants(self.identity.pid)]
        ranks = {}
        for one in below:
            if str(SCRIPT) in processes.read_command_line(one.pid):
                try:
                    environment = Path(f"/proc/{one.pid}/environ").read_bytes().split(b"\0")
                except OSError:
                    continue
                ranks.update({int(word[5:]): one for word in environment if word.startswith(b"RANK=")})
        return [ranks[number] for number in sorted(ranks)] if len(ranks) == self.ranks else []

    def _new_identity(self, former: Identity | None) -> Identity:
        def look() -> Identity | None:
            told = (self.sandbox.state().get("run") or {}).get("identity")
            found = Identity(**told) if told else None
            return None if found == former else found

        return wait_for(look, 60, f"a new process; {self.sandbox.output_tail()}")


def inode_when_made(folder: Path, limit: float) -> int:
    """The inode of a folder as soon as it is there."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        try:
            return folder.stat().st_ino
        except FileNotFoundError:
            time.sleep(0.001)
    raise AssertionError(f"no {folder} within {limit:g} s")


def kill_often(
    run: Run,
    count: int,
    first: int,
    victims: Sequence[str],
    source: random.Random,
    first_seconds: float,
) -> Iterator[Death]:
    """Kills at random moments of as many saves, the `first` of them of the very first save; gives each death.

    `first_seconds` is how long a process's first save takes.
    """
    step, done = SAVE_STEPS, 0
    while done < count:
        # Of the run itself as soon as it has saved: it is slower beside the watchdog and other work.
        own = [save_seconds(one) for one in run.whole()]
        longest = statistics.median(own) if own else 2 * first_seconds
        hit = run.kill_while_saving(step, victims[done % len(victims)], source.uniform(0, longest))
        yield run.deaths[-1]
        done += hit
        if done >= first or not hit:
            step += SAVE_STEPS


def run_untouched(folder: Path, steps: int, hand: Hand) -> float:
    """A run of so many steps that nobody kills; how long the first save of a process takes."""
    alone = folder.with_name("first-save")
    for one, last in ((alone, SAVE_STEPS), (folder, steps)):
        assert hand.resume(one, last) == 0, hand.last_words()
    first = save_seconds(alone / f"checkpoint-{SAVE_STEPS}")
    later = save_seconds(folder / f"checkpoint-{steps}")
    print(f"an untouched run of {steps} steps: its first save takes {first:.3f} s, its last {later:.3f} s")
    return first


# --- the tables -------------------------------------------------------------------------------------------------


def check(death: Death) -> bool:
    """Whether it resumed at the newest good one."""
    return death.resumed == death.good


def print_progress(death: Death) -> None:
    how = f"{death.victim}: {death.stage} of checkpoint-{death.step}"
    print(f"  {how}, {death.verdict or 'left'}, good {death.good}, resumed {death.resumed}", flush=True)


def print_deaths(title: str, deaths: Sequence[Death], by: Callable[[Death], str]) -> None:
    hits = [one for one in deaths if one.aside is not None]
    missed = len(deaths) - len(hits)
    print(f"\n{title}: {len(hits)} kills within a save; {missed} more came after its end")
    print(f"{'':<36}{'kills':>6}{'resumed at the newest good':>28}{'by hand: dead':>15}  verdict; by hand")
    groups: dict[str, list[Death]] = {}
    for one in hits:
        groups.setdefault(by(one), []).append(one)
    for name, group in sorted(groups.items()):
        right, dead = sum(map(check, group)), sum(all(one.hand) for one in group)
        verdicts = ", ".join(f"{key} {n}" for key, n in Counter(one.verdict for one in group).items())
        words = Counter(one.last_words[:60] for one in group).most_common(1)[0][0]
        print(f"{name:<36}{len(group):>6}{right:>28}{dead:>15}  {verdicts}; {words}")
    right, dead = sum(map(check, hits)), sum(all(one.hand) for one in hits)
    print(f"{'all':<36}{len(hits):>6}{right:>28}{dead:>15}", flush=True)


def main() -> int:
    """Kill, compare, print the tables."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--kills", type=int, default=50, help="of a Trainer alone (default: 50)")
    parser.add_argument("--first", type=int, default=5, help="of these, of the first save (default: 5)")
    parser.add_argument("--torchrun-kills", type=int, default=12, help="of two ranks (default: 12)")
    parser.add_argument("--damages", type=int, default=3, help="of each silent kind (default: 3)")
    parser.add_argument("--tries", type=int, default=2, help="by hand after each kill (default: 2)")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="of the random moments")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="killed-saves-", dir=arguments.folder))
    source = random.Random(arguments.seed)
    print(f"seed {arguments.seed}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} before the start")
    wrong = 0
    boxes: list[Sandbox] = []

    def sandbox(name: str) -> Sandbox:
        (folder / name).mkdir()
        boxes.append(Sandbox(folder / name))
        return boxes[-1]

    try:
        with by_hand(folder) as hand:
            if arguments.kills or arguments.damages:
                wrong += measure_alone(sandbox("alone"), arguments, source, hand)
            if arguments.torchrun_kills:
                wrong += measure_torchrun(sandbox("torchrun"), arguments.torchrun_kills, source, hand)
    finally:
        for box in boxes:
            box.clean_up()
        shutil.rmtree(folder, ignore_errors=True)
    print(f"\nload {os.getloadavg()[0]:.1f} at the end; {wrong} wrong")
    return 1 if wrong else 0


def measure_alone(sandbox: Sandbox, arguments: argparse.Namespace, source: random.Random, hand: Hand) -> int:
    """Kills within saves, silent damages, and the end compared with a run that nobody killed; how much was wrong."""
    begun = time.monotonic()
    # A save that a kill comes too late for takes room too.
    kills = arguments.kills - arguments.first
    steps = SAVE_STEPS * (int(1.4 * kills) + 5 + 2 * 2 * arguments.damages)
    untouched = sandbox.folder / "untouched"
    first_save = run_untouched(untouched, steps, hand)
    run = Run(sandbox, steps, model_size(untouched / f"checkpoint-{steps}"))
    for death in kill_often(run, arguments.kills, arguments.first, ("alone",), source, first_save):
        print_progress(death)
    step = run.deaths[-1].step if run.deaths else 0
    damages = (("optimizer.pt lost", lose_optimizer), ("NaN weights", spoil_weights)) * arguments.damages
    for name, damage in damages:
        step = run.damage_and_kill(step + 2 * SAVE_STEPS, name, damage).step
    killed = [run.resume_by_hand(one, hand, arguments.tries) for one in run.deaths if one.victim == "alone"]
    print_deaths("Trainer alone", killed, lambda one: one.stage)
    wrong = sum(not check(one) or not all(one.hand) for one in killed)
    print(f"\n{'silent damage':<20}{'step':>6}{'resumed':>9}  verdict; without the watchdog")
    for one in run.deaths:
        if one.victim != "alone":
            told = silent_loss(one, untouched, steps, hand)
            wrong += one.aside is None or one.resumed != one.step - SAVE_STEPS
            print(f"{one.victim:<20}{one.step:>6}{one.resumed:>9}  {one.verdict}; {told}", flush=True)
    end = run.finish()
    same = (end / "model.safetensors").read_bytes() == (
        untouched / end.name / "model.safetensors"
    ).read_bytes()
    same_steps = list(history_of(end)) == list(range(1, steps + 1))
    wrong += not same or not same_steps
    print(
        f"\nafter {len(run.deaths)} deaths: every step once {same_steps}, weights of the untouched run {same}"
    )
    waits = sorted(one.seconds for one in run.deaths)
    print(
        f"from the kill to the new process: median {waits[len(waits) // 2]:.2f} s, longest {waits[-1]:.2f} s"
    )
    print(f"{time.monotonic() - begun:.0f} s in all", flush=True)
    return wrong


def silent_loss(death: Death, untouched: Path, steps: int, hand: Hand) -> str:
    """What a run that is resumed by hand from the damaged checkpoint loses, in words."""
    assert death.copy is not None, death
    step = death.step
    code = hand.resume(death.copy, steps)
    end = death.copy / f"checkpoint-{steps}"
    if code:
        return f"exit code {code}: {hand.last_words()}"
    right = history_of(untouched / end.name)[step + 1]["learning_rate"]
    rate = history_of(end)[step + 1]["learning_rate"]
    return (
        f"exit code 0, learning rate at step {step + 1} {rate:.2e} instead of {right:.2e}, "
        f"{share_of_nan(end):.0%} of its last weights NaN"
    )


def measure_torchrun(sandbox: Sandbox, kills: int, source: random.Random, hand: Hand) -> int:
    """The same with two ranks, each victim in turn; how much was wrong."""
    begun = time.monotonic()
    untouched = sandbox.folder / "untouched"
    first_save = run_untouched(untouched, SAVE_STEPS * 3, hand)
    steps = SAVE_STEPS * (2 * kills + 2)
    run = Run(sandbox, steps, model_size(untouched / f"checkpoint-{SAVE_STEPS * 3}"), ranks=2)
    for death in kill_often(run, kills, 0, VICTIMS, source, first_save):
        print_progress(death)
    # The rest of its steps proves nothing more.
    beyond = wait_for(lambda: run.told_steps(run.start)[-1] > run.deaths[-1].step, 60, "a step beyond")
    assert sandbox.call("--stop").returncode == 0
    deaths = [run.resume_by_hand(one, hand, 1) for one in run.deaths]
    print_deaths("torchrun with two ranks", deaths, lambda one: f"{one.victim}, {one.stage}")
    print(f"a step beyond the last kill {beyond}; {time.monotonic() - begun:.0f} s in all", flush=True)
    return sum(not check(one) or not all(one.hand) for one in deaths)


if __name__ == "__main__":
    sys.exit(main())
