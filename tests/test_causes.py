"""The decision for each cause: the first time, the second time without a new step, and after a new step."""

import pytest
from msgspec.structs import replace

from trainguard.config import Remedy, RestartSettings
from trainguard.crash_types import CAUSES, TYPES
from trainguard.policy import Cause, Past, Prepared
from trainguard.policy.causes import Course, judge_start
from trainguard.preparations.finding import verdicts_of

SETTINGS = RestartSettings()
NOW = 1.8e9
DISK = 1 << 40

# A reboot, a reset or another board is needed: by the vendor's catalogue and the kernel's own words.
NEEDS_REPAIR = {
    "cuda_no_device", "nvml_mismatch", "gpu_lost", "gpu_ecc_uncontained", "gpu_row_remap_failed", "gpu_gsp",
    "gpu_fw_hang", "gpu_internal", "pcie_aer", "fs_readonly", "fs_error", "nvme_timeout", "gpu_container",
    "gpu_fabric", "gpu_reset", "hardware_error",
}  # fmt: skip
# What may hit any run at any time proves nothing when it comes twice.
CHANCE = {"unknown", "process_killed", "preempted"}
# Causes of all types, and those that are a type by themselves.
ALL = sorted(
    {(cause.name, cause.type) for cause in CAUSES.values() if cause.type is not None}
    | {(name, name) for name in TYPES}
)


def cause_named(name: str, crash_type: str) -> Cause:
    return Cause(
        crash_type, name, TYPES[crash_type].retry.value, f"print of {name}", "", verdicts_of(name, crash_type)
    )


def course(cause: Cause | None, *past: Past, **more: object) -> Course:
    settings = replace(SETTINGS, **more.pop("settings", {}))  # type: ignore[arg-type]
    prepared = Prepared("1-1-a", cause, past, free=DISK, verified=True)
    return judge_start(replace(prepared, **more), settings, NOW, 0.0).course


def before(cause: Cause | None, ago: float = 60.0, stepped: bool = False) -> Past:
    return Past(NOW - ago, cause, stepped)


@pytest.mark.parametrize(("name", "crash_type"), ALL)
def test_each_cause_is_started_again_once_unless_the_machine_needs_repair(name: str, crash_type: str) -> None:
    cause = cause_named(name, crash_type)
    once = Course.PARK if name in NEEDS_REPAIR else Course.START
    again = Course.START if crash_type in CHANCE and name not in NEEDS_REPAIR else Course.PARK
    assert course(cause) is once
    assert course(cause, before(cause)) is again
    assert course(cause, before(cause, stepped=True)) is once


def test_those_that_need_repair_are_known() -> None:
    assert CAUSES.keys() >= NEEDS_REPAIR
    assert {
        name for name, cause in CAUSES.items() if cause.verdicts[:1] and cause.verdicts[0].value == "repair"
    } == NEEDS_REPAIR


def test_an_end_that_nobody_understands_is_started_again() -> None:
    assert course(None, before(None), before(None)) is Course.START


def test_a_full_disk_is_waited_for() -> None:
    cause = cause_named("disk_full", "disk_full")
    assert course(cause, free=1 << 20) is Course.WAIT
    assert course(cause) is Course.START
    assert course(None, free=1 << 30, needed=2 << 30) is Course.WAIT
    assert course(None, free=2 << 30, needed=2 << 30) is Course.START
    assert course(None, free=None, needed=2 << 30) is Course.START


def test_two_different_causes_are_two_stories() -> None:
    one, other = cause_named("nccl_timeout", "collective_timeout"), cause_named("cuda_oom", "cuda_oom")
    assert course(one, before(other)) is Course.START


def test_a_second_end_that_no_restart_helps_parks_also_where_its_words_differ() -> None:
    one = cause_named("python_exception", "key_error")
    assert course(one, before(replace(one, fingerprint="another"))) is Course.PARK
    helped = cause_named("nccl_timeout", "collective_timeout")
    assert course(helped, before(replace(helped, fingerprint="another"))) is Course.START


def test_the_full_diagnosis_of_the_end_before_counts_though_its_restart_was_made() -> None:
    assert course(None, before(cause_named("gpu_lost", "gpu_hardware"))) is Course.PARK
    assert course(None, before(cause_named("gpu_lost", "gpu_hardware"), stepped=True)) is Course.START


def test_the_same_cause_has_a_budget_for_a_day() -> None:
    cause = cause_named("nccl_timeout", "collective_timeout")
    often = [before(replace(cause, fingerprint=str(n)), 60.0 * n, stepped=True) for n in range(1, 11)]
    assert course(cause, *often[:9]) is Course.START
    assert course(cause, *often) is Course.PARK
    assert course(cause, *often[:9], before(cause, 90_000.0, stepped=True)) is Course.START


@pytest.mark.parametrize("name", ["cuda_oom_fragmentation", "cuda_oom"])
def test_a_remedy_is_tried_the_second_time_before_it_is_parked(name: str) -> None:
    cause = cause_named("cuda_oom_fragmentation", "cuda_oom")
    settings = replace(SETTINGS, on_crash={name: Remedy(arguments=("--batch", "8"))})

    def judged(*past: Past) -> tuple[Course, str | None]:
        told = judge_start(Prepared("1-1-a", cause, past), settings, NOW, 0.0)
        return told.course, told.remedy

    assert judged() == (Course.START, None)
    assert judged(before(cause)) == (Course.START, name)
    assert judged(before(cause), before(cause, 120.0))[0] is Course.PARK


def test_what_a_person_has_forgiven_does_not_count() -> None:
    cause = cause_named("python_exception", "key_error")
    prepared = Prepared("1-1-a", cause, (before(cause),))
    assert judge_start(prepared, SETTINGS, NOW, NOW - 61.0).course is Course.PARK
    assert judge_start(prepared, SETTINGS, NOW, NOW - 60.0).course is Course.START


def test_what_is_parked_is_tried_now_and_then_whatever_its_cause() -> None:
    cause = cause_named("gpu_lost", "gpu_hardware")
    prepared = Prepared("1-1-a", cause, (before(cause),), free=1 << 20, needed=1 << 30)
    assert judge_start(replace(prepared, free=DISK), SETTINGS, NOW, 0.0, trial=True).course is Course.START
    assert judge_start(prepared, SETTINGS, NOW, 0.0, trial=True).course is Course.WAIT
