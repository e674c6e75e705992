"""The real Trainer killed while it saves, under the watchdog and by hand: a few moments of the benchmark's fifty."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import Sandbox, wait_for

from benchmarks.killed_saves import (
    SAVE_STEPS,
    Hand,
    Run,
    by_hand,
    history_of,
    kill_often,
    lose_optimizer,
    model_size,
    run_untouched,
    share_of_nan,
    spoil_weights,
    step_of,
)


@pytest.fixture(scope="module")
def hand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hand]:
    with by_hand(tmp_path_factory.mktemp("hand")) as one:
        yield one


def seeded() -> random.Random:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    return random.Random(seed)


def weights(checkpoint: Path) -> bytes:
    return (checkpoint / "model.safetensors").read_bytes()


@pytest.mark.timeout(300)
def test_killed_while_it_saves_or_silently_damaged_it_resumes_at_the_newest_good_one(
    sandbox: Sandbox, hand: Hand
) -> None:
    source, steps = seeded(), 14 * SAVE_STEPS
    untouched = sandbox.folder / "untouched"
    first_save = run_untouched(untouched, steps, hand)
    whole = untouched / f"checkpoint-{steps}"
    run = Run(sandbox, steps, model_size(whole))
    killed = list(kill_often(run, 3, 1, ("alone",), source, first_save))
    step = killed[-1].step
    lost = run.damage_and_kill(step + 2 * SAVE_STEPS, "optimizer.pt lost", lose_optimizer)
    spoilt = run.damage_and_kill(lost.step + 2 * SAVE_STEPS, "NaN weights", spoil_weights)
    end = run.finish()

    assert [one.resumed for one in killed] == [one.good for one in killed]
    assert [one.verdict for one in killed if one.stage != "whole"] == ["incomplete"] * 3
    assert [one.resumed for one in (lost, spoilt)] == [one.step - SAVE_STEPS for one in (lost, spoilt)]
    assert (lost.verdict, spoilt.verdict) == ("weights-only", "suspect")
    # As if nothing had ever happened: no step is told twice, and every weight is the same.
    assert list(history_of(end)) == list(range(1, steps + 1))
    assert weights(end) == weights(whole)

    by_itself = [run.resume_by_hand(one, hand, tries=2) for one in killed if one.copy is not None]
    print([(one.stage, one.resumed, one.last_words) for one in by_itself])
    assert all(len(one.hand) == 2 and all(one.hand) for one in by_itself)
    for one in (lost, spoilt):
        assert one.copy is not None and hand.resume(one.copy, steps) == 0
    assert lost.copy is not None and spoilt.copy is not None
    right = history_of(whole)[lost.step + 1]["learning_rate"]
    assert history_of(lost.copy / end.name)[lost.step + 1]["learning_rate"] > 1.05 * right
    assert share_of_nan(spoilt.copy / end.name) == 1.0


@pytest.mark.timeout(120)
def test_weights_alone_are_told_of_and_resumed_from_where_no_whole_one_is_older(sandbox: Sandbox) -> None:
    run = Run(sandbox, 8 * SAVE_STEPS, model_bytes=0)
    run.model_bytes = wait_for(lambda: size_of_first(run.folder), 60, "a checkpoint")

    def leave_no_whole_one(newest: Path) -> None:
        lose_optimizer(newest)
        for older in run.whole():
            (older / "trainer_state.json").unlink()

    death = run.damage_and_kill(2 * SAVE_STEPS, "optimizer.pt lost", leave_no_whole_one)
    assert (death.aside, death.resumed) == (None, death.step)
    assert f"checkpoint-{death.step} is weights-only" in sandbox.output()
    run.finish()
    assert run.asides() == []


def size_of_first(folder: Path) -> int | None:
    """Bytes of the weights of a checkpoint that has its last file."""
    states = sorted(folder.glob("checkpoint-*/trainer_state.json"), key=lambda one: step_of(one.parent))
    return model_size(states[0].parent) if states else None


@pytest.mark.timeout(240)
def test_two_ranks_killed_while_they_save_resume_at_the_newest_good_one(sandbox: Sandbox, hand: Hand) -> None:
    source, steps = seeded(), 8 * SAVE_STEPS
    untouched = sandbox.folder / "untouched"
    first_save = run_untouched(untouched, 3 * SAVE_STEPS, hand)
    run = Run(sandbox, steps, model_size(untouched / f"checkpoint-{3 * SAVE_STEPS}"), ranks=2)
    killed = list(kill_often(run, 1, 0, (source.choice(("all", "rank 0")),), source, first_save))
    end = run.finish()
    assert [one.resumed for one in killed] == [one.good for one in killed]
    assert list(history_of(end)) == list(range(1, steps + 1))
    last = run.resume_by_hand([one for one in killed if one.copy is not None][-1], hand, tries=1)
    print([(one.victim, one.stage, one.resumed) for one in killed], last.last_words)
    assert last.hand[0] != 0
