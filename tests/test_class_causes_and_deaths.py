"""Causes by class, deaths that a launcher tells at once, and quoted reports. Text in, crashes out."""

from functools import cache

import msgspec
import pytest

from trainguard import diagnosis
from trainguard.diagnosis import Crash
from trainguard.signatures import Role, Signature, load_signatures

FRAMES = (
    'Traceback (most recent call last):\n  File "/data/run7/train.py", line 41, in <module>\n    step()\n'
)
AGENT = (
    "E0105 03:12:44.120000 4000 torch/distributed/elastic/multiprocessing/api.py:869] failed (exitcode: {code}) "
    "local_rank: 1 (pid: 4127) of binary: /data/env/bin/python\n"
)
SUMMARY = """\
Root Cause (first observed failure):
[0]:
  rank      : 9 (local_rank: 1)
  exitcode  : {code} (pid: 4127)
  traceback : Signal {signal} received by PID 4127
"""


@cache
def rows() -> tuple[Signature, ...]:
    return load_signatures()


def crashes_of(text: str, *more: Signature) -> list[Crash]:
    known = (*more, *rows())

    def match(line: str) -> list[Signature]:
        return [row for row in known if row.search(line)]

    events = diagnosis.Observer(match).observe(diagnosis.cut_lines(text.encode(), "run.log", 0, 1))
    return [diagnosis.describe(one) for one in diagnosis.find_failures(events)]


@pytest.mark.parametrize(
    ("final", "cause"),
    [
        ("FileNotFoundError: [Errno 2] No such file or directory: '/data/train.jsonl'", "file_missing"),
        ("PermissionError: [Errno 13] Permission denied: '/data/run7'", "permission"),
        ("FloatingPointError: invalid value", "nan_loss"),
        ("MemoryError", "host_alloc_failed"),
        ("omegaconf.errors.ConfigAttributeError: Key 'lr' is not in struct", "config_invalid"),
        ("lightning.fabric.utilities.exceptions.SIGTERMException", "external_term"),
        ("KeyError: 'labels'", "python_exception"),
    ],
)
def test_a_class_with_a_named_cause_tells_it(final: str, cause: str) -> None:
    (crash,) = crashes_of(f"{FRAMES}{final}\n")
    assert crash.cause == cause


@pytest.mark.parametrize(
    ("code", "signal", "kind"),
    [(-11, "11 (SIGSEGV)", "segfault"), (-9, "9 (SIGKILL)", "process_killed")],
)
def test_the_agents_first_word_of_a_death_is_the_root_with_the_summarys_rank(
    code: int, signal: str, kind: str
) -> None:
    told = AGENT.format(code=code) + SUMMARY.format(code=code, signal=signal)
    (crash,) = crashes_of(f"step 1 loss 0.4\n{told}")
    assert (crash.type, crash.root.line, crash.rank) == (kind, 2, 9)
    (alone,) = crashes_of(f"step 1 loss 0.4\n{SUMMARY.format(code=code, signal=signal)}")
    assert (alone.type, alone.root.line, alone.rank) == (kind, 5, 9)


def test_the_users_advice_silences_what_a_report_that_was_left_open_would_end_in() -> None:
    row = msgspec.structs.replace(
        next(row for row in rows() if row.role is Role.ADVICE),
        name="our_noise",
        pattern="labels are optional",
    )
    opened = FRAMES.replace("<module>", "load") + "KeyError: labels are optional\n"
    assert crashes_of(opened) and not crashes_of(opened, row)
    assert crashes_of(FRAMES + "KeyError: labels are optional\n", row)


def test_a_text_that_quotes_a_report_on_one_line_opens_none() -> None:
    quoted = 'output: you see Traceback (most recent call last): File "a.py", line 1. Killed.\n'
    assert not crashes_of(f"{quoted}KeyError: 'foo' happens if the key is missing.\nstep 1 loss 0.4\n")
