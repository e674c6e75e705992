"""Records: what a logger wrote on one line, as JSON or escaped, is the lines of text that it stands for."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from trainguard.diagnosis.tracebacks import HEADER

# No logger's line is longer; a container's runtime puts a record around the record of a logger.
RECORD_LIMIT = 1 << 20
NESTED_LIMIT = 3
DEPTH_LIMIT = 6
LINE_LIMIT = 2000
PREFIX_LIMIT = 512

_LINE_END = re.compile(r"[\r\n]+")
_METRIC = re.compile(r"(?i)(?<![a-z])(?:loss|step|epoch|iter|acc)")
_ESCAPED = re.compile(r"([\"']?)" + re.escape(HEADER) + r":\\n")
_UNESCAPED = re.compile(r"\\(.)")
_FAILED = re.compile(r"(?i)(?<![a-z])(?:error|critical|fatal)(?![a-z])")
_TEXT_NAMES = ("msg", "message", "event", "log")
_ERROR_NAMES = ("error", "err", "exc", "exception", "exc_info", "exc_text")
_TIME_NAMES = ("time", "timestamp", "ts", "@timestamp", "asctime", "created")
_LEVEL_NAMES = ("level", "levelname", "severity", "log.level")
# One of these has an object that a logger or a container's runtime wrote.
_LOGGED = {*_TIME_NAMES, *_LEVEL_NAMES, "logger", "stream", "record", "exc_info", "exc_text"}
# One of these has a sample of a data set, or what a model made of one, which may quote anything.
_SAMPLED = {
    *("text", "prompt", "completion", "messages", "role", "content", "question", "answer", "input", "output"),
    *("instruction", "response", "prediction", "target", "label"),
}
# Whose line it is and where it was logged says nothing of what happened.
_PLACE_NAMES = {
    *("logger", "logger_name", "name", "module", "pathname", "file", "filename", "lineno", "line", "caller"),
    *("func", "funcName", "function", "thread", "threadName", "processName", "taskName", "hostname", "host"),
    *("rank", "stream", "attrs", "record", "v"),
}
# Seconds since 1970 in this century; some loggers count in thousandths.
_SECONDS = (9e8, 9e9)


class Record(msgspec.Struct, frozen=True):
    """The lines of text, each behind what stood before the record, and the time that it tells of them.

    `time` is text, or seconds since 1970; None where it tells none.
    """

    lines: tuple[str, ...]
    time: str | float | None = None


def parse_record(text: str, nested: int = NESTED_LIMIT) -> Record | None:
    """The record in one line, None where it is none, or tells of training in fields of its own."""
    if len(text) > RECORD_LIMIT:
        return None
    begin = text.find('{"', 0, PREFIX_LIMIT)
    if begin < 0:
        return _escaped(text)
    try:
        content = msgspec.json.decode(text[begin:].strip("\0 \t"))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or not _is_logged(content):
        return None
    texts = list(dict.fromkeys(_texts(content)))
    reported = any(HEADER in one for one in texts)
    failed = reported or any(_FAILED.search(str(content.get(name, ""))) for name in _LEVEL_NAMES)
    if not texts or (not failed and any(map(_METRIC.search, content))):
        return None
    if not reported and (rest := _rest(content)):
        texts[0] = f"{texts[0].rstrip()} {rest}"
    prefix, rank = text[:begin], content.get("rank")
    if type(rank) is int and 0 <= rank < 100_000:
        prefix += f"[rank{rank}]: "
    time = _time(content)
    lines: list[str] = []
    for line in _cut(texts):
        inner = parse_record(line, nested - 1) if nested > 1 else None
        if inner is not None:
            time = inner.time if time is None else time
        lines += (prefix + part for part in ([line] if inner is None else inner.lines))
    return Record(tuple(lines[:LINE_LIMIT]), time)


def _is_logged(content: Mapping[str, Any]) -> bool:
    # loguru's text is the line as it would have been, beside its record.
    return "record" in content or bool(_LOGGED & content.keys() and not _SAMPLED & content.keys())


def _cut(texts: list[str]) -> list[str]:
    return [line for text in texts for line in _LINE_END.split(text) if line.strip()][:LINE_LIMIT]


def _texts(content: Mapping[str, Any]) -> Iterator[str]:
    """The message, then what failed, then every report of an exception, wherever it stands."""
    named = (*_TEXT_NAMES, *_ERROR_NAMES, *(("text",) if "record" in content else ()))
    yield from (content[name] for name in named if isinstance(content.get(name), str))
    yield from _reports(content, DEPTH_LIMIT)


def _rest(content: Mapping[str, Any]) -> str:
    """What a record says in fields of its own, behind its message: as JSON, as console loggers print it."""
    told = {*_TIME_NAMES, *_LEVEL_NAMES, *_PLACE_NAMES, *_TEXT_NAMES, "text"}
    told |= {name for name in _ERROR_NAMES if isinstance(content.get(name), str)}
    rest = {name: value for name, value in content.items() if name not in told and value is not None}
    return msgspec.json.encode(rest).decode() if rest else ""


def _reports(value: Any, depth: int) -> Iterator[str]:
    if isinstance(value, str):
        if HEADER in value:
            yield value
    elif depth and isinstance(value, dict):
        if isinstance(value.get("exc_type"), str) and isinstance(value.get("frames"), list):
            yield _traceback(value)
        for part in value.values():
            yield from _reports(part, depth - 1)
    elif depth and isinstance(value, list):
        for part in value:
            yield from _reports(part, depth - 1)


def _traceback(told: Mapping[str, Any]) -> str:
    """A report as Python prints it, from structlog's dictionary of one."""
    frames = (
        f'  File "{frame.get("filename")}", line {frame.get("lineno")}, in {frame.get("name")}'
        for frame in told["frames"]
        if isinstance(frame, dict)
    )
    return "\n".join((f"{HEADER}:", *frames, f"{told['exc_type']}: {told.get('exc_value', '')}"))


def _time(content: Mapping[str, Any]) -> str | float | None:
    for name in _TIME_NAMES:
        told = content.get(name)
        if isinstance(told, str) and told:
            return told
        if isinstance(told, int | float) and told < 1e15:
            for seconds in (told, told / 1e3):
                if _SECONDS[0] < seconds < _SECONDS[1]:
                    return float(seconds)
    return None


def _escaped(text: str) -> Record | None:
    """A report on one line with `\\n` for its line ends, where it is all of a line, or a logger's error."""
    match = _ESCAPED.search(text)
    if match is None:
        return None
    prefix, quote = text[: match.start()], match[1]
    if prefix.strip() and not _FAILED.search(prefix):
        return None
    told = text[match.end(1) :]
    if quote and (end := re.match(rf"(?:[^{quote}\\]|\\.)*", told)):
        told = end[0]
    whole = _UNESCAPED.sub(lambda found: "\n" if found[1] == "n" else found[1], told)
    return Record(tuple(_cut([prefix, whole])), prefix or None)
