"""Layouts: one row for each way in which a framework lays out a checkpoint, with all that is known of it."""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache

import msgspec

STEP_LIMIT = 1 << 53


class Part(msgspec.Struct, frozen=True):
    """What must be in a checkpoint: a file that matches one of `patterns`, where one matches `given`.

    In a pattern, `*` stands for any characters, `/` included. Without the part a checkpoint is incomplete, or
    holds the weights only where `is_state`.
    """

    name: str
    patterns: tuple[str, ...]
    given: str = "*"
    is_state: bool = False


class Layout(msgspec.Struct, frozen=True):
    """How a framework names a checkpoint and what it writes into it.

    `pattern` is the whole name, with the number in its group. `is_step` says that the number is a step, not a
    count of saves or epochs. Where several rows share a name, the first with one of its `signs` in it is it;
    no signs fit always. `commit` is what is written last, `pointer` the file beside that names the newest one,
    and `beside` what lies outside and belongs to it. The patterns in one group of `alike` stand for each other:
    a run may go over from one to another.
    """

    name: str
    pattern: str
    is_step: bool = True
    is_folder: bool = True
    is_file: bool = False
    signs: tuple[str, ...] = ()
    commit: Part | None = None
    parts: tuple[Part, ...] = ()
    pointer: str | None = None
    beside: tuple[str, ...] = ()
    alike: tuple[tuple[str, ...], ...] = ()


MEGATRON_TRACKER = "latest_checkpointed_iteration.txt"
# Ranks that do not coordinate write one each.
_DCP = Part(".metadata", (".metadata", "__*.metadata"))
_INDEX = Part("model.safetensors.index.json", ("*.index.json",), given="*-of-?????.safetensors")
_BIN_INDEX = Part("pytorch_model.bin.index.json", ("*.bin.index.json",), given="*pytorch_model-*-of-*.bin")
_ADAPTERS = (
    # peft utils/constants.py: one is of no use without the other
    Part("adapter_config.json", ("*adapter_config.json",), given="*adapter_model.*"),
    Part("adapter_model.safetensors", ("*adapter_model.*",), given="*adapter_config.json"),
)
# Without ZeRO the optimizer is in the model's states.
_DEEPSPEED = ("global_step*/*optim_states.pt", "global_step*/mp_rank_*", "global_step*/layer_*")
_OPTIMIZERS = ("optimizer.pt", "optimizer.bin", "optimizer_*", "rank*-optimizer.pt")
_HUGGING_FACE_WEIGHTS = (
    "*.safetensors",
    "*pytorch_model*.bin",
    "*adapter_model.bin",
    "pytorch_model_fsdp*",
    "global_step*/*model_states.pt",
)
_WEIGHTS_ALIKE = (
    "model*.safetensors",
    "pytorch_model.bin",
    "pytorch_model-*.bin",
    "adapter_model.*",
    "pytorch_model_fsdp_0/*",
)
# torchtune training/checkpointing: recipe_state.pt is written last, in older versions into a folder beside
_TUNE_SIGNS = (
    "*recipe_state.pt",
    "*.safetensors",
    "*.index.json",
    "*adapter_*",
    "*_model_*.pt",
    "*_model_*.bin",
)
_RECIPE_STATE = ("recipe_state/recipe_state.pt",)
_TUNE = (
    Part("model.safetensors", ("*.safetensors", "*_model_*.pt", "*model*.bin", "*adapter_model.pt")),
    _INDEX,
    Part("recipe_state.pt", ("*recipe_state.pt",), is_state=True),
    *_ADAPTERS,
)

LAYOUTS = (
    Layout(
        "LLaMA-Factory v1",  # LLaMA-Factory v1/core/utils/checkpoint.py: the marker last
        r"checkpoint-([0-9]+)",
        signs=("CHECKPOINT_COMPLETE", "model/*", "optimizer/*", "rng_state/*", "dataloader/*"),
        commit=Part("CHECKPOINT_COMPLETE", ("CHECKPOINT_COMPLETE",)),
        parts=(
            Part("model/model.safetensors", ("model/*.safetensors", "model/*.bin", "model/*.distcp")),
            Part("metadata.json", ("metadata.json",)),
            Part("optimizer/state_dict.pt", ("optimizer/*",), is_state=True),
            Part("rng_state/rank_0.pt", ("rng_state/*",)),
            _INDEX,
            *_ADAPTERS,
        ),
    ),
    Layout(
        "Hugging Face",  # transformers trainer_utils.py, _re_checkpoint; trainer.py, _save_checkpoint
        r"checkpoint-([0-9]+)",
        commit=Part("trainer_state.json", ("trainer_state.json",)),
        parts=(
            *_ADAPTERS,
            Part("model.safetensors", _HUGGING_FACE_WEIGHTS),
            _INDEX,
            _BIN_INDEX,
            Part("optimizer.pt", (*_OPTIMIZERS, *_DEEPSPEED), is_state=True),
            # written by the same lines as optimizer.pt, so they are never left out with it there
            Part("scheduler.pt", ("scheduler.pt",), given="optimizer.pt", is_state=True),
            Part("rng_state.pth", ("rng_state*.pth",), given="optimizer.pt"),
            Part("latest", ("latest",), given="global_step*/*"),
            Part("mp_rank_00_model_states.pt", ("global_step*/*model_states.pt",), given="global_step*/*"),
            Part(
                "pytorch_model_fsdp_0/.metadata",
                ("pytorch_model_fsdp_0/.metadata",),
                given="pytorch_model_fsdp_0/*",
            ),
        ),
        alike=(_OPTIMIZERS, _WEIGHTS_ALIKE),
    ),
    Layout(
        "verl",  # verl utils/checkpoint/checkpoint_manager.py
        r"global_step_([0-9]+)",
        signs=("actor/*", "critic/*", "data.pt", "model_world_size_*"),
        parts=(
            Part("model_world_size_N_rank_0.pt", ("*model_world_size_*", "*.distcp", "*.safetensors")),
            Part("optim_world_size_N_rank_0.pt", ("*optim_world_size_*", "*.distcp"), is_state=True),
            Part(
                "extra_state_world_size_N_rank_0.pt",
                ("*extra_state_world_size_*",),
                given="*model_world_size_*",
            ),
        ),
        pointer=MEGATRON_TRACKER,
    ),
    Layout(
        "DeepSpeed",  # deepspeed runtime/engine.py, save_checkpoint: `latest` last
        r"global_step_?([0-9]+)",
        parts=(Part("mp_rank_00_model_states.pt", ("*model_states.pt",)),),
        pointer="latest",
    ),
    Layout(
        "Megatron",  # Megatron-LM training/checkpointing.py, get_checkpoint_name: the tracker last
        r"iter_([0-9]+)",
        signs=("mp_rank_*",),
        parts=(Part("model_optim_rng.pt", ("mp_rank_*/model_optim_rng.pt",)),),
        pointer=MEGATRON_TRACKER,
    ),
    Layout(
        "Megatron torch_dist",
        r"iter_([0-9]+)",
        commit=_DCP,
        parts=(Part("metadata.json", ("metadata.json",)),),
        pointer=MEGATRON_TRACKER,
    ),
    Layout("torchtune", r"step_([0-9]+)", signs=_TUNE_SIGNS, parts=_TUNE, beside=_RECIPE_STATE),
    Layout(
        "torchtune", r"epoch_([0-9]+)", is_step=False, signs=_TUNE_SIGNS, parts=_TUNE, beside=_RECIPE_STATE
    ),
    Layout(
        "torchtitan",  # torchtitan components/checkpoint.py; a model that was exported has the index instead
        r"step[-_]([0-9]+)",
        signs=("model.safetensors.index.json", "*.safetensors"),
        commit=Part("model.safetensors.index.json", ("*.safetensors.index.json",)),
        parts=(Part("__0_0.distcp", ("*.distcp",), is_state=True),),
    ),
    Layout("DCP", r"step[-_]([0-9]+)", commit=_DCP),  # torch distributed/checkpoint/filesystem.py, finish
    Layout("DCP", r"epoch[-_]([0-9]+)", is_step=False, commit=_DCP),
    Layout(
        "Accelerate",  # accelerate checkpointing.py, save_accelerator_state: random states last
        r"checkpoint_([0-9]+)",
        is_step=False,
        commit=Part("random_states_0.pkl", ("random_states_*.pkl",)),
        parts=(
            Part(
                "model.safetensors",
                ("*.safetensors", "pytorch_model*", "global_step*", "*_model_states.pt", "mp_rank_*"),
            ),
            Part("optimizer.bin", ("optimizer*", "pytorch_model/*", "global_step*/*"), is_state=True),
            _INDEX,
            _BIN_INDEX,
        ),
    ),
    Layout(
        "Lightning",  # lightning callbacks/model_checkpoint.py, format_checkpoint_name: a version may follow
        r"(?!incomplete-)(?:.*-)?epoch=[0-9]+-step=([0-9]+)(?:-v[0-9]+)?\.ckpt",
        is_file=True,
        commit=_DCP,
        parts=(Part("meta.pt", ("meta.pt",)),),
    ),
    Layout(
        "Lightning",  # last.ckpt, hpc_ckpt_3.ckpt, or a name of one's own; their numbers are no steps
        r"(?!incomplete-).*?([0-9]*)(?:-v[0-9]+)?\.ckpt",
        is_step=False,
        is_file=True,
        commit=_DCP,
        parts=(Part("meta.pt", ("meta.pt",)),),
    ),
    Layout(
        "single file",  # nanoGPT train.py: ckpt.pt, written over in place
        r"(?!incomplete-|training_args|scheduler|optimizer).*?([0-9]*)\.(?:pt|pth)",
        is_step=False,
        is_folder=False,
        is_file=True,
    ),
)
_ROWS = tuple((layout, re.compile(layout.pattern)) for layout in LAYOUTS)
# All at once, as a folder may have thousands of other entries.
_STEPS = re.compile("|".join(layout.pattern for layout in LAYOUTS if layout.is_step))


def step_in(name: str) -> int | None:
    """The step in a checkpoint's name, or None where the whole name is not one or tells no step."""
    match = _STEPS.fullmatch(name)
    return _number(match[match.lastindex]) if match and match.lastindex else None


def rows_of(name: str, is_folder: bool) -> Iterator[tuple[Layout, int]]:
    """The rows that a folder or a file of this name fits, with the number in the name: -1 where it needs none."""
    for layout, pattern in _ROWS:
        if (layout.is_folder if is_folder else layout.is_file) and (match := pattern.fullmatch(name)):
            number = _number(match[1]) if match[1] else -1
            if number is not None:
                yield layout, number


def layout_of(name: str, names: Sequence[str] | None) -> Layout | None:
    """The layout of a checkpoint of this name, with these files in it (None: it is a file itself)."""
    for layout, _ in rows_of(name, names is not None):
        if names is None or not layout.signs or find(names, *layout.signs) is not None:
            return layout
    return None


def _number(digits: str) -> int | None:
    # Sixteen digits hold every number below 2**53, with zeros in front for Megatron's seven.
    if len(digits) > 16 or int(digits) >= STEP_LIMIT:
        return None
    return int(digits)


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    text = "".join({"*": ".*", "?": "."}.get(sign, re.escape(sign)) for sign in pattern)
    return re.compile(text, re.DOTALL)


def matches(name: str, pattern: str) -> bool:
    """Whether a file's relative path fits a pattern with `*` and `?`."""
    return _compiled(pattern).fullmatch(name) is not None


def find(names: Iterable[str], *patterns: str) -> str | None:
    """The first name that fits one of the patterns."""
    return next((name for name in names if any(matches(name, pattern) for pattern in patterns)), None)
