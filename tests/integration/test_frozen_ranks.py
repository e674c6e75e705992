"""Ranks under a real torchrun, frozen, deadlocked or killed: the watchdog ends the whole run and it goes on."""

import json
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from support import Sandbox, identity_of, lives, wait_for

from trainguard import checkpoints, processes
from trainguard.identity import Identity

SCRIPT = Path(__file__).with_name("collective_training.py")
RANKS, STEPS, SAVE_STEPS, STEP_SECONDS = 2, 50, 10, 0.3
# By then enough intervals are known that a busy processor is no compiler.
FAULT_AT = 34
POLL, TIMEOUT, CAP = 0.2, 3.0, 15.0
# So long after files last grew where it saves, a run counts as saving, and its patience begins after that.
STILL_SAVING = 5.0
# What a busy machine may add to a look.
SLACK = 5.0


class Training:
    """A run of several ranks under a sandbox's watchdog, as its log and its folder show it from outside."""

    def __init__(self, sandbox: Sandbox, *arguments: str) -> None:
        self.sandbox = sandbox
        self.folder = sandbox.folder / "run"
        self.folder.mkdir()
        self.log = sandbox.logs / "training_output.log"
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS)]
        options = {
            "folder": self.folder,
            "steps": STEPS,
            "save-steps": SAVE_STEPS,
            "step-seconds": STEP_SECONDS,
        }
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        sandbox.configure(
            daemon={
                "command": ["{python}", *launcher, str(SCRIPT), *words, *arguments],
                "environment": {"OMP_NUM_THREADS": "1"},
                "log": str(self.log),
            },
            progress={"status_file": None, "timeout": TIMEOUT, "timeout_cap": CAP},
            checkpoints={"directory": str(self.folder)},
            watchdog={"poll_interval": POLL},
        )
        self.watchdog = sandbox.start()

    def starts(self) -> list[dict[str, Any]]:
        """What each rank told when it was about to make its first step, oldest first."""
        return [json.loads(file.read_bytes()) for file in sorted((self.folder / "starts").glob("*.json"))]

    def lines(self, start: int = 0) -> list[tuple[int, str]]:
        """The steps from a place in the log on, each with its loss."""
        text = self.log.read_bytes()[start:].decode() if self.log.exists() else ""
        return [(int(step), loss) for step, loss in re.findall(r"^step (\d+)/\d+, loss: (\S+)$", text, re.M)]

    def wait_for_step(self, wanted: int) -> None:
        wait_for(lambda: (self.lines() or [(0, "")])[-1][0] >= wanted, 90, f"step {wanted}: {self.tail()}")

    def wait_for_ranks(self) -> tuple[Identity, dict[int, Identity], set[Identity]]:
        """The launcher, its ranks, and all that lives of the run."""
        wait_for(lambda: len(self.starts()) == RANKS, 90, f"{RANKS} ranks: {self.tail()}")
        told = self.starts()
        (number,) = {one["launcher"] for one in told}
        launcher = identity_of(number)
        below = {one.identity for one in processes.descendants(launcher.pid)}
        ranks = {one["rank"]: identity_of(one["pid"]) for one in told}
        assert set(ranks) == set(range(RANKS))
        assert set(ranks.values()) <= below
        return launcher, ranks, {launcher, *below}

    def wait_for_successor(self, former: Identity) -> Identity:
        """The next launcher, as soon as it can be seen: at its gate or beyond."""

        def found() -> Identity | None:
            for pid in processes.children_of(self.watchdog.pid) or []:
                if "torch.distributed.run" in processes.read_command_line(pid) and pid != former.pid:
                    return identity_of(pid)
            return None

        return wait_for(found, 60, f"a new launcher; {self.sandbox.output_tail()}")

    def newest(self) -> int:
        newest = checkpoints.newest_checkpoint(self.folder)
        return 0 if newest is None else newest.step

    def tail(self) -> str:
        return self.log.read_text()[-2000:] if self.log.exists() else self.sandbox.output_tail()


def check_second_life(training: Training, former: set[Identity], checkpoint: int, log_size: int) -> None:
    """The run ends well, and the second life did what the first would have done from that checkpoint on."""
    sandbox = training.sandbox
    assert training.watchdog.wait(timeout=90) == 0, sandbox.output_tail()
    assert not [one for one in former if lives(one)]
    first, second = training.starts()[:RANKS], training.starts()[RANKS:]
    assert [one["step"] for one in first] == [0] * RANKS
    assert sorted(one["rank"] for one in second) == list(range(RANKS)), sandbox.output()
    assert [one["step"] for one in second] == [checkpoint] * RANKS
    assert len(sandbox.events("restarted")) == 1
    lines = training.lines(log_size)
    assert [step for step, _ in lines] == list(range(checkpoint + 1, STEPS + 1))
    # A step that is made again tells the same loss: weights, optimizer and random state are those of then.
    before, again = dict(training.lines()[: -len(lines)]), dict(lines)
    repeated = sorted(before.keys() & again.keys())
    assert repeated == list(range(checkpoint + 1, max(before) + 1))
    assert [again[step] for step in repeated] == [before[step] for step in repeated]
    assert training.newest() == STEPS


def check_hang(
    training: Training, launcher: Identity, everything: set[Identity], since: float
) -> dict[str, Any]:
    """The hang was found at its limit, all of the run was stopped before the next start; its incident."""
    sandbox = training.sandbox
    told = sandbox.wait_for_event("hung", limit=60)
    found = re.search(r"while training \(limit ([\d.]+) s\); (.*); it is stopped", told["text"])
    assert found, told["text"]
    limit = float(found[1])
    checkpoint, size = training.newest(), training.log.stat().st_size
    successor = training.wait_for_successor(launcher)
    # The successor was seen first, so nothing that ran beside it is missed.
    assert not [one for one in everything if lives(one)]
    assert successor.start_time >= max(one.start_time for one in everything)
    sandbox.wait_for_event("restarted")
    check_second_life(training, everything, checkpoint, size)
    (incident,) = sandbox.incidents()
    assert incident["kind"] == "hang"
    assert f"(limit {found[1]} s)" in incident["decision"]
    assert incident["pid"] == launcher.pid
    assert incident["checkpoint_step"] == checkpoint == FAULT_AT // SAVE_STEPS * SAVE_STEPS
    assert incident["steps_lost"] == incident["step"] - checkpoint
    saved = (training.folder / f"checkpoint-{checkpoint}" / "trainer_state.json").stat().st_mtime
    by_incident = incident["seconds_unnoticed"] - limit
    by_test = told["wall"] - max(since, saved + STILL_SAVING) - limit
    print(
        f"\nlearnt limit {limit} s; noticed {by_incident:.3f} s after it by the incident, {by_test:.3f} s by the ",
        end="",
    )
    print(
        f"test, {told['wall'] - since:.2f} s after the fault, {told['wall'] - saved:.2f} s after the last save"
    )
    print(
        f"{incident['decision']}\n{incident['standstill']['sentence']}; {incident['standstill']['seconds']} s"
    )
    print(
        f"after {incident['seconds_to_cleared']:.2f} s cleared, {incident['seconds_to_new_process']:.2f} s a new ",
        end="",
    )
    print(f"process, {incident['seconds_to_new_step']:.2f} s a new step; {incident['steps_lost']} steps lost")
    assert TIMEOUT < limit <= CAP
    assert 0 <= by_incident <= 2 * POLL + SLACK
    # The step before the fault is a little older than the fault.
    assert -STEP_SECONDS - 2 * POLL <= by_test <= 2 * POLL + SLACK
    return incident


def stacks_of(training: Training, incident: dict[str, Any]) -> dict[int, str]:
    """stacks.txt of an incident by process."""
    text = (training.sandbox.logs / "incidents" / incident["id"] / "stacks.txt").read_text()
    return {int(part.split()[0]): part for part in re.split(r"^Process ", text, flags=re.M)[1:]}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("victim", range(RANKS))
def test_a_frozen_rank_is_named_and_all_ranks_make_way_for_the_next_start(
    sandbox: Sandbox, victim: int
) -> None:
    training = Training(sandbox)
    launcher, ranks, everything = training.wait_for_ranks()
    training.wait_for_step(FAULT_AT)
    processes.send_signal(ranks[victim], signal.SIGSTOP)
    since = time.time()

    incident = check_hang(training, launcher, everything, since)

    assert [one["text"].split()[0] for one in sandbox.events("signal")] == ["SIGTERM"]
    frozen, other = ranks[victim].pid, ranks[1 - victim].pid
    assert re.search(rf"frozen: pid {frozen} \(.*\) in state T", incident["decision"]), incident["decision"]
    standstill = incident["standstill"]
    assert standstill["kind"] == "frozen"
    assert standstill["sentence"].startswith(
        f"the run is frozen: rank {victim} (process {frozen}) is stopped (state T)"
    )
    stacks = stacks_of(training, incident)
    assert f"rank {victim}: state T" in stacks[frozen]
    assert f"({SCRIPT}:" in stacks[frozen]
    assert "all_reduce (" in stacks[other]
    assert f"main ({SCRIPT}:" in stacks[other]


@pytest.mark.timeout(240)
def test_a_rank_that_deadlocks_itself_is_a_hang_though_a_thread_of_it_says_that_it_lives(
    sandbox: Sandbox,
) -> None:
    victim = 1
    training = Training(sandbox, "--deadlock-rank", str(victim), "--deadlock-at", str(FAULT_AT + 1))
    launcher, ranks, everything = training.wait_for_ranks()
    happened = training.folder / "deadlocked"
    wait_for(happened.exists, 90, training.tail())

    incident = check_hang(training, launcher, everything, happened.stat().st_mtime)

    beats = [float(told) for told in re.findall(r"INFO rank 1 is alive, ([\d.]+)", training.log.read_text())]
    found = sandbox.events("hung")[0]["wall"]
    assert len([beat for beat in beats if beat < found]) >= 2, (beats, found)
    assert "all idle" in incident["decision"]
    assert incident["standstill"]["kind"] == "all_idle"
    assert incident["standstill"]["sentence"].startswith("nothing works: rank 1 ")
    stacks = stacks_of(training, incident)
    deadlocked, other = stacks[ranks[victim].pid], stacks[ranks[1 - victim].pid]
    assert f"take_twice ({SCRIPT}:" in deadlocked
    assert f"deadlock ({SCRIPT}:" in deadlocked
    assert f"beat ({SCRIPT}:" in deadlocked
    assert "all_reduce (" in other
    assert "take_twice" not in other


@pytest.mark.timeout(240)
@pytest.mark.parametrize("victim", range(RANKS))
def test_a_killed_rank_ends_its_launcher_and_the_run_goes_on_from_its_newest_checkpoint(
    sandbox: Sandbox, victim: int
) -> None:
    training = Training(sandbox)
    launcher, ranks, everything = training.wait_for_ranks()
    training.wait_for_step(FAULT_AT)
    processes.send_signal(ranks[victim], signal.SIGKILL)
    killed = time.time()
    checkpoint = training.newest()
    training.wait_for_successor(launcher)
    assert not [one for one in everything if lives(one)]
    restarted = sandbox.wait_for_event("restarted")
    size = training.log.stat().st_size

    check_second_life(training, everything, checkpoint, size)

    assert sandbox.events("hung") == []
    (incident,) = sandbox.incidents()
    assert incident["kind"] == "crash"
    assert incident["ending"]["exit_code"] == 1
    assert incident["checkpoint_step"] == checkpoint == FAULT_AT // SAVE_STEPS * SAVE_STEPS
    assert f"(pid: {ranks[victim].pid})" in "\n".join(incident["last_lines"])
    diagnosis = incident["diagnosis"]
    assert (diagnosis["type"], diagnosis["rank"]) == ("process_killed", victim)
    print(
        f"\nfrom the kill to the new launcher {restarted['wall'] - killed:.2f} s, cause {incident['cause']}"
    )
    print(f"{incident['decision']}; {incident['steps_lost']} steps lost")
