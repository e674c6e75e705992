"""Checkpoints by name, and the footprint that grows while one is written."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainguard.checkpoints import (
    Footprint,
    has_grown,
    list_checkpoints,
    measure,
    newest_checkpoint,
    parse_name,
)


def make(directory, *names):
    for name in names:
        (directory / name).mkdir(parents=True)


def save(folder, size=1000, name="model.safetensors"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"x" * size)


@pytest.mark.parametrize("name, step", [
    ("checkpoint-500", 500),
    ("checkpoint-0", 0),
    ("global_step100", 100),
    ("global_step_40", 40),
    ("iter_0000100", 100),
    ("step-1000", 1000),
    ("step_20", 20),
    ("epoch=3-step=690.ckpt", 690),
    ("epoch=3-step=690-v1.ckpt", 690),
    ("model-val_loss=0.12-epoch=03-step=690.ckpt", 690),
    (f"checkpoint-{2**53 - 1}", 2**53 - 1),
])  # fmt: skip
def test_a_checkpoints_name_tells_its_step(name, step):
    assert parse_name(name) == step


@pytest.mark.parametrize("name", [
    "checkpoint-500.incomplete-1796000000", "tmp-checkpoint-500", "checkpoint-", "checkpoint--5",
    "checkpoint-5a", "checkpoint-best", "checkpoint_3", "epoch_3", "last.ckpt", "epoch=3.ckpt",
    "epoch=3-step=690.ckpt.tmp", "checkpoint-\u0663", f"checkpoint-{2**53}", "checkpoint-" + "9" * 5000,
    "checkpoint-5\n", "runs", "",
])  # fmt: skip
def test_a_name_that_is_not_wholly_a_checkpoints_is_none(name):
    assert parse_name(name) is None


def test_checkpoints_are_listed_in_numeric_order(tmp_path):
    make(tmp_path, "checkpoint-1000", "checkpoint-900", "checkpoint-50", "checkpoint-2000.incomplete-1")
    assert [checkpoint.step for checkpoint in list_checkpoints(tmp_path)] == [50, 900, 1000]
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert (newest.step, newest.path) == (1000, tmp_path / "checkpoint-1000")


def test_a_file_that_is_named_like_a_folder_is_no_checkpoint_but_lightnings_is(tmp_path):
    (tmp_path / "checkpoint-5").touch()
    (tmp_path / "epoch=0-step=7.ckpt").touch()
    assert [checkpoint.step for checkpoint in list_checkpoints(tmp_path)] == [7]


def test_a_folder_that_does_not_exist_has_no_checkpoints(tmp_path):
    assert list_checkpoints(tmp_path / "none") == []
    assert newest_checkpoint(tmp_path / "none") is None
    assert measure(tmp_path / "none") == Footprint(0, 0, None)


@pytest.mark.parametrize("read", [list_checkpoints, newest_checkpoint, measure])
def test_what_cannot_be_read_as_a_folder_raises(tmp_path, read):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for name in ("file", "loop"):
        with pytest.raises(OSError):
            read(tmp_path / name)


def test_loops_of_symbolic_links_and_odd_names_are_harmless(tmp_path):
    make(tmp_path, "checkpoint-1/inner")
    (tmp_path / "checkpoint-2").symlink_to("checkpoint-2")
    (tmp_path / "checkpoint-1" / "inner" / "up").symlink_to(tmp_path)
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/checkpoint-\xff"))).mkdir()
    assert [checkpoint.step for checkpoint in list_checkpoints(tmp_path)] == [1]
    assert measure(tmp_path).files == 1


def test_a_folder_of_ten_thousand_entries_is_listed(tmp_path):
    for number in range(5000):
        (tmp_path / f"file-{number}").touch()
        (tmp_path / f"checkpoint-{number}").mkdir()
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.step == 4999
    assert measure(tmp_path).files == 0


def test_the_footprint_is_that_of_the_two_folders_changed_last(tmp_path):
    for number in (10, 20, 30):
        save(tmp_path / f"checkpoint-{number}")
        os.utime(tmp_path / f"checkpoint-{number}", (1000 + number, 1000 + number))
    # A left-over of another run, with the largest number, is not what is being written.
    save(tmp_path / "checkpoint-900")
    os.utime(tmp_path / "checkpoint-900", (1, 1))
    assert measure(tmp_path).files == 2
    assert measure(tmp_path).size_bytes == 2000


def grow_new_folder(directory):
    save(directory / "checkpoint-20")


def grow_file(directory):
    save(directory / "checkpoint-10", size=2000)


def grow_deepspeed(directory):
    save(directory / "checkpoint-10" / "global_step10", name="mp_rank_00_model_states.pt")


def grow_megatron(directory):
    save(directory / "iter_0000010" / "mp_rank_00_000", name="model_optim_rng.pt")


def grow_lightning(directory):
    save(directory, name="epoch=0-step=10.ckpt")


def grow_nanogpt(directory):
    os.utime(directory / "ckpt.pt", (4e9, 4e9))


@pytest.mark.parametrize("grow", [
    grow_new_folder, grow_file, grow_deepspeed, grow_megatron, grow_lightning, grow_nanogpt,
])  # fmt: skip
def test_a_save_in_progress_makes_the_footprint_grow(tmp_path, grow):
    save(tmp_path / "checkpoint-10")
    save(tmp_path, name="ckpt.pt")
    before = measure(tmp_path)
    grow(tmp_path)
    after = measure(tmp_path)
    assert has_grown(before, after)
    assert not has_grown(after, measure(tmp_path))


def test_logs_beside_the_checkpoints_are_no_save(tmp_path):
    save(tmp_path / "checkpoint-10")
    before = measure(tmp_path)
    save(tmp_path, name="trainer_log.jsonl")
    save(tmp_path / "runs", name="events.out.tfevents.1")
    assert not has_grown(before, measure(tmp_path))


def test_pruning_an_old_checkpoint_is_no_growth(tmp_path):
    for number in (10, 20):
        save(tmp_path / f"checkpoint-{number}")
        os.utime(tmp_path / f"checkpoint-{number}", (1000 + number, 1000 + number))
    before = measure(tmp_path)
    (tmp_path / "checkpoint-10" / "model.safetensors").unlink()
    (tmp_path / "checkpoint-10").rmdir()
    assert not has_grown(before, measure(tmp_path))


@given(st.text(max_size=30))
def test_any_name_is_parsed_without_an_error(name):
    step = parse_name(name)
    assert step is None or 0 <= step < 2**53


@given(st.lists(st.integers(0, 10**6), unique=True, max_size=8))
def test_the_newest_is_always_the_largest_number(tmp_path_factory, steps):
    directory = tmp_path_factory.mktemp("run")
    make(directory, *(f"checkpoint-{step}" for step in steps))
    newest = newest_checkpoint(directory)
    assert (newest.step if newest else None) == max(steps, default=None)
    assert [checkpoint.step for checkpoint in list_checkpoints(directory)] == sorted(steps)
