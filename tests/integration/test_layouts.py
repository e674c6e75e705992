"""Checkpoints of the real libraries: whole ones are complete, and no damaged one that a resume needs passes.

What a file is worth is asked of the library itself: a resume without it fails, or goes on with other numbers
(something was lost), or goes on as if nothing had happened.
"""

import importlib
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import layouts
import pytest
from layouts import LAYOUTS, Layout

from trainguard.checkpoints import Verdict, list_saves
from trainguard.checkpoints.contents import list_files, read_checkpoint
from trainguard.checkpoints.judging import judge_checkpoint, judge_newest
from trainguard.checkpoints.pointers import pointer_text_for, read_pointer, read_pointers

NAMED = {layout.name: layout for layout in LAYOUTS}


def each(*rows: Layout) -> Any:
    """A test for each layout; skipped where its library is not installed."""
    marks = [pytest.mark.skipif(not row.installed, reason=f"needs {', '.join(row.needs)}") for row in rows]
    parameters = [pytest.param(row, id=row.name, marks=mark) for row, mark in zip(rows, marks, strict=True)]
    return pytest.mark.parametrize("layout", parameters)


EACH = each(*LAYOUTS)
RESUMES = each(*(layout for layout in LAYOUTS if layout.resume is not None))

# Files that no resume reads, and why; test_the_library_agrees_on_which_files_a_resume_reads asks it. A cut in
# one of them may be told or not, and without it the checkpoint is as good as with it.
NOT_READ = {
    "README.md": "peft's model card",
    "generation_config.json": "read by generate() only",
    "tokenizer.json": "the Trainer has its own tokenizer from the script",
    "tokenizer_config.json": "the Trainer has its own tokenizer from the script",
    "training_args.bin": "the script makes its arguments anew; the file tells people what they were",
    "config.json": "the script makes the model; where it is there, it is read, so a cut one fails",
    "zero_to_fp32.py": "a tool for people",
    "zero_to_torch.py": "a tool for people",
    "fsdp_config.json": "read by verl's model merger only",
}
# The only ones whose cut the library would also not notice: `config.json` is parsed where it is found.
CUT_IS_FINE = NOT_READ.keys() - {"config.json"}
POINTERS = ("latest", "latest_checkpointed_iteration.txt")


@pytest.fixture(scope="session", autouse=True)
def libraries() -> None:
    layouts.import_once()


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Layout], Path]]:
    """A function that gives a layout's folder, built once; whoever damages it puts it in order again."""
    root = tmp_path_factory.mktemp("layouts")
    built: dict[str, Path] = {}

    def build(layout: Layout) -> Path:
        if layout.name not in built:
            layouts.make(layout, root / layout.name)
            built[layout.name] = root / layout.name
        return built[layout.name]

    yield build
    shutil.rmtree(root)


def newest(layout: Layout, folder: Path) -> Path:
    return folder / layout.newest


def files_of(layout: Layout, folder: Path) -> list[Path]:
    """The files of the newest checkpoint."""
    path = newest(layout, folder)
    return [file for file in sorted(path.rglob("*")) if file.is_file()] if path.is_dir() else [path]


@contextmanager
def damaged(file: Path, content: bytes | None) -> Iterator[None]:
    """The file with other content, or away (None), and afterwards as it was."""
    before, state = file.read_bytes(), file.stat()
    try:
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)
        yield
    finally:
        file.write_bytes(before)
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))


def judged(layout: Layout, folder: Path) -> Verdict | None:
    """What the watchdog would say of the newest checkpoint, its processes gone; None where it does not see it."""
    path = newest(layout, folder)
    judgements = judge_newest(path.parent, living=False, now_wall=time.time())
    return next((one.verdict for one in judgements if one.checkpoint.path == path), None)


def passing(layout: Layout, folder: Path, damages: Callable[[Path], dict[str, bytes | None]]) -> list[str]:
    """The damages to files that a resume reads with which the newest checkpoint is called complete."""
    passed = []
    for file in files_of(layout, folder):
        for name, content in damages(file).items():
            if file.name in (NOT_READ if content is None else CUT_IS_FINE):
                continue
            with damaged(file, content):
                if judged(layout, folder) is Verdict.COMPLETE:
                    passed.append(f"{file.relative_to(folder)}: {name}")
    return passed


def cuts(file: Path) -> dict[str, bytes | None]:
    content = file.read_bytes()
    ends = {f"cut at {part}/16": len(content) * part // 16 for part in range(16)}
    ends["one byte short"] = len(content.rstrip(b"\n")) - 1  # JSON without its last line end is whole
    return {name: content[:end] for name, end in ends.items() if 0 <= end < len(content)}


def absence(_: Path) -> dict[str, bytes | None]:
    return {"removed": None}


def zero_tail(file: Path) -> dict[str, bytes | None]:
    content = file.read_bytes()
    kept = len(content) * 3 // 4
    return {"last quarter zeroed": content[:kept] + bytes(len(content) - kept)} if content else {}


def zeros(file: Path) -> dict[str, bytes | None]:
    size = file.stat().st_size
    return {"all zero": bytes(size)} if size else {}


def with_nan(file: Path) -> dict[str, bytes | None]:
    """The library's own file, with NaN in its largest floating-point tensor, and in others as large."""
    import safetensors.torch
    import torch

    changed = file.parent / f"{file.name}.nan"
    try:
        if file.suffix == ".safetensors":
            values = safetensors.torch.load_file(file)
        elif file.suffix in (".pt", ".pth", ".bin", ".ckpt"):
            values = torch.load(file, weights_only=False)
        else:
            return {}
        tensors = list(tensors_in(values))
        largest = max((tensor.numel() for tensor in tensors), default=0)
        if not largest:
            return {}
        for tensor in tensors:
            if tensor.numel() == largest:
                tensor.fill_(float("nan"))
        if file.suffix == ".safetensors":
            safetensors.torch.save_file(values, changed, metadata={"format": "pt"})
        else:
            torch.save(values, changed, _use_new_zipfile_serialization=file.read_bytes()[:2] == b"PK")
        return {f"NaN in tensors of {largest} numbers": changed.read_bytes()}
    finally:
        changed.unlink(missing_ok=True)


def tensors_in(value: Any) -> Iterator[Any]:
    """The floating-point tensors in nested dictionaries, lists and tuples."""
    import torch

    if isinstance(value, torch.Tensor):
        if value.is_floating_point():
            yield value.detach()
    elif isinstance(value, dict):
        for inner in value.values():
            yield from tensors_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from tensors_in(inner)


@EACH
def test_what_the_library_wrote_is_complete(layout, example):
    folder = example(layout)
    path = newest(layout, folder)
    saves = list_saves(path.parent)
    assert saves, "no checkpoint is seen"
    verdicts = {}
    for place, save in enumerate(saves):
        siblings = [list_files(sibling) for sibling in saves[max(0, place - 3) : place]]
        judgement = judge_checkpoint(read_checkpoint(save), siblings, living=False, now_wall=time.time())
        verdicts[save.path.name] = (judgement.verdict, judgement.reason)
    assert {name: said for name, said in verdicts.items() if said[0] is not whole(layout)} == {}
    assert path.name in verdicts
    assert judged(layout, folder) is whole(layout)


@EACH
def test_no_cut_file_passes(layout, example):
    assert passing(layout, example(layout), cuts) == []


@EACH
def test_no_absent_file_passes(layout, example):
    assert passing(layout, example(layout), absence) == []


@EACH
def test_a_file_that_no_resume_reads_is_not_missed(layout, example):
    """A newer version of a library or a changed script may leave it out."""
    folder = example(layout)
    said = {}
    for file in files_of(layout, folder):
        if file.name in NOT_READ:
            with damaged(file, None):
                said[file.name] = judged(layout, folder)
    assert said == dict.fromkeys(said, whole(layout))


def whole(layout: Layout) -> Verdict:
    return Verdict.WEIGHTS_ONLY if layout.name.endswith("weights-only") else Verdict.COMPLETE


@EACH
def test_no_zero_tail_passes(layout, example):
    assert passing(layout, example(layout), zero_tail) == []


# Written last; times of the file system are too coarse to tell.
LAST = (".metadata", "meta.pt", "recipe_state.pt", "metadata.json", "latest", "scheduler.pt")
LAST += ("rng_state.pth", "trainer_state.json", "rank_0.pt", "data.pt", "CHECKPOINT_COMPLETE")


@EACH
def test_a_save_that_was_killed_is_not_complete_at_any_moment(layout, example, tmp_path):
    """The files in the order in which they were written: one of them half there, the later ones not yet."""
    folder = shutil.copytree(example(layout), tmp_path / "run", symlinks=True)
    path = newest(layout, folder)
    for pointer in (path.parent / name for name in POINTERS):
        if path.is_dir() and pointer.is_file():
            pointer.write_text(pointer.read_text().replace("12", "8"))
    passed = []
    for file in sorted(files_of(layout, folder), key=write_order, reverse=True):
        size = file_size(file)
        os.truncate(file, size // 2)
        if size and judged(layout, folder) is Verdict.COMPLETE:
            passed.append(f"{file.relative_to(folder)} half written")
        file.unlink()
        if judged(layout, folder) is Verdict.COMPLETE:
            passed.append(f"{file.relative_to(folder)} not begun")
    assert passed == []


def write_order(file: Path) -> tuple[int, int]:
    return file.stat().st_mtime_ns // 20_000_000, LAST.index(file.name) if file.name in LAST else -1


@EACH
def test_no_file_of_zeros_passes(layout, example):
    assert passing(layout, example(layout), zeros) == []


@EACH
def test_no_sampled_nan_passes(layout, example):
    assert passing(layout, example(layout), with_nan) == []


def test_nan_weights_that_were_saved_are_found(tmp_path, monkeypatch, example):
    """NaN trains on and is saved; what `with_nan` cannot write into, DCP's and ZeRO's shards, is among these."""
    monkeypatch.setenv(layouts.POISONED, "1")
    names = (
        "hugging-face",
        "hugging-face-fsdp-sharded",
        "hugging-face-zero-3",
        "deepspeed-2",
        "dcp",
        "dcp-two-ranks",
    )
    names += (
        "lightning-copy",
        "lightning-sharded",
        "megatron-core",
        "torchtitan",
        "accelerate",
        "torch-legacy",
    )
    verdicts = {}
    for layout in (NAMED[name] for name in names if NAMED[name].installed):
        layouts.make(layout, tmp_path / layout.name)
        verdicts[layout.name] = judged(layout, tmp_path / layout.name)
    assert verdicts == dict.fromkeys(verdicts, Verdict.SUSPECT)


def test_other_numbers_in_the_middle_of_a_tensor_are_not_seen(example):
    """The limit of a look that does not read everything; the health check's --deep is for it."""
    layout = NAMED["hugging-face"]
    file = newest(layout, example(layout)) / "model.safetensors"
    content = bytearray(file.read_bytes())
    place = len(content) // 2 // 4 * 4
    content[place : place + 4] = struct.pack("<f", 0.25)
    with damaged(file, bytes(content)):
        assert judged(layout, example(layout)) is Verdict.COMPLETE


POINTED = ("deepspeed-0", "deepspeed-2", "megatron", "megatron-core", "megatron-legacy", "verl")


@each(*(NAMED[name] for name in POINTED))
def test_a_torn_pointer_no_longer_names_the_newest(layout, example):
    path = newest(layout, example(layout))
    pointer = next(path.parent / pointer for pointer in POINTERS if (path.parent / pointer).is_file())
    assert read_pointer(pointer).target == path
    for content in (*cuts(pointer).values(), *zero_tail(pointer).values(), *zeros(pointer).values()):
        with damaged(pointer, content):
            assert read_pointer(pointer).target != path, content


# What the library says


def test_the_library_agrees_on_which_files_a_resume_reads(example):
    """Each file of the Trainer's checkpoint away, and cut in half."""
    layout = NAMED["hugging-face"]
    folder = example(layout)
    undamaged = layout.go_on(folder)
    assert undamaged
    found = {}
    for file in files_of(layout, folder):
        content = file.read_bytes()
        for damage in (None, content[: len(content) // 2]):
            with damaged(file, damage):
                digests = layout.go_on(folder)
            found[file.name, damage is None] = (
                "fails" if digests is None else "same" if digests == undamaged else "lost"
            )
    assert found == {
        ("model.safetensors", True): "fails",
        ("model.safetensors", False): "fails",
        ("trainer_state.json", True): "fails",
        ("trainer_state.json", False): "fails",
        # in silence: the run goes on with a new optimizer, a new schedule, other random numbers
        ("optimizer.pt", True): "lost",
        ("optimizer.pt", False): "fails",
        ("scheduler.pt", True): "lost",
        ("scheduler.pt", False): "fails",
        ("rng_state.pth", True): "lost",
        ("rng_state.pth", False): "fails",
        ("config.json", True): "same",
        ("config.json", False): "fails",
    } | {
        (name, is_away): "same"
        for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json", "training_args.bin")
        for is_away in (True, False)
    }


ASIDE = "incomplete-1767580000"


@RESUMES
def test_a_cut_checkpoint_fails_the_resume_and_is_incomplete(layout, example):
    """One file that is read, another in each layout, cut somewhere: the library's own word for `incomplete`."""
    folder = example(layout)
    read = [
        file for file in files_of(layout, folder) if file.name not in NOT_READ and not unread(layout, file)
    ]
    chance = random.Random(layout.name)
    file = chance.choice(read)
    content = file.read_bytes()
    with damaged(file, content[: chance.randrange(len(content) - 1)]):
        assert judged(layout, folder) is Verdict.INCOMPLETE
        assert layout.go_on(folder) is None, file


def unread(layout: Layout, file: Path) -> bool:
    """Weights beside those that are read, written for people; and Accelerate only logs a lost random state."""
    beside = (
        layout.name.startswith(("hugging-face-fsdp", "hugging-face-zero"))
        and file.name == "model.safetensors"
    )
    return beside or file.name.startswith("random_states_") or file.name == "adapter_config.json"


SEEN = ("hugging-face", "hugging-face-adapter", "hugging-face-two-ranks", "hugging-face-fsdp-sharded")
SEEN += ("hugging-face-zero-1", "deepspeed-2", "megatron-core", "accelerate")


@each(*(NAMED[name] for name in SEEN))
def test_once_set_aside_the_older_one_is_resumed(layout, example, tmp_path):
    folder = shutil.copytree(example(layout), tmp_path / "run")
    path = newest(layout, folder)
    largest = max((file for file in files_of(layout, folder) if not unread(layout, file)), key=file_size)
    os.truncate(largest, file_size(largest) // 2)
    assert layout.go_on(folder) is None
    # Accelerate reads any number in any name beside, so there it has to leave the folder.
    away = path.parent.parent if layout.name == "accelerate" else path.parent
    path.rename(away / f"{ASIDE}.{path.name}")
    older = list_saves(path.parent)[-1]
    for pointer in read_pointers(path.parent):
        pointer.path.write_text(pointer_text_for(pointer.path.name, older))
    resumed = layout.go_on(folder)
    shutil.rmtree(away / f"{ASIDE}.{path.name}")
    assert resumed is not None
    assert resumed == layout.go_on(folder)


def file_size(file: Path) -> int:
    return file.stat().st_size


@pytest.mark.parametrize("name", [f"{ASIDE}.checkpoint-20", "checkpoint-20.incomplete-1767580000"])
def test_transformers_does_not_see_what_was_set_aside(name, tmp_path):
    trainer_utils = importlib.import_module("transformers.trainer_utils")
    (tmp_path / name).mkdir()
    assert trainer_utils._re_checkpoint.search(name) is None
    assert trainer_utils.get_last_checkpoint(tmp_path) is None
    assert list_saves(tmp_path) == []


CHANGES = {
    "one rank, then two": (1, {}, 2, {}),
    "two ranks, then one": (2, {}, 1, {}),
    "sharded, then whole": (1, {"shard_bytes": 8_000}, 1, {}),
    "whole, then sharded": (1, {}, 1, {"shard_bytes": 8_000}),
    "no tokenizer any more": (1, {}, 1, {"tokenizer": False}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_that_was_changed_is_complete(change, tmp_path):
    """A user may resume with other settings; that is no reason to set his newest checkpoint aside."""
    ranks, settings, later_ranks, later = CHANGES[change]
    codes, output = layouts.run_ranks(lambda: layouts.train(tmp_path, steps=8, **settings), ranks)
    assert not any(codes), output
    codes, output = layouts.run_ranks(lambda: layouts.train(tmp_path, resume=True, **later), later_ranks)
    assert not any(codes), output
    said = judge_newest(tmp_path, living=False, now_wall=time.time())[0]
    assert (said.checkpoint.path.name, said.verdict) == ("checkpoint-12", Verdict.COMPLETE), said.reason


def with_unseen_tokens() -> Any:
    """A vocabulary of which the last 400 never occur, with embeddings of its own: their moments stay zero."""
    import transformers

    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=layouts.VOCABULARY + 400,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=False,
        )
    )


def with_padded_vocabulary() -> Any:
    model = with_unseen_tokens()
    model.get_input_embeddings().weight.data[-16:] = 0
    model.get_output_embeddings().weight.data[-16:] = 0
    return model


def with_frozen_zeros() -> Any:
    """Projections that begin with zero, and are frozen, as in a model that grows block by block."""
    model = with_unseen_tokens()
    for name, weights in model.named_parameters():
        weights.requires_grad = "layernorm" in name
        if "down_proj" in name or "o_proj" in name:
            weights.data.zero_()
    return model


ZEROS: dict[str, dict[str, Any]] = {
    "tokens that never occur": {"model": with_unseen_tokens},
    "a padded vocabulary": {"model": with_padded_vocabulary},
    "frozen zeros": {"model": with_frozen_zeros},
    "an optimizer without moments": {"optim": "sgd"},
    "an adapter in its first warm-up step": {"adapter": True, "warmup_steps": 4, "save_steps": 1, "steps": 1},
}


@pytest.mark.parametrize("case", ZEROS)
def test_zeros_that_belong_there_are_complete(case, tmp_path):
    options = dict(ZEROS[case])
    make_model = options.pop("model", None)
    codes, output = layouts.run_ranks(
        lambda: layouts.train(tmp_path / "run", model=make_model and make_model(), **options)
    )
    assert not any(codes), output
    said = judge_newest(tmp_path / "run", living=False, now_wall=time.time())[0]
    assert said.verdict is Verdict.COMPLETE, said.reason


# Size


MEASURE = """
import sys, time
from pathlib import Path
from trainguard.checkpoints.judging import judge_newest
if len(sys.argv) > 1:
    began = time.perf_counter()
    judgements = judge_newest(Path(sys.argv[1]), living=False, now_wall=time.time())
    print(judgements[0].verdict.value, judgements[0].size_bytes, time.perf_counter() - began)
# Not ru_maxrss, which begins with what the parent had when it forked.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def large_checkpoint(
    folder: Path, shards: int = 10, shard_bytes: int = 510_000_000, width: int = 4096
) -> None:
    """A real Trainer's folder whose weights are replaced: shards by safetensors, with a block of numbers again and
    again in what is otherwise a hole, so that 5 GB take little of the disk.
    """
    import numpy
    import safetensors.numpy

    index: dict[str, str] = {}
    rows = shard_bytes // 4 // 4 // width  # four tensors of float32 in each
    for shard in range(1, shards + 1):
        name = f"model-{shard:05d}-of-{shards:05d}.safetensors"
        # The header of the library for these names and shapes, with no numbers: its offsets are set here.
        shapes = {f"layers.{shard}.{part}.weight": (rows, width) for part in "qkvo"}
        small = safetensors.numpy.save({key: numpy.zeros((1, 1), numpy.float32) for key in shapes})
        header = json.loads(small[8 : 8 + int.from_bytes(small[:8], "little")])
        end = 0
        for key, shape in shapes.items():
            header[key] = {
                "dtype": "F32",
                "shape": list(shape),
                "data_offsets": [end, end + rows * width * 4],
            }
            end += rows * width * 4
            index[key] = name
        text = json.dumps(header).encode()
        block = numpy.random.default_rng(shard).standard_normal(1 << 18, numpy.float32).tobytes()
        with (folder / name).open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + end)
            for place in range(0, end, end // 32):
                file.seek(8 + len(text) + place)
                file.write(block)
            for tensor in range(1, 5):
                file.seek(8 + len(text) + tensor * rows * width * 4 - len(block))
                file.write(block)
    text = json.dumps({"metadata": {"total_size": shards * shard_bytes}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(text)


def test_five_gigabytes_are_judged_with_little_memory(example, tmp_path):
    layout = NAMED["hugging-face"]
    path = shutil.copytree(newest(layout, example(layout)), tmp_path / "checkpoint-12")
    (path / "model.safetensors").unlink()
    large_checkpoint(path)

    def measure(*arguments: str) -> list[str]:
        command = [sys.executable, "-c", MEASURE, *arguments]
        folder = Path(layouts.__file__).parent.parent.parent
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder).stdout.split()

    (idle,) = measure()
    verdict, size, seconds, peak = measure(str(tmp_path))
    print(
        f"{float(seconds) * 1000:.1f} ms, {(int(peak) - int(idle)) / 1024:.1f} MiB beside {int(idle) / 1024:.1f}"
    )
    assert verdict == "complete"
    assert int(size) > 5_000_000_000
    assert int(peak) - int(idle) < 32 * 1024  # KiB
