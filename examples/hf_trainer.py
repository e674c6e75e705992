#!/usr/bin/env python3
"""A Hugging Face Trainer as people run it: a tiny GPT-2 with random weights, on made-up tokens, on the CPU.

Nothing is downloaded. It goes on from the newest checkpoint if there is one. Alone or with several ranks:

    $ python examples/hf_trainer.py
    $ torchrun --nproc-per-node 2 examples/hf_trainer.py

A fault happens once per output folder, on the last rank, so that the others show what it does to them.
Needs torch, transformers and accelerate.
"""

import argparse
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

VOCABULARY, SEQUENCE_LENGTH, EXAMPLES, BATCH, SEED = 128, 32, 512, 8, 42


def make_examples() -> list[dict[str, list[int]]]:
    """Token sequences that count upwards in steps of 1 to 4: easily learned, the same every time."""
    source = random.Random(SEED)
    examples = []
    for _ in range(EXAMPLES):
        first, stride = source.randrange(VOCABULARY), source.randrange(1, 5)
        tokens = [(first + stride * place) % VOCABULARY for place in range(SEQUENCE_LENGTH)]
        examples.append({"input_ids": tokens, "labels": tokens})
    return examples


def fault_due(fault: str, args: argparse.Namespace) -> bool:
    """Whether `fault` is to happen here and now; writes it down before it does."""
    if os.environ.get("RANK", "0") != str(int(os.environ.get("WORLD_SIZE", "1")) - 1):
        return False
    happened = args.output_dir / f"{fault}.happened"
    if happened.exists():
        return False
    happened.parent.mkdir(parents=True, exist_ok=True)
    happened.touch()
    return True


def train(args: argparse.Namespace) -> None:
    """Build model, data and Trainer, and train to `args.steps`."""
    # Imported here, so that --help is quick and the environment is set first.
    import transformers
    from transformers.trainer_utils import get_last_checkpoint

    class PaceAndFaults(transformers.TrainerCallback):
        """Before each step: wait, and crash or hang where that was asked for."""

        def on_step_begin(self, _args, state, _control, **_others):
            time.sleep(args.step_seconds)
            step = state.global_step + 1
            if step == args.crash_at and fault_due(f"crash-at-{step}", args):
                os.kill(os.getpid(), signal.SIGKILL)
            if step == args.hang_at and fault_due(f"hang-at-{step}", args):
                time.sleep(3600)

    transformers.set_seed(SEED)
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=args.positions,
        n_embd=32,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    settings = transformers.TrainingArguments(
        output_dir=str(args.output_dir),
        max_steps=args.steps,
        per_device_train_batch_size=BATCH,
        learning_rate=1e-2,
        logging_steps=args.logging_steps,
        save_steps=args.save_steps,
        save_total_limit=args.save_total_limit,
        report_to="none",
        use_cpu=True,
        ddp_backend="gloo" if "RANK" in os.environ else None,
        seed=SEED,
    )
    trainer = transformers.Trainer(
        model=transformers.GPT2LMHeadModel(config),
        args=settings,
        train_dataset=make_examples(),
        callbacks=[PaceAndFaults()],
    )
    found = get_last_checkpoint(args.output_dir) if args.output_dir.is_dir() else None
    trainer.train(resume_from_checkpoint=True if found else None)


def main(argv: Sequence[str] | None = None) -> int:
    first, _, rest = (__doc__ or "").partition("\n")
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=first, epilog=rest, formatter_class=form)
    here = Path(__file__).resolve().parent
    parser.add_argument("--steps", type=int, default=120, help="the last step (default 120)")
    parser.add_argument("--step-seconds", type=float, default=0.2, help="pause before a step (default 0.2)")
    parser.add_argument("--save-steps", type=int, default=20, help="steps between checkpoints (default 20)")
    parser.add_argument("--save-total-limit", type=int, default=3, help="checkpoints kept (default 3)")
    parser.add_argument("--logging-steps", type=int, default=5, help="steps between metrics (default 5)")
    large = "positions that the model knows: more make its checkpoints larger, not its steps slower"
    parser.add_argument("--positions", type=int, default=SEQUENCE_LENGTH, help=f"{large} (default 32)")
    parser.add_argument("--output-dir", type=Path, default=here / "run-hf", help="default: run-hf/ here")
    parser.add_argument("--crash-at", type=int, metavar="STEP", help="SIGKILL itself before this step")
    parser.add_argument("--hang-at", type=int, metavar="STEP", help="sleep for an hour before this step")
    args = parser.parse_args(argv)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    train(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
