"""Records: a logger's JSON on one line is read as the lines that it stands for. Whole logs in, crashes out."""

import json
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainguard import diagnosis
from trainguard.diagnosis import Crash, Line
from trainguard.diagnosis.lines import TEXT_LIMIT
from trainguard.diagnosis.records import LINE_LIMIT, RECORD_LIMIT, parse_record
from trainguard.investigation import investigating
from trainguard.investigation.investigating import Knowledge
from trainguard.investigation.sources import Source
from trainguard.moments import seconds_of

FINAL = "ValueError: batch 7 is empty"
FRAMES = '  File "/data/run7/train.py", line 10, in <module>\n    main()\n'
REPORT = f"Traceback (most recent call last):\n{FRAMES}{FINAL}"
CAUGHT = REPORT.replace("<module>", "step")
TIME = "2026-01-05T03:12:44"


@cache
def knowledge() -> Knowledge:
    return investigating.open_knowledge(None, None, [])


def crashes_of(text: str) -> tuple[Crash, ...]:
    return investigating.investigate([Source("run.log", text=text.encode())], knowledge()).crashes


def lines_of(text: str | bytes) -> list[Line]:
    content = text if isinstance(text, bytes) else text.encode()
    return list(diagnosis.cut_lines(content, "run.log", 0, 1))


def written(**fields: Any) -> str:
    return json.dumps(fields) + "\n"


PROGRESS = "".join(written(time=TIME, level="INFO", msg=f"step {n}/100 loss 0.5") for n in range(1, 30))
MORE = "".join(written(time=TIME, level="INFO", msg=f"step {n}/100 loss 0.5") for n in range(30, 60))
FRAME = {"filename": "/data/run7/train.py", "lineno": 10, "name": "<module>"}

RECORDS = {
    "the report beside the message": written(time=TIME, level="ERROR", msg="step failed", exc_info=REPORT),
    "python-json-logger without any time": written(message="step failed", exc_info=REPORT),
    "structlog": written(event="step failed", exception=REPORT, level="error", timestamp=TIME),
    "structlog's dictionaries": written(
        event="step failed",
        level="error",
        exception=[{"exc_type": "ValueError", "exc_value": "batch 7 is empty", "frames": [FRAME]}],
    ),
    "the message is the report": written(ts=1767582764.5, level="error", msg=REPORT),
    "with the step and the loss": written(time=TIME, step=17, loss=0.4, msg="failed", exc_info=REPORT),
    "in a field within a field": written(
        **{"@timestamp": TIME, "message": "failed", "error": {"message": "x", "stack_trace": REPORT}}
    ),
    "loguru": written(text=f"12:01 | ERROR | train - failed\n{REPORT}\n", record={"message": "failed"}),
    "a container's record of a record": written(
        log=written(level="error", message="failed", exc_info=REPORT), stream="stderr", time=TIME
    ),
    "behind a time and a stream": f"{TIME}.1Z stderr F " + written(level="error", msg="x", exc_info=REPORT),
    "the escaped text itself": json.dumps(REPORT) + "\n",
    "the escaped text without quotes": json.dumps(REPORT)[1:-1] + "\n",
    "behind a logger's level": f"{TIME} ERROR train: {REPORT!r}\n",
    "pairs of names and values": f'time={TIME}Z level=error msg="failed" exc={json.dumps(REPORT)} rank=3\n',
    "with escapes for a terminal": written(time=TIME, msg="failed", exc_info=f"\x1b[31m{REPORT}\x1b[0m"),
}


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_a_report_in_a_record_is_read_line_by_line(record: str) -> None:
    (crash,) = crashes_of(PROGRESS + record)
    assert (crash.type, crash.exception) == ("value_error", "ValueError")
    assert crash.root.text.endswith(FINAL) and "\\n" not in crash.root.text
    assert (crash.root.line, crash.root.offset) == (30, len(PROGRESS))


def test_a_long_record_far_from_the_end_of_a_large_log_is_kept_whole() -> None:
    """Its fields hold what a logger tells of the variables, 20 KiB of it."""
    record = written(level="error", msg="failed", exc_info=REPORT, locals={"batch": "7, " * 7000})
    quiet = written(time=TIME, level="debug", msg="nothing to tell") * 40_000
    (crash,) = crashes_of(quiet + record + quiet)
    assert (crash.type, crash.root.offset) == ("value_error", len(quiet))


def test_a_report_whose_lines_are_a_record_each_is_read() -> None:
    lines = REPORT.splitlines()
    text = "".join(
        written(log=f"{line}\n", stream="stderr", time=f"{TIME}.{n}Z") for n, line in enumerate(lines)
    )
    (crash,) = crashes_of(text)
    assert (crash.type, crash.root.line, crash.root.text) == ("value_error", len(lines), FINAL)


def test_a_report_whose_lines_have_a_time_and_a_stream_each_is_read() -> None:
    text = "".join(f"{TIME}.{n}Z stderr F {line}\n" for n, line in enumerate(REPORT.splitlines()))
    assert [crash.type for crash in crashes_of(text)] == ["value_error"]


def test_a_signature_fits_the_message_of_a_record_as_if_it_were_a_line() -> None:
    record = written(level="error", msg="CUDA error: an illegal memory access was encountered")
    (crash,) = crashes_of(
        PROGRESS + written(level="error", msg="RuntimeError: " + "CUDA out of memory. Tried")
    )
    assert crash.type == "cuda_oom"
    assert [crash.type for crash in crashes_of(PROGRESS + record)] == ["cuda_error"]


def test_what_a_record_says_in_fields_of_its_own_stands_behind_its_message() -> None:
    (line,) = lines_of(written(time=TIME, level="error", msg="worker ended", reason="OOMKilled", code=137))
    assert line.text == 'worker ended {"reason":"OOMKilled","code":137}'
    (line,) = lines_of(written(time=TIME, level="info", msg="worker ended", logger="train", lineno=7))
    assert line.text == "worker ended"
    message, error = lines_of(written(level="error", msg="worker ended", error="OSError: no more", code=1))
    assert (message.text, error.text) == ('worker ended {"code":1}', "OSError: no more")


@pytest.mark.parametrize("time", [f"{TIME}Z", f"{TIME.replace('T', ' ')},123", seconds_of(f"{TIME}+0000")])
def test_a_record_tells_the_time_and_the_rank_of_its_lines(time: str | float) -> None:
    for line in lines_of(written(time=time, rank=3, msg=REPORT)):
        assert line.rank == 3 and line.stream and line.number == 1
        assert line.time is not None
    (pino,) = lines_of(written(time=1767582764123, msg="x"))
    assert pino.time == 1767582764.123


def test_a_report_that_a_logger_caught_is_overcome_by_the_steps_after_it() -> None:
    record = written(time=TIME, level="ERROR", msg="step failed", exc_info=CAUGHT)
    assert crashes_of(PROGRESS + record + MORE) == ()
    assert len(crashes_of(PROGRESS + record)) == 1


@pytest.mark.parametrize(
    "line",
    [
        written(prompt="explain this", completion=REPORT),
        written(text=REPORT, timestamp=TIME, url="https://example.org/7"),
        written(role="user", content=REPORT, time=TIME),
        f"sample 3: {REPORT!r}\n",
        written(
            time=TIME,
            level="WARNING",
            msg="slow step",
            stack_info=f"Stack (most recent call last):\n{FRAMES}",
        ),
    ],
)
def test_a_report_that_is_only_quoted_is_none(line: str) -> None:
    assert crashes_of(PROGRESS + line) == ()


def test_where_a_logger_was_called_is_no_report_of_an_exception() -> None:
    stack = f"WARNING:root:slow step\nStack (most recent call last):\n{FRAMES}UserWarning: it was slow\n"
    assert crashes_of(PROGRESS + stack) == ()


@pytest.mark.parametrize(
    "line",
    [
        '{"time": 1, "msg": "it broke off',
        '{"time": 1, "msg": "a", "loss": NaN}',
        '{"step": 20, "loss": 0.5, "time": 12.1}',
        '{"name": "run7", "msg": "no logger wrote this"}',
        '{"loss": 0.5, "level": "info", "event": "train"}',
        "{'loss': 0.5, 'time': 1}",
        '{"time": 1, "msg": 7}',
        '{"time": 1}',
        '{"a": ' + "[" * 50_000,
        '{"a": ' + "[" * 50_000 + "]" * 50_000 + ', "msg": "x", "time": 1}',
    ],
)
def test_what_is_no_record_of_text_stays_one_line(line: str) -> None:
    (read,) = lines_of(line)
    assert read.text[:1000] == line[:1000]


def test_a_record_of_any_size_has_few_short_lines() -> None:
    huge = lines_of(written(time=TIME, msg="x" * RECORD_LIMIT))
    assert len(huge) == 1 and len(huge[0].text) <= TEXT_LIMIT + 5
    assert len(lines_of(written(time=TIME, msg="x\n" * (RECORD_LIMIT // 4)))) == LINE_LIMIT
    (long,) = lines_of(written(time=TIME, msg="x" * (RECORD_LIMIT // 2)))
    assert len(long.text) <= TEXT_LIMIT + 5


def test_a_record_of_any_depth_is_read() -> None:
    for depth in (1, 100, *range(900, 1010), 100_000):
        fields = '{"time":1,"msg":"x","deep":' + "[" * depth + "]" * depth + "}"
        assert len(lines_of(fields)) == 1


LOGGED = ("time", "ts", "level", "msg", "message", "log", "event", "text", "record", "stream", "rank")
FAILED = ("exc_info", "exception", "error", "frames", "exc_type", "exc_value", "loss", "stack_trace")
NAMES = st.sampled_from((*LOGGED, *FAILED))
TEXTS = st.one_of(
    st.text(), st.sampled_from([REPORT, FINAL, TIME, "\0", "\ud800", "step 3/9 loss nan", "error"])
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(NAMES, TEXTS), inner, max_size=4)
    ),
)


@given(
    st.dictionaries(NAMES, VALUES, max_size=6), st.sampled_from(["", "[rank3]: ", "2: ", f"{TIME} ERROR "])
)
def test_any_object_is_read(fields: dict[str, Any], before: str) -> None:
    text = before + json.dumps(fields)
    lines = lines_of(text)
    assert all(line.offset == 0 and line.number == 1 and "\n" not in line.text for line in lines)
    events = list(diagnosis.Observer(knowledge().matcher).observe(lines))
    assert diagnosis.find_failures(events) is not None


@given(
    st.one_of(
        st.binary(), st.lists(st.sampled_from([*'{}[]":,\\nu', "\0", REPORT, '{"msg":"', '","time":1}']))
    )
)
def test_any_bytes_are_read(content: bytes | list[str]) -> None:
    raw = content if isinstance(content, bytes) else "".join(content).encode()
    for line in lines_of(raw):
        assert "\0" not in line.text
    parse_record(raw.decode("utf-8", "replace"))
