"""Checks of memory: each fine, at its limit, just beyond it, where it does not apply, and where it hangs."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from trainguard.cgroup import Allowance
from trainguard.checks import memory as rows
from trainguard.checks.running import limits_of, run_checks
from trainguard.checks.values import Absent, Facts, Measure
from trainguard.config import DaemonSettings, Settings
from trainguard.health import Finding, Status
from trainguard.memory import Memory
from trainguard.vitals import Past, Sample

CHECKS = {check.id: check for check in rows.CHECKS}
GIB = 1 << 30
SETTINGS = Settings(path=Path("/absent/config.yaml"), daemon=DaemonSettings(command=("true",)))
FINE = Memory(
    total=100 * GIB,
    available=50 * GIB,
    swap_total=10 * GIB,
    swap_free=10 * GIB,
    huge_pages_free=0,
    huge_page_size=2 << 20,
    committed=10 * GIB,
    commit_limit=50 * GIB,
    overcommit=0,
    stalled=0.0,
    allowance=None,
    oom_kills=0,
)


def memory(**more: Any) -> Memory:
    return msgspec.structs.replace(FINE, **more)


def told(check_id: str, now: Memory, past: Sequence[float] = ()) -> list[Any]:
    """What a check tells, where the earlier looks saw these numbers of kills."""
    samples = [
        Sample(float(place), "boot", 0.0, {"oom_kills_total": kills}) for place, kills in enumerate(past)
    ]
    check = CHECKS[check_id]
    limits = {limit.name: limit.default for limit in check.limits}
    return list(check.judge(Facts(SETTINGS, [now], Past(tuple(samples)), 1e6), limits))


def findings(check_id: str, now: Memory, past: Sequence[float] = ()) -> list[Finding]:
    return [one for one in told(check_id, now, past) if isinstance(one, Finding)]


def status(check_id: str, now: Memory, past: Sequence[float] = ()) -> Status:
    (one,) = findings(check_id, now, past)
    assert bool(one.remedy) == bool(one.status) or one.status is Status.UNKNOWN
    return one.status


def is_absent(check_id: str, now: Memory) -> bool:
    return [type(one) for one in told(check_id, now)] == [Absent]


def test_memory_that_does_not_answer_is_bad_and_the_others_are_undecided() -> None:
    dead = msgspec.structs.replace(rows.MEMORY, read=lambda settings, deep: time.sleep(60), seconds=0.2)
    chosen = [
        msgspec.structs.replace(one, reads=(dead,), answers_for=(dead,) if one.answers_for else ())
        for one in rows.CHECKS
    ]
    results = run_checks(chosen, SETTINGS, limits_of(SETTINGS, chosen), Past())
    bad = [one for one in results if one.status is Status.BAD]
    assert [one.check.id for one in bad] == ["memory-available"]
    assert {one.status for one in results if one not in bad} == {Status.UNKNOWN}


def test_this_machine_is_judged_without_a_bug() -> None:
    results = run_checks(rows.CHECKS, SETTINGS, limits_of(SETTINGS, rows.CHECKS), Past())
    assert [one for one in results if any("bug" in finding.fact for finding in one.findings)] == []
    assert all(one.findings or one.absent for one in results)


@pytest.mark.parametrize(
    ("available", "expected"),
    [
        (10 * GIB, Status.OK),
        (10 * GIB - 1, Status.ATTENTION),
        (3 * GIB, Status.ATTENTION),
        (3 * GIB - 1, Status.BAD),
        (0, Status.BAD),
    ],
)
def test_available_memory_is_graded(available: int, expected: Status) -> None:
    assert status("memory-available", memory(available=available)) is expected


def test_available_memory_is_measured_with_its_limits() -> None:
    (measure,) = (one for one in told("memory-available", FINE) if isinstance(one, Measure))
    assert measure == Measure("memory_available_percent", 50.0, "", 10.0, 3.0, True)


@pytest.mark.parametrize(
    ("free", "expected"), [(10, Status.OK), (6, Status.OK), (5, Status.ATTENTION), (0, Status.ATTENTION)]
)
def test_swap_in_use_is_graded(free: int, expected: Status) -> None:
    assert status("memory-swap", memory(swap_free=free * GIB)) is expected


def test_a_machine_without_swap_has_none_in_use() -> None:
    assert is_absent("memory-swap", memory(swap_total=0, swap_free=0))


@pytest.mark.parametrize(
    ("stalled", "expected"),
    [
        (0.0, Status.OK),
        (4.99, Status.OK),
        (5.0, Status.ATTENTION),
        (19.99, Status.ATTENTION),
        (20.0, Status.BAD),
    ],
)
def test_waiting_for_memory_is_graded(stalled: float, expected: Status) -> None:
    assert status("memory-stalled", memory(stalled=stalled)) is expected


def test_a_kernel_that_keeps_no_pressure_is_not_one_without_pressure() -> None:
    assert is_absent("memory-stalled", memory(stalled=None))


@pytest.mark.parametrize(
    ("used", "expected"),
    [(90, Status.OK), (91, Status.ATTENTION), (97, Status.ATTENTION), (98, Status.BAD), (120, Status.BAD)],
)
def test_what_is_left_of_the_cgroups_limit_is_graded(used: int, expected: Status) -> None:
    assert status("memory-cgroup", memory(allowance=Allowance(100 * GIB, used * GIB))) is expected


def test_a_cgroup_that_allows_nothing_is_bad_and_none_does_not_apply() -> None:
    assert status("memory-cgroup", memory(allowance=Allowance(0, 0))) is Status.BAD
    assert is_absent("memory-cgroup", FINE)


@pytest.mark.parametrize(
    ("kills", "past", "expected", "fact"),
    [
        (0, [], Status.OK, "nothing"),
        (2, [], Status.ATTENTION, "has killed 2 processes for memory"),
        (2, [0, 2], Status.OK, "nothing"),
        (3, [0, 2], Status.ATTENTION, "has killed 1 process for memory since the last health check"),
        (1, [5], Status.ATTENTION, "has killed 1 process for memory since the last health check"),
    ],
)
def test_kills_for_memory_are_those_since_the_last_look(
    kills: int, past: list[float], expected: Status, fact: str
) -> None:
    (one,) = findings("memory-kills", memory(oom_kills=kills), past)
    assert one.status is expected and fact in one.fact


def test_where_no_cgroup_counts_kills_are_not_zero() -> None:
    assert is_absent("memory-kills", memory(oom_kills=None))


@pytest.mark.parametrize(
    ("overcommit", "left", "expected"),
    [
        (0, -5 * GIB, Status.OK),
        (1, -5 * GIB, Status.OK),
        (None, 9 * GIB, Status.UNKNOWN),
        (2, 4 * GIB, Status.OK),
        (2, 4 * GIB - 1, Status.ATTENTION),
        (2, -GIB, Status.ATTENTION),
    ],
)
def test_what_can_be_promised_counts_only_where_the_kernel_limits_it(
    overcommit: int | None, left: int, expected: Status
) -> None:
    now = memory(overcommit=overcommit, commit_limit=50 * GIB, committed=50 * GIB - left)
    assert status("memory-commit", now) is expected


@pytest.mark.parametrize(("pages", "expected"), [(0, Status.OK), (5119, Status.OK), (5120, Status.ATTENTION)])
def test_idle_huge_pages_are_graded_by_their_share_of_memory(pages: int, expected: Status) -> None:
    assert status("memory-huge-pages", memory(huge_pages_free=pages)) is expected
