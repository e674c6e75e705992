"""Every layout: a whole checkpoint is complete, and with any file cut, gone, empty or zeroed it is not."""

import json
import resource
import time
from pathlib import Path

import checkpoint_files as build
import pytest

from trainguard.checkpoints import Judgement, Verdict, find_folder, list_saves
from trainguard.checkpoints.contents import list_files, read_checkpoint
from trainguard.checkpoints.judging import judge_checkpoint, judge_newest

NOW = 2_000_000_000.0
BUILDERS = pytest.mark.parametrize("builder", build.BUILDERS, ids=lambda builder: builder.__name__)


class Run:
    """Two checkpoints of one layout, of which the newer one is damaged and mended."""

    def __init__(self, folder: Path, builder) -> None:
        self.folder = folder
        builder(folder, 4)
        self.path = builder(folder, 8)
        self.saves = list_saves(folder)
        self.siblings = [list_files(save) for save in self.saves[:-1]]
        inner = self.path.rglob("*") if self.path.is_dir() else [self.path]
        self.files = sorted(path for path in inner if path.is_file())

    def judge(self) -> Judgement:
        return judge_checkpoint(read_checkpoint(self.saves[-1]), self.siblings, False, NOW)

    def judge_with(self, path: Path, content: bytes | None) -> Judgement:
        """The verdict with a file that has another content, or is gone."""
        before = path.read_bytes()
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        try:
            return self.judge()
        finally:
            path.write_bytes(before)


@pytest.fixture
def run(tmp_path, builder):
    return Run(tmp_path, builder)


@BUILDERS
def test_a_whole_checkpoint_is_complete_and_nothing_else(run):
    for save in run.saves:
        judgement = judge_checkpoint(read_checkpoint(save), [], False, NOW)
        # A pointer that was left names the newest one.
        assert (judgement.verdict, judgement.reason) == (Verdict.COMPLETE, judgement.reason)
    assert run.judge().verdict is Verdict.COMPLETE
    assert [one.checkpoint.path for one in judge_newest(run.folder, False, NOW)] == [run.path]


@BUILDERS
def test_with_any_file_cut_at_any_sixteenth_it_is_not_complete(run):
    for path in run.files:
        content = path.read_bytes()
        for sixteenth in range(16):
            if content:
                judgement = run.judge_with(path, content[: len(content) * sixteenth // 16])
                assert judgement.verdict in (Verdict.INCOMPLETE, Verdict.SUSPECT), (path, sixteenth)
                assert path.name in judgement.reason, (path, sixteenth)


# A resume reads none of these, and whether they are written changes with versions and settings. Cut they count.
UNREAD = ("config.json", "fsdp_config.json", "generation_config.json", "training_args.bin")


@BUILDERS
def test_without_any_file_that_a_resume_reads_it_is_not_complete(run):
    for path in run.files:
        if path.name in UNREAD:
            assert run.judge_with(path, None).verdict is Verdict.COMPLETE, path
            continue
        assert run.judge_with(path, None).verdict in (Verdict.INCOMPLETE, Verdict.WEIGHTS_ONLY), path


@BUILDERS
@pytest.mark.parametrize("size", [4096, 512])
def test_with_zeros_at_the_end_of_any_file_it_is_not_complete(run, size):
    for path in run.files:
        content = path.read_bytes()
        if content:
            zeroed = content[:-size] + bytes(min(size, len(content)))
            assert run.judge_with(path, zeroed).verdict in (Verdict.INCOMPLETE, Verdict.SUSPECT), path


@BUILDERS
def test_what_was_left_whole_is_complete_again(run):
    for path in run.files:
        run.judge_with(path, b"")
    assert run.judge().verdict is Verdict.COMPLETE


@pytest.mark.parametrize("dtype, strange", [
    ("F32", b"\x00\x00\xc0\x7f"), ("F32", b"\x00\x00\x80\x7f"), ("F32", b"\x00\x00\xc0\xff"),
    ("F16", b"\x00\x7e"), ("F16", b"\x00\x7c"), ("BF16", b"\xc0\x7f"), ("BF16", b"\x80\x7f"),
    ("F64", b"\0\0\0\0\0\0\xf8\x7f"), ("F64", b"\0\0\0\0\0\0\xf0\x7f"),
])  # fmt: skip
@pytest.mark.parametrize("as_torch", [False, True])
def test_a_number_that_is_none_in_the_largest_tensor_makes_it_suspect(tmp_path, dtype, strange, as_torch):
    path = build.hugging_face(tmp_path, 8)
    tensors = build.weights(dtype=dtype)
    largest = tensors["model.layers.0.self_attn.q_proj.weight"]
    for at in (0, len(largest.data) // 2, len(largest.data) - len(strange)):
        data = largest.data[:at] + strange + largest.data[at + len(strange) :]
        damaged = {
            **tensors,
            "model.layers.0.self_attn.q_proj.weight": build.Tensor(40, 40, dtype=dtype, data=data),
        }
        (path / "model.safetensors").unlink(missing_ok=True)
        name = "pytorch_model.bin" if as_torch else "model.safetensors"
        (path / name).write_bytes((build.torch_zip if as_torch else build.safetensors)(damaged))
        [judgement] = judge_newest(tmp_path, False, NOW)
        assert judgement.verdict is Verdict.SUSPECT
        assert "NaN or infinity" in judgement.reason
        assert name in judgement.reason


def test_a_mask_of_minus_infinity_is_no_damage(tmp_path):
    path = build.hugging_face(tmp_path, 8)
    mask = build.Tensor(64, 64, data=(b"\0\0\x80\xff" * 32 + bytes(4 * 31) + b"\0\0\x80\xff") * 64)
    (path / "model.safetensors").write_bytes(build.safetensors({**build.weights(), "attn_mask": mask}))
    assert judge_newest(tmp_path, False, NOW)[0].verdict is Verdict.COMPLETE


def test_zero_rows_of_a_padded_vocabulary_and_a_zero_bias_are_no_damage(tmp_path):
    path = build.hugging_face(tmp_path, 8)
    embedding = build.numbers(40 * 400) + bytes(4 * 40 * 50)
    tensors = {
        "model.embed_tokens.weight": build.Tensor(450, 40, data=embedding),
        "model.layers.0.mlp.down.weight": build.Tensor(60, 60),
        "model.layers.0.mlp.weight": build.Tensor(60, 60),
        "model.layers.1.mlp.bias": build.Tensor(2000, data=bytes(8000)),
    }
    (path / "model.safetensors").write_bytes(build.safetensors(tensors))
    assert judge_newest(tmp_path, False, NOW)[0].verdict is Verdict.COMPLETE


def test_files_that_are_found_below_the_runs_folder_are_judged(tmp_path):
    for place, builder in (
        ("lightning/lightning_logs/version_3/checkpoints", build.lightning),
        ("accelerate/checkpoints", build.accelerate),
        ("torchtitan/checkpoint", build.torchtitan),
        ("ancestor/current_model", build.adapter),
    ):
        builder(tmp_path / place, 8)
        top = tmp_path / place.split("/")[0]
        assert find_folder(top) == tmp_path / place
        assert [one.verdict for one in judge_newest(top, False, NOW)] == [Verdict.COMPLETE]


def test_a_five_gigabyte_checkpoint_is_judged_in_a_tenth_of_a_second_and_little_memory(tmp_path):
    path = build.sharded(tmp_path, 8)
    names = [f"model-{number:05d}-of-00005.safetensors" for number in range(1, 6)]
    for old in path.glob("model-*"):
        old.unlink()
    rows = {f"layers.{n}.weight": (4096 * 4096 * 2 * n, 4096 * 4096 * 2 * (n + 1)) for n in range(32)}
    header = json.dumps(
        {name: {"dtype": "BF16", "shape": [4096, 4096], "data_offsets": at} for name, at in rows.items()}
    ).encode()
    for name in names:
        with (path / name).open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            for _, end in rows.values():
                file.seek(8 + len(header) + end - 4096)
                file.write(build.numbers(2048, "BF16"))
    index = {"weight_map": {f"{name}.{row}": name for name in names for row in rows}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert sum(file.stat().st_size for file in path.iterdir()) > 5 << 30
    judge_newest(tmp_path, False, NOW)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    best = min(_timed(tmp_path, time.perf_counter) for _ in range(5))
    assert best < 0.1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 4096


def _timed(folder: Path, clock) -> float:
    begun = clock()
    [judgement] = judge_newest(folder, False, NOW)
    assert judgement.verdict is Verdict.COMPLETE, judgement.reason
    return clock() - begun
