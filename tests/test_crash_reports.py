"""Crash reports: what the crash types have to say, whatever way their name is written."""

import pytest

from trainguard import crash_reports
from trainguard.config import ExpectedError
from trainguard.crash_types import CAUSES, TYPES
from trainguard.health import Status


@pytest.mark.parametrize("name", ["cuda_oom", "CUDA_OOM", "cuda-oom", " Cuda OOM "])
def test_a_name_may_be_written_in_any_way(name: str) -> None:
    assert crash_reports.find_type(name) is TYPES["cuda_oom"]


@pytest.mark.parametrize(("name", "told"), [("cuda_om", "did you mean cuda_oom?"), ("zzzz", "--list names")])
def test_an_unknown_name_is_a_sentence_with_the_nearest_one(name: str, told: str) -> None:
    with pytest.raises(ExpectedError, match=f"{name}: no crash type and no cause") as refused:
        crash_reports.find_type(name)
    assert told in str(refused.value)


@pytest.mark.parametrize("name", [*TYPES, *CAUSES])
def test_every_type_and_cause_can_be_told(name: str) -> None:
    found = crash_reports.find_type(name)
    steps = crash_reports.explanation_for_json(found)["steps"]
    lines = crash_reports.explanation(found)
    assert isinstance(steps, list) and all(any(step in line for line in lines) for step in steps)
    assert not any("{" in step for step in steps)
    # A step is a sentence, or ends in a command to copy.
    assert [step for step in found.steps if step[-1] not in ".?" and not any(c in step for c in ":?")] == []


def test_every_cause_stands_in_the_list() -> None:
    names = {line.split()[0] for line in crash_reports.all_types()}
    assert names >= {*TYPES, *CAUSES}


def test_no_crash_is_said_of_what_was_read_only() -> None:
    assert "no crash in 2 logs, 3.0 MiB" in crash_reports.no_crash(["a", "b"], 3 << 20, [])
    told = crash_reports.no_crash([], 0, [f"rank{number}.log" for number in range(5)])
    assert told.startswith(Status.UNKNOWN.name) and "rank0.log, rank1.log, rank2.log and 2 more" in told
    assert "no crash" not in told
