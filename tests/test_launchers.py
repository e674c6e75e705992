"""Launchers: torchelastic's error file, Slurm's states that mislead, and commands that fail or hang."""

import json
import os
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainguard.commands import ask_command
from trainguard.launchers import (
    ElasticError,
    SlurmState,
    parse_error_file,
    parse_sacct,
    parse_scontrol,
    read_error_file,
    read_slurm_state,
)

TRACEBACK = (
    'Traceback (most recent call last):\n  File "/data/run7/train.py", line 4, in main\nValueError: odd\n'
)
ERROR = {
    "message": {
        "message": "ValueError: odd",
        "extraInfo": {"py_callstack": TRACEBACK, "timestamp": "1790000000"},
        "errorCode": 1,
    }
}


def test_an_error_file_tells_exception_traceback_and_time(tmp_path: Path) -> None:
    file = tmp_path / "error.json"
    file.write_text(json.dumps(ERROR))
    assert read_error_file(file) == ElasticError("ValueError: odd", TRACEBACK, 1_790_000_000.0)


def test_the_short_form_of_an_error_file_is_understood() -> None:
    told = parse_error_file(b'{"message": "lost", "timestamp": 1790000000}')
    assert told == ElasticError("lost", None, 1_790_000_000.0)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b"null", b'{"message": {}}', b'{"message": {"message": 3}}', b"\xff", b"[" * 100_000],
)
def test_anything_else_is_no_error_file(content: bytes, tmp_path: Path) -> None:
    assert parse_error_file(content) is None
    (tmp_path / "error.json").write_bytes(content)
    with pytest.raises(OSError, match="no error file"):
        read_error_file(tmp_path / "error.json")


@pytest.mark.parametrize("extra", [None, [], {"py_callstack": 3, "timestamp": "soon"}, {"timestamp": "inf"}])
def test_an_error_file_without_its_extras_still_tells_the_exception(extra: object) -> None:
    content = json.dumps({"message": {"message": "KeyError: 'a'", "extraInfo": extra}}).encode()
    assert parse_error_file(content) == ElasticError("KeyError: 'a'", None, None)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["message", "extraInfo", "timestamp"]), inner)
    ),
    max_leaves=8,
)


@given(JSON)
def test_any_json_is_an_error_file_or_none(value: object) -> None:
    told = parse_error_file(json.dumps(value).encode())
    assert told is None or isinstance(told.exception, str)


def test_a_fifo_or_a_missing_error_file_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", "missing"):
        with pytest.raises(OSError):
            read_error_file(tmp_path / name)


HEADER = "JobID|State|ExitCode|DerivedExitCode|Reason|NodeList\n"


def test_out_of_memory_in_a_step_is_seen_behind_a_job_that_only_failed() -> None:
    text = HEADER + (
        "21|FAILED|1:0|0:125|None|node3\n21.batch|FAILED|1:0|||node3\n21.0|OUT_OF_MEMORY|0:125|||node3\n"
    )
    assert parse_sacct(text, "21") == SlurmState("21", "FAILED", (1, 0), (0, 125), None, "node3", True)


def test_a_step_out_of_memory_is_enough() -> None:
    text = HEADER + "21|FAILED|1:0|1:0|None|node3\n21.0|OUT_OF_ME+|0:125|||node3\n"
    told = parse_sacct(text, "21")
    assert told is not None and told.out_of_memory


@pytest.mark.parametrize(
    ("row", "state", "code", "by"),
    [
        ("33|TIMEOUT|0:0|0:0|TimeLimit|node3", "TIMEOUT", (0, 0), None),
        ("33|CANCELLED by 1000|0:15|0:0|None|node[3-4]", "CANCELLED", (0, 15), 1000),
        ("33|CANCELLED+|0:15|0:0|None|node3", "CANCELLED", (0, 15), None),
        ("33|NODE_FAIL|0:0|0:0|NodeDown|node3", "NODE_FAIL", (0, 0), None),
        ("33|FAILED|9:0|9:0|JobLaunchFailure|node3", "FAILED", (9, 0), None),
    ],
)
def test_states_come_with_codes_and_who_cancelled(
    row: str, state: str, code: tuple[int, int], by: int | None
) -> None:
    told = parse_sacct(HEADER + row + "\n", "33")
    assert told is not None
    assert (told.state, told.exit, told.cancelled_by, told.out_of_memory) == (state, code, by, False)


def test_another_job_whose_number_begins_alike_is_not_taken() -> None:
    assert parse_sacct(HEADER + "331|FAILED|1:0|0:0|None|node3\n", "33") is None
    assert parse_sacct(HEADER, "33") is None
    assert parse_sacct("", "33") is None


SCONTROL = """JobId=33 JobName=JobState=COMPLETED
   UserId=ada(1000) GroupId=ada(1000) MCS_label=N/A
   JobState=OUT_OF_MEMORY Reason=OutOfMemory Dependency=(null)
   Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 ExitCode=0:125
   DerivedExitCode=0:0
   RunTime=00:01:02 TimeLimit=01:00:00 TimeMin=N/A
   ReqNodeList=(null) ExcNodeList=(null)
   NodeList=node3
   Command=/data/run7/train.sh ExitCode=7:7
"""


def test_the_controller_tells_the_same_and_a_job_name_fools_nobody() -> None:
    told = parse_scontrol(SCONTROL, "33")
    assert told == SlurmState("33", "OUT_OF_MEMORY", (0, 125), (0, 0), "OutOfMemory", "node3", True)
    assert parse_scontrol(SCONTROL, "3") is None


def test_the_controller_knows_nothing_of_steps() -> None:
    text = SCONTROL.replace("OUT_OF_MEMORY", "FAILED").replace("0:125", "1:0")
    told = parse_scontrol(text, "33")
    assert told is not None and told.out_of_memory is None


def test_a_task_of_an_array_is_found_by_its_own_name() -> None:
    text = "JobId=41 ArrayJobId=40 ArrayTaskId=1 JobName=a\n   JobState=RUNNING Reason=None\n\n" + (
        "JobId=42 ArrayJobId=40 ArrayTaskId=2 JobName=a\n   JobState=FAILED Reason=NonZeroExitCode\n"
    )
    told = parse_scontrol(text, "40_2")
    assert told is not None and (told.state, told.exit) == ("FAILED", None)


@given(st.text(alphabet="JobId=33 State|\n\t:0\x85", max_size=200))
def test_any_text_of_slurm_is_a_state_or_none(text: str) -> None:
    for parse in (parse_sacct, parse_scontrol):
        told = parse(text, "33")
        assert told is None or told.job == "33"


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of the path, beside the shell's own tools."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def give(folder: Path, name: str, body: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)


def test_without_slurm_it_is_said(commands: Path) -> None:
    with pytest.raises(OSError, match="not on this machine"):
        read_slurm_state("33", 5)


def test_what_is_no_job_is_not_asked_for(commands: Path) -> None:
    with pytest.raises(OSError, match="no number"):
        read_slurm_state("33; reboot", 5)


def test_accounting_is_asked_first(commands: Path) -> None:
    give(commands, "sacct", f"printf '{HEADER.strip()}\\n33|TIMEOUT|0:0|0:0|TimeLimit|node3\\n'")
    told = read_slurm_state("33", 5)
    assert told is not None and told.state == "TIMEOUT"


def test_without_accounting_the_controller_is_asked(commands: Path) -> None:
    give(commands, "sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    (commands / "text").write_text(SCONTROL)
    give(commands, "scontrol", 'while read -r line; do echo "   $line"; done < "${0%/*}/text"')
    told = read_slurm_state("33", 5)
    assert told is not None and told.state == "OUT_OF_MEMORY"
    give(commands, "scontrol", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert read_slurm_state("33", 5) is None


def test_a_controller_that_cannot_be_reached_is_not_a_job_that_is_unknown(commands: Path) -> None:
    give(commands, "scontrol", "echo 'Unable to contact slurm controller (connect failure)' >&2; exit 1")
    with pytest.raises(OSError, match="Unable to contact"):
        read_slurm_state("33", 5)


def test_a_slurm_that_hangs_costs_no_more_than_its_time(commands: Path) -> None:
    for name in ("sacct", "scontrol"):
        give(commands, name, f"exec {sys.executable} -c 'import time; time.sleep(1000)'")
    began = time.monotonic()
    with pytest.raises(OSError, match="no answer"):
        read_slurm_state("33", 1.0)
    assert time.monotonic() - began < 5


def test_a_command_that_talks_without_end_is_stopped() -> None:
    endless = "import os\nwhile True: os.write(1, bytes(65536))"
    with pytest.raises(OSError, match="more than 16 MiB"):
        ask_command([sys.executable, "-c", endless], 60)


def test_a_command_that_fails_tells_how() -> None:
    script = "import sys; print('a'); print('b', file=sys.stderr); sys.exit(3)"
    reply = ask_command([sys.executable, "-c", script], 60)
    assert (reply.code, reply.output, reply.errors) == (3, b"a\n", b"b\n")
    killed = ask_command([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], 60)
    assert killed.code == -9


def test_a_command_that_ignores_everything_is_left_in_time() -> None:
    script = "import signal, time\nfor n in (1, 2, 15): signal.signal(n, signal.SIG_IGN)\ntime.sleep(1000)"
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        ask_command([sys.executable, "-c", script], 0.5)
    assert time.monotonic() - began < 5
