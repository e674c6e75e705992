"""A daemon for tests: starts in 20 ms, counts steps in a status file, and does on request what daemons do wrong."""

import argparse
import fcntl
import json
import os
import signal
import struct
import sys
import time
from pathlib import Path


def main() -> int:
    options = parse()
    folder = options.folder
    lock = os.open(folder / "alone.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        append(folder / "violations.txt", f"pid {os.getpid()} found another daemon beside it")
    step = last_checkpoint(folder)
    run = os.environ.get("TRAINGUARD_RUN")
    told = {"pid": os.getpid(), "run": run, "step": step, "at": time.time(), "left": workers_left(folder)}
    append(folder / "starts.jsonl", json.dumps(told))
    for number in range(options.lines):
        print(f"talk-{number}", flush=True)
    if options.ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for kind in options.worker:
        start_worker(folder, kind, lock)
    if options.exit_at_once is not None:
        return options.exit_at_once
    if options.fork_away:
        if os.fork():
            return 0
        os.setsid()
        options.fork_away.write_text(str(os.getpid()))
    while step < options.steps:
        time.sleep(options.pace)
        step += 1
        if options.hang_at == step and not (folder / "hung").exists():
            (folder / "hung").touch()
            time.sleep(3600)
        tell(folder, step, options.steps)
        if step % options.save_every == 0:
            save(folder / "checkpoints" / f"checkpoint-{step}", step)
        if options.exit_at == step and not (folder / "exited").exists():
            (folder / "exited").touch()
            return options.exit_code
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--pace", type=float, default=0.02)
    parser.add_argument("--save-every", type=int, default=10)
    parser.add_argument("--exit-at-once", type=int)
    parser.add_argument("--exit-at", type=int, help="once, with --exit-code")
    parser.add_argument("--exit-code", type=int, default=1)
    parser.add_argument("--hang-at", type=int, help="once")
    parser.add_argument("--ignore-term", action="store_true")
    parser.add_argument("--fork-away", type=Path, metavar="PID_FILE")
    parser.add_argument(
        "--worker",
        action="append",
        default=[],
        choices=["plain", "setsid", "double", "stubborn", "tensorboard"],
    )
    parser.add_argument("--lines", type=int, default=0, help="lines to print at the start")
    return parser.parse_args()


def start_worker(folder: Path, kind: str, lock: int) -> None:
    """A child that lives for an hour: in our session, in its own, forked twice, or deaf to SIGTERM in its own.

    `tensorboard` bears that name, and is in a session of its own.
    """
    if os.fork():
        return
    os.close(lock)
    if kind != "plain":
        os.setsid()
    if kind == "double" and os.fork():
        os._exit(0)
    if kind == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if kind == "tensorboard":
        Path("/proc/self/comm").write_text(kind)
    append(folder / "workers.jsonl", json.dumps({"pid": os.getpid(), "kind": kind}))
    time.sleep(3600)
    os._exit(0)


def workers_left(folder: Path) -> list[int]:
    """The workers of earlier runs that live now: a dead one has no command line, and a stranger another one."""
    file = folder / "workers.jsonl"
    pids = [json.loads(line)["pid"] for line in file.read_text().splitlines()] if file.exists() else []
    return [pid for pid in pids if os.fsencode(folder) in command_line(pid)]


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def last_checkpoint(folder: Path) -> int:
    names = (one.name.partition("-")[2] for one in (folder / "checkpoints").glob("checkpoint-*"))
    return max((int(name) for name in names if name.isdigit()), default=0)


def save(checkpoint: Path, step: int, size: int = 16) -> None:
    """Weights of so many bytes, and last the state, as the Trainer of transformers does it."""
    checkpoint.mkdir(parents=True, exist_ok=True)
    header = json.dumps(
        {"weight": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}
    ).encode()
    weights = struct.pack("<4f", 0.1, 0.2, 0.3, 0.4) * (size // 16)
    (checkpoint / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + weights)
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": []}))


def tell(folder: Path, step: int, total: int) -> None:
    temporary = folder / "status.json.tmp"
    temporary.write_text(json.dumps({"current_step": step, "total_steps": total, "loss": 1 / step}))
    temporary.replace(folder / "status.json")


def append(file: Path, line: str) -> None:
    with file.open("a") as stream:
        stream.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
