#!/usr/bin/env python3
"""A real, small training run with the habits of a Hugging Face Trainer, to be watched and broken.

A character model (embedding, one hidden layer, softmax; gradients by hand, AdamW) learns a small language
that this file makes up. Batches come from a process of its own. About a minute by default:

    $ python examples/training_daemon.py
    data worker: pid 4712
    {'loss': '1.32', 'grad_norm': '0.9708', 'learning_rate': '0.009155', 'epoch': '0.112'}
     12%|█▏        | 74/600 [00:07<00:53,  9.89it/s]

Like the Trainer it writes `checkpoint-N/` plainly, file after file, `trainer_state.json` last; deletes the
oldest; goes on from the highest number, and raises if that one is broken; dies of SIGTERM without saving.
Unlike it, an interrupted run ends with exactly the weights of an uninterrupted one. What torch would pickle
is stored as safetensors and JSON, under names that say so.

Faults happen once per output folder (`faults.txt` there remembers them), so that the next start gets past
them; with --every-run they happen every time.
"""

import argparse
import errno
import itertools
import json
import math
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save

ALPHABET = " .abcdefghijklmnopqrstuvwxyz"
SIZES = {"vocab_size": len(ALPHABET), "context": 8, "embedding_size": 12, "hidden_size": 64}
TEXT_LENGTH, BATCH, SEED = 20_000, 32, 42
PEAK_LEARNING_RATE, WARMUP_STEPS, WEIGHT_DECAY, MAX_GRADIENT_NORM, DROPOUT = 0.01, 20, 0.01, 1.0, 0.1
ORPHAN_LIMIT = 3600.0  # seconds; so that a forgotten demonstration does not leave a process for ever

CHECKPOINT_NAME = re.compile(r"^checkpoint-(\d+)$")  # transformers/trainer_utils.py has the same pattern
CRASH_KINDS = ("exit1", "exception", "memory", "sigkill", "sigsegv", "nan", "disk-full", "killed-in-save")
FILE_BROKEN_BY = {"disk-full": "model.safetensors", "killed-in-save": "optimizer.safetensors"}

Arrays = dict[str, np.ndarray]


def make_text(length: int = TEXT_LENGTH, seed: int = SEED) -> str:
    """`length` characters of sentences from a small grammar; the same for the same seed."""
    choose = random.Random(seed).choice
    nouns = ["dog", "cat", "farmer", "river", "mountain", "bird", "teacher", "garden"]
    qualities = ["", "", "small ", "old ", "quiet ", "green ", "very tall "]
    verbs = ["sees", "likes", "follows", "remembers", "waits for"]

    def thing() -> str:
        return f"{choose(['the', 'a', 'every'])} {choose(qualities)}{choose(nouns)}"

    text = ""
    while len(text) < length:
        text += f"{thing()} {choose(verbs)} {thing()}. "
    return text[:length]


def make_batch(text: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Contexts (BATCH, context) and the characters that follow (BATCH,), as places in the alphabet.

    Nothing but the step number decides, so a resumed run sees what the uninterrupted one would have seen.
    """
    context = SIZES["context"]
    starts = np.random.default_rng([SEED, step]).integers(0, len(text) - context, size=BATCH)
    return text[starts[:, None] + np.arange(context)], text[starts + context]


def serve_batches(receiver: Connection, sender: Connection, step: int, args: argparse.Namespace) -> None:
    """The worker's whole life: batches from `step` on, as fast as the pipe takes them."""
    receiver.close()  # else the pipe would stay whole when the trainer dies
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A trainer that saves on SIGTERM still needs its batch when the signal went to the whole group.
    stubborn = args.worker_ignores_term or args.save_on_term
    signal.signal(signal.SIGTERM, signal.SIG_IGN if stubborn else signal.SIG_DFL)
    if args.worker_setsid:
        os.setsid()
    text = np.array([ALPHABET.index(character) for character in make_text()])
    try:
        for number in itertools.count(step):
            sender.send(make_batch(text, number))
    except BrokenPipeError:  # the trainer is gone
        ends_at = time.monotonic() + (ORPHAN_LIMIT if args.worker_ignores_parent else 0)
        while time.monotonic() < ends_at:
            make_batch(text, step)
            time.sleep(0.1)


def start_worker(step: int, args: argparse.Namespace) -> tuple[BaseProcess, Connection]:
    """The data worker and the end of the pipe that gives its batches, from `step` on."""
    context = multiprocessing.get_context("fork")  # as torch's DataLoader does
    receiver, sender = context.Pipe(duplex=False)
    worker = context.Process(target=serve_batches, args=(receiver, sender, step, args), daemon=True)
    worker.start()
    sender.close()
    print(f"data worker: pid {worker.pid}", file=sys.stderr, flush=True)
    return worker, receiver


def new_parameters(generator: np.random.Generator) -> Arrays:
    """Random float32 weights."""
    letters, context, width, hidden = SIZES.values()
    shapes = {
        "embedding.weight": (letters, width),
        "hidden.weight": (context * width, hidden),
        "hidden.bias": (hidden,),
        "output.weight": (hidden, letters),
        "output.bias": (letters,),
    }
    return {name: 0.1 * generator.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def loss_and_gradients(
    weights: Arrays, contexts: np.ndarray, targets: np.ndarray, generator: np.random.Generator
) -> tuple[float, Arrays]:
    """Mean cross-entropy (nats per character) and its gradient by each weight, in that one's shape."""
    rows = np.arange(len(targets))
    embedded = weights["embedding.weight"][contexts].reshape(len(targets), -1)
    activation = np.tanh(embedded @ weights["hidden.weight"] + weights["hidden.bias"])
    kept = (generator.random(activation.shape) >= DROPOUT).astype(np.float32) / np.float32(1 - DROPOUT)
    logits = (activation * kept) @ weights["output.weight"] + weights["output.bias"]
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    loss = -np.log(probabilities[rows, targets]).mean()

    by_logits = probabilities / np.float32(len(targets))
    by_logits[rows, targets] -= np.float32(1 / len(targets))
    by_hidden = (by_logits @ weights["output.weight"].T) * kept * (1 - activation**2)
    by_embedded = (by_hidden @ weights["hidden.weight"].T).reshape(*contexts.shape, -1)
    by_embedding = np.zeros_like(weights["embedding.weight"])
    np.add.at(by_embedding, contexts, by_embedded)
    return float(loss), {
        "embedding.weight": by_embedding,
        "hidden.weight": embedded.T @ by_hidden,
        "hidden.bias": by_hidden.sum(axis=0),
        "output.weight": (activation * kept).T @ by_logits,
        "output.bias": by_logits.sum(axis=0),
    }


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then linear to zero at `steps`."""
    left = max(0.0, (steps - step) / max(1, steps - WARMUP_STEPS))
    return PEAK_LEARNING_RATE * min(step / WARMUP_STEPS, left)


@dataclass
class Run:
    """Everything that a checkpoint keeps."""

    weights: Arrays
    first_moments: Arrays
    second_moments: Arrays
    generator: np.random.Generator
    scheduler_step: int = 0
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def epoch(self) -> float:
        """How often the text has been seen."""
        return self.step * BATCH / TEXT_LENGTH

    def take_step(self, contexts: np.ndarray, targets: np.ndarray, steps: int) -> tuple[float, float, float]:
        """One AdamW step; returns loss, gradient norm before clipping, and the learning rate used."""
        loss, gradients = loss_and_gradients(self.weights, contexts, targets, self.generator)
        norm = math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients.values()))
        rate = learning_rate(self.scheduler_step, steps)
        self.step += 1
        self.scheduler_step += 1
        for name, value in self.weights.items():
            gradient = gradients[name] * np.float32(min(1.0, MAX_GRADIENT_NORM / (norm + 1e-6)))
            first, second = self.first_moments[name], self.second_moments[name]
            first += 0.1 * (gradient - first)
            second += 0.001 * (gradient**2 - second)
            direction = first / (1 - 0.9**self.step) / (np.sqrt(second / (1 - 0.999**self.step)) + 1e-8)
            value -= rate * (direction + WEIGHT_DECAY * value)
        return loss, norm, rate


def checkpoints(output_dir: Path) -> list[Path]:
    """Every folder named like a checkpoint, lowest step first; whole or not."""
    matches = ((CHECKPOINT_NAME.match(path.name), path) for path in output_dir.iterdir() if path.is_dir())
    return [path for _, path in sorted((int(match[1]), path) for match, path in matches if match)]


def files_of(run: Run, args: argparse.Namespace) -> dict[str, bytes]:
    """Name and content of each file of a checkpoint, in the Trainer's order."""

    def as_json(value: object) -> bytes:
        return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()

    moments = {f"exp_avg.{name}": value for name, value in run.first_moments.items()}
    moments |= {f"exp_avg_sq.{name}": value for name, value in run.second_moments.items()}
    state = {"epoch": run.epoch, "global_step": run.step, "log_history": run.history, "max_steps": args.steps}
    state |= {"logging_steps": args.logging_steps, "save_steps": args.save_steps, "train_batch_size": BATCH}
    return {
        "config.json": as_json({"model_type": "character-mlp", **SIZES}),
        "model.safetensors": save(run.weights, metadata={"format": "np"}),
        "training_args.json": as_json({name: str(value) for name, value in vars(args).items()}),
        "optimizer.safetensors": save(moments),
        "scheduler.json": as_json({"last_epoch": run.scheduler_step}),
        "rng_state.json": as_json(run.generator.bit_generator.state),
        "trainer_state.json": as_json(state),
    }


def save_checkpoint(run: Run, args: argparse.Namespace, fault: str | None = None) -> None:
    """Write `checkpoint-N/` plainly, then delete the oldest ones above the limit.

    `fault`, one of FILE_BROKEN_BY, ends the save halfway through that file. Raises OSError.
    """
    folder = args.output_dir / f"checkpoint-{run.step}"
    folder.mkdir(exist_ok=True)
    files = files_of(run, args)
    for number, (name, content) in enumerate(files.items()):
        if number > 0:
            time.sleep(args.save_seconds / (len(files) - 1))
        if fault and name == FILE_BROKEN_BY[fault]:
            (folder / name).write_bytes(content[: len(content) // 2])
            if fault == "killed-in-save":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / name))
        (folder / name).write_bytes(content)
    if args.save_total_limit > 0:
        for path in checkpoints(args.output_dir)[: -args.save_total_limit]:
            if path != folder:
                shutil.rmtree(path)


def load_or_begin(output_dir: Path) -> Run:
    """The run as the highest-numbered checkpoint has it, or a new one.

    There is no falling back to an older checkpoint: a broken one raises SafetensorError, OSError, KeyError
    or ValueError, as with the Trainer.
    """
    found = checkpoints(output_dir)
    generator = np.random.default_rng(SEED)
    if not found:
        weights = new_parameters(generator)
        zeros = [{name: np.zeros_like(value) for name, value in weights.items()} for _ in range(2)]
        return Run(weights, *zeros, generator)
    folder = found[-1]
    print(f"resuming from {folder}", file=sys.stderr, flush=True)
    # Copied, because loaded arrays are read-only and need not be aligned.
    weights = {name: value.copy() for name, value in load_file(folder / "model.safetensors").items()}
    moments = load_file(folder / "optimizer.safetensors")
    first = {name: moments[f"exp_avg.{name}"].copy() for name in weights}
    second = {name: moments[f"exp_avg_sq.{name}"].copy() for name in weights}
    scheduler = json.loads((folder / "scheduler.json").read_text())
    generator.bit_generator.state = json.loads((folder / "rng_state.json").read_text())
    state = json.loads((folder / "trainer_state.json").read_text())
    steps = scheduler["last_epoch"], state["global_step"]
    return Run(weights, first, second, generator, *steps, state["log_history"])


def draw_bar(step: int, first_step: int, steps: int, elapsed: float) -> str:
    """One line as tqdm draws it; `elapsed` is in seconds, for the steps after `first_step`."""

    def clock(seconds: float) -> str:
        minutes, hours = int(seconds) // 60 % 60, int(seconds) // 3600
        return (f"{hours}:" if hours else "") + f"{minutes:02d}:{int(seconds) % 60:02d}"

    whole, eighths = divmod(int(80 * step / steps), 8)
    blocks = ("█" * whole + " ▏▎▍▌▋▊▉"[eighths])[:10].ljust(10)
    each = max(elapsed, 1e-6) / (step - first_step)
    pace = f"{each:5.2f}s/it" if each > 1 else f"{1 / each:5.2f}it/s"
    times = f"{clock(elapsed)}<{clock(each * (steps - step))}"
    return f"{100 * step / steps:3.0f}%|{blocks}| {step}/{steps} [{times}, {pace}]"


def write_status(args: argparse.Namespace, step: int, loss: float) -> None:
    """Replace the status file; a loss that is no number becomes null, since JSON has no NaN."""
    status = {"current_step": step, "total_steps": args.steps, "loss": loss if math.isfinite(loss) else None}
    temporary = args.status_file.with_name(f".{args.status_file.name}.tmp")
    temporary.write_text(json.dumps(status) + "\n")
    temporary.replace(args.status_file)


def print_metrics(values: dict[str, float]) -> None:
    """One line in the form of transformers 5, in which every number is a string."""
    print({name: f"{value:.4g}" for name, value in values.items()})


def happens(fault: str, args: argparse.Namespace) -> bool:
    """Whether `fault` is to happen in this run; writes it down before it does."""
    happened = args.output_dir / "faults.txt"
    if not args.every_run and happened.exists() and fault in happened.read_text().splitlines():
        return False
    with happened.open("a") as lines:
        lines.write(f"{fault}\n")
    return True


def hang(kind: str) -> None:
    """Make no more progress. Only `stop` can be ended from outside, by SIGCONT."""
    if kind == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
        return
    while True:
        time.sleep(3600 if kind == "sleep" else 0)


def crash(kind: str, run: Run) -> None:
    """End this process, or spoil its weights (`nan`), before the next step."""
    match kind:
        case "exit1":
            raise SystemExit("error: giving up, as asked")  # a text means exit code 1
        case "exception":
            raise RuntimeError(f"failing before step {run.step + 1}, as asked")
        case "memory":
            np.empty(1 << 60, np.uint8)
        case "sigkill" | "sigsegv":
            os.kill(os.getpid(), signal.Signals[kind.upper()])
        case "nan":
            run.weights["output.bias"].fill(np.nan)


def train(args: argparse.Namespace, run: Run, worker: BaseProcess, receiver: Connection) -> int:
    """Steps until the last one, or until SIGTERM where it is to be heeded; returns the exit code."""
    signals: list[int] = []
    if args.save_on_term:
        signal.signal(signal.SIGTERM, lambda number, _frame: signals.append(number))
    losses: list[float] = []
    first_step, begun, bar, bar_due = run.step, time.monotonic(), "", 0.0
    while run.step < args.steps:
        step_begun, step = time.monotonic(), run.step + 1
        if step == args.hang_at and happens(f"hang-at {step} {args.hang_kind}", args):
            hang(args.hang_kind)
        crashes = step == args.crash_at and happens(f"crash-at {step} {args.crash_kind}", args)
        breaks_save = crashes and args.crash_kind in FILE_BROKEN_BY
        if crashes and not breaks_save:
            crash(args.crash_kind, run)
        try:
            contexts, targets = receiver.recv()
        except EOFError:
            worker.join()
            cause = f"data worker (pid {worker.pid}) exited unexpectedly, exit code {worker.exitcode}"
            raise RuntimeError(cause) from None
        loss, norm, rate = run.take_step(contexts, targets, args.steps)
        losses.append(loss)
        time.sleep(max(0.0, args.step_seconds - (time.monotonic() - step_begun)))

        write_status(args, step, loss)
        if step % args.logging_steps == 0:
            recent = losses[-args.logging_steps :]
            values = {"loss": sum(recent) / len(recent), "grad_norm": norm, "learning_rate": rate}
            values["epoch"] = run.epoch
            run.history.append({**values, "step": step})
            print(f"\r{' ' * len(bar)}\r", end="", file=sys.stderr, flush=True)
            print_metrics(values)
            bar_due = 0.0
        if time.monotonic() >= bar_due or step == args.steps:
            bar = draw_bar(step, first_step, args.steps, time.monotonic() - begun)
            print(f"\r{bar}", end="", file=sys.stderr, flush=True)
            bar_due = time.monotonic() + 0.1
        # Asked once, so that what is said after the save is what was done.
        leaving = bool(signals) and step < args.steps
        if step % args.save_steps == 0 or step == args.steps or leaving or breaks_save:
            save_checkpoint(run, args, args.crash_kind if breaks_save else None)
        if leaving:
            print(f"\nsaved checkpoint-{step} on signal {signals[0]}", file=sys.stderr, flush=True)
            return 128 + signals[0]
    print(file=sys.stderr, flush=True)
    seconds, steps = max(time.monotonic() - begun, 1e-6), run.step - first_step
    rates = {"train_samples_per_second": steps * BATCH / seconds, "train_steps_per_second": steps / seconds}
    summary = {"train_loss": sum(losses) / max(1, len(losses)), "epoch": run.epoch}
    print_metrics({"train_runtime": seconds, **rates, **summary})
    return 0


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    def positive(text: str) -> int:
        if int(text) < 1:
            raise argparse.ArgumentTypeError("must be at least 1")
        return int(text)

    first, _, rest = (__doc__ or "").partition("\n")
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=first, epilog=rest, formatter_class=form)
    add = parser.add_argument
    add("--steps", type=positive, default=600, help="the last step (default 600)")
    add("--step-seconds", type=float, default=0.1, help="what a step takes at least (default 0.1)")
    add("--save-steps", type=positive, default=50, help="steps between checkpoints (default 50)")
    add("--save-seconds", type=float, default=0.0, help="what a save takes at least (default 0)")
    add("--save-total-limit", type=int, default=3, help="checkpoints kept; 0 keeps all (default 3)")
    add("--logging-steps", type=positive, default=10, help="steps between lines of metrics (default 10)")
    add("--output-dir", type=Path, default=Path(__file__).resolve().parent / "run", help="default: run/ here")
    add("--status-file", type=Path, help="default: training_status.json in the output folder")
    add("--save-on-term", action="store_true", help="SIGTERM: end the step, save, exit 143")
    worker = parser.add_argument_group("the data worker").add_argument
    worker("--worker-ignores-parent", action="store_true", help="it outlives a trainer that was killed")
    worker("--worker-setsid", action="store_true", help="it leaves the trainer's session and process group")
    worker("--worker-ignores-term", action="store_true", help="it ignores SIGTERM")
    fault = parser.add_argument_group("faults on purpose, once per output folder").add_argument
    fault("--crash-at", type=positive, metavar="STEP", help="crash before (in a save: after) this step")
    fault("--crash-kind", choices=CRASH_KINDS, default="exit1", help="default exit1; nan trains on with NaN")
    fault("--hang-at", type=positive, metavar="STEP", help="hang before this step")
    fault("--hang-kind", choices=("sleep", "stop", "busy"), default="sleep", help="stop: SIGSTOP to itself")
    fault("--fail-at-start", action="store_true", help="exit 1 at once")
    fault("--every-run", action="store_true", help="let the faults happen in every run")
    args = parser.parse_args(argv)
    args.status_file = args.status_file or args.output_dir / "training_status.json"
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    if args.fail_at_start and happens("fail-at-start", args):
        print("error: failing at the start, as asked", file=sys.stderr)
        return 1
    run = load_or_begin(args.output_dir)
    worker, receiver = start_worker(run.step + 1, args)
    try:
        return train(args, run, worker, receiver)
    finally:
        receiver.close()
        worker.kill()
        worker.join()


if __name__ == "__main__":
    sys.exit(main())
