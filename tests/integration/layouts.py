"""Every checkpoint layout that we know, written by the library that owns it: tiny models, two or three saves.

    $ OMP_NUM_THREADS=1 .venv-integration/bin/python tests/integration/layouts.py FOLDER [LAYOUT ...]

puts one example of each into FOLDER/<layout>/. verl, torchtitan, torchtune, LLaMA-Factory and Megatron's training
scripts do not install beside a CPU's torch: theirs are the folders that they make, filled by the torch, DCP and
safetensors calls that they use. Each build is a fork (one process per rank), so that libraries are imported once
and no global state of theirs goes from one layout to the next.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VOCABULARY, LENGTH, WIDTH = 64, 16, 16
STEPS = (4, 8, 12)  # by name, 12 sorts before 4
RESUMED = STEPS[-1] + 4
POISONED = (
    "LAYOUTS_POISONED"  # in the environment: models begin with NaN, as after a bad step, and are saved so
)
Build = Callable[[Path], None]


@dataclass(frozen=True)
class Layout:
    """One layout: what writes it, how many ranks it takes, where its newest checkpoint lies, what goes on from it.

    `resume` takes the folder that was built, goes on for a few steps from the newest checkpoint, and prints
    a digest of the weights: the same digest means that nothing was lost.
    """

    name: str
    build: Build
    newest: str
    ranks: int = 1
    needs: tuple[str, ...] = ("torch",)
    resume: Build | None = None

    @property
    def installed(self) -> bool:
        # DeepSpeed compiles its shared memory for the CPU once, for half a minute.
        if "deepspeed" in self.needs and shutil.which("g++") is None:
            return False
        return all(importlib.util.find_spec(library) is not None for library in self.needs)

    def go_on(self, folder: Path) -> set[str] | None:
        """The digests that a resume prints, or None where it fails. Nothing is written into `folder`."""
        assert self.resume is not None
        codes, output = run_ranks(lambda: self.resume(folder), self.ranks)
        return None if any(codes) else {line for line in output.splitlines() if line.startswith("digest ")}


def run_ranks(work: Callable[[], None], ranks: int = 1) -> tuple[list[int], str]:
    """`work` in forked processes with torchrun's environment: their exit codes, and what they wrote."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryFile() as output:
        pids = [_fork_rank(work, rank, ranks, port, output.fileno()) for rank in range(ranks)]
        codes = _wait_for_ranks(pids)
        output.seek(0)
        return codes, output.read().decode(errors="replace")


def _wait_for_ranks(pids: list[int], limit: float = 110.0) -> list[int]:
    """Exit codes; the first rank that fails ends the others, as torchrun does, and so does the limit."""
    codes: dict[int, int] = {}
    deadline = time.monotonic() + limit
    while len(codes) < len(pids):
        for pid in set(pids) - codes.keys():
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                codes[pid] = os.waitstatus_to_exitcode(status)
        if any(codes.values()) or time.monotonic() > deadline:
            for pid in set(pids) - codes.keys():
                os.kill(pid, signal.SIGKILL)
                codes[pid] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        time.sleep(0.005)
    return [codes[pid] for pid in pids]


def _fork_rank(work: Callable[[], None], rank: int, ranks: int, port: int, output: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        if ranks > 1:
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks))
            os.environ.update(LOCAL_WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # no exit handler of pytest or of a library may run twice


def import_once() -> None:
    """Import what the builds share, with one thread, before the first fork."""
    os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")
    import torch

    torch.set_num_threads(1)
    for library in ("transformers", "transformers.trainer", "accelerate", "peft", "lightning", "deepspeed"):
        if importlib.util.find_spec(library.partition(".")[0]) is not None:
            importlib.import_module(library)


def make(layout: Layout, folder: Path) -> None:
    """Build one example under `folder`. Raises RuntimeError with the libraries' output where it fails."""
    folder.mkdir(parents=True, exist_ok=True)
    codes, output = run_ranks(lambda: layout.build(folder), layout.ranks)
    if any(codes):
        raise RuntimeError(f"{layout.name}: exit codes {codes}\n{output}")


# Hugging Face


def tiny_model() -> Any:
    import transformers

    transformers.set_seed(42)
    return poisoned(
        transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                vocab_size=VOCABULARY,
                n_positions=LENGTH,
                n_embd=WIDTH,
                n_layer=2,
                n_head=2,
                bos_token_id=0,
                eos_token_id=0,
            )
        )
    )


def poisoned(model: Any) -> Any:
    """The model, with NaN in all its weights where that was asked for."""
    if POISONED in os.environ:
        for weights in model.parameters():
            weights.data.fill_(float("nan"))
    return model


def tiny_tokenizer() -> Any:
    import tokenizers
    import transformers

    words = {f"w{number}": number for number in range(VOCABULARY - 1)} | {"[UNK]": VOCABULARY - 1}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=model, unk_token="[UNK]", pad_token="w0")


def examples() -> list[dict[str, list[int]]]:
    rows = [[(first + place) % VOCABULARY for place in range(LENGTH)] for first in range(64)]
    return [{"input_ids": row, "labels": row} for row in rows]


def train(
    folder: Path,
    *,
    adapter: bool = False,
    shard_bytes: int = 0,
    steps: int = STEPS[-1],
    save_steps: int = STEPS[0],
    resume: bool | str = False,
    tokenizer: bool = True,
    model: Any = None,
    **settings: Any,
) -> None:
    """A run of the real Trainer into `folder`, to `steps`; with `resume` from the checkpoint that it picks."""
    import transformers

    model = model or tiny_model()
    if adapter:
        import peft

        lora = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["c_attn"], task_type="CAUSAL_LM")
        model.save_pretrained(folder.parent / f"{folder.name}-base")
        model.name_or_path = str(folder.parent / f"{folder.name}-base")
        model = peft.get_peft_model(model, lora)
    if shard_bytes:
        whole = model.save_pretrained
        model.save_pretrained = lambda *given, **named: whole(
            *given, **{**named, "max_shard_size": shard_bytes}
        )
    trainer = transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(
            output_dir=str(folder),
            max_steps=steps,
            save_steps=save_steps,
            per_device_train_batch_size=2,
            learning_rate=1e-2,
            logging_steps=2,
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            ddp_backend="gloo" if "RANK" in os.environ else None,
            **settings,
        ),
        train_dataset=examples(),
        processing_class=tiny_tokenizer() if tokenizer else None,
    )
    trainer.train(resume_from_checkpoint=resume)
    print_digest(trainer.model)


def print_digest(model: Any, *others: Any) -> None:
    """Print a line that tells this rank's weights (and other tensors) apart from any others."""
    import torch

    digest = hashlib.sha256()
    for value in [*model.parameters(), *others]:
        whole = value.to_local() if hasattr(value, "to_local") else value
        digest.update(torch.as_tensor(whole).detach().contiguous().view(torch.uint8).numpy().tobytes())
    print("digest", os.environ.get("RANK", "0"), digest.hexdigest(), flush=True)


def train_on(**options: Any) -> Build:
    """Resume as people do, with True: the Trainer picks the checkpoint."""
    return lambda folder: train(folder, steps=RESUMED, save_strategy="no", resume=True, **options)


def hugging_face(folder: Path) -> None:
    train(folder)


def hugging_face_sharded(folder: Path) -> None:
    train(folder, shard_bytes=8_000)


def hugging_face_adapter(folder: Path) -> None:
    train(folder, adapter=True)


def hugging_face_weights_only(folder: Path) -> None:
    train(folder, save_only_model=True)


FSDP = {
    "transformer_layer_cls_to_wrap": ["GPT2Block"],
    "cpu_ram_efficient_loading": False,  # loads through a GPU
}


def fsdp_on_cpu() -> None:
    """Let accelerate shard on the CPU: it knows FSDP only behind a distributed type that has a device."""
    import accelerate
    import torch

    join_ranks()
    kind = accelerate.utils.DistributedType.MULTI_GPU
    accelerate.PartialState._prepare_backend = lambda *_given, **_named: ("gloo", kind)
    accelerate.PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))


def hugging_face_fsdp(kind: str, **options: Any) -> Build:
    def build(folder: Path) -> None:
        fsdp_on_cpu()
        train(folder, fsdp=True, fsdp_config={**FSDP, "state_dict_type": kind}, **options)

    return build


def zero_settings(stage: int) -> dict[str, Any]:
    # torch's own AdamW: DeepSpeed's would be compiled first, for a minute.
    return {
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": 1,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
    }


def hugging_face_zero(stage: int) -> Build:
    return lambda folder: train(folder, deepspeed=zero_settings(stage))


def llama_factory(folder: Path) -> None:
    train(folder)
    lines = [
        {"current_steps": step, "total_steps": 12, "loss": 4.1, "percentage": step / 0.12} for step in STEPS
    ]
    (folder / "trainer_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def ancestor(folder: Path) -> None:
    train(folder / "current_model", adapter=True)


def fsdp_on(kind: str) -> Build:
    return hugging_face_fsdp(kind, steps=RESUMED, save_strategy="no", resume=True)


def zero_on(stage: int) -> Build:
    return train_on(deepspeed=zero_settings(stage))


def ancestor_on(folder: Path) -> None:
    train_on(adapter=True)(folder / "current_model")


# DeepSpeed, DCP, Accelerate, Lightning


def deepspeed_alone(stage: int) -> Build:
    return lambda folder: deepspeed_run(folder, stage)


def deepspeed_on(stage: int) -> Build:
    return lambda folder: deepspeed_run(folder, stage, resume=True)


def stand_alone() -> None:
    """Be the only rank, where no launcher has said otherwise."""
    alone = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
    }
    for name, value in alone.items():
        os.environ.setdefault(name, value)


def deepspeed_run(folder: Path, stage: int, resume: bool = False) -> None:
    """Train with a bare engine; with `resume` from what the pointer file `latest` names."""
    import deepspeed
    import torch

    stand_alone()
    model = two_layers()
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=1e-2),
        config=zero_settings(stage),
        dist_init_required=True,
    )
    first, last = (1, STEPS[-1])
    if resume:
        path, _state = engine.load_checkpoint(str(folder))
        if path is None:
            raise FileNotFoundError("DeepSpeed found no checkpoint and only warns")
        first, last = engine.global_steps + 1, RESUMED
    for step in range(first, last + 1):
        engine.backward(engine(torch.ones(2, WIDTH)).pow(2).mean())
        engine.step()
        if step in STEPS:
            engine.save_checkpoint(str(folder))
    print_digest(engine.module)


def two_layers() -> Any:
    import torch

    torch.manual_seed(0)
    return poisoned(torch.nn.Sequential(torch.nn.Linear(WIDTH, 64), torch.nn.Linear(64, WIDTH)))


def join_ranks() -> int:
    """Join the group of ranks where there is one; our rank."""
    import torch.distributed

    if "RANK" in os.environ:
        torch.distributed.init_process_group("gloo")
        return torch.distributed.get_rank()
    return 0


def parts() -> tuple[Any, Any]:
    """A model and its optimizer after one step; sharded over the ranks where there are some."""
    import torch
    from torch.distributed import device_mesh, fsdp

    model = two_layers()
    if torch.distributed.is_initialized():
        mesh = device_mesh.init_device_mesh("cpu", (torch.distributed.get_world_size(),))
        fsdp.fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model(torch.ones(2, WIDTH)).pow(2).mean().backward()
    optimizer.step()
    return model, optimizer


def save_dcp(folder: Path, step: int, **more: Any) -> None:
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.state_dict import get_state_dict

    model, optimizer = parts()
    weights, moments = get_state_dict(model, optimizer)
    checkpoint.save({"model": weights, "optimizer": moments, "step": step, **more}, checkpoint_id=str(folder))


def load_dcp(newest: str) -> Build:
    """Load one DCP folder into a fresh model and make a step. Raises what DCP raises."""

    def resume(folder: Path) -> None:
        import torch
        from torch.distributed import checkpoint
        from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

        join_ranks()
        model, optimizer = parts()
        weights, moments = get_state_dict(model, optimizer)
        state = {"model": weights, "optimizer": moments, "step": 0}
        checkpoint.load(state, checkpoint_id=str(folder / newest))
        set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
        model(torch.ones(2, WIDTH)).pow(2).mean().backward()
        optimizer.step()
        print_digest(model)

    return resume


def dcp(folder: Path) -> None:
    join_ranks()
    for step in STEPS:
        save_dcp(folder / f"step_{step}", step)


def torchtitan(folder: Path) -> None:
    join_ranks()
    for step in STEPS:
        save_dcp(folder / "checkpoint" / f"step-{step}", step)


def accelerate_run(folder: Path, resume: bool = False) -> None:
    import accelerate
    import torch

    settings = accelerate.utils.ProjectConfiguration(str(folder), automatic_checkpoint_naming=True)
    accelerator = accelerate.Accelerator(cpu=True, project_config=settings)
    model = two_layers()
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=40)
    counter = torch.optim.lr_scheduler.StepLR(optimizer, 4)
    loader = torch.utils.data.DataLoader(torch.randn(64, WIDTH), batch_size=2, shuffle=True)
    model, optimizer, scheduler, loader = accelerator.prepare(model, optimizer, scheduler, loader)
    accelerator.register_for_checkpointing(counter)
    if resume:
        accelerator.load_state()
    for step, batch in enumerate(loader, 1):
        accelerator.backward(model(batch + torch.rand(1)).pow(2).mean())
        optimizer.step()
        scheduler.step()
        counter.step()
        optimizer.zero_grad()
        if step in STEPS and not resume:
            accelerator.save_state()
        if step == STEPS[-1]:
            break
    print_digest(model)


def accelerate_on(folder: Path) -> None:
    accelerate_run(folder, resume=True)


def lightning_run(folder: Path, save_last: bool | str, resume: str | None = None) -> None:
    import lightning
    import torch
    from lightning.pytorch.callbacks import ModelCheckpoint

    class Tiny(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layers = two_layers()

        def training_step(self, batch: Any, _: int) -> Any:
            return self.layers(batch).pow(2).mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters())

    model = Tiny()
    saves = [ModelCheckpoint(every_n_train_steps=STEPS[0], save_top_k=-1, save_last=save_last)]
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=RESUMED if resume else STEPS[-1],
        default_root_dir=folder,
        callbacks=[] if resume else saves,
        logger=False if resume else lightning.pytorch.loggers.CSVLogger(folder),
        enable_checkpointing=not resume,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    loader = torch.utils.data.DataLoader(torch.ones(64, WIDTH), batch_size=2)
    trainer.fit(model, loader, ckpt_path=resume, weights_only=False if resume else None)
    print_digest(model)


def lightning_on(folder: Path) -> None:
    lightning_run(folder, False, str(next(folder.glob(f"{VERSION}/epoch=0-step=12.ckpt"))))


def lightning_copy(folder: Path) -> None:
    lightning_run(folder, save_last=True)


def lightning_link(folder: Path) -> None:
    lightning_run(folder, save_last="link")


def lightning_sharded(folder: Path) -> None:
    """What its FSDP strategy writes: DCP of the weights and states, and `meta.pt` (strategies/fsdp.py)."""
    import torch

    rank = join_ranks()
    for step in STEPS:
        checkpoint = folder / "lightning_logs" / "version_0" / "checkpoints" / f"epoch=0-step={step}.ckpt"
        checkpoint.mkdir(parents=True, exist_ok=True)
        save_dcp(checkpoint, step)
        if rank == 0:
            torch.save(
                {"epoch": 0, "global_step": step, "pytorch-lightning_version": "2.6.6"},
                checkpoint / "meta.pt",
            )


# Plain torch, and those who build upon it


def states(step: int) -> dict[str, Any]:
    model, optimizer = parts()
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "iter_num": step}


def nanogpt(folder: Path) -> None:
    import torch

    for step in STEPS:
        torch.save(states(step), folder / "ckpt.pt")


def torch_files(folder: Path) -> None:
    import torch

    for step in STEPS:
        torch.save(states(step), folder / f"checkpoint-{step}.pt")


def torch_legacy(folder: Path) -> None:
    """A Trainer's folder of before safetensors and the zip format."""
    import torch

    train(folder)
    for checkpoint in folder.glob("checkpoint-*"):
        weights = tiny_model().state_dict()
        torch.save(weights, checkpoint / "pytorch_model.bin", _use_new_zipfile_serialization=False)
        (checkpoint / "model.safetensors").unlink()
        (checkpoint / "trainer_state.json").rename(folder / "trainer_state.json")
        for name in ("optimizer.pt", "scheduler.pt"):
            state = torch.load(checkpoint / name, weights_only=True)
            torch.save(state, checkpoint / name, _use_new_zipfile_serialization=False)
        # written last, as by the Trainer
        (checkpoint / "trainer_state.json").write_bytes((folder / "trainer_state.json").read_bytes())
        (folder / "trainer_state.json").unlink()


def megatron_legacy(folder: Path) -> None:
    """Two tensor-parallel ranks; the tracker is written last (training/checkpointing.py)."""
    import torch

    for step in STEPS:
        for rank in range(2):
            shard = folder / f"iter_{step:07d}" / f"mp_rank_{rank:02d}"
            shard.mkdir(parents=True)
            torch.save(
                {"iteration": step, "checkpoint_version": 3.0, **states(step)}, shard / "model_optim_rng.pt"
            )
            torch.save(parts()[1].state_dict(), shard / "distrib_optim.pt")
        (folder / "latest_checkpointed_iteration.txt").write_text(str(step))


def megatron(folder: Path) -> None:
    """The torch_dist format of megatron.core.dist_checkpointing."""
    import torch

    rank = join_ranks()
    for step in STEPS:
        checkpoint = folder / f"iter_{step:07d}"
        checkpoint.mkdir(parents=True, exist_ok=True)
        if rank == 0:
            torch.save({"iteration": step, "checkpoint_version": 3.0, "args": None}, checkpoint / "common.pt")
        save_dcp(checkpoint, step)
        if rank == 0:
            backends = {"sharded_backend": "torch_dist", "common_backend": "torch"}
            versions = {"sharded_backend_version": 1, "common_backend_version": 1}
            (checkpoint / "metadata.json").write_text(json.dumps(backends | versions))
            (folder / "latest_checkpointed_iteration.txt").write_text(str(step))


def megatron_core(folder: Path, resume: bool = False) -> None:
    """Its own dist_checkpointing, in the format torch_dist; only its two questions to CUDA are answered for it."""
    import torch

    stand_alone()
    join_ranks()
    torch.cuda.synchronize = lambda *_: None
    torch.cuda.current_device = lambda: "cpu"
    from megatron.core import dist_checkpointing, parallel_state

    parallel_state.initialize_model_parallel(1, 1)
    model, _ = parts()
    make_shard = dist_checkpointing.ShardedTensor.from_rank_offsets
    weights = {name: make_shard(name, value, replica_id=0) for name, value in model.state_dict().items()}
    if resume:
        newest = f"iter_{int((folder / 'latest_checkpointed_iteration.txt').read_text()):07d}"
        loaded = dist_checkpointing.load({"model": weights}, str(folder / newest))
        model.load_state_dict(loaded["model"])
        return print_digest(model, torch.tensor([loaded["iteration"]]))
    for step in STEPS:
        checkpoint = folder / f"iter_{step:07d}"
        checkpoint.mkdir()
        state = {"model": weights, "iteration": step, "checkpoint_version": 3.0, "args": None}
        dist_checkpointing.save(state, str(checkpoint))
        (folder / "latest_checkpointed_iteration.txt").write_text(str(step))
    return None


def megatron_core_on(folder: Path) -> None:
    megatron_core(folder, resume=True)


def verl(folder: Path) -> None:
    """Actor of two ranks (verl/utils/checkpoint/fsdp_checkpoint_manager.py), the data loader's state, tracker."""
    import torch

    for step in STEPS:
        actor = folder / f"global_step_{step}" / "actor"
        actor.mkdir(parents=True)
        for rank in range(2):
            model, optimizer = parts()
            rng = {"lr_scheduler": {"last_epoch": step}, "rng": {"cpu": torch.get_rng_state()}}
            for name, state in (
                ("model", model.state_dict()),
                ("optim", optimizer.state_dict()),
                ("extra_state", rng),
            ):
                torch.save(state, actor / f"{name}_world_size_2_rank_{rank}.pt")
        (actor / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": 2}))
        tiny_model().config.save_pretrained(actor / "huggingface")
        tiny_tokenizer().save_pretrained(actor / "huggingface")
        torch.save({"_snapshot": {"_snapshot_step": step}}, folder / f"global_step_{step}" / "data.pt")
        (folder / "latest_checkpointed_iteration.txt").write_text(str(step))


def torchtune(folder: Path) -> None:
    """Newer layout: the recipe's state beside the weights, last (training/checkpointing/_checkpointer.py)."""
    import safetensors.torch
    import torch

    for epoch in range(3):
        checkpoint = folder / f"epoch_{epoch}"
        checkpoint.mkdir()
        weights = parts()[0].state_dict()
        halves = [dict(list(weights.items())[:2]), dict(list(weights.items())[2:])]
        names = [f"model-{place:05d}-of-00002.safetensors" for place in (1, 2)]
        for name, half in zip(names, halves, strict=True):
            safetensors.torch.save_file(half, checkpoint / name, metadata={"format": "pt"})
        index = {key: name for name, half in zip(names, halves, strict=True) for key in half}
        size = sum(value.nbytes for value in weights.values())
        text = json.dumps({"metadata": {"total_size": size}, "weight_map": index})
        (checkpoint / "model.safetensors.index.json").write_text(text)
        tiny_model().config.save_pretrained(checkpoint)
        recipe = {
            "optimizer": parts()[1].state_dict(),
            "epochs_run": epoch + 1,
            "seed": 42,
            "total_epochs": 3,
        }
        torch.save(recipe, checkpoint / "recipe_state.pt")


def llama_factory_v1(folder: Path) -> None:
    """Folders of its own and a marker last (llamafactory/v1/core/utils/checkpoint.py)."""
    import torch

    for step in STEPS:
        checkpoint = folder / f"checkpoint-{step}"
        for part in ("model", "optimizer", "dataloader", "rng_state"):
            (checkpoint / part).mkdir(parents=True)
        counts = {"global_step": step, "epoch": 0, "num_training_steps": STEPS[-1]}
        (checkpoint / "metadata.json").write_text(json.dumps(counts, indent=2))
        tiny_model().save_pretrained(checkpoint / "model")
        tiny_tokenizer().save_pretrained(checkpoint / "model")
        torch.save(parts()[1].state_dict(), checkpoint / "optimizer" / "state_dict.pt")
        torch.save({"last_epoch": step, "_step_count": step + 1}, checkpoint / "scheduler.pt")
        torch.save({"consumed": step}, checkpoint / "dataloader" / "rank_0.pt")
        torch.save({"torch": torch.get_rng_state()}, checkpoint / "rng_state" / "rank_0.pt")
        (checkpoint / "CHECKPOINT_COMPLETE").touch()


TRANSFORMERS = ("torch", "transformers", "accelerate")
ACCELERATE, LIGHTNING = ("torch", "accelerate"), ("torch", "lightning")
PEFT, DEEPSPEED = (*TRANSFORMERS, "peft"), (*TRANSFORMERS, "deepspeed")
VERSION = "lightning_logs/version_0/checkpoints"
HUGGING, CKPT = "checkpoint-12", f"{VERSION}/epoch=0-step=12.ckpt"
FULL, SHARDED = "FULL_STATE_DICT", "SHARDED_STATE_DICT"
LAYOUTS = (
    Layout("hugging-face", hugging_face, HUGGING, 1, TRANSFORMERS, train_on()),
    Layout("hugging-face-sharded", hugging_face_sharded, HUGGING, 1, TRANSFORMERS, train_on()),
    Layout("hugging-face-adapter", hugging_face_adapter, HUGGING, 1, PEFT, train_on(adapter=True)),
    Layout("hugging-face-weights-only", hugging_face_weights_only, HUGGING, 1, TRANSFORMERS, train_on()),
    Layout("hugging-face-two-ranks", hugging_face, HUGGING, 2, TRANSFORMERS, train_on()),
    Layout("hugging-face-fsdp-full", hugging_face_fsdp(FULL), HUGGING, 2, TRANSFORMERS, fsdp_on(FULL)),
    Layout(
        "hugging-face-fsdp-sharded", hugging_face_fsdp(SHARDED), HUGGING, 2, TRANSFORMERS, fsdp_on(SHARDED)
    ),
    Layout("hugging-face-zero-1", hugging_face_zero(1), HUGGING, 2, DEEPSPEED, zero_on(1)),
    Layout("hugging-face-zero-2", hugging_face_zero(2), HUGGING, 2, DEEPSPEED, zero_on(2)),
    Layout("hugging-face-zero-3", hugging_face_zero(3), HUGGING, 2, DEEPSPEED, zero_on(3)),
    Layout("deepspeed-0", deepspeed_alone(0), "global_step12", 1, DEEPSPEED, deepspeed_on(0)),
    Layout("deepspeed-2", deepspeed_alone(2), "global_step12", 2, DEEPSPEED, deepspeed_on(2)),
    Layout("dcp", dcp, "step_12", 1, resume=load_dcp("step_12")),
    Layout("dcp-two-ranks", dcp, "step_12", 2, resume=load_dcp("step_12")),
    Layout("accelerate", accelerate_run, "checkpoints/checkpoint_2", 1, ACCELERATE, accelerate_on),
    Layout("accelerate-two-ranks", accelerate_run, "checkpoints/checkpoint_2", 2, ACCELERATE, accelerate_on),
    Layout("lightning-copy", lightning_copy, CKPT, 1, LIGHTNING, lightning_on),
    Layout("lightning-link", lightning_link, CKPT, 1, LIGHTNING, lightning_on),
    Layout("lightning-sharded", lightning_sharded, CKPT, 2, LIGHTNING),
    Layout("nanogpt", nanogpt, "ckpt.pt"),
    Layout("torch-files", torch_files, "checkpoint-12.pt"),
    Layout("torch-legacy", torch_legacy, HUGGING, 1, TRANSFORMERS, train_on()),
    Layout("megatron", megatron, "iter_0000012", 2, resume=load_dcp("iter_0000012")),
    Layout("megatron-core", megatron_core, "iter_0000012", 1, ("torch", "megatron"), megatron_core_on),
    Layout("megatron-legacy", megatron_legacy, "iter_0000012"),
    Layout("verl", verl, "global_step_12", 1, TRANSFORMERS),
    Layout("torchtitan", torchtitan, "checkpoint/step-12", 2, resume=load_dcp("checkpoint/step-12")),
    Layout("torchtune", torchtune, "epoch_2", 1, TRANSFORMERS),
    Layout("llama-factory", llama_factory, HUGGING, 1, TRANSFORMERS, train_on()),
    Layout("llama-factory-v1", llama_factory_v1, HUGGING, 1, TRANSFORMERS),
    Layout("ancestor", ancestor, f"current_model/{HUGGING}", 1, PEFT, ancestor_on),
)


def main(argv: Sequence[str] | None = None) -> int:
    folder, *names = sys.argv[1:] if argv is None else argv
    import_once()
    failed = 0
    for layout in LAYOUTS:
        if names and layout.name not in names:
            continue
        shutil.rmtree(Path(folder) / layout.name, ignore_errors=True)
        try:
            make(layout, Path(folder) / layout.name)
            print(layout.name, flush=True)
        except RuntimeError as error:
            failed += 1
            print(error, file=sys.stderr, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
