"""Verifying: which test each file of a checkpoint must pass, by its name."""

import contextlib
import os
from collections import defaultdict
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from trainguard.checkpoints.dcp import verify_dcp
from trainguard.checkpoints.effort import Effort
from trainguard.checkpoints.json_files import verify_index, verify_json, verify_trainer_state
from trainguard.checkpoints.layouts import find, matches
from trainguard.checkpoints.pointers import read_pointer
from trainguard.checkpoints.safetensors import verify_safetensors
from trainguard.checkpoints.torch_files import STEP_KEYS, WORLD_KEY, Use, verify_torch
from trainguard.checkpoints.verdicts import FaultError, Verdict, incomplete, suspect
from trainguard.files import opened


class Look:
    """One verification under way: the sizes of all files by name, what they told, what may still be spent.

    `is_single`: the checkpoint is one file.
    """

    def __init__(self, folder: Path, sizes: dict[str, int], is_single: bool) -> None:
        self.folder = folder
        self.is_single = is_single
        self.sizes = sizes
        self.effort = Effort()
        self.step: int | None = None
        self.world: int | None = None

    @cached_property
    def _folders(self) -> dict[str, dict[str, int]]:
        folders: dict[str, dict[str, int]] = defaultdict(dict)
        for name, size in self.sizes.items():
            parent, _, inner = name.rpartition("/")
            folders[parent][inner] = size
        return folders

    def beside(self, name: str) -> dict[str, int]:
        """The sizes of the files in the same folder as this one, by their names in it."""
        return self._folders[name.rpartition("/")[0]]


def verify(path: Path, name: str, look: Look) -> None:
    """Verify one file, by the row that its name in the checkpoint fits; what fits none is nobody's state.

    Raises FaultError for what is wrong with it, OSError where it cannot be read.
    """
    verifier = next((verifier for pattern, verifier in _VERIFIERS if matches(name, pattern)), None)
    if verifier is None:
        return
    with opened(path) as descriptor:
        # The size of the file that was opened: it may have grown, or been replaced.
        verifier(descriptor, os.fstat(descriptor).st_size, name, look)


def _verify_safetensors(descriptor: int, size: int, name: str, look: Look) -> None:
    verify_safetensors(descriptor, size, look.effort)


def _verify_torch(descriptor: int, size: int, name: str, look: Look) -> None:
    if name.endswith((".bin", ".pkl")) and find([name], *OURS) is None:
        # Anybody may call a file so; only zeros are surely wrong.
        head = os.pread(descriptor, 1, 0)
        if head not in (b"", b"\0", b"P", b"\x80"):
            return
    is_moments = find([name], *MOMENTS) is not None
    is_weights = look.is_single or (not is_moments and find([name], *WEIGHTS) is not None)
    use = Use.WEIGHTS if is_weights else Use.MOMENTS if is_moments else Use.OTHER
    saved = verify_torch(descriptor, size, look.effort, use)
    if find([name], *TENSORS) is not None and not saved.has_storages:
        raise suspect("holds no tensor")
    if saved.keys >= LIGHTNING and "optimizer_states" not in saved.keys:
        raise FaultError(Verdict.WEIGHTS_ONLY, "holds no optimizer_states: only the weights were saved")
    for key in STEP_KEYS:
        if look.step is None:
            look.step = saved.numbers.get(key)
    if look.world is None and name.endswith("model_states.pt"):
        look.world = saved.numbers.get(WORLD_KEY)


def _verify_dcp(descriptor: int, size: int, name: str, look: Look) -> None:
    verify_dcp(descriptor, size, (look.folder / name).parent, look.beside(name), look.effort)


def _verify_trainer_state(descriptor: int, size: int, name: str, look: Look) -> None:
    look.step = verify_trainer_state(descriptor, size, look.effort).global_step


def _verify_index(descriptor: int, size: int, name: str, look: Look) -> None:
    verify_index(descriptor, size, look.effort, look.beside(name))


def _verify_metadata(descriptor: int, size: int, name: str, look: Look) -> None:
    # LLaMA-Factory v1 writes its step there, Megatron other things.
    verify_json(descriptor, size, look.effort)
    with contextlib.suppress(FaultError):
        look.step = verify_trainer_state(descriptor, size, look.effort).global_step


def _verify_json(descriptor: int, size: int, name: str, look: Look) -> None:
    verify_json(descriptor, size, look.effort)


def _verify_pointer(descriptor: int, size: int, name: str, look: Look) -> None:
    pointer = read_pointer(look.folder / name)
    if pointer is not None and pointer.target is None:
        raise incomplete((pointer.problem or "").removeprefix(f"{name} "))


def _verify_prose(descriptor: int, size: int, name: str, look: Look) -> None:
    if size == 0:
        raise incomplete("is empty")
    if not os.pread(descriptor, 16, max(0, size - 16)).strip(b"\0"):
        raise suspect("ends in zero bytes")


def _verify_shard(descriptor: int, size: int, name: str, look: Look) -> None:
    if size == 0:
        raise incomplete("is empty")


def _find_mark(descriptor: int, size: int, name: str, look: Look) -> None:
    raise incomplete("is there: the save was not finished")


WEIGHTS = ("*model*", "*adapter*")
MOMENTS = ("*optim*", "*recipe_state*", "*state_dict*")
# Never without a tensor; DeepSpeed's model states are, with ZeRO-3.
TENSORS = ("*pytorch_model*.bin", "*adapter_model.bin", "*model_world_size_*", "*model_optim_rng.pt")
# lightning trainer/connectors/checkpoint_connector.py, dump_checkpoint
LIGHTNING = frozenset(("pytorch-lightning_version", "state_dict"))
# Text that a trainer does not read when it resumes; a cut cannot be told, but an empty file is a lost write.
PROSE = ("*README.md", "*.jinja", "*.model", "*merges.txt", "*vocab.txt", "*zero_to_*.py")
# JSON of the frameworks; what a user lays beside may be anything.
JSON = (
    "*config.json", "*tokenizer*.json", "*tokens*.json", "*vocab.json", "*processor*.json", "*template*.json",
    "*modules.json", "*state*.json",
)  # fmt: skip
# What is called so was written by torch.save.
OURS = (
    "*optimizer*", "*scheduler*", "*sampler*", "*scaler*", "*model*", "*random_states_*", "*custom_checkpoint_*",
    "*training_args.bin", "*dl_state_dict*", "*rank*",
)  # fmt: skip
# The first row that fits a file's path in the checkpoint.
_VERIFIERS: tuple[tuple[str, Callable[[int, int, str, Look], None]], ...] = (
    # transformers trainer_jit_checkpoint.py; torch distributed/checkpoint/filesystem.py
    ("*checkpoint-is-incomplete.txt", _find_mark),
    ("*.metadata.tmp", _find_mark),
    ("*.metadata", _verify_dcp),
    ("*.distcp", _verify_shard),
    ("*.safetensors", _verify_safetensors),
    ("*.index.json", _verify_index),
    ("trainer_state.json", _verify_trainer_state),
    ("metadata.json", _verify_metadata),
    *((pattern, _verify_json) for pattern in JSON),
    *((f"*.{suffix}", _verify_torch) for suffix in ("bin", "ckpt", "pkl", "pt", "pth")),
    ("latest", _verify_pointer),
    *((pattern, _verify_prose) for pattern in PROSE),
)
