"""Advancing: what a line says of training: which step it is at, and where its loss stands."""

import math
import re

from trainguard.diagnosis.values import Advance, Line
from trainguard.progress import Role, parse_segment

# So much of a line before a loss may say whose it is.
BEFORE_LIMIT = 400

_NUMBER = r"[-+]?(?:nan|inf(?:inity)?|\d+\.?\d*(?:e[-+]?\d+)?)"
_NO_NUMBER = re.compile(r"(?i)[-+]?\b(?:nan|inf)\b")
_WORK = re.compile(
    r"(?i)\b(?:(?:epochs?|iter(?:ation)?s?)(?:\(train\))?|(?:global[_ ])?steps?|batch(?:es)?|update)(?!\w)"
    r"\W{0,8}(?P<step>\d+)(?!\d|\.\d)|\btrain(?:ing)?: {0,4}\[? *(?P<epoch>\d+) *[\[/]"
)
# A name, its value, and what may stand between them: a sign, quotes, and the class that a framework prints.
_LOSS = re.compile(
    r"(?i)(?<![\w.])(?P<name>(?:[a-z]{1,20}[ -])?[\w/]{0,40}?loss[\w/]{0,40})['\"]?"
    rf"\s{{0,40}}[:=|]?\s{{0,40}}['\"(]{{0,3}}(?:[a-z][\w.]{{0,20}}\(\[?)?(?P<loss>{_NUMBER})(?!\w)"
)
_TOTAL = re.compile(
    r"(?i)(?:(?:total|train(?:ing)?|lm|avg|average|mean|running|batch|step|epoch|iter)[ _/-]?)*"
    r"loss(?:es)?(?:[_/](?:train(?:ing)?|total|step|epoch|avg|mean))*"
)
_NO_LOSS = re.compile(r"(?i)loss(?:es)?[_/]?(?:scal|weight|coef|ratio|lr|time|count|std|var|grad)")
_TRAIN = re.compile(r"(?i)(?<![a-z])train")
# Of an evaluation, or a memory of another step.
_EVALUATED = re.compile(
    r"(?i)(?<![a-z])(?:val(?!ue)|eval|test|dev(?!i)|best|min(?![a-z])|minim|lowest|smooth|prev|last|initial)"
)
_EVALUATION = re.compile(r"(?i)(?<![a-z])(?:val(?:id\w*)?|eval\w*|test(?:ing|ed|s)?|dev)(?![a-z])")
_EVALUATED_PAIR = re.compile(
    r"(?i)(?<!\w)\w{0,20}(?:val|test|dev)[\w/]{0,20}['\"]?\s{0,9}[:=]?\s{0,9}['\"(]?[-+]?(?:nan|inf|\d+\.\d+)(?!\w)"
)
_EVALUATED_SPLIT = re.compile(r"(?i)['\"](?:val(?:id(?:ation)?)?|eval(?:uation)?|test|dev)['\"]\s*[,}]")
# What Transformers shows once its filter of losses that are no numbers has nothing left to show.
_LOST_GRADIENT = re.compile(r"(?i)grad_?norm['\"]?\s*[:=]?\s*['\"]?[-+]?nan\b")
# Ultralytics: epoch, memory, one loss or several, instances, size.
_COLUMNS = re.compile(
    rf"(?i)^\s*(?P<step>\d+)/\d+\s+[\d.]+[KMGT]?B?\s+(?P<losses>(?:{_NUMBER}\s+){{1,8}}?)\d+\s+\d+:\s"
)
_KERAS = re.compile(r"^\s*(?P<step>\d+)/(?P<total>\d+|Unknown) +(?:\[|[━╸╺─]|- |\d+s ).*loss: ")
_KERAS_EPOCH = re.compile(r"^Epoch \d+/\d+$")
_RATE = re.compile(r"\b(?:lr|learning[ _]rate)\b")
_BARE = re.compile(r"(?i)^\W{0,3}(?:(?:train(?:ing)?|total|batch|lm|running)[ _/-])?loss\b")


class Reader:
    """Reads the lines of a log in order; it keeps what tells a training loss from an evaluation's of like look."""

    def __init__(self) -> None:
        self._keras_begins = False
        self._keras_total: str | None = None
        self._was_bare = False

    def read(self, line: Line) -> Advance | None:
        """What a line says of training, by the formats that are known, else by its look."""
        body = line.body
        was_bare, self._was_bare = self._was_bare, False
        for mark in parse_segment(body.encode()):
            if mark.role in (Role.TRAINING, Role.BAR, Role.SIGN) and not mark.finished:
                loss = mark.loss if mark.loss is not None else read_loss(body)
                # Without its bar, Transformers tells the epoch alone.
                step = mark.step if mark.step is not None else mark.epoch
                return Advance(line, f"{mark.source}|{_label(mark.key)}", step, _judged(loss, body))
        lower = body.lower()
        if _KERAS_EPOCH.match(body):
            self._keras_begins = True
        if "loss" not in lower and "acc" not in lower:
            match = _COLUMNS.match(body)
            return Advance(line, "columns", float(match["step"]), _columns(match)) if match else None
        if match := _KERAS.match(body):
            return self._of_keras(line, match)
        loss = _judged(read_loss(body), body)
        if match := _WORK.search(body):
            return Advance(line, "look", float(match["step"] or match["epoch"]), loss)
        if loss is not None and _RATE.search(lower):
            return Advance(line, "rate", None, loss)
        if loss is not None and _BARE.match(body):
            self._was_bare = True
            # Evaluations print such a line among others; a loop that prints nothing else fills the log with it.
            if math.isfinite(loss) or was_bare or "grad_fn" in body or _TRAIN.search(body):
                return Advance(line, "loss", None, loss)
        return None

    def _of_keras(self, line: Line, match: re.Match[str]) -> Advance:
        """A bar; behind an epoch's head stands the one of training, and another total is an evaluation's."""
        total = match["total"]
        if self._keras_begins:
            self._keras_begins, self._keras_total = False, total
        trains = self._keras_total in (None, total)
        return Advance(
            line, f"keras /{total}", float(match["step"]), read_loss(line.body) if trains else None
        )


def _label(key: str) -> str:
    """A bar's key, the same whether the numbers in its description are some or none, and however they are set."""
    return _NO_NUMBER.sub("#", " ".join(key.split()))


def read_loss(body: str) -> float | None:
    """The training loss in a line, by its look: the total, or of parts alone NaN where none has a value."""
    if match := _COLUMNS.match(body):
        return _columns(match)
    parts = []
    for match in _LOSS.finditer(body):
        name = match["name"]
        if _NO_LOSS.search(name) or _is_evaluated(name, body[: match.start()]):
            continue
        if _TOTAL.fullmatch(name):
            return float(match["loss"])
        parts.append(float(match["loss"]))
    return _sum(parts)


def _is_evaluated(name: str, before: str) -> bool:
    near = f"{before[-12:]}{name}"
    trained, evaluated = _last(_TRAIN, near), _last(_EVALUATED, near)
    if trained >= 0 or evaluated >= 0:
        return evaluated > trained
    return bool(_EVALUATION.search(_EVALUATED_PAIR.sub("", before[-BEFORE_LIMIT:])))


def _last(pattern: re.Pattern[str], text: str) -> int:
    return max((match.start() for match in pattern.finditer(text)), default=-1)


def _judged(loss: float | None, body: str) -> float | None:
    """The loss, unless the line is an evaluation's; a zero without a gradient stands for no number."""
    if loss is None or (not math.isfinite(loss) and _EVALUATED_SPLIT.search(body)):
        return None
    return math.nan if loss == 0 and _LOST_GRADIENT.search(body) else loss


def _columns(match: re.Match[str]) -> float | None:
    return _sum([float(loss) for loss in match["losses"].split()])


def _sum(parts: list[float]) -> float | None:
    """Where parts of a loss stand: once the model is lost, each of them is no number, or always zero."""
    finite = [part for part in parts if math.isfinite(part)]
    lost = [part for part in parts if not math.isfinite(part)]
    return next((part for part in (*filter(None, finite), *lost, *finite)), None)
