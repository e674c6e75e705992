"""Lines: bytes of a log cut at its line ends, with what was put before each line taken off and understood."""

import re
from collections.abc import Iterator
from datetime import datetime

from trainguard.diagnosis.records import RECORD_LIMIT, parse_record
from trainguard.diagnosis.values import Line
from trainguard.progress import without_escapes

TEXT_LIMIT = 4096

_SEGMENT = re.compile(rb"[^\r\n]+")
# What launchers and log collectors put before each line of a process: they tell one stream from another.
_STREAMS = (
    re.compile(r"^\[[A-Za-z_]\w*?(?P<rank>\d+)\]: ?"),  # torch's [rank0], torchrun --tee with any role's name
    re.compile(r"^\[\d+,(?P<rank>\d+)\]<std(?:err|out)>: ?"),  # mpirun --tag-output, horovodrun
    re.compile(r"^(?P<rank>\d{1,5}): (?=\S)"),  # srun --label
    re.compile(r"^\[(?P<rank>\d+)\]:? ?(?=Traceback|  File)"),  # accelerate, horovod
    re.compile(r"^\((?:[\w.:<>+-]+(?:\([^)]*\))? pid=\d+(?:, ip=[\d.]+)?)\) ?"),  # ray
    re.compile(r"^(?:[\w.-]+)(?: +\| )(?=\s*(?:Traceback|File |[\w.]+(?:Error|Exception)\b))"),  # compose
    re.compile(r"^(?:\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-]\d\d:?\d\d)) (?P<stream>std(?:out|err)) [FP] "),  # CRI
)
_LEVEL = r"(?:DEBUG|INFO|WARN(?:ING)?|ERROR|CRITICAL|FATAL|SEVERE)"
# A class of exceptions is no logger's name.
_NO_ERROR = r"(?![\w.]*(?:Error|Exception|Interrupt)\b)"
# What loggers put before a message; whose line it is they do not tell.
_LOGGERS = (
    re.compile(r"^wandb: (?:ERROR|WARNING)? ?"),
    re.compile(r"^(?:[IWEFC])\d{4,8} \d\d:\d\d:\d\d(?:\.\d+)? +\d+ [^\]]*\] "),  # glog
    re.compile(r"^\[(?:[IWEFC])\d* ?[\d:. -]*[^\]]*\.(?:cpp|cc|h|cu):\d+\] ?"),  # c10's glog
    re.compile(
        r"^\[?(?:\d{4}[-/]\d\d[-/]\d\d[ T]\d\d:\d\d:\d\d)(?:[.,]\d+)?(?:Z| ?[+-]\d\d:?\d\d)?\]?"
        rf"[ :,|-]*(?:\[(?!{_LEVEL})[\w./:<>-]*\][ :|-]*|{_NO_ERROR}[\w./<>-]*(?::[\w<>]*:?\d+)?"
        rf"(?: [:|-]+ |: |\| ?| (?=[\[(<]?{_LEVEL})))?"
        rf"(?:[\[(<]?{_LEVEL}[\])>]?[ :|-]*"
        rf"(?:\[[^\]]*\][ :|-]*|[\w./<>]+:[\w<>]*:?\d+ - |{_NO_ERROR}[\w.]+: )?)?"
    ),
    re.compile(r"^\[?(?:DEBUG|INFO|WARNING|ERROR|CRITICAL|FATAL)(?:\|[^\]]*)?\]?:[\w.]*:? ?"),
)
_TIME = re.compile(
    r"(?P<date>(?:19|20)\d\d[-/]\d\d[-/]\d\d)[ T_](?P<clock>\d\d:\d\d:\d\d)"
    r"|\b[IWEF](?P<compact>20\d{6}) (?P<compact_clock>\d\d:\d\d:\d\d)"
)
_RANK = re.compile(r"(?:^|[\[( ,])(?:global )?rank[ :=]{0,2}(?P<rank>\d{1,5})\b", re.IGNORECASE)


def cut_lines(content: bytes, file: str, start: int, number: int | None) -> Iterator[Line]:
    """The lines of consecutive bytes that begin at offset `start` on line `number`. Blank ones are left out."""
    counted = 0
    for match in _SEGMENT.finditer(content):
        raw = match[0]
        at = match.start()
        if number is not None:
            number += content.count(b"\n", counted, at)
            counted = at
        yield from read_lines(raw, file, start + at, number)


def read_lines(raw: bytes, file: str, offset: int, number: int | None) -> Iterator[Line]:
    """One segment understood: a line, or those that a logger's record stands for, all at the same place."""
    record = None
    if len(raw) <= RECORD_LIMIT and (b'{"' in raw or b"\\n" in raw):
        record = parse_record(raw.decode("utf-8", "replace"))
    if record is None:
        yield _read_line(raw, file, offset, number)
        return
    for text in record.lines:
        yield _read_line(text.encode("utf-8", "replace"), file, offset, number, record.time)


def _read_line(
    raw: bytes, file: str, offset: int, number: int | None, time: str | float | None = None
) -> Line:
    raw = without_escapes(raw)
    if len(raw) > TEXT_LIMIT:
        # A bar can have been rewritten thousands of times before the message that it is glued to.
        raw = raw[: TEXT_LIMIT // 2] + b" ... " + raw[-TEXT_LIMIT // 2 :]
    text = raw.replace(b"\0", b"").decode("utf-8", "replace").rstrip()
    body, rank, stream = text, None, ""
    while (match := _prefix(body)) is not None and match.end():
        # A launcher puts its name before what torch has put its own before.
        stream += match.groupdict().get("stream") or match[0].strip()
        ranked = match.groupdict().get("rank")
        rank = rank if ranked is None else int(ranked)
        body = body[match.end() :]
    for pattern in _LOGGERS:
        if (match := pattern.match(body)) and match.end():
            body = body[match.end() :]
            break
    if rank is None and "ank" in text and (match := _RANK.search(text)):
        rank = int(match["rank"])
    if isinstance(time, str) or time is None:
        told = time or text
        match = _TIME.search(told) if ":" in told else None
        time = None if match is None else _wall(match)
    return Line(file, number, offset, text, body, rank, stream, time)


def _prefix(body: str) -> re.Match[str] | None:
    return next((match for pattern in _STREAMS if (match := pattern.match(body))), None)


def _wall(match: re.Match[str]) -> float | None:
    date = (match["date"] or match["compact"] or "").replace("/", "").replace("-", "")
    try:
        return datetime.strptime(
            f"{date} {match['clock'] or match['compact_clock']}", "%Y%m%d %H:%M:%S"
        ).timestamp()
    except (ValueError, OverflowError):
        return None
