#!/usr/bin/env python3
"""Makes the real logs of this corpus again, by crashing real programs.

    $ .venv-integration/bin/python tests/data/make_crashes.py             # every case
    $ .venv-integration/bin/python tests/data/make_crashes.py key_error   # those whose path contains a word

Wants Linux, root (mounts, memory cgroups, limits), torch, transformers, accelerate, lightning, datasets,
hydra-core and pillow; a case whose tool is missing is told and left as it was. A row of CASES is a log's
path, a shell script that makes it, and the files that the script needs. What the programs say is kept as
they said it, but for the names of this machine.

A row whose path has `documented_` in it runs a real program too, but the failure is put into it by
`faults.py`, with a message as the vendor documents it, because there is no GPU (or no such cluster) here.
The frames of `faults.py` are cut out of the tracebacks.
"""

# ruff: noqa: E501 - programs and the messages that they print keep their long lines.
import concurrent.futures
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
SHOWN_FOLDER, SHOWN_HOST, LONGEST = "/data/run7", "node3", 58_000
CASE_LIMIT = 150.0  # seconds

PRELUDE = """\
export OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 HF_HOME="$PWD/hf" TOKENIZERS_PARALLELISM=false
export TORCHINDUCTOR_CACHE_DIR="$PWD/inductor" TORCH_EXTENSIONS_DIR="$PWD/extensions" COLUMNS=100
LOG="$PWD/../log"
ulimit -c 0
soon() {  # PATTERN SIGNAL [all]: once the log has the pattern, to train.pid (and its children)
    for _ in $(seq 900); do grep -aq -- "$1" "$LOG" && [ -s train.pid ] && break; sleep 0.1; done
    local pid; pid=$(cat train.pid)
    kill "-$2" "$pid" ${3:+$(cat "/proc/$pid/task/$pid/children")}
} 2>/dev/null
POWERLESS="setpriv --bounding-set -dac_override,-dac_read_search,-kill"  # root that obeys modes
ranks() { torchrun --nproc-per-node "$1" --master-port "$PORT" "${@:2}"; }
alone() { exec 9> /tmp/make_crashes.lock; flock 9; }  # the kernel log is one for all
kernel_begin() { alone; KERNEL=$(dmesg | wc -l); }
kernel_lines() { sleep 0.3; dmesg | tail -n "+$((KERNEL + 1))"; }
memory_group() {  # BYTES: this shell and what it starts may use so much
    GROUP=/sys/fs/cgroup/memory/job_4711_$$; mkdir "$GROUP"
    echo "$1" > "$GROUP/memory.limit_in_bytes"; echo $BASHPID > "$GROUP/cgroup.procs"
}
"""

FAULTS = '''
"""Puts a failure into a program at the n-th call of a function."""
import itertools


def at(owner, name, call, exception, before=None):
    original, count = getattr(owner, name), itertools.count(1)

    def function(*args, **kwargs):
        if next(count) == call:
            if before:
                before()
            raise exception
        return original(*args, **kwargs)

    setattr(owner, name, function)
'''

LOOP = """
import argparse
import logging
import os
import sys
import time

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
#IMPORTS

logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
log = logging.getLogger("train")


class Samples(Dataset):
    def __len__(self):
        return 256

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        label = index % 4
        #ITEM
        return torch.randn(16, generator=generator), label


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(16, 32)
        self.head = nn.Linear(32, 4)

    def forward(self, features):
        hidden = torch.relu(self.body(features))
        #FORWARD
        return self.head(hidden)


def train_epoch(model, loader, optimizer, epoch):
    bar = tqdm(loader, desc=f"epoch {epoch}", mininterval=0.05)
    for step, (features, labels) in enumerate(bar):
        #STEP
        loss = nn.functional.cross_entropy(model(features), labels)
        #LOSS
        optimizer.zero_grad()
        loss.backward()
        #BACKWARD
        optimizer.step()
        time.sleep(0.02)
        bar.set_postfix(loss=f"{loss.item():.4f}")
    return loss.item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--lr", type=float, default=1e-3)
    args = parser.parse_args()
    torch.manual_seed(1)
    with open("train.pid", "w") as file:
        file.write(str(os.getpid()))
    #START
    model = Classifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    loader = DataLoader(Samples(), batch_size=16, num_workers=args.workers)
    log.info("training %d parameters", sum(p.numel() for p in model.parameters()))
    #READY
    for epoch in range(args.epochs):
        loss = train_epoch(model, loader, optimizer, epoch)
        log.info("epoch %d finished, loss %.4f", epoch, loss)
        #EPOCH
    log.info("training finished")


if __name__ == "__main__":
    main()
"""

RANKS = """
import datetime
import os
import sys
import time

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
#IMPORTS

RANK = int(os.environ["RANK"])


def load_batch(step):
    generator = torch.Generator().manual_seed(1000 * RANK + step)
    batch = {"input": torch.randn(8, 16, generator=generator), "target": torch.randn(8, 4, generator=generator)}
    #BATCH
    return batch


def train(model, optimizer, steps):
    for step in range(1, steps + 1):
        batch = load_batch(step)
        #STEP
        loss = torch.nn.functional.mse_loss(model(batch["input"]), batch["target"])
        optimizer.zero_grad()
        loss.backward()
        #BACKWARD
        optimizer.step()
        time.sleep(0.02)
        if step % 5 == 0:
            print(f"[rank {RANK}] step {step}/{steps} loss {loss.item():.4f}", flush=True)


def main():
    if RANK == 0:
        with open("train.pid", "w") as file:
            file.write(str(os.getppid()))
    #START
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=#TIMEOUT))
    torch.manual_seed(0)
    model = DistributedDataParallel(torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Linear(32, 4)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    #READY
    train(model, optimizer, #STEPS)
    #END
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
"""

TRAINER = """
import os
import random
import sys
import time

import torch
import transformers
#IMPORTS


class Lines(torch.utils.data.Dataset):
    def __len__(self):
        return 128

    def __getitem__(self, index):
        source = random.Random(index)
        first, stride = source.randrange(64), source.randrange(1, 5)
        tokens = [(first + stride * place) % 64 for place in range(16)]
        #ITEM
        return {"input_ids": tokens, "labels": tokens}


class Watch(transformers.TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        time.sleep(0.03)
        #STEP


def main():
    with open("train.pid", "w") as file:
        file.write(str(os.getpid()))
    transformers.set_seed(7)
    config = transformers.GPT2Config(
        vocab_size=64, n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    model = transformers.GPT2LMHeadModel(config)
    #MODEL
    args = transformers.TrainingArguments(
        output_dir="out",
        max_steps=40,
        per_device_train_batch_size=8,
        learning_rate=1e-2,
        logging_steps=5,
        save_steps=20,
        report_to="none",
        use_cpu=True,
        #ARGUMENTS
    )
    trainer = transformers.Trainer(
        model=model,
        args=args,
        train_dataset=Lines(),
        eval_dataset=Lines(),
        callbacks=[Watch()],
    )
    #READY
    trainer.train(#RESUME)
    #END


if __name__ == "__main__":
    main()
"""

LIGHTNING = """
import os
import sys
import time

import lightning
import torch
#IMPORTS


class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 160

    def __getitem__(self, index):
        #ITEM
        return torch.full((8,), index / 160), torch.tensor([index / 80])


class Regression(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(8, 1)

    def training_step(self, batch, batch_idx):
        inputs, targets = batch
        time.sleep(0.02)
        #STEP
        loss = torch.nn.functional.mse_loss(self.layer(inputs), targets)
        #LOSS
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        inputs, targets = batch
        #VALIDATION
        self.log("val_loss", torch.nn.functional.mse_loss(self.layer(inputs), targets), prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.02)


def main():
    with open("train.pid", "w") as file:
        file.write(str(os.getpid()))
    lightning.seed_everything(3)
    loader = torch.utils.data.DataLoader(Numbers(), batch_size=8, num_workers=0)
    model = Regression()
    #START
    trainer = lightning.Trainer(max_epochs=3, accelerator="cpu", logger=False, log_every_n_steps=1, #TRAINER)
    trainer.fit(model, loader, loader)


if __name__ == "__main__":
    main()
"""


def fill(template: str, **parts: str) -> str:
    """The template with each `#NAME` replaced by code in the place's own indentation, or by nothing."""

    def replaced(match: re.Match[str]) -> str:
        code = textwrap.dedent(parts.get(match["name"].lower(), "")).strip("\n")
        return textwrap.indent(code, match["indent"]) + "\n" if code else ""

    filled = re.sub(r"(?m)^(?P<indent> *)#(?P<name>[A-Z]+)\n", replaced, template)
    defaults = {"TIMEOUT": "60", "STEPS": "40", "RESUME": "", "TRAINER": ""}
    for name, default in defaults.items():
        filled = filled.replace(f"#{name}", parts.get(name.lower(), default))
    return filled.strip("\n") + "\n"


@dataclass(frozen=True)
class Case:
    """One log: `path` under tests/data, the bash script whose output it is, the files that it needs."""

    path: str
    script: str
    files: dict[str, str] = field(default_factory=dict)


def loop(path: str, script: str = "python train.py", name: str = "train.py", **parts: str) -> Case:
    """A plain torch loop with a progress bar."""
    return Case(path, script, {name: fill(LOOP, **parts)})


def ranks(path: str, script: str = "ranks 2 train.py", **parts: str) -> Case:
    """Data-parallel training with gloo under torchrun."""
    return Case(path, script, {"train.py": fill(RANKS, **parts)})


def trainer(path: str, script: str = "python finetune.py", **parts: str) -> Case:
    """A Hugging Face Trainer."""
    return Case(path, script, {"finetune.py": fill(TRAINER, **parts)})


def lightning(path: str, script: str = "python fit.py", **parts: str) -> Case:
    """A Lightning module."""
    return Case(path, script, {"fit.py": fill(LIGHTNING, **parts)})


def program(path: str, code: str, script: str = "python train.py", **files: str) -> Case:
    """A program of its own, with files whose names have `__` for the dot."""
    others = {name.replace("__", "."): textwrap.dedent(text).lstrip("\n") for name, text in files.items()}
    return Case(path, script, {"train.py": textwrap.dedent(code).lstrip("\n"), **others})


def daemon(path: str, options: str) -> Case:
    """The bundled training daemon."""
    command = f"python training_daemon.py --output-dir out --step-seconds 0.02 --steps 120 {options}"
    return Case(
        path, command, {"training_daemon.py": (REPOSITORY / "examples/training_daemon.py").read_text()}
    )


def neutral(text: str, folder: str) -> str:
    """The text without this machine's paths and names, and without the frames of `faults.py`."""
    base = str(Path(sys.base_prefix).resolve())
    for ours, shown in (
        (folder, SHOWN_FOLDER),
        (str(Path(sys.prefix)), "/opt/venv"),
        (str(REPOSITORY), "/data/trainguard"),
        (f"{base}/lib/python", "/usr/lib/python"),
        (f"{base}/bin/", "/usr/bin/"),
        (base, "/usr"),
        (os.uname().release, "6.8.0-45-generic"),
        (os.uname().version, "#45-Ubuntu SMP PREEMPT_DYNAMIC"),
    ):
        text = text.replace(ours, shown)
    text = re.sub(rf"(?<![\w-]){re.escape(socket.gethostname())}(?![\w-])", SHOWN_HOST, text)
    text = re.sub(r"(?m)^.*File \"[^\"]*/faults\.py\", line \d+, in .*\n(?:.*    .*\n){1,2}", "", text)
    text = re.sub(r"/tmp/(?=tmp)", "/data/scratch/", text)
    text = re.sub(r"\[(\w+)\]\(https://[^)\s]+\)", r"\1", text)
    return re.sub(r"job_4711_\d+", "job_4711", text)


def shortened(text: str) -> str:
    """The text, cut at its beginning and end to LONGEST characters around its last part."""
    if len(text) <= LONGEST:
        return text
    return text[text.index("\n", len(text) - LONGEST) + 1 :]


def make(case: Case, port: int) -> str:
    """Run one case and write its log; returns what is to be told."""
    with tempfile.TemporaryDirectory(prefix="run-") as scratch:
        folder, log = Path(scratch) / "work", Path(scratch) / "log"
        folder.mkdir()
        for name, text in {"faults.py": FAULTS, **case.files}.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        prelude = Path(scratch) / "prelude"
        prelude.write_text(PRELUDE)
        (folder / "run.sh").write_text(case.script.strip("\n") + "\n")
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {
            "PATH": path,
            "HOME": "/root",
            "BASH_ENV": str(prelude),
            "PORT": str(port),
            "LANG": "C.UTF-8",
        }
        with log.open("ab") as output:
            child = subprocess.Popen(
                ["unshare", "--mount", "bash", "run.sh"],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            try:
                child.wait(CASE_LIMIT)
                state = f"exit {child.returncode}"
            except subprocess.TimeoutExpired:
                state = "STOPPED, too slow"
                os.killpg(child.pid, 9)
                child.wait()
        text = log.read_bytes().decode("utf-8", "surrogateescape")
        made = HERE / case.path
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_bytes(shortened(neutral(text, str(folder))).encode("utf-8", "surrogateescape"))
    group = Path(f"/sys/fs/cgroup/memory/job_4711_{child.pid}")
    if group.exists() and not (group / "cgroup.procs").read_text():
        group.rmdir()
    return f"{case.path}: {state}, {made.stat().st_size} bytes"


EXCEPTIONS: list[Case] = [
    # In the main process.
    loop(
        "crashes/assertion_error/loop.log",
        step='assert features.shape[1] == 16 and step < 9, f"bad batch {step}"',
    ),
    program(
        "crashes/assertion_error/bare_in_function.log",
        """
        import logging

        logging.basicConfig(level=logging.INFO, format="%(asctime)s | %(levelname)s | %(message)s")


        def pack(lengths, limit):
            total = 0
            for length in lengths:
                total += length
            assert total <= limit
            return total


        for step in range(6):
            logging.info("step %d packed %d tokens", step, pack(range(step * 3), 90))
        logging.info("packing the validation set")
        pack(range(40), 90)
        """,
    ),
    loop(
        "crashes/assertion_error/in_data_worker.log",
        script="python train.py --workers 2",
        item='assert index != 77, "sample 77 has no label"',
    ),
    loop(
        "crashes/key_error/loop.log",
        start='settings = {"lr": args.lr, "epochs": args.epochs}',
        epoch='log.info("warm-up %d", settings["warmup_steps"])',
    ),
    loop(
        "crashes/key_error/in_data_worker.log",
        script="python train.py --workers 2",
        item='row = {"text": "abc", "id": index}\nif index == 100:\n    label = row["label"]',
    ),
    ranks(
        "crashes/key_error/one_rank_of_two.log",
        batch='if RANK == 1 and step == 12:\n    del batch["target"]',
    ),
    loop(
        "crashes/value_error/loop.log",
        backward='if step == 7:\n    raise ValueError(f"gradient clipping needs a positive norm, got {-1.0}")',
    ),
    program(
        "crashes/value_error/unpack.log",
        """
        import sys


        def read_pairs(lines):
            for line in lines:
                source, target = line.split("\\t")
                yield source, target


        lines = ["a\\tb", "c\\td", "e\\tf\\tg"]
        print("reading pairs", file=sys.stderr)
        for number, (source, target) in enumerate(read_pairs(lines)):
            print(f"pair {number}: {source} -> {target}")
        """,
    ),
    ranks(
        "crashes/value_error/one_rank_of_four.log",
        script="ranks 4 train.py",
        step='if RANK == 2 and step == 8:\n    raise ValueError(f"window of {step} steps is shorter than the sequence")',
    ),
    loop("crashes/type_error/loop.log", epoch='log.info("best so far: " + loss)'),
    loop(
        "crashes/type_error/in_data_worker.log",
        script="python train.py --workers 1",
        item='names = None if index == 40 else ["a"]\nlabel = label + 0 * len(names)',
    ),
    program(
        "crashes/type_error/unexpected_argument.log",
        """
        class Scheduler:
            def __init__(self, optimizer, warmup_steps):
                self.optimizer, self.warmup_steps = optimizer, warmup_steps


        def build(settings):
            print("building the scheduler from", settings)
            return Scheduler(None, **settings)


        build({"warmup_steps": 100})
        build({"warmup_steps": 100, "min_lr_ratio": 0.1})
        """,
    ),
    loop("crashes/attribute_error/loop.log", epoch="if epoch == 1:\n    model.save_pretrained('out')"),
    trainer(
        "crashes/attribute_error/trainer_callback.log",
        step="if state.global_step == 12:\n    print(state.best_metric.item())",
    ),
    loop(
        "crashes/index_error/loop.log",
        loss="history = [loss.item()]\nif step == 10:\n    print(history[step])",
    ),
    trainer("crashes/index_error/trainer_embedding.log", item="if index == 50:\n    tokens[3] = 64"),
    loop(
        "crashes/index_error/in_data_worker.log",
        script="python train.py --workers 2",
        item="offsets = list(range(0, 2000, 10))\nlabel = offsets[index] % 4",
    ),
    loop(
        "crashes/name_error/loop.log",
        backward="if step == 5:\n    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)",
    ),
    program(
        "crashes/name_error/unbound_local.log",
        """
        import time


        def validate(batches):
            for batch in batches:
                loss = sum(batch) / len(batch)
            print(f"validation loss {loss:.3f}")


        for epoch in range(3):
            print(f"epoch {epoch} done", flush=True)
            time.sleep(0.1)
            validate([[1.0, 2.0]] * (2 - epoch))
        """,
    ),
    program(
        "crashes/syntax_error/config_module.log",
        "import settings\n",
        settings__py="LEARNING_RATE = 3e-4\nLAYERS = [64, 64\nDROPOUT = 0.1\n",
    ),
    program(
        "crashes/syntax_error/main_file.log",
        'def train(steps)\n    print("training", steps)\n\n\ntrain(10)\n',
    ),
    program(
        "crashes/syntax_error/indentation.log",
        "print('starting')\nfrom model import Model\n",
        model__py="class Model:\n    def forward(self, x):\n        y = x + 1\n         return y\n",
    ),
    loop(
        "crashes/runtime_error/shapes.log",
        step="if step == 6:\n    features = features[:, :12]",
    ),
    loop(
        "crashes/runtime_error/size_of_tensor.log",
        forward="if features.shape[0] == 16 and not self.training:\n    pass\nhidden = hidden + torch.zeros(31)",
    ),
    loop("crashes/runtime_error/backward_twice.log", loss="loss.backward()"),
    loop(
        "crashes/runtime_error/collate.log",
        script="python train.py --workers 2",
        item="if index == 90:\n    return torch.randn(15), label",
    ),
    loop("crashes/runtime_error/dtype.log", step="features = features.double()"),
    trainer(
        "crashes/runtime_error/trainer_in_place.log",
        model="model.lm_head.weight.data = model.lm_head.weight.data[:, :12]",
    ),
    ranks(
        "crashes/runtime_error/unused_parameters.log",
        ready="model.register_module('side', torch.nn.Linear(2, 2))\nmodel = DistributedDataParallel(torch.nn.ModuleDict({'a': torch.nn.Linear(16, 4), 'b': torch.nn.Linear(16, 4)}))\nmodel.forward_plain = model.forward\nmodel.module.forward = lambda x: model.module['a'](x)",
    ),
    loop(
        "crashes/zero_division_error/loop.log",
        epoch="correct, seen = 0, 0\nlog.info('accuracy %.3f', correct / seen)",
    ),
    program(
        "crashes/zero_division_error/in_thread_that_feeds.log",
        """
        import queue
        import sys
        import threading

        batches = queue.Queue()


        def feed(sizes):
            for size in sizes:
                batches.put([1.0 / size] * size)


        feeder = threading.Thread(target=feed, args=([4, 2, 0, 3],), name="feeder")
        feeder.start()
        step = 0
        while feeder.is_alive() or not batches.empty():
            batch = batches.get()
            step += 1
            print(f"step {step} loss {sum(batch):.4f}", flush=True)
            feeder.join(0.1)
        if step < 4:
            print(f"feeder stopped after {step} of 4 batches", file=sys.stderr)
            sys.exit(1)
        """,
    ),
    program(
        "crashes/not_implemented_error/abstract_method.log",
        """
        import torch


        class Student(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = torch.nn.Linear(4, 4)


        print("distilling from teacher", flush=True)
        student = Student()
        student(torch.zeros(2, 4))
        """,
    ),
    lightning(
        "crashes/not_implemented_error/lightning_step.log",
        step="if batch_idx == 6:\n    raise NotImplementedError('mixup for regression')",
    ),
    loop(
        "crashes/not_implemented_error/meta_tensor.log",
        start="probe = nn.Linear(4, 4, device='meta').to('cpu')",
    ),
    program(
        "crashes/os_error/is_a_directory.log",
        """
        import os

        os.makedirs("out/checkpoint-100", exist_ok=True)
        print("saving to out/checkpoint-100", flush=True)
        with open("out/checkpoint-100", "wb") as file:
            file.write(b"weights")
        """,
    ),
    program(
        "crashes/os_error/file_exists.log",
        """
        import os

        for epoch in range(3):
            print(f"epoch {epoch}: saving", flush=True)
            os.makedirs("out/best")
        """,
    ),
    program(
        "crashes/os_error/not_empty_after_training.log",
        """
        import os
        from pathlib import Path

        Path("out/old").mkdir(parents=True)
        Path("out/new").mkdir()
        Path("out/new/model.bin").write_bytes(b"1")
        Path("out/old/model.bin").write_bytes(b"0")
        print("step 100/100 loss 0.412", flush=True)
        os.rename("out/old", "out/new")
        """,
    ),
    program(
        "crashes/python_exception/own_class.log",
        """
        import time


        class BudgetExceeded(Exception):
            pass


        class Budget:
            def __init__(self, tokens):
                self.tokens = tokens

            def spend(self, tokens):
                self.tokens -= tokens
                if self.tokens < 0:
                    raise BudgetExceeded(f"{-self.tokens} tokens over the budget of the curriculum")


        budget = Budget(1000)
        for step in range(10):
            print(f"{step}: 300 tokens", flush=True)
            time.sleep(0.02)
            budget.spend(300)
        """,
    ),
    program(
        "crashes/python_exception/queue_empty.log",
        """
        import queue

        rollouts = queue.Queue()
        for number in range(3):
            rollouts.put(number)
        while True:
            print("learner got rollout", rollouts.get(timeout=0.2), flush=True)
        """,
    ),
    lightning(
        "crashes/python_exception/lightning_misconfiguration.log",
        start="model.configure_optimizers = lambda: 'adam'",
        trainer="overfit_batches=2",
    ),
    program(
        "crashes/python_exception/exception_group.log",
        """
        import asyncio


        class ShardBroken(Exception):
            pass


        async def fetch(shard):
            await asyncio.sleep(0.01 * shard)
            if shard == 3:
                raise ShardBroken(f"shard {shard} has no index")
            print(f"shard {shard} read", flush=True)


        async def main():
            async with asyncio.TaskGroup() as group:
                for shard in range(5):
                    group.create_task(fetch(shard))


        asyncio.run(main())
        """,
    ),
    program(
        "crashes/key_error/exception_group.log",
        """
        from concurrent.futures import ThreadPoolExecutor

        TABLE = {"en": 0, "de": 1}


        def encode(language):
            return TABLE[language]


        failures = []
        with ThreadPoolExecutor(2) as pool:
            for future in [pool.submit(encode, name) for name in ("en", "fr", "de")]:
                try:
                    print(future.result(), flush=True)
                except KeyError as failure:
                    failures.append(failure)
        if failures:
            raise ExceptionGroup("preprocessing failed", failures)
        """,
    ),
    program(
        "crashes/key_error/during_handling.log",
        """
        CACHE = {}


        def vector(word):
            try:
                return CACHE[word]
            except KeyError:
                return fallback[word]


        fallback = {"cat": [0.1, 0.2]}
        for word in ("cat", "dog"):
            print(word, vector(word), flush=True)
        """,
    ),
    program(
        "crashes/attribute_error/during_handling_of_cleanup.log",
        """
        class Logger:
            run = None

            def close(self):
                self.run.finish()


        def train(logger):
            print("step 1 loss 2.31", flush=True)
            print("step 2 loss 2.12", flush=True)
            return undefined_step(3)


        def undefined_step(step):
            weights = None
            return weights.grad


        logger = Logger()
        try:
            train(logger)
        finally:
            logger.close()
        """,
    ),
    program(
        "crashes/value_error/direct_cause.log",
        """
        import json


        class Row:
            def __init__(self, text):
                self.score = float(json.loads(text)["score"])


        def load(rows):
            for number, text in enumerate(rows):
                try:
                    yield Row(text)
                except ValueError as failure:
                    raise RuntimeError(f"row {number} cannot be used") from failure


        for row in load(['{"score": "0.5"}', '{"score": "0,7"}']):
            print(row.score, flush=True)
        """,
    ),
    program(
        "crashes/type_error/spawned_rank.log",
        """
        import torch.multiprocessing as mp


        def work(rank, size):
            print(f"rank {rank} of {size} started", flush=True)
            if rank == 1:
                len(rank)


        if __name__ == "__main__":
            mp.spawn(work, (2,), nprocs=2)
        """,
    ),
    program(
        "crashes/value_error/pool_worker.log",
        """
        import multiprocessing


        def tokenize(text):
            if not text:
                raise ValueError("empty document")
            return len(text.split())


        if __name__ == "__main__":
            with multiprocessing.Pool(2) as pool:
                for count in pool.imap(tokenize, ["a b", "c", "d e f", "", "g"]):
                    print("tokens", count, flush=True)
        """,
    ),
    program(
        "crashes/index_error/subprocess_of_launcher.log",
        "import subprocess\nimport sys\n\nprint('launching', flush=True)\n"
        "subprocess.run([sys.executable, 'worker.py'], check=True)\n",
        worker__py="shards = ['a', 'b']\nprint('shard', shards[0])\nprint('shard', shards[2])\n",
    ),
    program(
        "crashes/name_error/logged_with_logging_exception.log",
        """
        import logging
        import sys

        logging.basicConfig(level=logging.INFO, format="[%(asctime)s][%(name)s][%(levelname)s] - %(message)s")
        log = logging.getLogger("main")


        def main():
            log.info("epoch 0")
            log.info("lr %f", schedule(0))


        def schedule(step):
            return base_lr * 0.9**step


        try:
            main()
        except Exception:
            log.exception("training failed")
            sys.exit(1)
        """,
    ),
    program(
        "crashes/zero_division_error/rich_traceback.log",
        """
        from rich.traceback import install

        install(width=100)


        def accuracy(correct, seen):
            return correct / seen


        print("step 10 accuracy", accuracy(9, 10), flush=True)
        print("evaluating an empty split", flush=True)
        print(accuracy(0, 0))
        """,
    ),
    program(
        "crashes/assertion_error/ansi_colours.log",
        """
        import sys

        RED, GREEN, END = "\\x1b[31m", "\\x1b[32m", "\\x1b[0m"
        for step in range(5):
            print(f"{GREEN}INFO{END} step {step} \\x1b[1mloss{END} {2 / (step + 1):.3f}", flush=True)


        def hook(kind, value, trace):
            import traceback

            text = "".join(traceback.format_exception(kind, value, trace)).rstrip()
            print("\\n".join(f"{RED}{line}{END}" for line in text.split("\\n")), file=sys.stderr)


        sys.excepthook = hook
        assert step == 5, "expected five steps"
        """,
    ),
    program(
        "crashes/type_error/crlf.log",
        """
        import math

        for step in range(4):
            print(f"step {step} loss {math.exp(-step):.4f}", flush=True)
        math.exp("4")
        """,
        script="python train.py 2>&1 | sed 's/$/\\r/'",
    ),
    program(
        "crashes/index_error/two_runs_in_one_file.log",
        """
        import sys

        run = int(sys.argv[1])
        print(f"=== run {run} ===", flush=True)
        for step in range(5):
            print(f"step {step} loss {1 / (step + 1):.3f}", flush=True)
        if run == 1:
            {}["steps"]
        [].pop()
        """,
        script="python train.py 1\npython train.py 2",
    ),
    ranks(
        "crashes/index_error/all_ranks_the_same.log",
        script="ranks 4 train.py",
        step="if step == 10:\n    names = ['a', 'b']\n    names[step]",
    ),
    ranks(
        "crashes/attribute_error/first_rank_of_four.log",
        script="ranks 4 train.py",
        step="if RANK == 0 and step == 15:\n    None.save('out')",
    ),
    ranks(
        "crashes/runtime_error/rank_logs_one_after_the_other.log",
        script="ranks 4 --log-dir logs --redirects 3 train.py 2> launcher\ncat logs/*/attempt_0/*/*.log launcher",
        step="if RANK == 3 and step == 9:\n    torch.zeros(3) @ torch.zeros(4)",
    ),
    ranks(
        "crashes/type_error/rank_logs_one_after_the_other.log",
        script="ranks 2 --log-dir logs --redirects 3 train.py 2> launcher\ncat launcher logs/*/attempt_0/*/std*.log",
        step="if RANK == 1 and step == 9:\n    batch['input'].view('flat')",
    ),
    ranks(
        "crashes/zero_division_error/rank_with_prefix.log",
        script="ranks 2 --role trainer --tee 3 --log-dir logs train.py",
        step="if RANK == 1 and step == 20:\n    1 / (step - 20)",
    ),
    trainer(
        "crashes/value_error/trainer_no_labels.log",
        ready="trainer.train_dataset = [{'input_ids': [1, 2, 3]}] * 64",
    ),
    trainer(
        "crashes/type_error/trainer_collator.log", ready="trainer.data_collator = lambda rows, features: rows"
    ),
    trainer(
        "crashes/assertion_error/trainer_data_worker.log",
        arguments="dataloader_num_workers=2,",
        item="assert index != 61, 'line 61 is longer than the context'",
    ),
    lightning("crashes/attribute_error/lightning_validation.log", validation="self.metric.update(inputs)"),
    lightning(
        "crashes/key_error/lightning_checkpoint_monitor.log",
        step="if batch_idx == 9:\n    batch = {'x': inputs}\n    batch['y']",
    ),
    daemon("crashes/runtime_error/training_daemon.log", "--crash-at 40 --crash-kind exception"),
    daemon("crashes/unknown/training_daemon_exit1.log", "--crash-at 40 --crash-kind exit1"),
    daemon("crashes/process_killed/training_daemon.log", "--crash-at 60 --crash-kind sigkill"),
    daemon("crashes/segfault/training_daemon.log", "--crash-at 60 --crash-kind sigsegv"),
    daemon("crashes/host_oom/training_daemon.log", "--crash-at 50 --crash-kind memory"),
    daemon("crashes/disk_full/training_daemon.log", "--crash-at 50 --crash-kind disk-full"),
    daemon("crashes/numerical/training_daemon.log", "--crash-at 50 --crash-kind nan"),
    daemon("healthy/training_daemon.log", ""),
    program(
        "crashes/unknown/exit_code_only.log",
        """
        import os
        import time

        for step in range(8):
            print(f"step {step} loss {3 / (step + 1):.3f}", flush=True)
            time.sleep(0.02)
        os._exit(3)
        """,
        script='python train.py\ncode=$?\necho "$(date -u +%FT%TZ) train.py ended with exit code $code"',
    ),
    ranks("crashes/unknown/rank_exits_one.log", step="if step == 10:\n    sys.exit(1)"),
]

RESOURCES: list[Case] = [
    # Memory of the host.
    loop(
        "crashes/host_oom/cgroup_kill_with_kernel_lines.log",
        script="kernel_begin\n(memory_group 520M; exec python train.py)\nkernel_lines",
        start="kept = []",
        epoch="for _ in range(40):\n    kept.append(torch.ones(4_000_000))",
        loss="",
    ),
    loop(
        "crashes/host_oom/data_worker_cgroup_kill.log",
        script="kernel_begin\n(memory_group 700M; exec python train.py --workers 1)\nkernel_lines",
        item="if index >= 60:\n    self.cache = getattr(self, 'cache', []) + [torch.ones(20_000_000)]",
    ),
    loop("crashes/host_oom/cpu_allocator.log", epoch="torch.empty(1 << 47, dtype=torch.uint8)"),
    loop(
        "crashes/host_oom/address_space_limit_torch.log",
        script="ulimit -v 6000000\npython train.py",
        epoch="activations = [torch.zeros(64, 1024, 1024) for _ in range(60)]",
    ),
    program(
        "crashes/host_oom/memory_error.log",
        """
        import time

        lines = []
        for shard in range(1000):
            print(f"shard {shard}: {len(lines)} lines in memory", flush=True)
            lines.extend([str(number) * 20 for number in range(200_000)])
        """,
        script="ulimit -v 400000\npython train.py",
    ),
    program(
        "crashes/host_oom/fork_cannot_allocate.log",
        """
        import mmap
        import os

        table = mmap.mmap(-1, 600_000_000)
        print("embedding table mapped", flush=True)
        cache = mmap.mmap(-1, 600_000_000)
        """,
        script="ulimit -v 800000\npython train.py",
    ),
    ranks(
        "crashes/host_oom/rank_killed_by_cgroup.log",
        script="kernel_begin\n(memory_group 1100M; ranks 2 train.py)\nkernel_lines",
        step="if RANK == 1 and step > 10:\n    globals().setdefault('kept', []).append(torch.ones(30_000_000))",
    ),
    program(
        "crashes/host_oom/arrow_out_of_memory.log",
        """
        import pyarrow

        print("tokenizing 1,200,000 rows", flush=True)
        pyarrow.allocate_buffer(3_000_000_000)
        """,
        script="ulimit -v 2000000\npython train.py",
    ),
    # Shared memory.
    loop(
        "crashes/shared_memory/data_workers.log",
        script="mount -t tmpfs -o size=1m tmpfs /dev/shm\npython train.py --workers 2",
        item="return torch.randn(20_000), label",
    ),
    program(
        "crashes/shared_memory/share_memory.log",
        """
        import torch

        print("sharing the replay buffer", flush=True)
        torch.zeros(1_000_000).share_memory_()
        """,
        script="mount -t tmpfs -o size=1m tmpfs /dev/shm\npython train.py",
    ),
    program(
        "crashes/shared_memory/bus_error_in_a_segment.log",
        """
        from multiprocessing import shared_memory

        import numpy

        segment = shared_memory.SharedMemory(create=True, size=8_000_000, name="replay_buffer")
        print("replay buffer: 8,000,000 bytes in /dev/shm", flush=True)
        buffer = numpy.ndarray((1_000_000,), numpy.float64, segment.buf)
        buffer[:] = 1.0
        """,
        script="mount -t tmpfs -o size=1m tmpfs /dev/shm\nPYTHONFAULTHANDLER=1 python train.py",
    ),
    trainer(
        "crashes/shared_memory/trainer_data_workers.log",
        script="mount -t tmpfs -o size=1m tmpfs /dev/shm\npython finetune.py",
        arguments="dataloader_num_workers=2,",
        item="tokens = torch.zeros(40_000, dtype=torch.long)",
    ),
    ranks(
        "crashes/shared_memory/rank_one_of_two.log",
        script="mount -t tmpfs -o size=1m tmpfs /dev/shm\nranks 2 train.py",
        step="if RANK == 1 and step == 7:\n    torch.zeros(500_000).share_memory_()",
    ),
    # A full disk.
    loop(
        "crashes/disk_full/torch_save.log",
        script="mkdir out; mount -t tmpfs -o size=1m tmpfs out\npython train.py",
        epoch="torch.save({'model': model.state_dict(), 'cache': torch.zeros(500_000)}, f'out/epoch-{epoch}.pt')",
    ),
    loop(
        "crashes/disk_full/torch_save_old_format.log",
        script="mkdir out; mount -t tmpfs -o size=1m tmpfs out\npython train.py",
        epoch="torch.save(torch.zeros(500_000), 'out/cache.pt', _use_new_zipfile_serialization=False)",
    ),
    program(
        "crashes/disk_full/safetensors.log",
        """
        import torch
        from safetensors.torch import save_file

        for step in range(3):
            print(f"step {step}: saving out/model-{step}.safetensors", flush=True)
            save_file({"weight": torch.zeros(100_000)}, f"out/model-{step}.safetensors")
        """,
        script="mkdir out; mount -t tmpfs -o size=1m tmpfs out\npython train.py",
    ),
    trainer(
        "crashes/disk_full/trainer_checkpoint.log",
        script="mkdir out; mount -t tmpfs -o size=150k tmpfs out\npython finetune.py",
    ),
    program(
        "crashes/disk_full/plain_write.log",
        """
        import json

        with open("out/metrics.jsonl", "w") as file:
            for step in range(100_000):
                file.write(json.dumps({"step": step, "loss": 2.0 / (step + 1)}) + "\\n")
                if step % 4000 == 0:
                    print(f"step {step}", flush=True)
        """,
        script="mkdir out; mount -t tmpfs -o size=1m tmpfs out\npython train.py",
    ),
    program(
        "crashes/disk_full/numpy_save.log",
        """
        import numpy

        for shard in range(8):
            print(f"writing out/shard-{shard}.npy", flush=True)
            numpy.save(f"out/shard-{shard}.npy", numpy.zeros(50_000))
        """,
        script="mkdir out; mount -t tmpfs -o size=1m tmpfs out\npython train.py",
    ),
    program(
        "crashes/disk_full/no_inodes.log",
        """
        from pathlib import Path

        for sample in range(200):
            Path(f"out/sample-{sample}.txt").write_text("x")
            if sample % 10 == 0:
                print(f"extracted {sample} samples", flush=True)
        """,
        script="mkdir out; mount -t tmpfs -o nr_inodes=60 tmpfs out\npython train.py",
    ),
    program(
        "crashes/disk_full/sqlite.log",
        """
        import sqlite3

        store = sqlite3.connect("out/trials.db")
        store.execute("CREATE TABLE trial (number INTEGER, value TEXT)")
        for trial in range(500):
            store.execute("INSERT INTO trial VALUES (?, ?)", (trial, "x" * 9000))
            store.commit()
            if trial % 25 == 0:
                print(f"trial {trial} finished", flush=True)
        """,
        script="mkdir out; mount -t tmpfs -o size=1m tmpfs out\npython train.py",
    ),
    program(
        "crashes/disk_full/datasets_map.log",
        """
        import datasets

        rows = datasets.Dataset.from_dict({"text": ["a b c"] * 20_000})
        print("tokenizing", flush=True)
        rows.map(lambda row: {"ids": list(range(60))}, cache_file_name="out/cache.arrow", writer_batch_size=500)
        """,
        script="mkdir out; mount -t tmpfs -o size=1m tmpfs out\npython train.py",
    ),
    lightning(
        "crashes/disk_full/lightning_checkpoint.log",
        script="mkdir out; mount -t tmpfs -o size=64k tmpfs out\npython fit.py",
        start="model.ballast = torch.nn.Parameter(torch.zeros(40_000))",
        trainer="default_root_dir='out'",
    ),
    ranks(
        "crashes/disk_full/rank_zero_of_two.log",
        script="mkdir out; mount -t tmpfs -o size=1m tmpfs out\nranks 2 train.py",
        step="if RANK == 0 and step == 10:\n    torch.save(torch.zeros(500_000), 'out/step-10.pt')",
    ),
    # Descriptors, processes, threads.
    program(
        "crashes/too_many_files/open.log",
        """
        from pathlib import Path

        for number in range(60):
            Path(f"shard-{number}.txt").write_text("data")
        files = []
        for number in range(60):
            files.append(open(f"shard-{number}.txt"))
            if number % 8 == 0:
                print(f"opened {number} shards", flush=True)
        """,
        script="ulimit -n 40\npython train.py",
    ),
    loop(
        "crashes/too_many_files/data_workers.log",
        script="ulimit -n 64\ntimeout -s KILL 15 python train.py --workers 2",
        item="return [torch.randn(3) for _ in range(30)], label",
        step="globals().setdefault('kept', []).extend(features)\nfeatures = torch.randn(16, 16)",
    ),
    program(
        "crashes/too_many_files/threads.log",
        """
        import threading
        import time

        for number in range(100):
            threading.Thread(target=time.sleep, args=(1,), daemon=True).start()
            if number % 10 == 0:
                print(f"{number} prefetching threads", flush=True)
        """,
        script="G=/sys/fs/cgroup/pids/job_4711_$$; mkdir $G; echo 30 > $G/pids.max\n"
        "(echo $BASHPID > $G/cgroup.procs; exec python train.py)\nrmdir $G",
    ),
    program(
        "crashes/too_many_files/fork.log",
        """
        import subprocess

        workers = []
        for number in range(100):
            workers.append(subprocess.Popen(["sleep", "1"]))
            if number % 5 == 0:
                print(f"{number} environments started", flush=True)
        """,
        script="G=/sys/fs/cgroup/pids/job_4711_$$; mkdir $G; echo 20 > $G/pids.max\n"
        "(echo $BASHPID > $G/cgroup.procs; exec python train.py)\nsleep 1.5; rmdir $G",
    ),
    program(
        "crashes/too_many_files/openmp.log",
        """
        import torch

        torch.set_num_threads(64)
        print("threads:", torch.get_num_threads(), flush=True)
        print(torch.randn(2000, 2000) @ torch.randn(2000, 2000))
        """,
        script="export OMP_NUM_THREADS=64\nG=/sys/fs/cgroup/pids/job_4711_$$; mkdir $G; echo 12 > $G/pids.max\n"
        "(echo $BASHPID > $G/cgroup.procs; exec python train.py)\nrmdir $G",
    ),
    # Storage.
    program(
        "crashes/storage_error/read_only.log",
        """
        import subprocess
        import time

        for step in range(4):
            print(f"step {step}: saving", flush=True)
            with open(f"disk/step-{step}.bin", "wb") as file:
                file.write(b"0" * 100)
            if step == 1:
                subprocess.run(["mount", "-o", "remount,ro", "disk"], check=True)
        """,
        script="alone\ntruncate -s 8M image; mkfs.ext4 -q image; mkdir disk; mount -o loop image disk\npython train.py\numount disk",
    ),
    loop(
        "crashes/storage_error/aborted_file_system.log",
        script="kernel_begin\ntruncate -s 8M image; mkfs.ext4 -q image; mkdir disk; mount -o loop image disk\n"
        "(sleep 3; mount -o remount,abort disk 2> /dev/null) &\npython train.py --epochs 12\nwait\numount disk\nkernel_lines",
        step="with open(f'disk/step-{epoch}-{step}.txt', 'w') as file:\n    file.write(str(epoch))\n    file.flush()\n    os.fsync(file.fileno())",
    ),
    loop(
        "crashes/storage_error/torch_save_on_read_only.log",
        script="alone\ntruncate -s 8M image; mkfs.ext4 -q image; mkdir disk; mount -o loop,ro image disk\npython train.py\numount disk",
        epoch="torch.save(model.state_dict(), 'disk/model.pt')",
    ),
    program(
        "crashes/storage_error/input_output_error.log",
        """
        import fcntl
        import os
        import struct

        folder = os.open("disk", os.O_RDONLY)
        for step in range(4):
            print(f"step {step}: saving", flush=True)
            with open(f"disk/step-{step}.bin", "wb") as file:
                file.write(b"0" * 100)
                file.flush()
                os.fsync(file.fileno())
            if step == 1:
                fcntl.ioctl(folder, 0x8004587D, struct.pack("I", 2))  # shuts an ext4 file system down
        """,
        script="kernel_begin\ntruncate -s 8M image; mkfs.ext4 -q image; mkdir disk; mount -o loop image disk\n"
        "python train.py\numount disk\nkernel_lines",
    ),
    program(
        "crashes/storage_error/safetensors_read_only.log",
        """
        import torch
        from safetensors.torch import save_file

        print("saving", flush=True)
        save_file({"w": torch.zeros(3)}, "disk/model.safetensors")
        """,
        script="alone\ntruncate -s 8M image; mkfs.ext4 -q image; mkdir disk; mount -o loop,ro image disk\npython train.py\numount disk",
    ),
    program(
        "crashes/storage_error/documented_stale_handle.log",
        """
        import errno
        import os

        import faults

        faults.at(os, "listdir", 4, OSError(errno.ESTALE, os.strerror(errno.ESTALE), "/mnt/nfs/cache/triton"))
        for step in range(5):
            print(f"step {step}: {len(os.listdir('.')) > 0}", flush=True)
        """,
    ),
    program(
        "crashes/storage_error/documented_transport_endpoint.log",
        """
        import errno
        import io
        import os

        import faults

        faults.at(os, "stat", 4, OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN), "/mnt/fuse/data/shard-0003.tar"))
        for number in range(6):
            os.stat(".")
            print(f"shard {number} opened", flush=True)
        """,
    ),
]

GPU: list[Case] = [
    # There is no GPU here: the message is the documented one, the program around it is real.
    loop(
        "crashes/cuda_oom/documented_torch.log",
        start="import faults\nfaults.at(nn.functional, 'linear', 9, torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total capacity of 23.65 GiB of which 812.44 MiB is free. Including non-PyTorch memory, this process has 22.84 GiB memory in use. Of the allocated memory 17.02 GiB is allocated by PyTorch, and 5.31 GiB is reserved by PyTorch but unallocated. If reserved but unallocated memory is large try setting PYTORCH_ALLOC_CONF=expandable_segments:True to avoid fragmentation.  See documentation for Memory Management  (https://pytorch.org/docs/stable/notes/cuda.html#environment-variables)'))",
    ),
    loop(
        "crashes/cuda_oom/documented_torch_1.log",
        start="import faults\nfaults.at(nn.functional, 'linear', 21, RuntimeError('CUDA out of memory. Tried to allocate 246.00 MiB (GPU 0; 10.76 GiB total capacity; 9.11 GiB already allocated; 61.19 MiB free; 9.73 GiB reserved in total by PyTorch) If reserved memory is >> allocated memory try setting max_split_size_mb to avoid fragmentation.  See documentation for Memory Management and PYTORCH_CUDA_ALLOC_CONF'))",
    ),
    ranks(
        "crashes/cuda_oom/documented_rank_two_of_four.log",
        script="ranks 4 train.py",
        start="import faults\nif RANK == 2:\n    faults.at(torch.nn.functional, 'linear', 19, torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 3.00 GiB. GPU 2 has a total capacity of 79.11 GiB of which 1.94 GiB is free. Process 41277 has 31.02 GiB memory in use. Including non-PyTorch memory, this process has 46.13 GiB memory in use. Of the allocated memory 44.40 GiB is allocated by PyTorch, and 310.55 MiB is reserved by PyTorch but unallocated.'))",
    ),
    trainer(
        "crashes/cuda_oom/documented_trainer.log",
        ready="import faults\nfaults.at(torch.nn.functional, 'dropout', 25, torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 MiB. GPU 1 has a total capacity of 15.77 GiB of which 5.88 MiB is free. Including non-PyTorch memory, this process has 15.76 GiB memory in use. Of the allocated memory 14.91 GiB is allocated by PyTorch, and 402.18 MiB is reserved by PyTorch but unallocated.'))",
    ),
    loop(
        "crashes/cuda_oom/documented_cublas_create.log",
        start="import faults\nfaults.at(nn.functional, 'linear', 3, RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`'))",
    ),
    loop(
        "crashes/cuda_oom/documented_hip.log",
        start="import faults\nfaults.at(nn.functional, 'linear', 12, torch.OutOfMemoryError('HIP out of memory. Tried to allocate 640.00 MiB. GPU 3 has a total capacity of 63.98 GiB of which 226.00 MiB is free. Of the allocated memory 61.70 GiB is allocated by PyTorch, and 1.12 GiB is reserved by PyTorch but unallocated.'))",
    ),
    lightning(
        "crashes/cuda_oom/documented_lightning.log",
        start="import faults\nfaults.at(torch.nn.functional, 'linear', 14, torch.AcceleratorError('CUDA error: out of memory\\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.\\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\\n'))",
    ),
    program(
        "crashes/cuda_oom/documented_jax.log",
        """
        import faults


        class XlaRuntimeError(RuntimeError):
            __module__ = "jaxlib._jax"


        class Executable:
            def run(self, step):
                return step


        executable = Executable()
        text = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 12884901888 bytes."
        faults.at(Executable, "run", 5, XlaRuntimeError(text))
        for step in range(10):
            executable.run(step)
            print(f"I1124 09:12:0{step}.114523 140211 train.py:88] step {step} loss {4 / (step + 1):.3f}", flush=True)
        """,
    ),
    loop(
        "crashes/cuda_error/documented_illegal_access.log",
        start="import faults\nfaults.at(nn.functional, 'cross_entropy', 22, torch.AcceleratorError('CUDA error: an illegal memory access was encountered\\nSearch for `cudaErrorIllegalAddress\\' in https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html for more information.\\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.\\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\\n'))",
    ),
    loop(
        "crashes/cuda_error/documented_device_assert.log",
        imports="\ndef kernel_says():\n    for thread in (3, 11, 12):\n        print(f'/pytorch/aten/src/ATen/native/cuda/Loss.cu:245: nll_loss_forward_reduce_cuda_kernel_2d: block: [0,0,0], thread: [{thread},0,0] Assertion `t >= 0 && t < n_classes` failed.', file=sys.stderr)\n",
        start="import faults\nfaults.at(nn.functional, 'cross_entropy', 8, RuntimeError('CUDA error: device-side assert triggered\\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.\\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\\n'), kernel_says)",
    ),
    trainer(
        "crashes/cuda_error/documented_index_assert_trainer.log",
        imports="\ndef kernel_says():\n    for thread in range(64, 70):\n        print(f'/pytorch/aten/src/ATen/native/cuda/Indexing.cu:1553: indexSelectLargeIndex: block: [214,0,0], thread: [{thread},0,0] Assertion `srcIndex < srcSelectDimSize` failed.', file=sys.stderr)\n",
        ready="import faults\nfaults.at(torch.nn.functional, 'embedding', 17, torch.AcceleratorError('CUDA error: device-side assert triggered\\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.\\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\\n'), kernel_says)",
    ),
    loop(
        "crashes/cuda_error/documented_launch_failure.log",
        start="import faults\nfaults.at(nn.functional, 'cross_entropy', 27, RuntimeError('CUDA error: unspecified launch failure\\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\\n'))",
    ),
    loop(
        "crashes/cuda_error/documented_misaligned.log",
        start="import faults\nfaults.at(nn.functional, 'cross_entropy', 5, RuntimeError('CUDA error: misaligned address'))",
    ),
    loop(
        "crashes/cuda_error/documented_cublas_execution.log",
        start="import faults\nfaults.at(nn.functional, 'linear', 17, RuntimeError('CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle, opa, opb, m, n, k, &alpha, a, lda, b, ldb, &beta, c, ldc)`'))",
    ),
    loop(
        "crashes/cuda_error/documented_cudnn_execution.log",
        start="import faults\nfaults.at(nn.functional, 'linear', 11, RuntimeError('cuDNN error: CUDNN_STATUS_EXECUTION_FAILED'))",
    ),
    ranks(
        "crashes/cuda_error/documented_one_rank_of_four.log",
        script="ranks 4 train.py",
        start="import faults\nif RANK == 1:\n    faults.at(torch.nn.functional, 'mse_loss', 13, torch.AcceleratorError('CUDA error: an illegal memory access was encountered\\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.\\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\\n'))",
    ),
    loop(
        "crashes/gpu_hardware/documented_ecc.log",
        start="import faults\nfaults.at(nn.functional, 'cross_entropy', 19, torch.AcceleratorError('CUDA error: uncorrectable ECC error encountered\\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.\\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\\n'))",
    ),
    ranks(
        "crashes/gpu_hardware/documented_ecc_rank_three_of_four.log",
        script="ranks 4 train.py",
        start="import faults\nif RANK == 3:\n    faults.at(torch.nn.functional, 'mse_loss', 16, RuntimeError('CUDA error: uncorrectable ECC error encountered\\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\\n'))",
    ),
    loop(
        "crashes/gpu_hardware/documented_fallen_off_the_bus.log",
        script="python train.py\ncat kernel.txt",
        start="import faults\nwith open('kernel.txt', 'w') as kernel:\n    kernel.write('[884213.114021] NVRM: GPU at PCI:0000:41:00: GPU-6e0b3a52-1f0c-4a2e-9d55-0c7a1b2f9e31\\n[884213.114030] NVRM: Xid (PCI:0000:41:00): 79, pid=\\'<unknown>\\', name=<unknown>, GPU has fallen off the bus.\\n[884213.114033] NVRM: GPU 0000:41:00.0: GPU has fallen off the bus.\\n')\nfaults.at(nn.functional, 'linear', 31, RuntimeError('CUDA error: unspecified launch failure\\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\\n'))",
    ),
    program(
        "crashes/gpu_driver/nvml_not_found.log",
        """
        import pynvml

        print("reading GPU memory before training", flush=True)
        pynvml.nvmlInit()
        """,
    ),
    loop(
        "crashes/gpu_driver/documented_no_driver.log",
        start="import faults\nfaults.at(nn.Module, 'to', 1, RuntimeError('Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a driver from http://www.nvidia.com/Download/index.aspx'))",
        ready="model.to('cuda')",
    ),
    loop(
        "crashes/gpu_driver/documented_no_gpus_available.log",
        start="import faults\nfaults.at(nn.Module, 'to', 1, RuntimeError('No CUDA GPUs are available'))",
        ready="model.to('cuda')",
    ),
    loop(
        "crashes/gpu_driver/documented_no_kernel_image.log",
        imports="\ndef warn():\n    import warnings\n\n    warnings.warn('\\nNVIDIA GeForce RTX 5090 with CUDA capability sm_120 is not compatible with the current PyTorch installation.\\nThe current PyTorch install supports CUDA capabilities sm_50 sm_60 sm_70 sm_75 sm_80 sm_86 sm_90.\\n', stacklevel=1)\n",
        start="import faults\nfaults.at(nn.functional, 'linear', 1, RuntimeError('CUDA error: no kernel image is available for execution on the device\\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.\\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\\n'), warn)",
    ),
    loop(
        "crashes/gpu_driver/documented_driver_too_old.log",
        start="import faults\nfaults.at(nn.Module, 'to', 1, RuntimeError('The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by downloading and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx Alternatively, go to: https://pytorch.org to install a PyTorch version that has been compiled with your version of the CUDA driver.'))",
        ready="model.to('cuda')",
    ),
    program(
        "crashes/assertion_error/torch_without_cuda.log",
        """
        import torch

        print("torch", torch.__version__, flush=True)
        model = torch.nn.Linear(4, 4).to("cuda")
        """,
    ),
]

COLLECTIVES: list[Case] = [
    ranks(
        "crashes/collective_timeout/all_reduce.log",
        timeout="4",
        step="if RANK == 1 and step == 12:\n    time.sleep(30)",
    ),
    ranks(
        "crashes/collective_timeout/barrier_of_four.log",
        script="ranks 4 train.py",
        timeout="4",
        end="if RANK == 3:\n    time.sleep(30)\ndist.barrier()",
    ),
    ranks(
        "crashes/collective_timeout/monitored_barrier.log",
        script="ranks 4 train.py",
        timeout="20",
        steps="12",
        end="if RANK == 2:\n    time.sleep(25)\ndist.monitored_barrier(timeout=datetime.timedelta(seconds=3))",
    ),
    ranks(
        "crashes/collective_timeout/broadcast_object.log",
        timeout="4",
        steps="6",
        end="if RANK == 0:\n    time.sleep(30)\ndist.broadcast_object_list([None], src=0)",
    ),
    program(
        "crashes/collective_timeout/only_one_of_two_joined.log",
        """
        import datetime

        import torch.distributed as dist

        print("joining as rank 0 of 2", flush=True)
        dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=4))
        """,
        script="MASTER_ADDR=127.0.0.1 MASTER_PORT=$PORT RANK=0 WORLD_SIZE=2 python train.py",
    ),
    program(
        "crashes/collective_timeout/store_key.log",
        """
        import datetime

        import torch.distributed as dist

        store = dist.TCPStore("127.0.0.1", int(__import__("os").environ["PORT"]), 1, True, datetime.timedelta(seconds=3))
        print("waiting for the address of rank 1", flush=True)
        store.get("address/1")
        """,
    ),
    ranks(
        "crashes/collective_timeout/rendezvous.log",
        script="torchrun --nnodes 2 --nproc-per-node 1 --rdzv-backend c10d --rdzv-endpoint 127.0.0.1:$PORT --rdzv-id 7 "
        "--rdzv-conf join_timeout=4 train.py",
    ),
    ranks(
        "crashes/collective_timeout/documented_nccl_watchdog.log",
        script="ranks 2 train.py",
        imports="\ndef watchdog(rank):\n    op = f'WorkNCCL(SeqNum=1184, OpType=ALLREDUCE, NumelIn=52428800, NumelOut=52428800, Timeout(ms)=600000)'\n    at = f'[rank{rank}]:[E1124 09:41:17.22{rank}4{rank}19 ProcessGroupNCCL.cpp'\n    print(f'{at}:685] [Rank {rank}] Watchdog caught collective operation timeout: {op} ran for 60002{rank} milliseconds before timing out.', file=sys.stderr)\n    print(f'{at}:2252] [PG ID 0 PG GUID 0(default_pg) Rank {rank}]  failure detected by watchdog at work sequence id: 1184 PG status: last enqueued work: 1186, last completed work: 1183', file=sys.stderr)\n    print(f'{at}:739] Stack trace of the failed collective not found, potentially because FlightRecorder is disabled. You can enable it by setting TORCH_NCCL_TRACE_BUFFER_SIZE to a non-zero value.', file=sys.stderr)\n    print(f'{at}:744] [Rank {rank}] Some NCCL operations have failed or timed out. Due to the asynchronous nature of CUDA kernels, subsequent GPU operations might run on corrupted/incomplete data.', file=sys.stderr)\n    print(f'{at}:758] [Rank {rank}] To avoid data inconsistency, we are taking the entire process down.', file=sys.stderr)\n    print(f\"terminate called after throwing an instance of 'c10::DistBackendError'\\n  what():  [PG ID 0 PG GUID 0(default_pg) Rank {rank}] Process group watchdog thread terminated with exception: [Rank {rank}] Watchdog caught collective operation timeout: {op} ran for 60002{rank} milliseconds before timing out.\", file=sys.stderr, flush=True)\n",
        step="if step == 11:\n    watchdog(RANK)\n    time.sleep(0.3)\n    os.abort()",
    ),
    # The peer's own log is not here, as when each node has its own file.
    program(
        "crashes/collective_error/peer_of_another_node_died.log",
        fill(RANKS),
        script="export MASTER_ADDR=127.0.0.1 MASTER_PORT=$PORT WORLD_SIZE=2\n"
        "mkdir other; (cd other; RANK=1 exec python ../train.py) > other/log 2>&1 & OTHER=$!; disown\n"
        "(until grep -q 'step 15' \"$LOG\"; do sleep 0.05; done; kill -KILL $OTHER) 2> /dev/null &\n"
        "RANK=0 python train.py",
    ),
    program(
        "crashes/collective_error/peer_lost_in_barrier.log",
        fill(RANKS, steps="8", end="time.sleep(3 * RANK)\ndist.barrier()"),
        script="export MASTER_ADDR=127.0.0.1 MASTER_PORT=$PORT WORLD_SIZE=2\n"
        "(RANK=1 exec python train.py) > other 2>&1 & OTHER=$!; disown\n"
        "(until grep -q 'step 5' \"$LOG\"; do sleep 0.05; done; sleep 1; kill -KILL $OTHER) 2> /dev/null &\n"
        "RANK=0 python train.py",
    ),
    program(
        "crashes/collective_error/peer_exited_early.log",
        fill(RANKS, step="if RANK == 1 and step == 21:\n    os._exit(0)"),
        script="export MASTER_ADDR=127.0.0.1 MASTER_PORT=$PORT WORLD_SIZE=3\n"
        "(RANK=1 exec python train.py) > other 2>&1 &\n(RANK=2 exec python train.py) 2>&1 &\nRANK=0 python train.py\nwait",
    ),
    ranks(
        "crashes/collective_error/documented_nccl_remote.log",
        start="import faults\nif RANK == 0:\n    faults.at(torch.autograd, 'backward', 14, dist.DistBackendError('NCCL error in: /pytorch/torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:3690, remote process exited or there was a network error, NCCL version 2.27.5\\nncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely.\\nLast error:\\nsocketProgress: Connection closed by remote peer node5.cluster<48112>'))",
    ),
    ranks(
        "crashes/collective_error/documented_nccl_system.log",
        imports="\ndef nccl_says():\n    print('node3:31544:31601 [1] transport/net_ib.cc:1861 NCCL WARN NET/IB: Got completion from peer 10.3.0.14<49207> with status=12 opcode=0 len=0 vendor err 129 (Send) localGid fe80::1 remoteGids fe80::2 hca mlx5_1', file=sys.stderr, flush=True)\n",
        start="import faults\nif RANK == 1:\n    faults.at(torch.autograd, 'backward', 17, dist.DistBackendError('NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:94, unhandled system error (run with NCCL_DEBUG=INFO for details), NCCL version 2.26.2\\nncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error.\\nLast error:\\nNET/IB: Got completion from peer 10.3.0.14<49207> with status=12 opcode=0 len=0 vendor err 129 (Send)'), nccl_says)",
    ),
    ranks(
        "crashes/collective_error/documented_nccl_internal.log",
        start="import faults\nif RANK == 1:\n    faults.at(torch.autograd, 'backward', 3, dist.DistBackendError('NCCL error in: /pytorch/torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:1275, internal error - please report this issue to the NCCL developers, NCCL version 2.21.5\\nncclInternalError: Internal check failed.\\nLast error:\\nProxy Call to rank 0 failed (Connect)'))",
    ),
    # A killed rank explains its peers.
    ranks(
        "crashes/process_killed/rank_of_two.log",
        step="if RANK == 1 and step == 13:\n    os.kill(os.getpid(), 9)",
    ),
    ranks(
        "crashes/process_killed/rank_of_four.log",
        script="ranks 4 train.py",
        step="if RANK == 2 and step == 22:\n    os.kill(os.getpid(), 9)",
    ),
    ranks(
        "crashes/segfault/rank_of_two.log",
        step="if RANK == 0 and step == 22:\n    os.kill(os.getpid(), 11)",
    ),
    ranks(
        "crashes/segfault/rank_aborts.log",
        script="ranks 4 train.py",
        step="if RANK == 3 and step == 6:\n    os.abort()",
    ),
    ranks("crashes/import_error/all_ranks.log", imports="import flash_attn_interface"),
    ranks(
        "crashes/file_not_found/rank_one_of_two.log",
        batch="if RANK == 1 and step == 11:\n    torch.load('/data/shards/part-11.pt')",
    ),
    ranks(
        "crashes/numerical/rank_raises_on_nan.log",
        step="if step == 9:\n    batch['input'] *= float('nan')",
        backward="if not torch.isfinite(loss):\n    raise FloatingPointError(f'Loss became infinite or NaN at iteration={step}!')",
    ),
    ranks(
        "crashes/config_error/torchrun_argument.log",
        imports="import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument('--lr', type=float)\nparser.parse_args()",
        script="ranks 2 train.py --learning-rate 1e-3",
    ),
    ranks(
        "crashes/config_error/torchrun_unknown_option.log",
        script="torchrun --nproc-per-node 2 --gpus 4 train.py",
    ),
    program(
        "crashes/config_error/rank_not_set.log",
        "import torch.distributed as dist\n\nprint('starting', flush=True)\ndist.init_process_group('gloo')\n",
    ),
    ranks(
        "crashes/connection_error/master_port_in_use.log",
        script="python -m http.server $PORT > /dev/null 2>&1 & SERVER=$!\nsleep 1\nranks 2 train.py\nkill $SERVER",
    ),
    program(
        "crashes/connection_error/rank_zero_port_in_use.log",
        fill(RANKS),
        script="python -m http.server $PORT > /dev/null 2>&1 & SERVER=$!\nsleep 1\n"
        "MASTER_ADDR=127.0.0.1 MASTER_PORT=$PORT RANK=0 WORLD_SIZE=2 python train.py\nkill $SERVER",
    ),
    program(
        "crashes/collective_timeout/master_never_came_up.log",
        fill(RANKS, timeout="4"),
        script="MASTER_ADDR=127.0.0.1 MASTER_PORT=$PORT RANK=1 WORLD_SIZE=2 python train.py",
    ),
    ranks("healthy/torchrun.log"),
    ranks(
        "healthy/torchrun_four_without_destroy.log",
        script="ranks 4 train.py",
        end="os.write(2, f'[rank {RANK}] done\\n'.encode())\nreturn",
        steps="20",
    ),
]

SIGNALS: list[Case] = [
    # A shell ignores SIGINT in what it starts in the background, hence the `start` of some rows.
    loop(
        "crashes/interrupted/ctrl_c.log",
        script="soon 'epoch 1' INT &\npython train.py --epochs 50",
    ),
    loop(
        "crashes/interrupted/ctrl_c_data_workers.log",
        script="soon 'epoch 1' INT all &\npython train.py --epochs 50 --workers 2",
    ),
    loop(
        "crashes/interrupted/terminated.log",
        script="soon 'epoch 1' TERM &\npython train.py --epochs 50",
    ),
    loop(
        "crashes/interrupted/hangup.log",
        script="soon 'epoch 1' HUP &\npython train.py --epochs 50",
    ),
    loop(
        "crashes/interrupted/handler_saves_and_leaves.log",
        script="soon 'epoch 1' TERM &\npython train.py --epochs 50",
        start="import signal\n\n\ndef leave(number, frame):\n"
        '    log.warning("received %s, saving a checkpoint and leaving", signal.Signals(number).name)\n'
        '    torch.save(model.state_dict(), "last.pt")\n    sys.exit(128 + number)\n\n\n'
        "signal.signal(signal.SIGTERM, leave)",
    ),
    trainer(
        "crashes/interrupted/trainer_ctrl_c.log",
        script="soon grad_norm INT &\npython finetune.py",
        ready="trainer.args.max_steps = 4000",
    ),
    ranks(
        "crashes/interrupted/torchrun_terminated.log",
        script="soon 'step 10' TERM &\nranks 2 train.py",
        steps="4000",
    ),
    ranks(
        "crashes/interrupted/torchrun_ctrl_c.log",
        script="soon 'step 10' INT all &\nranks 2 train.py",
        steps="4000",
    ),
    ranks(
        "crashes/interrupted/torchrun_hangup_of_four.log",
        script="soon 'step 10' HUP &\nranks 4 train.py",
        steps="4000",
    ),
    lightning(
        "crashes/interrupted/lightning_ctrl_c.log",
        script="soon 'batch 33' INT &\npython fit.py",
        loss="if self.global_step % 11 == 0:\n    print('batch', self.global_step, 'loss', loss.item(), flush=True)",
    ),
    program(
        "crashes/interrupted/while_waiting_for_a_pool.log",
        """
        import multiprocessing
        import os
        import time


        def tokenize(number):
            time.sleep(0.05 if number < 20 else 30)
            return number


        if __name__ == "__main__":
            with open("train.pid", "w") as file:
                file.write(str(os.getpid()))
            with multiprocessing.Pool(2) as pool:
                for number in pool.imap(tokenize, range(60)):
                    print(f"shard {number} tokenized", flush=True)
        """,
        script="soon 'shard 12' INT all &\npython train.py",
    ),
    loop(
        "crashes/process_killed/shell_says_killed.log",
        script="soon 'epoch 1' KILL &\npython train.py --epochs 50",
    ),
    loop(
        "crashes/process_killed/exit_137.log",
        script="soon 'epoch 1' KILL &\n(python train.py --epochs 50; echo \"train.py exited with code $?\") 2>&1 | sed -u '/Killed/d'",
    ),
    program(
        "crashes/process_killed/called_by_a_launcher.log",
        """
        import subprocess
        import sys

        subprocess.run([sys.executable, "worker.py", "--shard", "4"], check=True)
        """,
        worker__py="""
        import os
        import signal

        for step in range(1, 31):
            print("step", step, "loss", round(3 / step, 4), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
    ),
    loop(
        "crashes/segfault/null_pointer.log",
        step="if epoch == 1 and step == 4:\n    ctypes.string_at(0)",
        imports="import ctypes",
        script="python train.py\necho exit code $?",
    ),
    loop(
        "crashes/segfault/faulthandler.log",
        step="if epoch == 1 and step == 4:\n    ctypes.string_at(8)",
        imports="import ctypes\nimport faulthandler\n\nfaulthandler.enable()",
    ),
    loop(
        "crashes/segfault/double_free.log",
        epoch="memory = ctypes.CDLL(None)\nmemory.malloc.restype = ctypes.c_void_p\n"
        "memory.free.argtypes = [ctypes.c_void_p]\nblock = memory.malloc(64)\n"
        "other = memory.malloc(64)\nmemory.free(block)\nmemory.free(block)",
        imports="import ctypes",
    ),
    loop(
        "crashes/segfault/abort.log", imports="import faulthandler", epoch="faulthandler.enable()\nos.abort()"
    ),
    loop(
        "crashes/segfault/illegal_instruction.log",
        epoch="import signal\nos.kill(os.getpid(), signal.SIGILL)",
    ),
    loop(
        "crashes/segfault/data_worker.log",
        script="python train.py --workers 2",
        imports="import ctypes",
        item="if index == 130:\n    ctypes.string_at(0)",
    ),
    program(
        "crashes/segfault/uncaught_native_exception.log",
        """
        import ctypes
        import os
        import subprocess

        print("building the sampler", flush=True)
        subprocess.run(["g++", "-w", "-shared", "-fPIC", "-o", "sampler.so", "sampler.cpp"], check=True)
        sampler = ctypes.CDLL("./sampler.so")
        for step in range(1, 7):
            print(f"step {step} drew {sampler.draw(step)}", flush=True)
        """,
        sampler__cpp="""
        #include <stdexcept>
        extern "C" int draw(int step) noexcept {
            if (step == 6) throw std::out_of_range("draw: step 6 is beyond the table of 5");
            return step * 7 % 5;
        }
        """,
    ),
    loop(
        "crashes/numerical/loss_nan_to_the_end.log",
        script="python train.py --epochs 3 --lr 1e-3",
        step="if epoch == 1 and step == 5:\n    model.head.weight.data[0, 0] = float('inf')",
        loss="if step % 4 == 0:\n    log.info('step %d loss %.4f', epoch * 16 + step, loss.item())",
    ),
    loop(
        "crashes/numerical/anomaly_detection.log",
        start="torch.autograd.set_detect_anomaly(True)",
        loss="if step == 9:\n    loss = loss + torch.sqrt(model.head.weight.sum() * 0)* 0",
    ),
    trainer(
        "crashes/numerical/trainer_loss_nan.log",
        step="if state.global_step == 17:\n    kwargs['model'].transformer.wte.weight.data[:] = float('nan')",
        arguments="logging_nan_inf_filter=False,",
    ),
    lightning(
        "crashes/numerical/lightning_detects_nan.log",
        loss="if self.global_step == 23:\n    loss = loss * float('nan')",
        trainer="detect_anomaly=True, callbacks=[lightning.pytorch.callbacks.EarlyStopping('train_loss', check_finite=True)]",
    ),
    loop(
        "crashes/numerical/own_check.log",
        step="if epoch == 1 and step == 3:\n    features = features * float('nan')",
        loss="if not torch.isfinite(loss):\n    log.error('Loss is %s, stopping training', loss.item())\n    sys.exit(1)",
    ),
    loop(
        "crashes/numerical/gradients_not_finite.log",
        backward="if epoch == 1 and step == 7:\n    model.body.weight.grad[0] = float('inf')\n"
        "nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)",
    ),
    program(
        "crashes/timeout/subprocess.log",
        """
        import subprocess

        for shard in range(4):
            seconds = "0.1" if shard < 3 else "20"
            subprocess.run(["sleep", seconds], check=True, timeout=2)
            print(f"shard {shard} converted", flush=True)
        """,
    ),
    program(
        "crashes/timeout/socket.log",
        """
        import logging
        import socket

        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
        server = socket.create_server(("127.0.0.1", 0))
        logging.info("asking the reward server for a score")
        with socket.create_connection(server.getsockname(), timeout=1.5) as connection:
            connection.sendall(b"score 17\\n")
            connection.recv(64)
        """,
    ),
    program(
        "crashes/timeout/future.log",
        """
        import concurrent.futures
        import time


        def evaluate(step):
            time.sleep(0.05 if step < 30 else 4)
            return 1 / (step + 1)


        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            for step in range(0, 50, 10):
                future = pool.submit(evaluate, step)
                print(f"step {step} validation loss {future.result(timeout=1):.4f}", flush=True)
        """,
    ),
    program(
        "crashes/timeout/asyncio.log",
        """
        import asyncio


        async def generate(prompt):
            await asyncio.sleep(0.02 * prompt**3)
            return f"answer {prompt}"


        async def main():
            for prompt in range(9):
                async with asyncio.timeout(1):
                    print(await generate(prompt), flush=True)


        asyncio.run(main())
        """,
    ),
    loop(
        "crashes/timeout/data_loader.log",
        script="python train.py --workers 1",
        item="if index == 140:\n    time.sleep(9)",
        ready="loader = DataLoader(Samples(), batch_size=16, num_workers=args.workers, timeout=2)",
    ),
    program(
        "crashes/timeout/file_lock.log",
        """
        import filelock

        print("waiting for the dataset cache", flush=True)
        with filelock.FileLock("cache.lock"), filelock.FileLock("cache.lock", timeout=1):
            pass
        """,
    ),
]

SAVE_MODEL = """
model = Classifier()
optimizer = torch.optim.AdamW(model.parameters())
torch.save({"model": model.state_dict(), "step": 800}, "last.pt")
"""
RESUME = 'state = torch.load("last.pt")\nmodel.load_state_dict(state["model"])\nlog.info("resumed at step %d", state["step"])'
SAVE_SAFETENSORS = """
from safetensors.torch import load_file, save_file

print("saving model.safetensors", flush=True)
save_file({f"layers.{n}.weight": torch.randn(64, 64) for n in range(4)}, "model.safetensors")
"""

CHECKPOINTS: list[Case] = [
    loop(
        "crashes/checkpoint_corrupt/truncated_zip.log",
        start=SAVE_MODEL + "\nos.truncate('last.pt', os.path.getsize('last.pt') // 2)",
        ready=RESUME,
    ),
    loop(
        "crashes/checkpoint_corrupt/empty_file.log",
        start=SAVE_MODEL + "\nos.truncate('last.pt', 0)",
        ready=RESUME,
    ),
    loop(
        "crashes/checkpoint_corrupt/pointer_instead_of_weights.log",
        start="with open('last.pt', 'w') as file:\n    file.write('version https://git-lfs.github.com/spec/v1\\noid sha256:5c1d\\nsize 4711\\n')",
        ready=RESUME.replace('"last.pt"', '"last.pt", weights_only=False'),
    ),
    loop(
        "crashes/checkpoint_corrupt/flipped_bytes_in_old_format.log",
        start=SAVE_MODEL.replace('"last.pt")', '"last.pt", _use_new_zipfile_serialization=False)')
        + "\nos.truncate('last.pt', os.path.getsize('last.pt') - 900)",
        ready=RESUME,
    ),
    program(
        "crashes/checkpoint_corrupt/safetensors_truncated.log",
        "import os\n\nimport torch\n"
        + SAVE_SAFETENSORS
        + "os.truncate('model.safetensors', 40_000)\nload_file('model.safetensors')\n",
    ),
    program(
        "crashes/checkpoint_corrupt/safetensors_zeroed.log",
        "import os\n\nimport torch\n"
        + SAVE_SAFETENSORS
        + "with open('model.safetensors', 'r+b') as file:\n    file.write(bytes(8192))\nload_file('model.safetensors')\n",
    ),
    program(
        "crashes/checkpoint_corrupt/safetensors_header_too_large.log",
        "import os\n\nimport torch\n"
        + SAVE_SAFETENSORS
        + "with open('model.safetensors', 'r+b') as file:\n    file.write(b'\\xff' * 64)\nload_file('model.safetensors')\n",
    ),
    trainer(
        "crashes/checkpoint_corrupt/trainer_optimizer_truncated.log",
        ready="if os.path.isdir('out/checkpoint-20'):\n    os.truncate('out/checkpoint-20/optimizer.pt', 9000)",
        arguments="disable_tqdm=True,",
        resume="resume_from_checkpoint='out/checkpoint-20' if os.path.isdir('out/checkpoint-20') else None",
        script="python finetune.py > first 2>&1; python finetune.py",
    ),
    trainer(
        "crashes/checkpoint_corrupt/trainer_model_truncated.log",
        ready="if os.path.isdir('out/checkpoint-20'):\n    os.truncate('out/checkpoint-20/model.safetensors', 5000)",
        resume="resume_from_checkpoint='out/checkpoint-20' if os.path.isdir('out/checkpoint-20') else None",
        script="python finetune.py > first 2>&1; python finetune.py",
    ),
    trainer(
        "crashes/checkpoint_corrupt/trainer_state_half_written.log",
        ready="if os.path.isdir('out/checkpoint-20'):\n    os.truncate('out/checkpoint-20/trainer_state.json', 150)",
        resume="resume_from_checkpoint='out/checkpoint-20' if os.path.isdir('out/checkpoint-20') else None",
        script="python finetune.py > first 2>&1; python finetune.py",
    ),
    trainer(
        "crashes/checkpoint_corrupt/trainer_no_valid_checkpoint.log", resume="resume_from_checkpoint=True"
    ),
    lightning(
        "crashes/checkpoint_corrupt/lightning_truncated.log",
        script="python fit.py > first 2>&1\ntruncate -s 1500 checkpoints/*.ckpt\n"
        "sed -i \"s|loader, loader)|loader, loader, ckpt_path='checkpoints/epoch=2-step=60.ckpt')|\" fit.py\npython fit.py",
    ),
    ranks(
        "crashes/checkpoint_corrupt/rank_one_of_two.log",
        ready="if RANK == 1:\n    with open('rank1.pt', 'wb') as file:\n        file.write(b'PK\\x03\\x04' + bytes(700))\n"
        "    optimizer.load_state_dict(torch.load('rank1.pt'))",
    ),
    loop(
        "crashes/model_load_error/size_mismatch.log",
        start="model = Classifier()\nmodel.head = nn.Linear(32, 10)\ntorch.save({'model': model.state_dict(), 'step': 800}, 'last.pt')",
        ready=RESUME,
    ),
    loop(
        "crashes/model_load_error/missing_keys.log",
        start="model = Classifier()\ndel model.head\ntorch.save({'model': model.state_dict(), 'step': 800}, 'last.pt')",
        ready=RESUME,
    ),
    loop(
        "crashes/model_load_error/saved_from_data_parallel.log",
        start="model = Classifier()\nstate = {f'module.{name}': value for name, value in model.state_dict().items()}\n"
        "torch.save({'model': state, 'step': 800}, 'last.pt')",
        ready=RESUME,
    ),
    loop(
        "crashes/model_load_error/optimizer_group.log",
        start="model = Classifier()\nstate = torch.optim.AdamW(model.head.parameters()).state_dict()\ntorch.save(state, 'optimizer.pt')",
        ready="optimizer.load_state_dict(torch.load('optimizer.pt'))",
    ),
    trainer(
        "crashes/model_load_error/transformers_sizes_differ.log",
        model="model.save_pretrained('base')\nconfig.vocab_size = 80\nmodel = transformers.GPT2LMHeadModel.from_pretrained('base', config=config)",
    ),
    ranks(
        "crashes/model_load_error/all_ranks.log",
        ready="state = {f'encoder.{name}': value for name, value in model.module.state_dict().items()}\nmodel.module.load_state_dict(state)",
    ),
    lightning(
        "crashes/model_load_error/lightning_resume.log",
        script="python fit.py > first 2>&1\nsed -i -e 's/Linear(8, 1)/Linear(8, 2)/' -e \"s|loader, loader)|loader, loader, ckpt_path='checkpoints/epoch=2-step=60.ckpt')|\" fit.py\npython fit.py",
    ),
]

DATA: list[Case] = [
    program(
        "crashes/data_error/json_lines.log",
        """
        import json

        with open("train.jsonl") as file:
            for number, line in enumerate(file, 1):
                sample = json.loads(line)
                print(f"sample {number} has {len(sample['text'])} characters", flush=True)
        """,
        train__jsonl='{"text": "one"}\n{"text": "two words"}\n{"text": "three", \n{"text": "four"}\n',
    ),
    loop(
        "crashes/data_error/json_in_data_worker.log",
        script="python train.py --workers 2",
        imports="import json",
        item="row = json.loads('{\"label\": %d%s' % (index % 4, '' if index == 150 else '}'))\nlabel = row['label']",
    ),
    program(
        "crashes/data_error/datasets_json.log",
        """
        import datasets

        data = datasets.load_dataset("json", data_files="train.jsonl", split="train", cache_dir="cache")
        print(data)
        """,
        train__jsonl='{"text": "one", "label": 0}\n{"text": "two words", "label": 1}\n{"text": "three", "label": }\n',
    ),
    program(
        "crashes/data_error/datasets_columns_differ.log",
        """
        import datasets

        data = datasets.load_dataset("csv", data_files=["one.csv", "two.csv"], split="train", cache_dir="cache")
        print(data)
        """,
        one__csv="text,label\nred,0\nblue,1\n",
        two__csv="text,class\ngreen,1\n",
    ),
    program(
        "crashes/data_error/parquet.log",
        """
        import pyarrow.parquet

        with open("shard-0003.parquet", "wb") as file:
            file.write(b"PAR1" + bytes(4000))
        print("reading shard-0003.parquet", flush=True)
        table = pyarrow.parquet.read_table("shard-0003.parquet")
        """,
    ),
    loop(
        "crashes/data_error/not_an_image.log",
        script="python train.py --workers 2",
        imports="from PIL import Image",
        start="for number in range(256):\n    Image.new('RGB', (4, 4)).save(f'{number}.png')\nwith open('201.png', 'wb') as file:\n    file.write(b'<html>')",
        item="with Image.open(f'{index}.png') as image:\n    image.load()",
    ),
    loop(
        "crashes/data_error/truncated_image.log",
        imports="from PIL import Image",
        start="for number in range(256):\n    Image.effect_noise((64, 64), 9).save(f'{number}.jpg')\nos.truncate('77.jpg', 900)",
        item="with Image.open(f'{index}.jpg') as image:\n    image.load()",
    ),
    program(
        "crashes/data_error/not_utf8.log",
        """
        with open("corpus.txt", "wb") as file:
            file.write("one line\\n".encode() * 40 + "café\\n".encode("latin-1"))
        with open("corpus.txt", encoding="utf-8") as file:
            print("tokens:", sum(len(line.split()) for line in file))
        """,
    ),
    program(
        "crashes/data_error/truncated_gzip.log",
        """
        import gzip
        import os

        with gzip.open("corpus.gz", "wb") as file:
            file.write(os.urandom(20_000))
        os.truncate("corpus.gz", 9_000)
        print("reading corpus.gz", flush=True)
        with gzip.open("corpus.gz") as file:
            print(len(file.read()))
        """,
    ),
    program(
        "crashes/data_error/not_gzip.log",
        """
        import gzip

        with open("corpus.gz", "w") as file:
            file.write("plain text\\n")
        print("reading corpus.gz", flush=True)
        with gzip.open("corpus.gz") as file:
            print(len(file.read()))
        """,
    ),
    program(
        "crashes/data_error/pandas_csv.log",
        """
        import pandas

        with open("labels.csv", "w") as file:
            file.write("id,label\\n1,cat\\n2,dog\\n3,dog,brown,large\\n")
        print("reading labels.csv", flush=True)
        pandas.read_csv("labels.csv")
        """,
    ),
    trainer(
        "crashes/data_error/trainer_bad_row.log",
        imports="import json",
        item="if index == 90:\n    tokens = json.loads('[1, 2, 3')",
    ),
    ranks(
        "crashes/data_error/rank_two_of_four.log",
        script="ranks 4 train.py",
        imports="import json",
        batch="row = json.loads('{\"step\": 1}' if RANK != 2 or step != 13 else '{\"step\": ')",
    ),
]

CONFIGURATION: list[Case] = [
    loop("crashes/config_error/unrecognized_argument.log", script="python train.py --epochs 3 --warmup 100"),
    loop("crashes/config_error/not_a_number.log", script="python train.py --lr fast"),
    program(
        "crashes/config_error/yaml.log",
        """
        import yaml

        print("reading config.yaml", flush=True)
        with open("config.yaml") as file:
            settings = yaml.safe_load(file)
        """,
        config__yaml="model:\n  layers: 4\n  width: 256\n optimizer:\n  lr: 0.001\n",
    ),
    program(
        "crashes/config_error/hydra_override.log",
        """
        import hydra


        @hydra.main(version_base=None, config_path=".", config_name="config")
        def main(settings):
            print(settings.lr)


        main()
        """,
        script="python train.py trainer.devices=2",
        config__yaml="lr: 0.001\n",
    ),
    program(
        "crashes/config_error/omegaconf_missing_value.log",
        """
        import omegaconf

        settings = omegaconf.OmegaConf.create({"data": {"path": "???"}, "lr": 0.1})
        print("learning rate", settings.lr, flush=True)
        print("data", settings.data.path)
        """,
    ),
    program(
        "crashes/config_error/json_settings.log",
        """
        import json

        print("reading deepspeed_config.json", flush=True)
        with open("deepspeed_config.json") as file:
            config = json.load(file)
        """,
        deepspeed_config__json='{"train_batch_size": 32,\n "zero_optimization": {"stage": 2},}\n',
    ),
    trainer(
        "crashes/config_error/trainer_unknown_strategy.log",
        arguments="eval_strategy='sometimes',",
    ),
    trainer(
        "crashes/config_error/trainer_best_model_without_evaluation.log",
        arguments="load_best_model_at_end=True,",
    ),
    program(
        "crashes/config_error/accelerate_launch.log",
        "print('training')\n",
        script="accelerate launch --num_procs 2 train.py",
    ),
    loop("crashes/import_error/no_module.log", imports="import apex.optimizers"),
    loop("crashes/import_error/no_such_name.log", imports="from torch.optim import AdamW8bit"),
    program(
        "crashes/import_error/undefined_symbol.log",
        """
        print("loading the fused kernels", flush=True)
        import fused
        """,
        script="gcc -shared -fPIC -o fused.so fused.c\npython train.py",
        fused__c="extern int launch_fused_kernel(int);\nint PyInit_fused(void) { return launch_fused_kernel(3); }\n",
    ),
    program(
        "crashes/import_error/shared_library.log",
        """
        print("loading the sampler", flush=True)
        import sampler
        """,
        script="echo 'int draw(void) { return 4; }' > draw.c; gcc -shared -fPIC -o libdraw.so.2 draw.c\n"
        "echo 'int draw(void); int PyInit_sampler(void) { return draw(); }' > sampler.c\n"
        "gcc -shared -fPIC -o sampler.so sampler.c ./libdraw.so.2; rm libdraw.so.2\npython train.py",
    ),
    program(
        "crashes/import_error/run_as_module.log", "", script="python -m trainer.pretrain --config base.yaml"
    ),
    program(
        "crashes/import_error/optional_package.log",
        """
        import torch
        import transformers

        config = transformers.BitsAndBytesConfig(load_in_4bit=True)
        print("quantizing to 4 bits", flush=True)
        base = transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=64)
        transformers.GPT2LMHeadModel(base).save_pretrained("base")
        transformers.AutoModelForCausalLM.from_pretrained("base", quantization_config=config)
        """,
    ),
    program(
        "crashes/import_error/flash_attention.log",
        """
        import transformers

        base = transformers.LlamaConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=64)
        print("building the model", flush=True)
        transformers.AutoModelForCausalLM.from_config(base, attn_implementation="flash_attention_2")
        """,
    ),
    program(
        "crashes/import_error/circular.log",
        "import model\n\nprint(model.WIDTH)\n",
        model__py="from data import SAMPLES\n\nWIDTH = 4 * SAMPLES\n",
        data__py="from model import WIDTH\n\nSAMPLES = WIDTH // 2\n",
    ),
    loop("crashes/file_not_found/loop.log", epoch="open('/data/eval/questions.jsonl')"),
    program(
        "crashes/file_not_found/no_script.log", "", script="python scripts/pretrain.py --config base.yaml"
    ),
    program(
        "crashes/file_not_found/shell.log",
        "",
        script="echo starting training\n./launch/train_8gpu.sh --lr 3e-4",
    ),
    loop(
        "crashes/file_not_found/in_data_worker.log",
        script="python train.py --workers 2",
        item="if index == 120:\n    open(f'/data/audio/{index:06}.wav', 'rb')",
    ),
    program(
        "crashes/file_not_found/datasets.log",
        """
        import datasets

        data = datasets.load_dataset("parquet", data_files="/data/shards/*.parquet", split="train", cache_dir="cache")
        """,
    ),
    lightning(
        "crashes/file_not_found/lightning_checkpoint.log",
        script="sed -i \"s|loader, loader)|loader, loader, ckpt_path='/data/checkpoints/last.ckpt')|\" fit.py\npython fit.py",
    ),
    program(
        "crashes/permission_error/open.log",
        """
        print("reading the tokenizer", flush=True)
        open("secret.json")
        """,
        script="echo '{}' > secret.json; chmod 600 secret.json; chown 65534 secret.json\n$POWERLESS python train.py",
    ),
    loop(
        "crashes/permission_error/torch_save.log",
        epoch="torch.save(model.state_dict(), 'shared/last.pt')",
        script="mkdir shared; chown 65534 shared\n$POWERLESS python train.py",
    ),
    trainer(
        "crashes/permission_error/trainer_output.log",
        script="touch train.pid; mkdir hf inductor; chown 65534 .\n$POWERLESS python finetune.py",
    ),
    program(
        "crashes/permission_error/script_not_executable.log",
        "",
        script="echo starting training\nprintf '#!/bin/bash\\necho hi\\n' > train.sh; chmod 644 train.sh\n./train.sh --lr 3e-4",
    ),
    program(
        "crashes/permission_error/make_folder.log",
        """
        import pathlib

        print("writing to checkpoints/run7", flush=True)
        pathlib.Path("checkpoints/run7").mkdir(parents=True)
        """,
        script="chown 65534 .\n$POWERLESS python train.py",
    ),
    program(
        "crashes/permission_error/signal_to_another_user.log",
        """
        import os
        import sys

        print("stopping the old run", flush=True)
        os.kill(int(sys.argv[1]), 15)
        """,
        script="setpriv --reuid 65534 --clear-groups sleep 20 & OLD=$!\nsleep 0.3\n$POWERLESS python train.py $OLD\n(kill $OLD; wait $OLD) 2> /dev/null",
    ),
    ranks(
        "crashes/permission_error/rank_zero_of_two.log",
        end="if RANK == 0:\n    torch.save(model.state_dict(), 'shared/last.pt')\ndist.barrier()",
        script="mkdir shared; chown 65534 shared\n$POWERLESS torchrun --nproc-per-node 2 --master-port $PORT train.py",
    ),
]

SERVER = """
import http.server
import threading


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(STATUS)

    def log_message(self, *args):
        pass


server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
"""

WORKERS: list[Case] = [
    program(
        "crashes/multiprocessing_error/pickle_lambda.log",
        """
        import multiprocessing

        import torch

        if __name__ == "__main__":
            print("starting data workers", flush=True)
            loader = torch.utils.data.DataLoader(
                list(range(64)), 8, num_workers=2, collate_fn=lambda rows: rows, multiprocessing_context="spawn"
            )
            for batch in loader:
                print(batch)
        """,
    ),
    program(
        "crashes/multiprocessing_error/no_main_guard.log",
        """
        import multiprocessing

        def tokenize(text):
            return text.split()


        with multiprocessing.get_context("spawn").Pool(1) as pool:
            pool.map_async(tokenize, ["a b", "c d"]).get(5)
        """,
        script="timeout -s KILL 7 python train.py 2>&1 | head -120",
    ),
    program(
        "crashes/multiprocessing_error/broken_process_pool.log",
        """
        import concurrent.futures
        import os


        def tokenize(shard):
            if shard == 5:
                os._exit(1)
            return shard * 1000


        if __name__ == "__main__":
            with concurrent.futures.ProcessPoolExecutor(2) as pool:
                for tokens in pool.map(tokenize, range(8)):
                    print(tokens, "tokens", flush=True)
        """,
    ),
    loop(
        "crashes/multiprocessing_error/data_worker_exits.log",
        script="python train.py --workers 2",
        item="if index == 150:\n    os._exit(1)",
    ),
    program(
        "crashes/multiprocessing_error/result_cannot_be_sent.log",
        """
        import multiprocessing
        import threading


        def open_shard(number):
            return threading.Lock()


        if __name__ == "__main__":
            print("opening shards", flush=True)
            with multiprocessing.Pool(2) as pool:
                pool.map(open_shard, range(4))
        """,
    ),
    program(
        "crashes/multiprocessing_error/children_of_daemons.log",
        """
        import multiprocessing


        def tokenize(number):
            return number


        def load(shard):
            with multiprocessing.Pool(2) as pool:
                return pool.map(tokenize, range(shard))


        if __name__ == "__main__":
            print("loading shards", flush=True)
            with multiprocessing.Pool(2) as pool:
                print(pool.map(load, range(4)))
        """,
    ),
    loop(
        "crashes/multiprocessing_error/documented_cuda_in_fork.log",
        script="python train.py --workers 2",
        item="raise RuntimeError(\"Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, you must use the 'spawn' start method\")",
    ),
    program(
        "crashes/multiprocessing_error/start_method_set_twice.log",
        """
        import torch.multiprocessing as multiprocessing

        if __name__ == "__main__":
            multiprocessing.set_start_method("spawn")
            print("start method spawn", flush=True)
            multiprocessing.set_start_method("forkserver")
        """,
    ),
    loop(
        "crashes/compile_error/graph_break.log",
        start="torch._dynamo.config.suppress_errors = False",
        forward="if hidden.sum().item() > 1e9:\n    print('large')",
        ready="model = torch.compile(model, fullgraph=True, backend='eager')",
    ),
    loop(
        "crashes/compile_error/inductor_compiler.log",
        script='printf \'#!/bin/bash\\ncase "$*" in *--version*) exec g++ "$@";; esac\\necho "cc1plus: fatal error: omp.h: No such file or directory" >&2\\nexit 1\\n\' > g++-broken; chmod 755 g++-broken\nCXX=$PWD/g++-broken python train.py',
        ready="model = torch.compile(model)",
    ),
    loop(
        "crashes/compile_error/recompile_limit.log",
        ready="torch._dynamo.config.recompile_limit = 2\n"
        "scale = torch.compile(lambda features, step: features * step, backend='eager', dynamic=False, fullgraph=True)",
        imports="import torch._dynamo",
        epoch="for number in range(5):\n    scale(torch.ones(4 + number), 1.0 + number)",
    ),
    loop(
        "crashes/compile_error/backend_fails.log",
        ready="def fuse(graph, inputs):\n    raise RuntimeError('no kernel for aten.addmm with 16 columns')\n\n\nmodel = torch.compile(model, backend=fuse)",
    ),
    program(
        "crashes/compile_error/extension_syntax.log",
        """
        import torch.utils.cpp_extension

        print("building the fused optimizer", flush=True)
        torch.utils.cpp_extension.load("fused_adam", ["fused_adam.cpp"], verbose=True)
        """,
        fused_adam__cpp='extern "C" int step(int count) {\n    return count + missing_value\n}\n',
    ),
    program(
        "crashes/compile_error/setup_py.log",
        "",
        script="python setup.py build_ext --inplace",
        setup__py="""
        from setuptools import Extension, setup

        setup(name="sampler", version="1.0", ext_modules=[Extension("sampler", ["sampler.c"])])
        """,
        sampler__c='#include "sampler_kernels.h"\nint draw(void) { return 4; }\n',
    ),
    program(
        "crashes/compile_error/torch_script.log",
        """
        import torch


        class Mixer(torch.nn.Module):
            def forward(self, features):
                with open("weights.txt") as file:
                    scale = float(file.read())
                yield features * scale


        print("scripting the model", flush=True)
        torch.jit.script(Mixer())
        """,
    ),
    loop(
        "crashes/compile_error/documented_ptx.log",
        imports="\nclass PTXASError(Exception):\n    pass\n\n\nPTXASError.__module__ = 'triton.runtime.errors'",
        start="import faults\nfaults.at(nn.functional, 'cross_entropy', 1, PTXASError('PTXAS error: Internal Triton PTX codegen error\\n`ptxas` stderr:\\nptxas /data/run7/tmp3k2.ptx, line 118; error   : Feature \\'.bf16\\' requires .target sm_80 or higher\\nptxas fatal   : Ptx assembly aborted due to errors\\n'))",
    ),
    program(
        "crashes/connection_error/refused.log",
        """
        import urllib.request

        print("fetching the prompt list", flush=True)
        urllib.request.urlopen("http://127.0.0.1:9/prompts.json", timeout=5)
        """,
    ),
    program(
        "crashes/connection_error/name_resolution.log",
        """
        import socket

        print("connecting to the parameter server", flush=True)
        socket.create_connection(("parameters.invalid", 7000), timeout=10)
        """,
    ),
    program(
        "crashes/connection_error/service_unavailable.log",
        SERVER.replace("STATUS", "503")
        + 'import urllib.request\n\nprint("fetching the prompt list", flush=True)\n'
        'urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/prompts.json", timeout=5)\n',
    ),
    program(
        "crashes/connection_error/too_many_requests.log",
        SERVER.replace("STATUS", "429") + "import urllib.request\n\nfor page in range(3):\n"
        '    urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/pages/{page}", timeout=5)\n',
    ),
    program(
        "crashes/connection_error/reset.log",
        """
        import socket
        import struct
        import threading

        server = socket.create_server(("127.0.0.1", 0))


        def reset():
            connection, _ = server.accept()
            connection.recv(8)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()


        threading.Thread(target=reset).start()
        print("sending rollouts", flush=True)
        with socket.create_connection(server.getsockname()) as connection:
            connection.sendall(b"rollout 1")
            connection.recv(8)
        """,
    ),
    program(
        "crashes/connection_error/tls.log",
        SERVER.replace("STATUS", "404")
        + 'import urllib.request\n\nprint("fetching the prompt list", flush=True)\n'
        'urllib.request.urlopen(f"https://127.0.0.1:{server.server_port}/prompts.json", timeout=5)\n',
    ),
    program(
        "crashes/connection_error/metrics_port_in_use.log",
        """
        import http.server

        first = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
        print("serving metrics", flush=True)
        second = http.server.ThreadingHTTPServer(first.server_address, http.server.BaseHTTPRequestHandler)
        second.allow_reuse_address = False
        """,
    ),
    loop(
        "crashes/gpu_hardware/documented_nvlink.log",
        script="python train.py\ncat kernel.txt",
        start="import faults\nwith open('kernel.txt', 'w') as kernel:\n    kernel.write('[120881.402117] NVRM: Xid (PCI:0000:87:00): 74, pid=31544, name=python, NVLink: fatal error detected on link 3(0x10000, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0)\\n')\nfaults.at(nn.functional, 'linear', 21, torch.AcceleratorError('CUDA error: uncorrectable NVLink error detected during the execution\\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.\\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\\n'))",
    ),
    trainer(
        "crashes/gpu_hardware/documented_gsp_timeout.log",
        script="python finetune.py\ncat kernel.txt",
        ready="import faults\nwith open('kernel.txt', 'w') as kernel:\n    kernel.write('[99120.551204] NVRM: Xid (PCI:0000:0f:00): 119, pid=20741, name=python3, Timeout after 6s of waiting for RPC response from GPU4 GSP! Expected function 76 (GSP_RM_CONTROL) (0x2080a0a4 0x528).\\n')\nfaults.at(torch.autograd, 'backward', 12, RuntimeError('CUDA error: unknown error\\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\\n'))",
    ),
]

HEALTHY: list[Case] = [
    loop(
        "healthy/caught_exception.log",
        step="if step == 6:\n    try:\n        raise ValueError('sample 102 has no label')\n    except ValueError:\n        log.exception('skipping a bad sample')",
    ),
    loop(
        "healthy/retry_succeeded.log",
        ready="import urllib.request\nfor attempt in range(1, 4):\n    try:\n        if attempt < 3:\n"
        "            urllib.request.urlopen('http://127.0.0.1:9/prompts.json', timeout=2)\n        log.info('attempt %d: got the prompts', attempt)\n        break\n"
        "    except OSError as error:\n        log.warning('attempt %d of 3 failed: %s; trying again in 0.1 s', attempt, error)\n        time.sleep(0.1)",
    ),
    loop(
        "healthy/traceback_of_a_retry.log",
        epoch="import traceback\nfor attempt in (1, 2):\n    try:\n        if attempt == 1 and epoch == 0:\n            raise ConnectionResetError(104, 'Connection reset by peer')\n"
        "        log.info('metrics of epoch %d uploaded', epoch)\n        break\n    except ConnectionResetError:\n        traceback.print_exc()\n        log.info('upload failed, retrying')",
    ),
    loop(
        "healthy/words_of_errors.log",
        start="import warnings\nwarnings.warn('Failed to load the image extension; if you do not read images, ignore this error')\n"
        "log.warning('error rate target 0.05, fail-fast disabled, crash dumps in /data/dumps')\n"
        "log.info('num_errors=0 failed_shards=0 fatal=0 max_oom_retries=3')",
        epoch="log.info('validation error %.4f (word error rate %.3f), 0 failed samples, no NaN or Inf gradients', loss, 0.11)\n"
        "log.warning('learning-rate floor reached; killed 0 stale workers; timeout for evaluation is 1800 s')",
    ),
    loop(
        "healthy/smaller_batch_after_out_of_memory.log",
        ready="for size in (256, 128, 64):\n    try:\n        if size > 64:\n"
        "            raise torch.OutOfMemoryError(f'CUDA out of memory. Tried to allocate {size * 12 / 256:.2f} GiB. GPU 0 has a total capacity of 23.64 GiB of which 2.11 GiB is free. Including non-PyTorch memory, this process has 21.50 GiB memory in use. Of the allocated memory 20.90 GiB is allocated by PyTorch, and 112.40 MiB is reserved by PyTorch but unallocated.')\n"
        "        log.info('batch size %d fits', size)\n    except torch.OutOfMemoryError as error:\n        log.warning('batch size %d: %s', size, error)",
    ),
    loop(
        "healthy/one_metric_is_nan.log",
        epoch="log.info('epoch %d: accuracy 0.%d, auc nan (only one class in the batch), loss %.4f', epoch, 31 + 9 * epoch, loss)",
        script="python train.py --epochs 4",
    ),
    loop(
        "healthy/stops_in_mid_step.log",
        script="python train.py --epochs 60 2>&1 | head -c 9000",
    ),
    loop("healthy/crlf.log", script="python train.py 2>&1 | sed -u 's/$/\\r/'"),
    loop(
        "healthy/loss_scale_skips_steps.log",
        step="if step in (2, 3):\n    log.info('gradient overflow: skipping step, loss scale reduced to %d', 65536 >> step)",
    ),
    loop(
        "healthy/early_stopping.log",
        script="python train.py --epochs 9",
        epoch="if epoch == 3:\n    log.info('validation loss did not improve for 3 epochs: early stopping, best epoch was 0')\n    break",
    ),
    loop(
        "healthy/data_workers_and_warnings.log",
        script="python train.py --workers 2",
        start="import warnings\nwarnings.warn('This DataLoader will create 2 worker processes in total. Our suggested max number of worker in current system is 1', UserWarning)\n"
        "warnings.warn('torch.cuda.amp.GradScaler is enabled, but CUDA is not available.  Disabling.', UserWarning)",
    ),
    loop(
        "healthy/earlier_run_crashed.log",
        script="python train.py --epochs 1\npython train.py --epochs 2",
        epoch="if not os.path.exists('crashed'):\n    open('crashed', 'w').close()\n    raise ValueError('the schedule has no entry for epoch 1')",
    ),
    trainer("healthy/trainer.log", arguments="eval_strategy='steps',\neval_steps=20,"),
    trainer(
        "healthy/trainer_resumed.log",
        resume="resume_from_checkpoint='out/checkpoint-20' if os.path.isdir('out/checkpoint-20') else None",
        script="python finetune.py > first 2>&1; rm -r out/checkpoint-40; python finetune.py",
    ),
    trainer(
        "healthy/transformers_new_head.log",
        model="model.save_pretrained('base')\nclassifier = transformers.GPT2ForSequenceClassification.from_pretrained('base', num_labels=3)",
    ),
    lightning("healthy/lightning.log", script="python fit.py"),
    lightning(
        "healthy/lightning_early_stopping.log",
        trainer="callbacks=[lightning.pytorch.callbacks.EarlyStopping('val_loss', patience=1, min_delta=5.0, verbose=True)]",
    ),
    trainer(
        "healthy/accelerate_launch.log",
        script="accelerate launch --cpu finetune.py",
    ),
    loop(
        "healthy/compiled.log",
        ready="import warnings\nwarnings.warn('not enough SMs to use max_autotune_gemm mode')\nmodel = torch.compile(model, backend='aot_eager')",
    ),
]

CASES = [
    *(*EXCEPTIONS, *RESOURCES, *GPU, *COLLECTIVES, *SIGNALS, *CHECKPOINTS, *DATA, *CONFIGURATION),
    *(*WORKERS, *HEALTHY),
]


def main() -> int:
    words = sys.argv[1:]
    chosen = [case for case in CASES if not words or any(word in case.path for word in words)]
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        print("wants root and unshare", file=sys.stderr)
        return 3
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        for told in pool.map(make, chosen, range(29510, 29510 + len(chosen))):
            print(told, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
