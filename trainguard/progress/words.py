"""Words: what a run says that it is at, in its log and in its status file. Pure: text in, a work or a mark out.

A row too many does little harm: until the next step the run is given longer. The exception is idleness, which
may last for ever, so its words must be a daemon's that waits for jobs and not a data loader's.
"""

import re

import msgspec

from trainguard.policy import Work
from trainguard.progress.lines import LINE_LIMIT, Mark, Role, without_escapes

WORDS = "words"


class Saying(msgspec.Struct, frozen=True):
    """One row: `work` is what a run is at that wrote a line of this `pattern`; `origin` is who writes it."""

    work: Work
    pattern: re.Pattern[bytes]
    origin: str


def _row(work: Work, pattern: bytes, origin: str) -> Saying:
    return Saying(work, re.compile(pattern), origin)


SAYINGS = (
    _row(
        Work.EVALUATING,
        rb"\*{5} Running (?:[Ee]valuation|[Pp]rediction|[Vv]alidation)",
        "transformers trainer.py, evaluation_loop, and its example scripts",
    ),
    _row(
        Work.EVALUATING,
        rb"^(?:> )?(?:[Ee]valuating|[Vv]alidating|(?:[Rr]unning|[Ss]tarting) (?:evaluation|validation))\b",
        "Megatron-LM training/training.py, evaluate; hand-written loops",
    ),
    _row(
        Work.SAVING,
        rb"\b[Ss]aving (?:(?:the|a|full|current|final|model|training|optimizer|adapter) ){0,3}"
        rb"(?:checkpoint|state|weights|model)\b",
        "transformers trainer.py, _save; nanoGPT train.py; Megatron-LM training/checkpointing.py; accelerate, "
        "save_state; torchtitan and torchtune, save_checkpoint",
    ),
    _row(Work.SAVING, rb"\[Torch\] Saving ", "DeepSpeed runtime/checkpoint_engine, save"),
    _row(
        Work.COMPILING,
        rb"\bEmitting ninja build file|\bBuilding extension module ",
        "torch utils/cpp_extension.py, which DeepSpeed's operators are built with",
    ),
    _row(
        Work.COMPILING,
        rb"\b[Cc]ompiling (?:and loading fused kernels|dataset index builder|each TransformerBlock|(?:the )?model\b)",
        "Megatron-LM training/initialize.py; torchtitan parallelize",
    ),
    _row(Work.COMPILING, rb"Very slow compile\?|\bCapturing CUDA graph", "XLA slow_operation_alarm; vLLM"),
    _row(
        Work.IDLE,
        rb"\b(?:[Qq]ueues?|[Ii]nbox) (?:is |are )?(?:now )?empty\b"
        rb"|\b(?:[Ii]dle|[Ww]aiting|[Ss]leeping|[Ww]atching)\b[^.]{0,24}\b(?:jobs?|training files|tasks?)\b"
        rb"|(?:^|[\]:>-] ?)No (?:jobs|tasks|training files|work)\b",
        "a daemon that trains what is put into its queue folder",
    ),
)
# What a data loader says of its own queue, or a process of its peers, is no idleness.
_NO_DAEMON = re.compile(
    rb"(?i)load|prefetch|worker|batch|buffer|rank|barrier|warn|error|stream|process|shut|train(?:ing)? step"
)
# Every line that a row fits holds one of these, and most lines hold none.
_HINTS = (
    b"unning", b"valuat", b"alidat", b"tarting", b"aving", b"ninja", b"uilding", b"ompil", b"apturing",
    b"empty", b"dle", b"aiting", b"leeping", b"atching", b"No ",
)  # fmt: skip

# What a status file may call what the trainer is at.
NAMES = {
    Work.STARTING: "starting loading initializing initialising preparing setup resuming warmup tokenizing tokenising",
    Work.COMPILING: "compiling compile building",
    Work.TRAINING: "training train running active busy",
    Work.EVALUATING: "evaluating evaluation eval validating validation testing predicting",
    Work.SAVING: "saving checkpointing save",
    Work.IDLE: "idle waiting sleeping paused queue_empty no_work",
    Work.FINISHED: "finished completed complete done",
}
_WORK_OF = {name: work for work, names in NAMES.items() for name in names.split()}


def parse_words(line: bytes) -> Mark | None:
    """The mark of a line in which a run says what it is at, without its end, or None."""
    text = line[:LINE_LIMIT]
    if not any(hint in text for hint in _HINTS):
        return None
    text = without_escapes(text).strip(b" \t\r\n\0")
    for row in SAYINGS:
        if row.pattern.search(text) and not (row.work is Work.IDLE and _NO_DAEMON.search(text)):
            return Mark(WORDS, WORDS, Role.WORDS, work=row.work)
    return None


def parse_work(value: object) -> Work | None:
    """What a status file's word says, None for one that is not known."""
    return _WORK_OF.get(value.strip().lower()) if isinstance(value, str) and len(value) < 64 else None
