"""Judging: writing or not, what siblings tell, ranks, steps, pointers, the best one."""

import json
import os
import shutil
import subprocess
import sys

import checkpoint_files as build
import pytest
from support import ROOT

from trainguard.checkpoints import Checkpoint, Verdict, list_saves
from trainguard.checkpoints.contents import list_files, read_checkpoint
from trainguard.checkpoints.judging import judge_checkpoint, judge_newest
from trainguard.checkpoints.pointers import (
    best_of,
    parse_pointer,
    pointer_text_for,
    read_pointer,
    read_pointers,
)
from trainguard.checkpoints.ranks import judge_ranks, judge_shards

NOW = 2_000_000_000.0


def age(path, seconds, over=0.0):
    """Let the files of a checkpoint be so old; the first one was written so much earlier."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    for file in files:
        os.utime(file, (NOW - seconds, NOW - seconds))
    os.utime(files[0], (NOW - seconds - over, NOW - seconds - over))


def judge(folder, living=False):
    """Verdict and reason of the newest."""
    newest = judge_newest(folder, living, NOW)[0]
    return newest.verdict, newest.reason


def test_the_judgements_go_down_to_the_first_complete_one(tmp_path):
    for step in (4, 8, 12, 16):
        build.hugging_face(tmp_path, step)
    (tmp_path / "checkpoint-16" / "trainer_state.json").unlink()
    (tmp_path / "checkpoint-12" / "model.safetensors").write_bytes(b"")
    found = [(one.checkpoint.step, one.verdict, one.step) for one in judge_newest(tmp_path, False, NOW)]
    assert found == [(16, Verdict.INCOMPLETE, None), (12, Verdict.INCOMPLETE, 12), (8, Verdict.COMPLETE, 8)]


def test_a_folder_without_checkpoints_has_no_judgement(tmp_path):
    (tmp_path / "runs").mkdir()
    assert judge_newest(tmp_path, False, NOW) == []
    assert judge_newest(tmp_path / "none", False, NOW) == []


def test_an_empty_checkpoint_folder_is_incomplete(tmp_path):
    for name in ("checkpoint-8", "iter_0000008", "global_step8", "step-8", "epoch_3", "checkpoint_3"):
        (tmp_path / name / name).mkdir(parents=True)
        assert judge(tmp_path / name)[0] is Verdict.INCOMPLETE


@pytest.mark.parametrize("seconds, over, verdict", [
    (29, 0, Verdict.WRITING), (31, 0, Verdict.COMPLETE),
    (119, 40, Verdict.WRITING), (121, 40, Verdict.COMPLETE),
])  # fmt: skip
def test_while_processes_live_a_whole_one_that_changed_lately_is_writing(tmp_path, seconds, over, verdict):
    age(build.hugging_face(tmp_path, 4), 5000, over)
    age(build.hugging_face(tmp_path, 8), seconds)
    assert judge(tmp_path, living=True)[0] is verdict
    assert judge(tmp_path, living=False)[0] is Verdict.COMPLETE


@pytest.mark.parametrize(
    "seconds, verdict", [(5, Verdict.WRITING), (599, Verdict.WRITING), (601, Verdict.INCOMPLETE)]
)
def test_while_processes_live_one_that_lacks_its_last_file_is_writing_for_a_while(tmp_path, seconds, verdict):
    path = build.hugging_face(tmp_path, 8)
    (path / "trainer_state.json").unlink()
    age(path, seconds)
    assert judge(tmp_path, living=True)[0] is verdict
    assert judge(tmp_path, living=False)[0] is Verdict.INCOMPLETE


def test_a_change_in_the_future_does_not_keep_it_writing(tmp_path):
    age(build.hugging_face(tmp_path, 8), -5000)
    assert judge(tmp_path, living=True)[0] is Verdict.COMPLETE


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt"])
def test_without_the_optimizer_or_the_scheduler_it_is_weights_only_and_names_who_has_it(tmp_path, name):
    build.hugging_face(tmp_path, 4)
    (build.hugging_face(tmp_path, 8) / name).unlink()
    verdict, reason = judge(tmp_path)
    assert verdict is Verdict.WEIGHTS_ONLY
    assert name in reason and "checkpoint-4" in reason and "lost" in reason


def test_saved_without_an_optimizer_on_purpose_it_is_weights_only_too(tmp_path):
    for step in (4, 8):
        path = build.hugging_face(tmp_path, step)
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            (path / name).unlink()
    assert judge(tmp_path) == (Verdict.WEIGHTS_ONLY, "optimizer.pt is missing: only the weights were saved")


def test_the_state_of_another_step_makes_it_suspect(tmp_path):
    build.hugging_face(tmp_path, 8).rename(tmp_path / "checkpoint-900")
    verdict, reason = judge(tmp_path)
    assert verdict is Verdict.SUSPECT
    assert reason == "checkpoint-900 holds the state of step 8"


def test_a_save_that_sigterm_began_and_did_not_finish_is_incomplete(tmp_path):
    (build.hugging_face(tmp_path, 8) / "checkpoint-is-incomplete.txt").write_text(
        "Checkpoint started at step 8"
    )
    assert judge(tmp_path)[0] is Verdict.INCOMPLETE


def test_metadata_that_was_not_renamed_yet_is_incomplete(tmp_path):
    path = build.dcp(tmp_path, 8)
    shutil.copy(path / ".metadata", path / ".metadata.tmp")
    assert judge(tmp_path) == (Verdict.INCOMPLETE, ".metadata.tmp is there: the save was not finished")


def test_a_long_history_in_the_trainers_state_is_read_at_its_ends_only(tmp_path):
    path = build.hugging_face(tmp_path, 8)
    history = [{"loss": 1.0, "global_step": 5, "step": step} for step in range(120_000)]
    content = build.trainer_state(8, log_history=history)
    assert len(content) > 8 << 20
    (path / "trainer_state.json").write_bytes(content)
    [judgement] = judge_newest(tmp_path, False, NOW)
    assert (judgement.verdict, judgement.step) == (Verdict.COMPLETE, 8)
    for sixteenth in range(1, 16):
        (path / "trainer_state.json").write_bytes(content[: len(content) * sixteenth // 16])
        assert judge(tmp_path)[0] is Verdict.INCOMPLETE


def test_not_a_number_in_the_trainers_state_is_as_python_writes_it(tmp_path):
    path = build.hugging_face(tmp_path, 8)
    (path / "trainer_state.json").write_bytes(
        build.trainer_state(8, log_history=[{"loss": float("nan"), "grad_norm": float("-inf")}])
    )
    assert judge(tmp_path)[0] is Verdict.COMPLETE


def test_fewer_ranks_than_before_are_lost_but_half_of_them_are_another_world(tmp_path):
    def names(ranks):
        return [f"rng_state_{rank}.pth" for rank in range(ranks)]

    assert judge_ranks(names(8), names(8), None) is None
    assert judge_ranks(names(7), names(8), None) is not None
    assert judge_ranks(names(4), names(8), None) is None
    assert judge_ranks(names(16), names(8), None) is None
    assert judge_ranks(names(8)[1:], [], None) == "rng_state_0.pth is missing, of 8 ranks"
    assert judge_ranks(names(1), [], None) is not None


def test_ranks_are_missing_in_each_dimension():
    def grid(first, second):
        return [
            f"zero_pp_rank_{r}_mp_rank_{m:02d}_optim_states.pt" for r in range(first) for m in range(second)
        ]

    assert judge_ranks(grid(3, 2), [], None) is None
    for name in grid(3, 2):
        reason = judge_ranks([other for other in grid(3, 2) if other != name], [], None)
        if name not in ("zero_pp_rank_2_mp_rank_01_optim_states.pt",):
            assert reason is not None and (name in reason or "missing" in reason)
    assert (
        judge_ranks(grid(3, 2), [], 4) == "zero_pp_rank_3_mp_rank_00_optim_states.pt is missing, of 4 ranks"
    )
    parallel = [f"mp_rank_{t:02d}_{p:03d}/model_optim_rng.pt" for t in range(2) for p in range(2)]
    assert judge_ranks(parallel, [], None) is None
    assert judge_ranks(parallel[1:], [], None) == "mp_rank_00_000/model_optim_rng.pt is missing, of 4 ranks"
    assert judge_ranks(parallel[:2], parallel, None) is not None
    world = [f"actor/model_world_size_4_rank_{rank}.pt" for rank in range(3)]
    assert judge_ranks(world, [], None) == "actor/model_world_size_4_rank_3.pt is missing, of 4 ranks"


def test_shards_count_themselves():
    names = [f"model-{number:05d}-of-00004.safetensors" for number in range(1, 5)]
    assert judge_shards(names) is None
    assert judge_shards(names[:3]) == "model-00004-of-00004.safetensors is missing"
    assert judge_shards(names[1:]) == "model-00001-of-00004.safetensors is missing"


@pytest.mark.parametrize("builder, pointer", [
    (build.deepspeed, "latest"), (build.megatron, "latest_checkpointed_iteration.txt"),
    (build.verl, "latest_checkpointed_iteration.txt"),
])  # fmt: skip
def test_one_that_is_newer_than_the_pointer_tells_was_not_finished(tmp_path, builder, pointer):
    builder(tmp_path, 4)
    before = (tmp_path / pointer).read_bytes()
    path = builder(tmp_path, 8)
    assert judge(tmp_path)[0] is Verdict.COMPLETE
    (tmp_path / pointer).write_bytes(before)
    verdict, reason = judge(tmp_path)
    assert verdict is Verdict.INCOMPLETE and pointer in reason
    # A torn pointer is a fault of the pointer, not of the checkpoint.
    (tmp_path / pointer).write_bytes(b"")
    assert judge(tmp_path)[0] is Verdict.COMPLETE
    assert read_pointer(tmp_path / pointer).target is None
    (tmp_path / pointer).write_text(pointer_text_for(pointer, Checkpoint(8, path)))
    assert read_pointer(tmp_path / pointer).target == path


@pytest.mark.parametrize("builder", [build.deepspeed, build.megatron])
def test_the_first_save_without_its_pointer_was_not_finished(tmp_path, builder):
    builder(tmp_path, 8)
    [pointer] = read_pointers(tmp_path)
    pointer.path.unlink()
    assert judge(tmp_path)[0] is Verdict.INCOMPLETE


def test_pointers_say_what_frameworks_write(tmp_path):
    assert parse_pointer("latest", "global_step8") == ["global_step8"]
    assert parse_pointer("latest_checkpointed_iteration.txt", "12") == ["iter_0000012", "global_step_12"]
    assert parse_pointer("latest_checkpointed_iteration.txt", "release") == ["release"]
    for text in ("", "../x", "/etc", "..", "1e5", "-3", "\u0663", "9" * 40, "a b\n"):
        assert parse_pointer("latest_checkpointed_iteration.txt", text) == []
    for text in ("", "../x", "/etc", "..", "a b", "a\nb"):
        assert parse_pointer("latest", text) == []
    inner = build.hugging_face_deepspeed(tmp_path, 8)
    [pointer] = read_pointers(inner)
    assert (pointer.text, pointer.target) == ("global_step8", inner / "global_step8")
    assert pointer_text_for("latest", Checkpoint(8, inner / "global_step8")) == "global_step8"
    assert (
        pointer_text_for("latest_checkpointed_iteration.txt", Checkpoint(8, tmp_path / "iter_0000008")) == "8"
    )


def test_a_pointer_that_is_no_file_has_a_problem(tmp_path):
    os.mkfifo(tmp_path / "latest")
    assert read_pointer(tmp_path / "latest").problem is not None
    assert read_pointer(tmp_path / "none") is None


def test_the_best_is_what_the_newest_state_tells(tmp_path):
    for step in (4, 8, 12):
        path = build.hugging_face(tmp_path, step)
        state = build.trainer_state(step, best_model_checkpoint="/elsewhere/out/checkpoint-8")
        (path / "trainer_state.json").write_bytes(state)
    assert best_of(tmp_path) == Checkpoint(8, tmp_path / "checkpoint-8")
    (tmp_path / "checkpoint-12" / "trainer_state.json").write_bytes(b"{")
    assert best_of(tmp_path) == Checkpoint(8, tmp_path / "checkpoint-8")
    shutil.rmtree(tmp_path / "checkpoint-8")
    assert best_of(tmp_path) is None
    assert best_of(tmp_path / "none") is None


def test_last_ckpt_is_judged_beside_the_numbered_ones(tmp_path):
    build.lightning(tmp_path, 4)
    newest = build.lightning(tmp_path, 8)
    (tmp_path / "last.ckpt").symlink_to(newest.name)
    assert [one.checkpoint.path.name for one in judge_newest(tmp_path, False, NOW)] == [
        newest.name,
        "last.ckpt",
    ]
    newest.write_bytes(newest.read_bytes()[:-100])
    found = [(one.checkpoint.path.name, one.verdict) for one in judge_newest(tmp_path, False, NOW)]
    assert found == [
        (newest.name, Verdict.INCOMPLETE),
        ("epoch=0-step=4.ckpt", Verdict.COMPLETE),
        ("last.ckpt", Verdict.INCOMPLETE),
    ]


def test_what_was_set_aside_is_no_checkpoint_any_more(tmp_path):
    build.hugging_face(tmp_path, 4)
    build.hugging_face(tmp_path, 8).rename(tmp_path / "checkpoint-8.incomplete-1796000000")
    build.hugging_face(tmp_path, 12).rename(tmp_path / "incomplete-1796000000.checkpoint-12")
    assert [save.step for save in list_saves(tmp_path)] == [4]


def test_single_files_are_in_numeric_order_and_those_without_a_number_in_order_of_change(tmp_path):
    for step in (900, 1000, 50):
        build.numbered_file(tmp_path, step)
    assert [save.step for save in list_saves(tmp_path)] == [50, 900, 1000]
    build.nanogpt(tmp_path, 3)
    os.utime(tmp_path / "ckpt.pt", (NOW, NOW))
    assert list_saves(tmp_path)[-1].path.name == "ckpt.pt"


def test_judging_is_pure_and_takes_the_facts_only(tmp_path):
    path = build.hugging_face(tmp_path, 8)
    [save] = list_saves(tmp_path)
    contents = read_checkpoint(save)
    shutil.rmtree(path)
    assert judge_checkpoint(contents, [], False, NOW).verdict is Verdict.COMPLETE
    assert judge_checkpoint(list_files(save), [], False, NOW).verdict is not Verdict.COMPLETE


def test_a_legacy_file_is_proved_whole_by_its_storages(tmp_path):
    path = build.legacy(tmp_path, 8)
    [judgement] = judge_newest(tmp_path, False, NOW)
    assert judgement.verdict is Verdict.COMPLETE
    content = (path / "pytorch_model.bin").read_bytes()
    (path / "pytorch_model.bin").write_bytes(content[:-1])
    assert judge(tmp_path)[0] is Verdict.INCOMPLETE
    (path / "pytorch_model.bin").write_bytes(content + b"x")
    assert judge(tmp_path)[0] is Verdict.SUSPECT


def test_an_index_that_names_a_missing_shard_is_incomplete(tmp_path):
    path = build.sharded(tmp_path, 8)
    (path / "model-00002-of-00003.safetensors").unlink()
    verdict, reason = judge(tmp_path)
    assert verdict is Verdict.INCOMPLETE
    assert "model-00002-of-00003.safetensors, which is missing" in reason


def test_json_that_names_other_things_is_no_index(tmp_path):
    path = build.sharded(tmp_path, 8)
    for content in ({"weight_map": {}}, {"weight_map": {"a": 3}}, {}, []):
        (path / "model.safetensors.index.json").write_text(json.dumps(content))
        assert judge(tmp_path)[0] is Verdict.SUSPECT


def test_a_run_may_go_over_to_other_shards_or_other_settings(tmp_path):
    build.sharded(tmp_path, 4)
    path = build.hugging_face(tmp_path, 8)
    for name in ("config.json", "generation_config.json", "training_args.bin"):
        (path / name).unlink()
    assert judge(tmp_path)[0] is Verdict.COMPLETE
    build.sharded(tmp_path, 12)
    build.fsdp_sharded(tmp_path, 16)
    assert [one.checkpoint.step for one in judge_newest(tmp_path, False, NOW)] == [16]
    shutil.rmtree(tmp_path / "checkpoint-16")
    assert [one.checkpoint.step for one in judge_newest(tmp_path, False, NOW)] == [12]


@pytest.mark.parametrize("builder, name", [
    (build.accelerate, "custom_checkpoint_0.pkl"), (build.accelerate, "scheduler.bin"),
    (build.deepspeed, "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"), (build.verl, "data.pt"),
])  # fmt: skip
def test_state_that_the_one_before_has_is_missed(tmp_path, builder, name):
    builder(tmp_path, 4)
    path = builder(tmp_path, 8)
    for lost in path.rglob(name.replace("rank_0_", "rank_*_")):
        lost.unlink()
    verdict, reason = judge(tmp_path)
    assert verdict in (Verdict.INCOMPLETE, Verdict.WEIGHTS_ONLY)
    assert reason == f"{name} is missing, which the checkpoint before has"


def test_the_second_model_of_accelerate_is_missed(tmp_path):
    for step in (4, 8):
        path = build.accelerate(tmp_path, step)
        shutil.copy(path / "model.safetensors", path / "model_1.safetensors")
    assert judge(tmp_path)[0] is Verdict.COMPLETE
    (path / "model_1.safetensors").unlink()
    assert judge(tmp_path)[0] is Verdict.INCOMPLETE


@pytest.mark.parametrize("builder", build.BUILDERS, ids=lambda builder: builder.__name__)
def test_a_folder_with_nothing_in_it_is_incomplete_beside_whole_ones_too(tmp_path, builder):
    builder(tmp_path, 4)
    path = builder(tmp_path, 8)
    if path.is_dir():
        for file in [file for file in path.rglob("*") if file.is_file()]:
            file.unlink()
        assert judge(tmp_path)[0] is Verdict.INCOMPLETE


def test_what_lightning_saved_without_its_optimizer_is_weights_only(tmp_path):
    saved = {"pytorch-lightning_version": "2.6.0", "global_step": 8, "state_dict": build.weights()}
    path = tmp_path / "epoch=0-step=8.ckpt"
    path.write_bytes(build.torch_zip(saved))
    assert judge(tmp_path)[0] is Verdict.WEIGHTS_ONLY
    path.write_bytes(build.torch_zip({**saved, "optimizer_states": [build.optimizer()]}))
    assert judge(tmp_path)[0] is Verdict.COMPLETE


def test_an_adapter_that_has_learnt_nothing_yet_is_no_damage(tmp_path):
    path = build.adapter(tmp_path, 8)
    names = [f"layers.{number}.v_proj.lora_{half}.weight" for number in range(3) for half in "AB"]
    tensors = {
        name: build.Tensor(300, 8, data=bytes(9600)) if "lora_B" in name else build.Tensor(8, 200)
        for name in names
    }
    (path / "adapter_model.safetensors").write_bytes(build.safetensors(tensors))
    assert judge(tmp_path)[0] is Verdict.COMPLETE


def test_moments_that_end_in_zeros_and_infinity_in_other_state_are_no_damage(tmp_path):
    path = build.hugging_face(tmp_path, 8)
    moment = build.Tensor(100, 40, data=build.numbers(60 * 40) + bytes(40 * 40 * 4))
    state = {"state": {0: {"exp_avg": moment, "exp_avg_sq": moment}}, "param_groups": []}
    best = build.torch_zip({"best": build.Tensor(1, data=b"\0\0\x80\x7f")})
    (path / "callback.pt").write_bytes(best)
    for write in (build.torch_zip, build.torch_legacy):
        (path / "optimizer.pt").write_bytes(write(state))
        assert judge(tmp_path)[0] is Verdict.COMPLETE


def test_what_a_user_lays_beside_may_be_anything(tmp_path):
    path = build.hugging_face(tmp_path, 8)
    for name, content in (
        ("notes.json", b"{ not json"),
        ("DONE.txt", b""),
        ("tokens.bin", b"\1\2\3"),
        ("a.pkl", b"(I1\n."),
    ):
        (path / name).write_bytes(content)
    assert judge(tmp_path)[0] is Verdict.COMPLETE


def test_a_disk_that_holds_the_ranks_of_one_node_holds_all_that_it_should():
    names = [f"rng_state_{rank}.pth" for rank in range(8, 16)]
    assert judge_ranks(names, names, None) is None
    assert judge_ranks(names[:-1], names, None) is not None


def test_metadata_of_ranks_that_do_not_coordinate_is_found(tmp_path):
    for step in (4, 8):
        path = build.dcp(tmp_path, step)
        (path / ".metadata").rename(path / "__0.metadata")
    assert judge(tmp_path)[0] is Verdict.COMPLETE
    (path / "__0.metadata").write_bytes((path / "__0.metadata").read_bytes()[:-9])
    assert judge(tmp_path)[0] is Verdict.INCOMPLETE


def test_an_idle_watchdog_does_not_load_what_verifies():
    heavy = ("json", "zipfile", "pickletools", "struct", "trainguard.checkpoints.pickles")
    code = f"import sys, trainguard.checkpoints; print([name for name in {heavy} if name in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
