"""Lines of training output and what each says: one table, a row per format. Pure: bytes in, marks out."""

import math
import re
from collections.abc import Callable
from enum import Enum

import msgspec

from trainguard.policy import Work

LINE_LIMIT = 64 << 10
STEP_LIMIT = 1 << 53
KEY_LIMIT = 96


class Role(Enum):
    """What an increase of a mark's counter means."""

    TRAINING = "training"  # the run advanced
    BAR = "bar"  # it advanced, if this progress bar is the one that counts training steps
    SIGN = "sign"  # it works at something: evaluation, tokenising, loading
    BEAT = "beat"  # a heartbeat: an advance only while nothing better is known
    WORDS = "words"  # it counts nothing, and only says what the run is at


class Mark(msgspec.Struct, frozen=True):
    """What one line, or one look at a file, says about a run's progress. None is unknown, never zero.

    `source` is the format's name and `key` tells one counter from another: a bar's description (its numbers
    as `#`) and total, else the format. `step` and `total` are in optimizer steps for Role.TRAINING and in the
    counter's own unit for the other roles; both lie in 0 .. 2**53 - 1. `epoch` counts finished epochs, with
    a fraction. `loss` is NaN or infinite where the run says so. `finished`: the run says that it is over.
    `stale`: what was said before this run began, so a baseline and no news. `work`: what it says it is at.
    """

    source: str
    key: str
    role: Role = Role.TRAINING
    step: int | None = None
    total: int | None = None
    loss: float | None = None
    epoch: float | None = None
    finished: bool = False
    stale: bool = False
    work: Work | None = None


class Format(msgspec.Struct, frozen=True):
    """One row: `hint` is a literal that every such line contains, `build` may still answer None."""

    name: str
    hint: bytes
    pattern: re.Pattern[bytes]
    build: Callable[[str, re.Match[bytes]], Mark | None]
    origin: str


def parse_line(line: bytes) -> Mark | None:
    """The mark in one line, without its end (`\\n` or `\\r`), or None. Any bytes will do; 64 KiB are read."""
    text = without_escapes(line[:LINE_LIMIT])
    text = _RANK.sub(b"", text.strip(b" \t\r\n\0"))
    for row in FORMATS:
        if row.hint in text and (match := row.pattern.search(text)) and (mark := row.build(row.name, match)):
            return mark
    return None


def without_escapes(text: bytes) -> bytes:
    """The text without what colours it on a terminal or moves its cursor."""
    return _ANSI.sub(b"", text) if b"\x1b" in text else text


def parse_segment(segment: bytes) -> list[Mark]:
    """The marks between two line ends, mostly none or one.

    `print` puts its text behind a bar that waits for its `\\r`, so a dictionary behind a bar is a line too.
    """
    pieces = segment[:LINE_LIMIT].replace(b"]{", b"]\n{").split(b"\n")
    return [mark for piece in pieces if (mark := parse_line(piece)) is not None]


def parse_step(text: bytes | None) -> int | None:
    """A count of steps as printed, thousands separated by commas or not; None if it is none or absurd."""
    digits = (text or b"").replace(b",", b"")
    # Sixteen digits hold every number below 2**53, and keep int() from refusing or crawling.
    if not digits.isdigit() or len(digits) > 16:
        return None
    number = int(digits)
    return number if number < STEP_LIMIT else None


def parse_number(text: bytes | None) -> float | None:
    """A number as printed; NaN and infinity are facts, but an overflow is not an infinity."""
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return None if math.isinf(number) and b"n" not in text.lower() else number


def parse_epoch(text: bytes | None) -> float | None:
    """A count of epochs as printed: finite and not negative, else None."""
    number = parse_number(text)
    return number if number is not None and math.isfinite(number) and number >= 0 else None


# A bar of tqdm puts `.0` behind what has no point: `nan.0`.
_NUMBER = (
    rb"[-+]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?(?![\w.])"
    rb"|(?:[nN][aA][nN]|[iI]nf(?:inity)?|INF)(?=(?:\.0)?(?![\w.])))"
)
_ANSI = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])")
_RANK = re.compile(rb"^\[(?:rank|default)[0-9]+\]: ?")  # torchrun --tee, and torch's own messages
_PAIR = re.compile(rb"""(['"])(\w+)\1: ?(['"]?)(""" + _NUMBER + rb""")\3(?=[,}])""")
_NUMBERS = re.compile(rb"[-+]?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
# Behind a bar or a comma, so that `val_loss=` and `val loss` are another's.
_LOSS = re.compile(
    rb"(?:^|[,:|\[(0-9] *)(?:train(?:ing)?[_/ ])?loss(?:_step)?[=: ]+(" + _NUMBER + rb")", re.IGNORECASE
)
# The words of a bar that may count training steps: none at all, or nothing but these.
_TRAINING = re.compile(
    rb"(?:train(?:ing)?|epochs?|(?:global[ _])?steps?|iter(?:ation)?s?|loss|nan|[0-9]|[ /:#()\[\],.=+-])*",
    re.IGNORECASE,
)


def _dictionary(name: str, match: re.Match[bytes]) -> Mark | None:
    pairs = {found[2]: found[4] for found in _PAIR.finditer(match[0])}
    epoch = parse_epoch(pairs.get(b"epoch"))
    step = parse_step(pairs.get(b"step")) if b"step" in pairs else parse_step(pairs.get(b"global_step"))
    if b"train_runtime" in pairs:
        # Its train_loss is the mean over the whole run, not where the loss stands.
        return Mark(name, name, step=step, epoch=epoch, finished=True)
    if (loss := parse_number(pairs.get(b"loss"))) is not None:
        return Mark(name, name, step=step, loss=loss, epoch=epoch)
    if any(key.startswith(b"eval_") for key in pairs):
        return Mark(name, f"{name} evaluation", Role.SIGN, step=step, epoch=epoch)
    return None


def _json(name: str, match: re.Match[bytes]) -> Mark | None:
    pairs = {found[2]: found[4] for found in _PAIR.finditer(match[0])}
    step, total = parse_step(pairs.get(b"current_steps")), parse_step(pairs.get(b"total_steps"))
    loss, epoch = parse_number(pairs.get(b"loss")), parse_epoch(pairs.get(b"epoch"))
    return None if step is None else Mark(name, name, step=step, total=total or None, loss=loss, epoch=epoch)


def _groups(name: str, match: re.Match[bytes]) -> Mark | None:
    """For a row whose pattern names its values: step, total, loss, passed (epochs, this one included)."""
    values = match.groupdict()
    step, total = parse_step(values.get("step")), parse_step(values.get("total"))
    passed = parse_step(values.get("passed"))
    epoch = float(passed - 1) if passed else None
    if step is None and total is None:
        return None
    loss = parse_number(values.get("loss"))
    return Mark(name, name, step=step, total=total or None, loss=loss, epoch=epoch)


def _megatron(name: str, match: re.Match[bytes]) -> Mark | None:
    mark = _groups(name, match)
    loss = _MEGATRON_LOSS.search(match.string, match.end())
    return msgspec.structs.replace(mark, loss=parse_number(loss[1])) if mark and loss else mark


def _sign(name: str, match: re.Match[bytes]) -> Mark | None:
    step = parse_step(match["step"])
    return None if step is None else Mark(name, name, Role.SIGN, step=step)


def _end(name: str, match: re.Match[bytes]) -> Mark:
    return Mark(name, name, finished=True)


def _lightning(name: str, match: re.Match[bytes]) -> Mark | None:
    epoch, within, length = (parse_step(match[part]) for part in ("epoch", "step", "total"))
    if epoch is None or within is None or not length or epoch * length + within >= STEP_LIMIT:
        return None
    loss = _LOSS.search(match.string, match.end())
    passed, step = epoch + within / length, epoch * length + within
    return Mark(name, name, step=step, loss=parse_number(loss[1]) if loss else None, epoch=passed)


def _bar(name: str, match: re.Match[bytes]) -> Mark | None:
    description = match["description"].strip(b" :")
    total_text = match.groupdict().get("total") or b"?"
    label = _NUMBERS.sub(b"#", description)[:KEY_LIMIT].decode("utf-8", "replace")
    key = f"{label} /{total_text.decode()}"
    scale = _SCALES.get(match["step"][-1:])
    if scale is not None or b"." in match["step"]:
        # Scaled numbers (unit_scale=True) are bytes or examples, and rounded.
        amount = parse_number(match["step"][:-1] if scale else match["step"])
        step = None if amount is None or amount * (scale or 1) >= STEP_LIMIT else int(amount * (scale or 1))
        return None if step is None else Mark(name, key, Role.SIGN, step=step)
    step, total = parse_step(match["step"]), parse_step(total_text)
    if step is None:
        return None
    if not _TRAINING.fullmatch(description) or (total_text != b"?" and not total):
        return Mark(name, key, Role.SIGN, step=step, total=total)
    loss = _LOSS.search(match.string)
    return Mark(name, key, Role.BAR, step=step, total=total, loss=parse_number(loss[1]) if loss else None)


_SCALES = {letter.encode(): 1000 ** (power + 1) for power, letter in enumerate("kMGTP")}
_MEGATRON_LOSS = re.compile(rb"\| (?:lm )?loss: (" + _NUMBER + rb")")
_CLOCK = rb"\[(?:[0-9]+:)?[0-9]+:[0-9]{2}"
_COUNT = rb"[0-9]+(?:\.[0-9]+)?[kMGTP]?"


def _row(
    name: str, hint: bytes, pattern: bytes, build: Callable[[str, re.Match[bytes]], Mark | None], origin: str
) -> Format:
    return Format(name, hint, re.compile(pattern.replace(b"NUMBER", _NUMBER)), build, origin)


# The first row that fits wins, so the particular stand before the general.
FORMATS = (
    _row(
        "llama-factory",
        b"current_steps",
        rb'^\{.*"current_steps": ?[0-9]+.*\}$',
        _json,
        "LLaMA-Factory train/callbacks.py, LogCallback: trainer_log.jsonl",
    ),
    _row(
        "hugging face",
        b"{",
        rb"^\{.*\}$",
        _dictionary,
        "transformers trainer_callback.py, ProgressCallback.on_log: numbers bare in 4, quoted strings in 5",
    ),
    _row(
        "hugging face banner",
        b"steps = ",
        rb"\bTotal (?:optimization )?steps = (?P<total>[0-9,]+)",
        _groups,
        "transformers trainer.py, 'Total optimization steps'; unsloth models/llama.py, its banner",
    ),
    _row(
        "hugging face end",
        b"Training completed.",
        rb"^Training completed\. Do not forget to share your model",
        _end,
        "transformers trainer.py, the last lines of the inner training loop",
    ),
    _row(
        "lightning end",
        b"Trainer.fit",
        rb"`Trainer\.fit` stopped: `max_(?:steps|epochs|time)=[^`]*` reached",
        _end,
        "lightning loops/training_epoch_loop.py and fit_loop.py, done",
    ),
    _row(
        "megatron end",
        b"[after training is done]",
        rb"\[after training is done\]",
        _end,
        "Megatron-LM training/training.py, pretrain",
    ),
    _row(
        "megatron",
        b"iteration",
        rb"\biteration +(?P<step>[0-9]+)/ *(?P<total>[0-9]+) *\|",
        _megatron,
        "Megatron-LM training/training.py, training_log",
    ),
    _row(
        "megatron evaluation",
        b"iter",
        rb"(?:Evaluating iter|Validation: iteration) +(?P<step>[0-9]+)/",
        _sign,
        "Megatron-LM training/training.py, evaluate; NeMo's validation progress",
    ),
    _row(
        "deepspeed",
        b"skipped=",
        rb"\bstep=(?P<step>[0-9]+), skipped=[0-9]+, lr=\[",
        _groups,
        "DeepSpeed runtime/engine.py, _report_progress",
    ),
    _row(
        "torchtitan evaluation",
        b"validate step:",
        rb"\bvalidate step: +(?P<step>[0-9]+) +loss:",
        _sign,
        "torchtitan components/metrics.py, log_validation",
    ),
    _row(
        "torchtitan",
        b"step:",
        rb"(?:^| - )step: *(?P<step>[0-9]+) +loss: *(?P<loss>NUMBER)",
        _groups,
        "torchtitan components/metrics.py, log",
    ),
    _row(
        "torchtitan end",
        b"Training completed",
        rb"^\[titan\].* - Training completed$",
        _end,
        "torchtitan train.py, the end of train",
    ),
    _row(
        "nanogpt",
        b"iter ",
        rb"^iter (?P<step>[0-9]+): loss (?P<loss>NUMBER), time ",
        _groups,
        "nanoGPT train.py, the log line",
    ),
    _row(
        "nanogpt",
        b"train loss",
        rb"^step (?P<step>[0-9]+): train loss (?P<loss>NUMBER), val loss ",
        _groups,
        "nanoGPT train.py, the estimate at every eval_interval: the same counter",
    ),
    _row(
        "torchtune",
        b"Step ",
        rb"^Step (?P<step>[0-9]+) \| (?:.* )?loss:(?P<loss>NUMBER)(?: |$)",
        _groups,
        "torchtune training/metric_logging.py, DiskLogger.log_dict",
    ),
    _row(
        "torchtune",
        b"|Loss:",
        rb"^(?P<passed>[0-9]+)\|(?P<step>[0-9]+)\|Loss: (?P<loss>NUMBER)",
        _groups,
        "torchtune recipes, the bar's description: epoch from 1, global step; its own total is an epoch's",
    ),
    _row(
        "step of total",
        b"/",
        rb"^(?:\[[^\]]*\] *)?[Ss]tep:? *(?P<step>[0-9]+) ?/ ?(?P<total>[0-9]+)"
        rb"(?: *[|,:;-]? *loss[:= ]+(?P<loss>NUMBER))?",
        _groups,
        "no framework's own: the commonest line of hand-written loops",
    ),
    # Lightning counts batches, not optimizer steps, and epochs from 0; a hand-made bar of the same look that
    # counts epochs from 1 is an epoch ahead.
    _row(
        "lightning",
        b"Epoch ",
        rb"^Epoch (?P<epoch>[0-9]+): +[0-9]+%\|[^|]*\| *(?P<step>[0-9]+)/(?P<total>[0-9]+) " + _CLOCK,
        _lightning,
        "lightning callbacks/progress/tqdm_progress.py, the training bar",
    ),
    _row(
        "tqdm",
        b"%",
        rb"^(?P<description>[^|]*?) *[0-9]{1,3}%(?:\|[^|]*\|)? *"
        rb"(?P<step>" + _COUNT + rb")/(?P<total>" + _COUNT + rb") " + _CLOCK + rb"<",
        _bar,
        "tqdm std.py, format_meter: a known total",
    ),
    _row(
        "tqdm",
        b"[",
        rb"^(?P<description>[^|]*?)(?:(?:^|: ?)\|[^|]*\| *)?(?:^|(?<=: )|(?<=\| ))(?P<step>"
        + _COUNT
        + rb")(?:/\?| ?[A-Za-z]+) "
        + _CLOCK
        + rb"[,<]",
        _bar,
        "tqdm std.py, format_meter: no total; lightning shows it as `n/?`",
    ),
)
