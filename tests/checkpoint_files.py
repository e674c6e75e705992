"""Checkpoints made byte by byte, in the form that each framework writes, without any of the frameworks."""

import io
import json
import pickle
import random
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import ClassVar

MAGIC = 0x1950A86A20F9469CFC6C
WIDTH = {"F32": 4, "BF16": 2, "F16": 2, "F64": 8, "I64": 8}
STORAGE = {"F32": "FloatStorage", "BF16": "BFloat16Storage", "F16": "HalfStorage", "F64": "DoubleStorage"}


def numbers(count: int, dtype: str = "F32", seed: int = 0) -> bytes:
    """Small random numbers, none of them zero."""
    source = random.Random(seed)
    values = [source.uniform(0.01, 0.1) * source.choice((-1, 1)) for _ in range(count)]
    if dtype == "BF16":
        return b"".join(struct.pack("<f", value)[2:] for value in values)
    return struct.pack(f"<{count}{ {'F32': 'f', 'F16': 'e', 'F64': 'd'}[dtype] }", *values)


class Tensor:
    """Numbers with a shape, saved as torch does."""

    def __init__(self, *shape: int, dtype: str = "F32", seed: int = 0, data: bytes | None = None) -> None:
        self.shape, self.dtype = shape, dtype
        self.count = 1
        for width in shape:
            self.count *= width
        self.data = numbers(self.count, dtype, seed) if data is None else data


class Named:
    """Stands for a class or a function of a library that is not here."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class Made:
    """An object of a class that is not here: its state, set after it was made."""

    def __init__(self, kind: Named, state: dict[str, object]) -> None:
        self.kind, self.state = kind, state


class Pickler(pickle._Pickler):
    """Pickles what stands for other things under their names; tensors go outside, as torch does it."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def __init__(self, file: io.BytesIO, protocol: int, is_legacy: bool = False) -> None:
        super().__init__(file, protocol)
        self.tensors: list[Tensor] = []
        self.is_legacy = is_legacy

    def save_named(self, named: Named) -> None:
        if self.proto >= 4:
            self.save(named.module)
            self.save(named.name)
            self.write(pickle.STACK_GLOBAL)
        else:
            self.write(pickle.GLOBAL + f"{named.module}\n{named.name}\n".encode())
        self.memoize(named)

    def save_made(self, made: Made) -> None:
        self.save(made.kind)
        self.write(pickle.EMPTY_TUPLE + pickle.NEWOBJ)
        self.memoize(made)
        self.save(made.state)
        self.write(pickle.BUILD)

    def save_tensor(self, tensor: Tensor) -> None:
        self.save_named(Named("torch._utils", "_rebuild_tensor_v2"))
        self.write(pickle.MARK)
        storage = Named("torch", STORAGE[tensor.dtype])
        key = str(len(self.tensors) + (94000000 if self.is_legacy else 0))
        self.tensors.append(tensor)
        self.save(("storage", storage, key, "cpu", tensor.count, *((None,) if self.is_legacy else ())))
        self.write(pickle.BINPERSID)
        stride = tuple(tensor.count for _ in tensor.shape)
        for part in (0, tensor.shape, stride, False):
            self.save(part)
        self.save(Named("collections", "OrderedDict"))
        self.write(pickle.EMPTY_TUPLE + pickle.REDUCE)
        self.write(pickle.TUPLE + pickle.REDUCE)

    dispatch[Named] = save_named
    dispatch[Made] = save_made
    dispatch[Tensor] = save_tensor
    dispatch[OrderedDict] = pickle._Pickler.save_dict
    dispatch.pop(FunctionType)


def pickled(value: object, protocol: int = 2) -> bytes:
    file = io.BytesIO()
    Pickler(file, protocol).dump(value)
    return file.getvalue()


def torch_zip(value: object, name: str = "archive", more: dict[str, bytes] | None = None) -> bytes:
    file = io.BytesIO()
    pickler = Pickler(file, 2)
    pickler.dump(value)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as target:
        target.writestr(f"{name}/data.pkl", file.getvalue())
        target.writestr(f"{name}/byteorder", b"little")
        for number, tensor in enumerate(pickler.tensors):
            target.writestr(f"{name}/data/{number}", tensor.data)
        target.writestr(f"{name}/version", b"3\n")
        for other, content in (more or {}).items():
            target.writestr(f"{name}/{other}", content)
    return archive.getvalue()


def torch_legacy(value: object) -> bytes:
    file = io.BytesIO()
    for part in (MAGIC, 1001, {"protocol_version": 1001, "little_endian": True}):
        file.write(pickled(part))
    pickler = Pickler(file, 2, is_legacy=True)
    pickler.dump(value)
    keys = [str(number + 94000000) for number in range(len(pickler.tensors))]
    file.write(pickled(keys))
    for tensor in pickler.tensors:
        file.write(struct.pack("<Q", tensor.count) + tensor.data)
    return file.getvalue()


def safetensors(tensors: dict[str, Tensor]) -> bytes:
    rows: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, tensor in tensors.items():
        rows[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [at, at + len(tensor.data)],
        }
        at += len(tensor.data)
    header = json.dumps(rows, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    data = b"".join(tensor.data for tensor in tensors.values())
    return len(header).to_bytes(8, "little") + header + data


def weights(seed: int = 0, dtype: str = "F32") -> dict[str, Tensor]:
    return {
        "model.layers.0.self_attn.q_proj.bias": Tensor(24, dtype=dtype, seed=seed + 1),
        "model.layers.0.self_attn.q_proj.weight": Tensor(40, 40, dtype=dtype, seed=seed + 2),
        "model.norm.weight": Tensor(40, dtype=dtype, seed=seed + 3),
    }


def optimizer(seed: int = 10) -> dict[str, object]:
    moments = {
        0: {"step": 8.0, "exp_avg": Tensor(40, 40, seed=seed), "exp_avg_sq": Tensor(40, 40, seed=seed + 1)}
    }
    return {"state": moments, "param_groups": [{"lr": 1e-4, "params": [0]}]}


def scheduler() -> dict[str, object]:
    return {"base_lrs": [1e-4], "last_epoch": 8, "_last_lr": [1e-4]}


def trainer_state(step: int, **more: object) -> bytes:
    state = {
        "best_model_checkpoint": None,
        "epoch": 0.5,
        "global_step": step,
        "log_history": [{"loss": 1.5 / (one + 1), "step": one} for one in range(step)],
        "max_steps": 100,
        **more,
    }
    return (json.dumps(state, indent=2, sort_keys=True) + "\n").encode()


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def common(step: int, ranks: int = 1) -> dict[str, bytes]:
    rng = {"python": [3, 1, 2], "cpu": Tensor(16, seed=4)}
    names = ["rng_state.pth"] if ranks == 1 else [f"rng_state_{rank}.pth" for rank in range(ranks)]
    return {
        **{name: torch_zip(rng) for name in names},
        "scheduler.pt": torch_zip(scheduler()),
        "trainer_state.json": trainer_state(step),
        "training_args.bin": torch_zip(
            {"args": Made(Named("transformers", "TrainingArguments"), {"seed": 1})}
        ),
    }


CONFIG = json.dumps({"architectures": ["LlamaForCausalLM"], "hidden_size": 40}, indent=2).encode() + b"\n"


def hugging_face(folder: Path, step: int) -> Path:
    files = {
        "config.json": CONFIG,
        "generation_config.json": b'{\n  "eos_token_id": 2\n}\n',
        "model.safetensors": safetensors(weights()),
        "optimizer.pt": torch_zip(optimizer()),
    }
    return write(folder / f"checkpoint-{step}", files | common(step))


def two_ranks(folder: Path, step: int) -> Path:
    files = {
        "config.json": CONFIG,
        "model.safetensors": safetensors(weights(dtype="BF16")),
        "optimizer.pt": torch_zip(optimizer()),
    }
    return write(folder / f"checkpoint-{step}", files | common(step, ranks=2))


def sharded(folder: Path, step: int) -> Path:
    shards = {f"model-0000{one}-of-00003.safetensors": weights(one * 5) for one in (1, 2, 3)}
    index = {"weight_map": {f"{shard}.{name}": shard for shard in shards for name in shards[shard]}}
    files = {name: safetensors(tensors) for name, tensors in shards.items()}
    files |= {"model.safetensors.index.json": json.dumps(index, indent=2).encode(), "config.json": CONFIG}
    return write(
        folder / f"checkpoint-{step}", files | common(step) | {"optimizer.pt": torch_zip(optimizer())}
    )


def adapter(folder: Path, step: int) -> Path:
    files = {
        "adapter_config.json": b'{\n  "base_model_name_or_path": "base",\n  "peft_type": "LORA"\n}',
        "adapter_model.safetensors": safetensors(weights(dtype="F16")),
        "optimizer.pt": torch_zip(optimizer()),
    }
    return write(folder / f"checkpoint-{step}", files | common(step))


def legacy(folder: Path, step: int) -> Path:
    files = {
        "config.json": CONFIG,
        "pytorch_model.bin": torch_legacy(weights()),
        "optimizer.pt": torch_legacy(optimizer()),
    }
    return write(folder / f"checkpoint-{step}", files | common(step))


def dcp_files(prefix: str = "", ranks: int = 2) -> dict[str, bytes]:
    """`.metadata` and the shards that it describes, each a row of torch zips."""
    info = Named("torch.distributed.checkpoint.filesystem", "_StorageInfo")
    index = Named("torch.distributed.checkpoint.metadata", "MetadataIndex")
    files, places = {}, []
    for rank in range(ranks):
        shard, name = b"", f"__{rank}_0.distcp"
        for number in range(2):
            piece = torch_zip(Tensor(30, 30, seed=rank * 2 + number))
            places.append((f"model.{rank}.{number}", name, len(shard), len(piece)))
            shard += piece
        files[prefix + name] = shard
    pairs = [
        (
            Made(index, {"fqn": fqn, "index": 0}),
            Made(info, {"relative_path": name, "offset": offset, "length": length}),
        )
        for fqn, name, offset, length in places
    ]
    metadata = Made(
        Named("torch.distributed.checkpoint.metadata", "Metadata"),
        {"state_dict_metadata": {}, "storage_data": dict(pairs)},
    )
    return files | {f"{prefix}.metadata": pickled(metadata, 4)}


def fsdp_sharded(folder: Path, step: int) -> Path:
    files = dcp_files("pytorch_model_fsdp_0/") | dcp_files("optimizer_0/") | common(step, ranks=2)
    return write(folder / f"checkpoint-{step}", files)


def fsdp_full(folder: Path, step: int) -> Path:
    files = {"pytorch_model_fsdp.bin": torch_zip(weights()), "optimizer.bin": torch_zip(optimizer())}
    return write(folder / f"checkpoint-{step}", files | common(step, ranks=2))


def deepspeed_files(prefix: str, ranks: int = 2) -> dict[str, bytes]:
    state = {"module": weights(), "dp_world_size": ranks, "mp_world_size": 1, "global_steps": 8}
    files = {f"{prefix}mp_rank_00_model_states.pt": torch_zip(state)}
    for rank in range(ranks):
        name = f"{prefix}bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
        files[name] = torch_zip({"optimizer_state_dict": optimizer(rank)})
    return files


def hugging_face_deepspeed(folder: Path, step: int) -> Path:
    files = deepspeed_files(f"global_step{step}/") | {"latest": f"global_step{step}".encode()}
    return write(folder / f"checkpoint-{step}", files | common(step, ranks=2) | {"config.json": CONFIG})


def deepspeed(folder: Path, step: int) -> Path:
    write(folder, {"latest": f"global_step{step}".encode()})
    return write(folder / f"global_step{step}", deepspeed_files(""))


def deepspeed_zero_3(folder: Path, step: int) -> Path:
    files = {}
    for rank in range(4):
        start = f"zero_pp_rank_{rank}_mp_rank_00_"
        files[start + "model_states.pt"] = torch_zip({"dp_world_size": 4, "global_steps": step})
        files[start + "optim_states.pt"] = torch_zip({"optimizer_state_dict": optimizer(rank)})
    write(folder, {"latest": f"global_step{step}".encode()})
    return write(folder / f"global_step{step}", files)


def dcp(folder: Path, step: int) -> Path:
    return write(folder / f"step_{step}", dcp_files())


def torchtitan(folder: Path, step: int) -> Path:
    return write(folder / f"step-{step}", dcp_files())


def accelerate(folder: Path, step: int) -> Path:
    files = {
        "model.safetensors": safetensors(weights()),
        "optimizer.bin": torch_zip(optimizer()),
        "scheduler.bin": torch_zip(scheduler()),
        "random_states_0.pkl": torch_zip({"step": 0, "torch_manual_seed": Tensor(16)}),
        "random_states_1.pkl": torch_zip({"step": 0, "torch_manual_seed": Tensor(16)}),
        "custom_checkpoint_0.pkl": torch_zip({"seen": step}),
    }
    return write(folder / f"checkpoint_{step // 4}", files)


def lightning(folder: Path, step: int) -> Path:
    path = folder / f"epoch=0-step={step}.ckpt"
    write(
        folder,
        {path.name: torch_zip({"global_step": step, "state_dict": weights(), "optimizer": optimizer()})},
    )
    return path


def lightning_sharded(folder: Path, step: int) -> Path:
    files = dcp_files() | {"meta.pt": torch_zip({"global_step": step})}
    return write(folder / f"epoch=0-step={step}.ckpt", files)


def megatron_legacy(folder: Path, step: int) -> Path:
    files = {}
    for rank in range(2):
        state = {"iteration": step, "model": weights(rank)}
        files[f"mp_rank_0{rank}/model_optim_rng.pt"] = torch_zip(state)
        files[f"mp_rank_0{rank}/distrib_optim.pt"] = torch_zip(optimizer(rank))
    write(folder, {"latest_checkpointed_iteration.txt": str(step).encode()})
    return write(folder / f"iter_{step:07d}", files)


def megatron(folder: Path, step: int) -> Path:
    files = dcp_files() | {
        "common.pt": torch_zip({"iteration": step}),
        "metadata.json": b'{"sharded_backend": "torch_dist", "sharded_backend_version": 1}',
    }
    write(folder, {"latest_checkpointed_iteration.txt": str(step).encode()})
    return write(folder / f"iter_{step:07d}", files)


def verl(folder: Path, step: int) -> Path:
    files = {
        "actor/fsdp_config.json": b'{"world_size": 2}',
        "actor/huggingface/config.json": CONFIG,
        "data.pt": torch_zip({"seen": step}),
    }
    for rank in range(2):
        files[f"actor/model_world_size_2_rank_{rank}.pt"] = torch_zip(weights(rank))
        files[f"actor/optim_world_size_2_rank_{rank}.pt"] = torch_zip(optimizer(rank))
        files[f"actor/extra_state_world_size_2_rank_{rank}.pt"] = torch_zip({"rng": Tensor(16)})
    write(folder, {"latest_checkpointed_iteration.txt": str(step).encode()})
    return write(folder / f"global_step_{step}", files)


def llama_factory(folder: Path, step: int) -> Path:
    files = {
        "CHECKPOINT_COMPLETE": b"",
        "dataloader/rank_0.pt": torch_zip({"seen": step}),
        "metadata.json": json.dumps({"global_step": step}).encode(),
        "model/config.json": CONFIG,
        "model/model.safetensors": safetensors(weights()),
        "optimizer/state_dict.pt": torch_zip(optimizer()),
        "rng_state/rank_0.pt": torch_zip({"rng": Tensor(16)}),
        "scheduler.pt": torch_zip(scheduler()),
    }
    return write(folder / f"checkpoint-{step}", files)


def torchtune(folder: Path, step: int) -> Path:
    shards = {f"model-0000{one}-of-00002.safetensors": weights(one * 5) for one in (1, 2)}
    index = {"weight_map": {f"{shard}.{name}": shard for shard in shards for name in shards[shard]}}
    files = {name: safetensors(tensors) for name, tensors in shards.items()}
    files |= {
        "model.safetensors.index.json": json.dumps(index).encode(),
        "config.json": CONFIG,
        "recipe_state.pt": torch_zip({"epochs_run": 1, "optimizer": optimizer()}),
    }
    return write(folder / f"epoch_{step // 4}", files)


def nanogpt(folder: Path, step: int) -> Path:
    write(folder, {"ckpt.pt": torch_zip({"model": weights(), "optimizer": optimizer(), "iter_num": step})})
    return folder / "ckpt.pt"


def numbered_file(folder: Path, step: int) -> Path:
    write(folder, {f"model_{step}.pth": torch_zip({"model": weights(), "optimizer": optimizer()})})
    return folder / f"model_{step}.pth"


# Each writes one checkpoint of a step into a folder, with what lies beside, and returns where it is.
BUILDERS: tuple[Callable[[Path, int], Path], ...] = (
    hugging_face, two_ranks, sharded, adapter, legacy, fsdp_sharded, fsdp_full, hugging_face_deepspeed, deepspeed,
    deepspeed_zero_3, dcp, torchtitan, accelerate, lightning, lightning_sharded, megatron_legacy, megatron, verl,
    llama_factory, torchtune, nanogpt, numbered_file,
)  # fmt: skip
