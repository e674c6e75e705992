"""The frame of the health check: choosing, reading, judging, limits, what counts. Readings run in children."""

import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from trainguard.acknowledgements import Acknowledgement
from trainguard.checks import CHECKS, running
from trainguard.checks.running import UnknownCheckError, choose, limits_of, run_checks, worst_of
from trainguard.checks.values import (
    Absent,
    Check,
    Facts,
    Limit,
    Measure,
    Reading,
    Result,
    Told,
    Undecided,
    attention,
    bad,
    grade,
    ok,
    severity,
    unknown,
)
from trainguard.config import ConfigError, DaemonSettings, HealthSettings, Settings
from trainguard.health import Finding, Status
from trainguard.vitals import Past


class Water(msgspec.Struct, frozen=True):
    """What these checks look at."""

    degrees: float


def settings_with(**health: Any) -> Settings:
    return Settings(
        path=Path("/absent/config.yaml"),
        daemon=DaemonSettings(command=("true",)),
        health=HealthSettings(**health),
    )


def reading(read: Any, seconds: float = 20.0) -> Reading:
    return Reading("water", Water, read, seconds)


def judge_heat(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    degrees = facts.of(Water).degrees
    yield Measure("water_degrees", degrees)
    yield grade(degrees, limits, "water", f"{degrees} degrees", "cool it")


COLD = reading(lambda settings, deep: Water(20.0))


def heat(source: Reading = COLD, **more: Any) -> Check:
    row: dict[str, Any] = {
        "id": "water-heat",
        "component": "water",
        "explain": "How hot it is.",
        "reads": (source,),
        "judge": judge_heat,
        "limits": (
            Limit("attention", 50.0, "degrees", "a choice"),
            Limit("bad", 80.0, "degrees", "a choice"),
        ),
    }
    return Check(**{**row, **more})


def result_of(check: Check, settings: Settings | None = None) -> Result:
    settings = settings or settings_with()
    return run_checks([check], settings, limits_of(settings, [check]), Past())[0]


@pytest.mark.parametrize(
    ("degrees", "status"),
    [(49.9, Status.OK), (50.0, Status.ATTENTION), (79.9, Status.ATTENTION), (80.0, Status.BAD)],
)
def test_a_number_is_graded_at_its_limits(degrees: float, status: Status) -> None:
    result = result_of(heat(reading(lambda settings, deep: Water(degrees))))
    assert result.status is status
    assert result.measures == (Measure("water_degrees", degrees),)


@pytest.mark.parametrize(("left", "status"), [(10.0, Status.OK), (9.9, Status.ATTENTION), (2.9, Status.BAD)])
def test_where_low_is_bad_the_limit_itself_is_fine(left: float, status: Status) -> None:
    assert grade(left, {"attention": 10.0, "bad": 3.0}, "a", "b", "c", low_is_bad=True).status is status


def test_the_settings_set_limits() -> None:
    settings = settings_with(limits={"water-heat.attention": 10.0})
    assert result_of(heat(), settings).status is Status.ATTENTION


def test_a_limit_or_a_check_that_nobody_knows_is_refused_with_the_nearest() -> None:
    settings = settings_with(limits={"water-heat.atention": 10.0}, skip=("water-heet",))
    with pytest.raises(ConfigError) as refused:
        limits_of(settings, [heat()])
    assert "did you mean `water-heat.attention`" in refused.value.problems[0]
    assert "did you mean `water-heat`" in refused.value.problems[1]


def test_a_check_whose_reading_hangs_is_not_decided_and_the_one_that_answers_for_it_is_bad() -> None:
    source = reading(lambda settings, deep: time.sleep(60), 0.3)
    checks = [heat(source), heat(source, id="water-there", answers_for=(source,))]
    settings = settings_with()
    results = run_checks(checks, settings, limits_of(settings, checks), Past())
    assert [one.status for one in results] == [Status.UNKNOWN, Status.BAD]
    assert results[0].undecided == "water: no answer within 0.3 s"
    assert results[1].undecided is None
    assert "hangs" in results[1].findings[0].fact
    assert max(one.seconds for one in results) < 10


def test_a_check_whose_reading_fails_is_never_fine() -> None:
    def fail(settings: Settings, deep: bool) -> Water:
        raise OSError(5, "Input/output error", "/dev/water")

    result = result_of(heat(reading(fail)))
    assert result.status is Status.UNKNOWN
    assert "/dev/water: Input/output error" in result.findings[0].fact


def test_a_check_whose_reading_dies_is_not_decided_and_the_one_that_answers_for_it_is_bad() -> None:
    source = reading(lambda settings, deep: os.kill(os.getpid(), signal.SIGKILL))
    checks = [heat(source), heat(source, id="water-there", answers_for=(source,))]
    settings = settings_with()
    results = run_checks(checks, settings, limits_of(settings, checks), Past())
    assert [one.status for one in results] == [Status.UNKNOWN, Status.BAD]


def test_a_judgement_may_leave_it_to_the_check_that_answers_for_it() -> None:
    result = result_of(heat(judge=lambda facts, limits: [Undecided("water: frozen, see water-there")]))
    assert result.status is Status.UNKNOWN
    assert result.undecided == "water: frozen, see water-there"


def test_a_bug_in_a_judgement_is_told_and_no_other_check_suffers() -> None:
    checks = [heat(judge=lambda facts, limits: [1 / 0], id="water-bug"), heat()]
    settings = settings_with()
    broken, fine = run_checks(checks, settings, limits_of(settings, checks), Past())
    assert broken.status is Status.UNKNOWN and "ZeroDivisionError" in broken.findings[0].fact
    assert fine.status is Status.OK


def test_a_check_that_tells_nothing_is_not_fine() -> None:
    assert result_of(heat(judge=lambda facts, limits: [])).status is Status.UNKNOWN


def test_what_does_not_apply_does_not_count() -> None:
    result = result_of(heat(judge=lambda facts, limits: [Absent("there is no water")]))
    assert result.absent == "there is no water"
    assert worst_of([result]) is Status.OK


def test_findings_stand_worst_first() -> None:
    told = [ok("a", "b"), bad("c", "d", "e"), unknown("f", "g"), attention("h", "i", "j")]
    result = result_of(heat(judge=lambda facts, limits: told))
    assert [one.status for one in result.findings] == [
        Status.BAD,
        Status.UNKNOWN,
        Status.ATTENTION,
        Status.OK,
    ]


def test_a_reading_is_read_once_for_all_its_checks(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def read(settings: Settings, deep: bool) -> Water:
        with log.open("a") as file:
            file.write("read\n")
        return Water(1.0)

    source = reading(read)
    settings = settings_with()
    checks = [heat(source, id=f"water-{number}") for number in range(5)]
    run_checks(checks, settings, limits_of(settings, checks), Past())
    assert log.read_text() == "read\n"


def test_deep_is_told_to_the_reading_and_has_its_own_deadline() -> None:
    def read(settings: Settings, deep: bool) -> Water:
        time.sleep(0.5 if deep else 0)
        return Water(float(deep))

    source = msgspec.structs.replace(reading(read, 0.3), deep_seconds=20.0)
    settings = settings_with()
    limits = limits_of(settings, [heat()])
    results = [run_checks([heat(source)], settings, limits, Past(), deep)[0] for deep in (False, True)]
    assert [one.measures[0].value for one in results] == [0.0, 1.0]


def result(status: Status, acknowledged: str | None = None) -> Result:
    return Result(heat(), (Finding(status, "a", "b"),), acknowledged=acknowledged)


@pytest.mark.parametrize(
    ("results", "status"),
    [
        ([], Status.OK),
        ([result(Status.OK)], Status.OK),
        ([result(Status.OK), result(Status.UNKNOWN)], Status.ATTENTION),
        ([result(Status.ATTENTION), result(Status.UNKNOWN)], Status.ATTENTION),
        ([result(Status.UNKNOWN), result(Status.BAD)], Status.BAD),
        ([result(Status.BAD, "known"), result(Status.OK)], Status.OK),
    ],
)
def test_the_exit_code_is_the_worst_that_counts(results: list[Result], status: Status) -> None:
    assert worst_of(results) is status


ROWS = [
    heat(id="water-heat"),
    heat(id="water-salt", gates=True),
    heat(id="fire-smoke", component="fire", gates=True),
]


@pytest.mark.parametrize(
    ("how", "ids"),
    [
        ({}, ["water-heat", "water-salt", "fire-smoke"]),
        ({"only": ["water-*"]}, ["water-heat", "water-salt"]),
        ({"only": ["fire-smoke", "water-heat"]}, ["water-heat", "fire-smoke"]),
        ({"skip": ["water-heat"]}, ["water-salt", "fire-smoke"]),
        ({"components": ["fire"]}, ["fire-smoke"]),
        ({"gate": True}, ["water-salt", "fire-smoke"]),
    ],
)
def test_checks_are_chosen_by_name_component_and_gate(how: dict[str, Any], ids: list[str]) -> None:
    assert [check.id for check in choose(ROWS, **how)] == ids


@pytest.mark.parametrize(
    ("how", "hint"),
    [
        ({"only": ["water-heet"]}, "did you mean `water-heat`"),
        ({"skip": ["zzz"]}, "--list names all"),
        ({"components": ["watter"]}, "did you mean `water`"),
        ({"gate": True, "components": ["water"], "skip": ["water-salt"]}, "no check is left"),
        ({"skip": ["*"]}, "no check is left"),
    ],
)
def test_a_name_that_nobody_has_is_refused(how: dict[str, Any], hint: str) -> None:
    with pytest.raises(UnknownCheckError) as refused:
        choose(ROWS, **how)
    assert hint in str(refused.value)


def test_what_is_acknowledged_is_marked_only_where_all_its_faults_were_known() -> None:
    known = {"water-heat": Acknowledgement(0.0, "boot", None, ("a",))}
    other = Result(heat(), (Finding(Status.BAD, "a", "b"), Finding(Status.BAD, "c", "d")))
    told = running.acknowledge([result(Status.BAD), result(Status.OK), other], known)
    assert [one.acknowledged for one in told] == ["known until the next boot", None, None]


def test_severity_puts_what_was_not_decided_between_attention_and_bad() -> None:
    order = sorted(Status, key=severity)
    assert order == [Status.OK, Status.ATTENTION, Status.UNKNOWN, Status.BAD]


# --- the table itself ------------------------------------------------------------------------------------------


def test_every_check_has_a_name_of_its_own_and_there_are_at_least_sixty_six() -> None:
    ids = [check.id for check in CHECKS]
    assert len(set(ids)) == len(ids)
    assert len(ids) >= 66


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)
def test_a_row_is_whole(check: Check) -> None:
    assert check.id == check.id.lower() and " " not in check.id and "." not in check.id
    assert check.explain.endswith(".") and "\n" not in check.explain and len(check.explain) <= 118
    assert all(one in check.reads for one in check.answers_for)
    assert (check.seconds > 0) is bool(check.reads) and check.seconds <= 10
    assert check.worst in (Status.ATTENTION, Status.BAD)
    for limit in check.limits:
        assert limit.origin and limit.unit


def test_for_every_reading_one_check_answers() -> None:
    answering: dict[str, list[str]] = {}
    for check in CHECKS:
        for source in check.reads:
            answering.setdefault(source.name, [])
        for source in check.answers_for:
            answering[source.name].append(check.id)
    assert {name: ids for name, ids in answering.items() if len(ids) != 1} == {}
