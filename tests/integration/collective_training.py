"""A training for torchrun that averages its gradients by all_reduce at each step, and on request deadlocks itself."""

import argparse
import json
import os
import sys
import threading
import time
from pathlib import Path

import torch
import torch.distributed
from safetensors.torch import load_file, save_file

WIDTH = 16


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--save-steps", type=int, required=True)
    parser.add_argument("--step-seconds", type=float, required=True)
    parser.add_argument("--deadlock-rank", type=int, help="once, with --deadlock-at")
    parser.add_argument("--deadlock-at", type=int)
    options = parser.parse_args()
    torch.distributed.init_process_group("gloo")
    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    torch.manual_seed(0)
    model = torch.nn.Linear(WIDTH, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)
    begun = newest_step(options.folder)
    if begun:
        checkpoint = options.folder / f"checkpoint-{begun}"
        model.load_state_dict(load_file(checkpoint / "model.safetensors"))
        optimizer.load_state_dict(torch.load(checkpoint / "optimizer.pt"))
        scheduler.load_state_dict(torch.load(checkpoint / "scheduler.pt"))
        torch.set_rng_state(torch.load(checkpoint / f"rng_state_{rank}.pth"))
    else:
        torch.manual_seed(1 + rank)
    tell_start(options.folder / "starts", rank, begun)
    torch.distributed.barrier()
    for step in range(begun + 1, options.steps + 1):
        time.sleep(options.step_seconds)
        once = options.folder / "deadlocked"
        if rank == options.deadlock_rank and step == options.deadlock_at and not once.exists():
            once.touch()
            deadlock(rank)
        batch = torch.randn(8, WIDTH)
        loss = (model(batch).squeeze() - batch.sum(dim=1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        for parameter in model.parameters():
            torch.distributed.all_reduce(parameter.grad)
            parameter.grad /= ranks
        optimizer.step()
        scheduler.step()
        if rank == 0:
            print(f"step {step}/{options.steps}, loss: {loss.item():.6f}", flush=True)
        if step % options.save_steps == 0:
            save(options.folder / f"checkpoint-{step}", step, rank, model, optimizer, scheduler)
    torch.distributed.destroy_process_group()
    return 0


def deadlock(rank: int) -> None:
    """A thread takes one lock twice and the main one waits for it, while a third says that all is well."""
    lock = threading.Lock()

    def take_twice() -> None:
        with lock, lock:
            pass

    def beat() -> None:
        while True:
            print(f"INFO rank {rank} is alive, {time.time():.3f}", flush=True)
            time.sleep(1)

    threading.Thread(target=beat, name="heartbeat", daemon=True).start()
    worker = threading.Thread(target=take_twice, name="worker", daemon=True)
    worker.start()
    worker.join()


def save(
    checkpoint: Path,
    step: int,
    rank: int,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    """The files of the Trainer of transformers, in its order: each rank its random state, the first all else."""
    if rank == 0:
        checkpoint.mkdir(parents=True, exist_ok=True)
        save_file(model.state_dict(), checkpoint / "model.safetensors")
        torch.save(optimizer.state_dict(), checkpoint / "optimizer.pt")
        torch.save(scheduler.state_dict(), checkpoint / "scheduler.pt")
    torch.distributed.barrier()
    torch.save(torch.get_rng_state(), checkpoint / f"rng_state_{rank}.pth")
    torch.distributed.barrier()
    if rank == 0:
        state = {"global_step": step, "log_history": []}
        (checkpoint / "trainer_state.json").write_text(json.dumps(state))


def newest_step(folder: Path) -> int:
    names = (one.name.partition("-")[2] for one in folder.glob("checkpoint-*"))
    return max((int(name) for name in names if name.isdigit()), default=0)


def tell_start(folder: Path, rank: int, step: int) -> None:
    """A file of its own for each process, as lines of two may mix in one."""
    folder.mkdir(exist_ok=True)
    about = {"pid": os.getpid(), "rank": rank, "launcher": os.getppid(), "step": step, "at": time.time()}
    temporary = folder / f"{os.getpid()}.tmp"
    temporary.write_text(json.dumps(about))
    temporary.rename(folder / f"{time.time_ns()}-{os.getpid()}.json")


if __name__ == "__main__":
    sys.exit(main())
