"""Checks of the system: each fine, at its limit, just beyond it, where it does not apply, and where it hangs."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support import Sandbox

from trainguard.cgroup import Allowance
from trainguard.checks import system as rows
from trainguard.checks.running import limits_of, run_checks
from trainguard.checks.values import Absent, Check, Facts, Measure, Reading
from trainguard.config import DaemonSettings, LogSettings, Settings, load_settings
from trainguard.health import Finding, Status
from trainguard.system import Blocked, Change, Clock, ProcessLimits, System, Troubled, Upgrades, Zombies
from trainguard.vitals import Past, Sample

CHECKS = {check.id: check for check in rows.CHECKS}
NOW = 1_700_000_000.0
SETTINGS = Settings(
    path=Path("/absent/config.yaml"),
    daemon=DaemonSettings(command=("true",)),
    logs=LogSettings(directory=Path("/absent/logs")),
)
FINE = System(
    load=(1.0, 1.0, 1.0),
    cores=8,
    allowed=8,
    quota=None,
    cpu_pressure=0.0,
    io_pressure=0.0,
    files=100,
    files_limit=1000,
    threads=100,
    threads_limit=1000,
    tasks=None,
    throttled=None,
    boot="this",
    wall=NOW,
    since_boot=50_000.0,
    orderly=None,
)


def system(**more: Any) -> System:
    return msgspec.structs.replace(FINE, **more)


def sample(ago: float = 3600.0, boot: str = "this", jump: float = 0.0, **values: float) -> Sample:
    """An earlier look, so many seconds ago; the wall clock was set forward by `jump` since."""
    looked = {"system-boot": "OK"}
    return Sample(NOW - ago - jump, boot, FINE.since_boot - ago, values, looked)


def told(check_id: str, *values: object, past: Sequence[Sample] = ()) -> list[Any]:
    check = CHECKS[check_id]
    limits = {limit.name: limit.default for limit in check.limits}
    return list(check.judge(Facts(SETTINGS, values, Past(tuple(past)), NOW), limits))


def findings(check_id: str, *values: object, **more: Any) -> list[Finding]:
    return [one for one in told(check_id, *values, **more) if isinstance(one, Finding)]


def statuses(check_id: str, *values: object, **more: Any) -> list[Status]:
    return [one.status for one in findings(check_id, *values, **more)]


def measured(check_id: str, *values: object, **more: Any) -> dict[str, float]:
    return {one.name: one.value for one in told(check_id, *values, **more) if isinstance(one, Measure)}


def is_absent(check_id: str, *values: object, **more: Any) -> bool:
    return [type(one) for one in told(check_id, *values, **more)] == [Absent]


@pytest.mark.parametrize("check", [one for one in rows.CHECKS if one.answers_for], ids=lambda one: one.id)
def test_a_hanging_reading_is_told_by_the_check_that_answers_for_it(check: Check) -> None:
    def hanging(source: Reading) -> Reading:
        return msgspec.structs.replace(source, read=lambda settings, deep: time.sleep(60), seconds=0.2)

    own = [hanging(one) for one in check.answers_for]
    others = [one for one in check.reads if one not in check.answers_for]
    dead = msgspec.structs.replace(check, reads=(*own, *others), answers_for=tuple(own))
    (result,) = run_checks([dead], SETTINGS, limits_of(SETTINGS, [dead]), Past())
    assert result.status is check.worst and "hangs" in result.findings[0].fact


def test_this_machine_is_judged_without_a_bug(tmp_path: Path) -> None:
    settings = msgspec.structs.replace(SETTINGS, logs=LogSettings(directory=tmp_path))
    results = run_checks(rows.CHECKS, settings, limits_of(settings, rows.CHECKS), Past())
    assert [one for one in results if any("bug" in finding.fact for finding in one.findings)] == []
    assert all(one.findings or one.absent for one in results)
    assert {one.check.id for one in results if one.undecided is not None} == set()


# --- load and pressure -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("load", "status"), [(23.9, Status.OK), (24.0, Status.ATTENTION)])
def test_the_load_of_five_minutes_is_graded_by_the_machines_cores(load: float, status: Status) -> None:
    assert statuses("system-load", system(load=(99.0, load, 0.0), allowed=1)) == [status]


@pytest.mark.parametrize(
    ("cpu", "io", "expected"),
    [
        (79.9, 29.9, [Status.OK, Status.OK]),
        (80.0, 29.9, [Status.ATTENTION, Status.OK]),
        (79.9, 30.0, [Status.OK, Status.ATTENTION]),
        (None, 30.0, [Status.ATTENTION]),
    ],
)
def test_pressure_is_graded_for_each_that_is_told(
    cpu: float | None, io: float | None, expected: list[Status]
) -> None:
    assert statuses("system-pressure", system(cpu_pressure=cpu, io_pressure=io)) == expected


def test_a_kernel_without_pressure_does_not_apply() -> None:
    assert is_absent("system-pressure", system(cpu_pressure=None, io_pressure=None))


# --- processes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "status"), [(0, Status.OK), (19, Status.OK), (20, Status.ATTENTION)])
def test_zombies_are_counted_over_all_parents(count: int, status: Status) -> None:
    zombies = (Zombies(7, "lazy", count - 1), Zombies(8, "b", 1)) if count else ()
    assert statuses("system-zombies", Troubled(100, zombies, ())) == [status]
    assert measured("system-zombies", Troubled(100, zombies, ())) == {"zombies": count}


def test_zombies_are_told_with_their_parents() -> None:
    (one,) = findings("system-zombies", Troubled(100, (Zombies(7, "lazy", 30), Zombies(1, "sh", 2)), ()))
    assert one.fact == "32: 30 of lazy (pid 7), 2 of sh (pid 1)" and "lazy (pid 7)" in one.remedy
    (one,) = findings("system-zombies", Troubled(100, (Zombies(1, "sh", 30),), ()))
    assert "docker run --init" in one.remedy


def test_each_blocked_process_is_named_with_where_it_waits() -> None:
    seen = Troubled(9, (), (Blocked(7, "python", "nv_open", 1.0), Blocked(8, "cp", None, 1.0)))
    first, second = findings("system-blocked", seen)
    assert first.subject == "process 7 (python)" and "in nv_open for 1 s" in first.fact
    assert second.status is Status.ATTENTION and "in None" not in second.fact
    assert statuses("system-blocked", Troubled(9, (), ())) == [Status.OK]


def test_of_many_blocked_processes_ten_are_named_and_the_others_counted() -> None:
    seen = Troubled(99, (), tuple(Blocked(pid, "python", None, 1.0) for pid in range(12)))
    names = [one.subject for one in findings("system-blocked", seen)]
    assert len(names) == 11 and "2 more" in findings("system-blocked", seen)[-1].fact


# --- the clock and the boot ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clock", "status"),
    [
        (Clock(True, 0.0), Status.OK),
        (Clock(True, 0.999), Status.OK),
        (Clock(True, 1.0), Status.ATTENTION),
        (Clock(False, 0.0), Status.ATTENTION),
    ],
)
def test_a_clock_that_nothing_keeps_right_wants_attention(clock: Clock, status: Status) -> None:
    assert statuses("system-clock", clock) == [status]


def test_a_clock_that_may_not_be_asked_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(settings: Settings, deep: bool) -> Clock:
        raise OSError(1, "Operation not permitted", "adjtimex")

    check = CHECKS["system-clock"]
    source = msgspec.structs.replace(check.reads[0], read=refuse)
    refused = msgspec.structs.replace(check, reads=(source,), answers_for=(source,))
    (result,) = run_checks([refused], SETTINGS, limits_of(SETTINGS, [refused]), Past())
    assert result.status is Status.UNKNOWN and "adjtimex: Operation not permitted" in result.findings[0].fact


@pytest.mark.parametrize(
    ("jump", "status"),
    [(0.0, Status.OK), (4.5, Status.OK), (5.0, Status.ATTENTION), (-5.0, Status.ATTENTION)],
)
def test_a_clock_that_was_set_wants_attention(jump: float, status: Status) -> None:
    assert statuses("system-clock-jump", FINE, past=[sample(jump=jump)]) == [status]


def test_a_jump_tells_its_way_and_only_the_last_look_of_this_boot_counts() -> None:
    past = [sample(ago=9000.0, jump=100.0), sample(jump=-7.0), sample(60.0, "other", 500.0)]
    (one,) = findings("system-clock-jump", FINE, past=past)
    assert one.fact.startswith("was set back by 7 s")
    assert is_absent("system-clock-jump", FINE, past=[sample(boot="other")])


def test_a_machine_that_was_booted_anew_is_told_once_unless_it_was_shut_down_in_order() -> None:
    other, this = sample(9000.0, "other"), sample(60.0)
    assert statuses("system-boot", FINE) == [Status.OK]
    assert statuses("system-boot", FINE, past=[other]) == [Status.ATTENTION]
    assert statuses("system-boot", system(orderly=False), past=[other]) == [Status.ATTENTION]
    assert statuses("system-boot", system(orderly=True), past=[other]) == [Status.OK]
    assert statuses("system-boot", FINE, past=[other, this]) == [Status.OK]


def test_a_look_that_left_out_this_check_does_not_hide_a_new_boot() -> None:
    partly = msgspec.structs.replace(sample(60.0), statuses={"memory-available": "OK"})
    assert statuses("system-boot", FINE, past=[sample(9000.0, "other"), partly]) == [Status.ATTENTION]


# --- limits of the machine -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("used", "status"),
    [
        (799, Status.OK),
        (800, Status.ATTENTION),
        (949, Status.ATTENTION),
        (950, Status.BAD),
        (1000, Status.BAD),
    ],
)
def test_what_is_used_of_a_limit_is_graded(used: int, status: Status) -> None:
    assert statuses("system-files", system(files=used)) == [status]
    assert statuses("system-processes", system(threads=used)) == [status]
    assert statuses("system-processes", system(tasks=Allowance(1000, used))) == [Status.OK, status]


def test_a_limit_that_is_not_told_is_unknown_and_one_of_nothing_is_used_up() -> None:
    assert statuses("system-files", system(files=None)) == [Status.UNKNOWN]
    assert statuses("system-processes", system(threads_limit=None)) == [Status.UNKNOWN]
    assert statuses("system-processes", system(tasks=Allowance(0, 0))) == [Status.OK, Status.BAD]


# --- limits of the daemon --------------------------------------------------------------------------------------


def limited(more: Mapping[str, int | None] = {}, infiniband: bool = False) -> ProcessLimits:
    limits: dict[str, int | None] = {
        "Max open files": 65536,
        "Max processes": None,
        "Max file size": None,
        "Max address space": None,
        "Max locked memory": 8 << 20,
    }
    limits |= {f"Max {name}": value for name, value in more.items()}
    return ProcessLimits("the daemon (pid 7)", limits, None, infiniband)


@pytest.mark.parametrize(
    ("most", "status"),
    [
        (None, Status.OK),
        (4096, Status.OK),
        (4095, Status.ATTENTION),
        (1024, Status.ATTENTION),
        (256, Status.ATTENTION),
        (255, Status.BAD),
        (0, Status.BAD),
    ],
)
def test_too_few_open_files_or_processes_are_told(most: int | None, status: Status) -> None:
    assert statuses("system-limits", limited({"open files": most})) == [status, Status.OK]
    assert statuses("system-limits", limited({"processes": most})) == [Status.OK, status]


def test_a_limit_that_is_missing_is_unknown() -> None:
    assert statuses("system-limits", ProcessLimits("the daemon", {})) == [Status.UNKNOWN, Status.UNKNOWN]


@pytest.mark.parametrize(("used", "status"), [(79, Status.OK), (80, Status.ATTENTION)])
def test_a_daemon_that_has_nearly_all_its_files_open_wants_attention(used: int, status: Status) -> None:
    told_limits = msgspec.structs.replace(limited({"open files": 10_000}), open_files=used * 100)
    assert statuses("system-limits", told_limits) == [Status.OK, Status.OK, status]


@pytest.mark.parametrize("name", ["file size", "address space"])
def test_a_limit_that_cuts_files_or_memory_wants_attention(name: str) -> None:
    (one,) = [one for one in findings("system-limits", limited({name: 1 << 30})) if one.status]
    assert one.status is Status.ATTENTION and one.subject == f"limit of {name}" and "1.0 GiB" in one.fact


def test_locked_memory_matters_where_there_is_infiniband() -> None:
    assert statuses("system-limits", limited()) == [Status.OK, Status.OK]
    assert statuses("system-limits", limited(infiniband=True)) == [Status.OK, Status.OK, Status.ATTENTION]
    most = limited({"locked memory": None}, infiniband=True)
    assert statuses("system-limits", most) == [Status.OK, Status.OK]


def test_the_limits_are_those_of_the_daemon_that_lives(sandbox: Sandbox) -> None:
    sandbox.configure()
    settings = load_settings(sandbox.config)
    assert rows.read_daemons_limits(settings).whose == "this shell (no daemon runs)"
    sandbox.start()
    pid = sandbox.wait_for_start()["pid"]
    sandbox.wait_for_event("started")
    told_limits = rows.read_daemons_limits(settings)
    assert told_limits.whose == f"the daemon (pid {pid})" and told_limits.open_files


# --- upgrades and reboots --------------------------------------------------------------------------------------

CURRENT = Upgrades("6.1.0", ("/var/log/dpkg.log",), (), (), None, True)


def upgrades(**more: Any) -> Upgrades:
    return msgspec.structs.replace(CURRENT, **more)


def test_a_driver_that_was_upgraded_after_the_boot_wants_attention() -> None:
    changed = upgrades(changes=(Change(NOW, "nvidia-driver-550", "upgrade 1 to 2"),))
    (one,) = findings("system-upgrades", changed)
    assert one.status is Status.ATTENTION and one.subject == "package nvidia-driver-550"
    assert one.remedy.startswith("reboot before the next start")
    assert statuses("system-upgrades", CURRENT) == [Status.OK]


def test_without_a_log_it_does_not_apply_and_one_that_cannot_be_read_is_unknown() -> None:
    assert is_absent("system-upgrades", upgrades(logs=()))
    assert statuses("system-upgrades", upgrades(unreadable=("/var/log/dpkg.log",))) == [Status.UNKNOWN]


def test_a_reboot_that_is_due_wants_attention() -> None:
    assert statuses("system-reboot", CURRENT) == [Status.OK]
    assert statuses("system-reboot", upgrades(modules=False)) == [Status.ATTENTION]
    asked = upgrades(reboot_wanted=("linux-base",), modules=None)
    (one,) = findings("system-reboot", asked)
    assert one.status is Status.ATTENTION and one.fact == "a reboot is asked for by linux-base"
    assert statuses("system-reboot", upgrades(reboot_wanted=())) == [Status.ATTENTION, Status.OK]
    assert is_absent("system-reboot", upgrades(modules=None))


# --- heat and cores --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("more", "status"), [(0, Status.OK), (59, Status.OK), (60, Status.ATTENTION)])
def test_cores_that_were_slowed_since_the_last_look_are_graded_by_the_hour(more: int, status: Status) -> None:
    past = [sample(3600.0, cpu_throttles_total=100.0)]
    assert statuses("system-thermal", system(throttled=100 + more), past=past) == [status]


def test_heat_of_before_the_first_look_is_told_and_counts_for_nothing() -> None:
    past = [sample(60.0, "other", cpu_throttles_total=0.0), sample(60.0)]
    (one,) = findings("system-thermal", system(throttled=5000), past=past)
    assert one.status is Status.OK and "5000 times" in one.fact
    assert is_absent("system-thermal", FINE)


@pytest.mark.parametrize(
    ("allowed", "quota", "status"),
    [
        (8, None, Status.OK),
        (2, None, Status.OK),
        (1, None, Status.ATTENTION),
        (8, 8.0, Status.OK),
        (8, 7.9, Status.ATTENTION),
        (8, 0.5, Status.ATTENTION),
        (4, 8.0, Status.OK),
    ],
)
def test_a_quota_below_what_programs_see_wants_attention(
    allowed: int, quota: float | None, status: Status
) -> None:
    assert statuses("system-cores", system(allowed=allowed, quota=quota)) == [status]


def test_a_machine_of_one_core_is_what_it_is() -> None:
    assert statuses("system-cores", system(cores=1, allowed=1)) == [Status.OK]


def test_a_quota_tells_how_many_workers_fit() -> None:
    (one,) = findings("system-cores", system(quota=2.5))
    assert "2.5 CPUs, and programs see 8" in one.fact and one.remedy.endswith("OMP_NUM_THREADS to 2")
    assert measured("system-cores", system(quota=2.5)) == {"cpus_usable": 2.5}
