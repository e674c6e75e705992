"""Traces: what trainings do moment by moment, with the lines that real trainers write; made up, and repeatable."""

import random
from collections.abc import Callable

from trainguard.progress import Mark

FORMATS: dict[str, Callable[[int, int], bytes]] = {
    "line": lambda step, total: b"step %d/%d | loss: 1.25" % (step, total),
    "nanogpt": lambda step, total: b"iter %d: loss 2.3456, time 123.45ms, mfu 3.20%%" % step,
    "bar": lambda step, total: b"%3d%%|###   | %d/%d [00:57<49:56,  4.92s/it]" % (100 * step // total, step, total),
    "megatron": lambda step, total: b" iteration %8d/%8d | consumed samples: 9 | lm loss: 1.0E+01 |" % (step, total),
    "torchtitan": lambda step, total: b"[titan] - step: %2d  loss:  8.10000  grad_norm:  1.2" % step,
    "status": lambda step, total: b"",
}  # fmt: skip


class Trace:
    """What a training does, moment by moment: (seconds since it began, what), in order.

    `what` is a log line, a Mark, or a fact that holds from then on: its name and its value.
    """

    def __init__(self, seed: str, every: int = 1, step_seconds: float | None = None) -> None:
        self.chance = random.Random(seed)
        self.at = 0.0
        self.moments: list[tuple[float, object]] = []
        self.step_number = self.chance.choice((0, 0, 0, 1000))
        self.total = self.step_number + 100_000
        self.format = self.chance.choice(sorted(FORMATS))
        # From half a second to three minutes, as many of each order.
        self.step_seconds = step_seconds or 0.5 * 360 ** self.chance.random()
        self.every = every

    def tell(self, what: object) -> None:
        self.moments.append((self.at, what))

    def step(self, factor: float = 1.0) -> None:
        self.at += self.step_seconds * factor * self.chance.uniform(0.8, 1.2)
        self.step_number += 1
        if self.step_number % self.every:
            return
        if self.format == "status":
            self.tell(Mark("status file", "status file", step=self.step_number, total=self.total))
        else:
            self.tell(FORMATS[self.format](self.step_number, self.total))

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.step()

    def train(self, seconds: float) -> None:
        """Steps for so long, and at least three; where they are fast, bursts of them with the rest left unsaid."""
        self.steps(3 * self.every)
        end = self.at + seconds
        while self.at < end:
            before = self.at
            self.step()
            if self.step_seconds * self.every < 3 and self.at < end:
                skipped = int(10 / self.step_seconds) // self.every * self.every
                self.step_number += skipped
                self.at = before + self.step_seconds * (skipped + 1)

    def start(self, seconds: float | None = None) -> None:
        self.at += self.chance.uniform(5, 300) if seconds is None else seconds

    def evaluate(self, steps: float = 10.0, how: str | None = None) -> None:
        seconds = steps * self.step_seconds
        how = how or self.chance.choice(("bar", "words", "megatron", "silent"))
        if how == "words":
            self.tell(b"***** Running Evaluation *****")
        if how in ("bar", "megatron"):
            for number in range(1, 11):
                self.at += seconds / 10
                bar = b"Evaluating:  %d%%|###| %d/10 [00:57<49:56,  4.92s/it]" % (number * 10, number)
                self.tell(bar if how == "bar" else b"Evaluating iter %d/10" % number)
        else:
            self.at += seconds
        self.tell(b"{'eval_loss': 0.5, 'eval_runtime': 9.1, 'epoch': %d.0}" % self.step_number)

    def save(self, steps: float = 20.0, how: str | None = None) -> None:
        seconds = steps * self.step_seconds
        how = how or self.chance.choice(("growth", "words", "silent"))
        if how == "words":
            self.tell(b"saving checkpoint at iteration %d to out" % self.step_number)
        if how == "growth":
            self.tell(("growing", True))
        self.at += seconds
        self.tell(("growing", False))

    def compile(self, seconds: float, how: str | None = None) -> None:
        how = how or self.chance.choice(("compilers", "words"))
        if how == "words":
            self.tell(b"Emitting ninja build file /root/.cache/torch_extensions/cpu_adam/build.ninja...")
        # Compilers come and go: between two of them it links, or a graph is traced.
        end = self.at + seconds
        while self.at < end:
            self.tell(("compilers", ("cc1plus", "ninja") if how == "compilers" else ()))
            self.tell(("cores", 1.0))
            self.at += min(end - self.at, self.chance.uniform(20, 120))
            self.tell(("compilers", ()))
            self.at += min(end - self.at, self.chance.uniform(1, 40))
        self.tell(("cores", 0.0))
