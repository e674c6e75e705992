"""Checks of GPUs: over made-up values at their limits, and over a stand-in library with each fault."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import nvml
import pytest
from judging import DAEMON, WALL, past_of, sentences, settings_of, supervision, told
from nvml import GIB, StandIn

from trainguard.checks import gpus
from trainguard.checks.gpus import CHECKS
from trainguard.checks.running import limits_of, run_checks
from trainguard.checks.values import Result
from trainguard.config import HealthSettings
from trainguard.gpu import Gpu, GpuProcess, Gpus, RemappedRows, Xid, XidLog
from trainguard.health import Status
from trainguard.supervision import Row
from trainguard.vitals import Past

NOBODY = 4194304
LINES = XidLog(lines=100, has_driver=True)


def gpu(index: int = 0, **changes: Any) -> Gpu:
    """A sound GPU at work; with changes."""
    values: dict[str, Any] = {
        "index": index,
        "name": "Stand-in 1",
        "uuid": f"GPU-{index}",
        "memory_used": 0,
        "memory_total": 80 * GIB,
        "utilization": 97,
        "temperature": 64,
        "processes": (),
        "pci_bus_id": f"00000000:5{index}:00.0",
        "corrected_volatile": 0,
        "uncorrected_volatile": 0,
        "uncorrected_aggregate": 0,
        "remapped": RemappedRows(0, 0, False, False),
        "retired_pages_pending": False,
        "throttle_reasons": (),
        "power_draw": 600.0,
        "power_limit": 700.0,
        "power_limit_default": 700.0,
        "pcie_generation": 5,
        "pcie_generation_max": 5,
        "pcie_width": 16,
        "pcie_width_max": 16,
        "nvlinks": (True,) * 4,
        "persistence": True,
        "clock_sm": 1755,
        "clock_sm_max": 1980,
        "mig": False,
        "mig_pending": False,
        "graphics_processes": 0,
    }
    return Gpu(**(values | changes))


def machine(*listed: Gpu, **changes: Any) -> Gpus:
    values: dict[str, Any] = {
        "driver_version": nvml.VERSION,
        "kernel_module": nvml.VERSION,
        "kernel_gpus": len(listed),
        "sees_all_processes": True,
    }
    return Gpus(listed, **(values | changes))


def judged(check_id: str, *listed: Gpu, log: XidLog = LINES, **how: Any) -> Result:
    """What one check tells of these GPUs."""
    return told(CHECKS, check_id, machine(*listed), log, supervision(), **how)


def of(check_id: str, value: Gpus, log: XidLog = LINES, **how: Any) -> Result:
    return told(CHECKS, check_id, value, log, supervision(), **how)


def wanting(count: int | None, **limits: float) -> Any:
    return settings_of(health=HealthSettings(gpus=count, limits=limits))


OK, ATTENTION, BAD, UNKNOWN = Status.OK, Status.ATTENTION, Status.BAD, Status.UNKNOWN
LIBRARY_MISSING = "NVML Shared Library Not Found"

# The checks that ask something of each GPU, with the fields without which they know nothing.
OF_EACH = {
    "gpu-temperature": ("temperature",),
    "gpu-throttle": ("throttle_reasons",),
    "gpu-ecc-uncorrected": ("uncorrected_volatile",),
    "gpu-ecc-corrected": ("corrected_volatile",),
    "gpu-row-remap": ("remapped",),
    "gpu-retired-pages": ("retired_pages_pending",),
    "gpu-pcie": ("pcie_width",),
    "gpu-nvlink": ("nvlinks",),
    "gpu-persistence": ("persistence",),
    "gpu-power": ("power_limit",),
    "gpu-processes": ("processes",),
    "gpu-memory-idle": ("memory_used",),
    "gpu-clocks": ("clock_sm",),
    "gpu-slower": ("utilization",),
    "gpu-mig": ("mig",),
}


@pytest.mark.parametrize("check_id", [one for one in OF_EACH if one != "gpu-slower"])
def test_sound_gpus_are_fine_in_one_finding(check_id: str) -> None:
    result = judged(check_id, gpu(0), gpu(1))
    assert [one.status for one in result.findings] == [OK] and result.findings[0].subject == "GPUs 0-1"


@pytest.mark.parametrize("check_id", OF_EACH)
def test_what_no_gpu_tells_does_not_apply(check_id: str) -> None:
    blank = dict.fromkeys(OF_EACH[check_id])
    assert judged(check_id, gpu(**blank)).absent


@pytest.mark.parametrize("check_id", OF_EACH)
def test_what_a_sick_gpu_does_not_tell_is_unknown(check_id: str) -> None:
    blank = dict.fromkeys(OF_EACH[check_id])
    result = judged(check_id, gpu(0), gpu(1, error="Unknown Error", **blank))
    assert result.status is UNKNOWN and "GPU 1: its" in sentences(result)


@pytest.mark.parametrize("check_id", OF_EACH)
def test_without_a_gpu_nothing_applies_unless_there_should_be_one(check_id: str) -> None:
    none = Gpus(error=LIBRARY_MISSING)
    assert of(check_id, none).absent == "there is no GPU"
    assert of(check_id, none, settings=wanting(0)).absent
    assert of(check_id, none, settings=wanting(8)).status is UNKNOWN
    assert of(check_id, msgspec.structs.replace(none, kernel_module="1.2")).status is UNKNOWN
    assert of(check_id, Gpus(hung=True, error="no answer")).status is UNKNOWN


# --- the driver and what it counts -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "wanted", "status", "words"),
    [
        (machine(gpu()), None, OK, "NVML answers for 1 GPU, driver 999.10.01"),
        (machine(gpu(), source="nvidia-smi", error="NVML: x"), None, ATTENTION, "only nvidia-smi answers"),
        (machine(gpu(), source="amd-smi"), None, OK, "amd-smi answers"),
        (Gpus(), None, OK, ""),
        (Gpus(), 8, OK, "no GPU"),
        (Gpus(hung=True, error="no answer within 2 s"), None, BAD, "hangs"),
        (Gpus(error=LIBRARY_MISSING), None, OK, ""),
        (Gpus(error=LIBRARY_MISSING), 8, BAD, "docker run --gpus all"),
        (Gpus(error=LIBRARY_MISSING, kernel_module="1.2"), None, ATTENTION, "install the driver"),
        (Gpus(error=LIBRARY_MISSING, kernel_module="1.2"), 0, OK, ""),
        (Gpus(error="the package nvidia-ml-py is not installed"), 1, BAD, "pip install nvidia-ml-py"),
        (Gpus(error=f"NVML: {LIBRARY_MISSING}; nvidia-smi: has failed"), None, ATTENTION, "has failed"),
        (Gpus(error="Driver Not Loaded"), None, ATTENTION, "modprobe nvidia"),
        (Gpus(error="Driver Not Loaded"), 8, BAD, "modprobe nvidia"),
        (Gpus(error="Unknown Error", kernel_module="1.2"), None, BAD, "kernel log"),
    ],
)
def test_a_driver_that_gives_no_gpu_is_bad_where_there_should_be_one(
    value: Gpus, wanted: int | None, status: Status, words: str
) -> None:
    result = of("gpu-driver", value, settings=wanting(wanted))
    assert result.status is status
    assert words in sentences(result) and bool(result.absent) == (not words)


def test_gpus_of_the_past_week_are_expected() -> None:
    none = Gpus(error=LIBRARY_MISSING)
    assert of("gpu-driver", none, past=past_of("gpu_count", [8.0])).status is BAD
    long_ago = past_of("gpu_count", [8.0], every=8 * 86_400.0)
    assert of("gpu-driver", none, past=long_ago).absent


@pytest.mark.parametrize(
    ("value", "status", "words"),
    [
        (machine(gpu()), OK, "both 999.10.01"),
        (machine(gpu(), kernel_module="999.20.02"), BAD, "library is 999.10.01, the kernel module 999.20.02"),
        (machine(gpu(), library_version="999.20.02"), BAD, "library is 999.20.02"),
        (Gpus(error="RM has detected an NVML/RM version mismatch."), BAD, "reboot"),
        (machine(gpu(), kernel_module=None), OK, ""),
        (machine(gpu(), source="amd-smi", driver_version="6", kernel_module=None), OK, ""),
        (Gpus(error=LIBRARY_MISSING), OK, ""),
    ],
)
def test_library_and_module_must_be_of_one_version(value: Gpus, status: Status, words: str) -> None:
    result = of("gpu-version", value)
    assert result.status is status
    assert words in sentences(result) and bool(result.absent) == (not words)


@pytest.mark.parametrize(
    ("count", "wanted", "kernel", "seen", "status"),
    [
        (2, 2, 2, 0, OK),
        (1, 2, 2, 0, BAD),
        (0, 1, None, 0, BAD),
        (2, 1, 2, 0, ATTENTION),
        (1, 1, 2, 2, OK),
        (2, None, 2, 0, OK),
        (1, None, 2, 0, BAD),
        (2, None, None, 2, OK),
        (1, None, None, 2, BAD),
        (0, None, None, 2, BAD),
        (3, None, None, 2, OK),
    ],
)
def test_as_many_gpus_answer_as_there_must_be(
    count: int, wanted: int | None, kernel: int | None, seen: int, status: Status
) -> None:
    value = machine(*map(gpu, range(count)), kernel_gpus=kernel)
    past = past_of("gpu_count", [float(seen)] if seen else [])
    result = of("gpu-count", value, settings=wanting(wanted), past=past)
    assert result.status is status and result.absent is None
    assert result.measures[0].value == count


def test_no_gpu_where_none_is_expected_is_no_finding() -> None:
    assert of("gpu-count", Gpus(error=LIBRARY_MISSING)).absent
    assert of("gpu-count", Gpus(), settings=wanting(0)).absent
    assert of("gpu-count", Gpus(hung=True, error="no answer")).status is UNKNOWN


def xid(code: int, bus: str | None = "PCI:0000:50:00", **changes: Any) -> Xid:
    values: dict[str, Any] = {
        "name": f"xid_{code}",
        "code": code,
        "bus": bus,
        "count": 1,
        "last": WALL - 60,
        "text": "NVRM: Xid",
        "harmless": False,
        "hardware": True,
        "verdicts": ("repair",),
        "what": "A fault.",
        "action": "Reset it.",
    }
    return Xid(**(values | changes))


def log(*xids: Xid, **changes: Any) -> XidLog:
    return XidLog(xids, **({"lines": 100, "has_driver": True} | changes))


@pytest.mark.parametrize(
    ("value", "status", "words"),
    [
        (machine(gpu(0), gpu(1)), OK, "GPUs 0-1: answers every question"),
        (machine(gpu(1), refused={0: "GPU is lost"}, error="x"), BAD, "GPU 0: gives no answer: GPU is lost"),
        (machine(refused={0: "GPU is lost"}, error="x"), BAD, "GPU 0: gives no answer"),
        (machine(gpu(error="GPU is lost")), BAD, "GPU 0: answers: GPU is lost"),
        (machine(gpu(error="GPU requires restart")), BAD, "nvidia-smi --gpu-reset -i 0"),
        (machine(gpu(error="Corrupted infoROM")), ATTENTION, "Corrupted infoROM"),
        (Gpus(error=LIBRARY_MISSING), OK, ""),
    ],
)
def test_a_gpu_that_does_not_answer_for_itself_is_lost(value: Gpus, status: Status, words: str) -> None:
    result = of("gpu-lost", value)
    assert result.status is status
    assert words in sentences(result) and bool(result.absent) == (not words)


def test_a_gpu_that_fell_off_the_bus_is_lost_until_it_answers_again() -> None:
    assert judged("gpu-lost", gpu(1), log=log(xid(79))).status is BAD
    assert judged("gpu-lost", gpu(0), gpu(1), log=log(xid(79))).status is OK
    assert judged("gpu-lost", gpu(0, error="GPU is lost"), log=log(xid(79))).status is BAD
    assert judged("gpu-lost", gpu(1), log=log(xid(74))).status is OK


# --- heat, power, clocks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("degrees", "own", "status"),
    [
        (84, None, OK),
        (85, None, ATTENTION),
        (91, None, ATTENTION),
        (92, None, BAD),
        (92, 105, OK),
        (98, 105, ATTENTION),
        (105, 105, BAD),
        (82, 90, OK),
        (83, 90, ATTENTION),
        (90, 90, BAD),
    ],
)
def test_heat_is_judged_by_the_device_where_it_tells(degrees: int, own: int | None, status: Status) -> None:
    result = judged("gpu-temperature", gpu(temperature=degrees, slowdown_temperature=own))
    assert result.status is status and f"{degrees} °C" in sentences(result)
    assert result.measures[0].value == degrees


def test_a_limit_of_the_users_counts_more_than_the_devices() -> None:
    settings = wanting(None, **{"gpu-temperature.bad": 70.0})
    warm = gpu(temperature=70, slowdown_temperature=90)
    assert judged("gpu-temperature", warm, settings=settings).status is BAD


@pytest.mark.parametrize(
    ("reasons", "status"),
    [
        ((), OK),
        (("idle", "software power cap", "application clocks"), OK),
        (("software thermal slowdown",), ATTENTION),
        (("hardware slowdown",), BAD),
        (("hardware thermal slowdown", "idle"), BAD),
        (("hardware power brake",), BAD),
    ],
)
def test_a_gpu_that_saves_itself_is_told(reasons: tuple[str, ...], status: Status) -> None:
    assert judged("gpu-throttle", gpu(throttle_reasons=reasons)).status is status


@pytest.mark.parametrize(("limit", "status"), [(750.0, OK), (700.0, OK), (699.0, ATTENTION)])
def test_a_power_limit_below_the_default_is_told(limit: float, status: Status) -> None:
    assert judged("gpu-power", gpu(power_limit=limit)).status is status


@pytest.mark.parametrize(
    ("use", "clock", "status", "applies"),
    [(81, 1188, OK, True), (81, 1187, ATTENTION, True), (80, 210, OK, False), (None, 210, OK, False)],
)
def test_a_low_clock_is_told_only_at_load(use: int | None, clock: int, status: Status, applies: bool) -> None:
    result = judged("gpu-clocks", gpu(utilization=use, clock_sm=clock))
    assert result.status is status and (result.absent is None) == applies


@pytest.mark.parametrize(
    ("clock", "earlier", "status", "applies"),
    [
        (1700, 5, OK, True),
        (1699, 5, ATTENTION, True),
        (1000, 4, OK, False),
    ],
)
def test_a_clock_is_compared_with_its_own_past(
    clock: int, earlier: int, status: Status, applies: bool
) -> None:
    past = past_of("gpu_clock_at_load_mhz", [2000.0] * earlier, subject="GPU 0")
    result = judged("gpu-slower", gpu(clock_sm=clock), past=past)
    assert result.status is status and (result.absent is None) == applies
    assert result.measures[0].value == clock


@pytest.mark.parametrize(
    ("use", "past", "status"),
    [
        (60, [100.0] * 10 + [60.0] * 4, OK),
        (59, [100.0] * 10 + [59.0] * 4, ATTENTION),
        (0, [100.0] * 14, OK),
    ],
)
def test_utilization_at_work_is_compared_over_several_looks(
    use: int, past: list[float], status: Status
) -> None:
    earlier = past_of("gpu_utilization_at_work_percent", past, subject="GPU 0")
    working = gpu(utilization=use, processes=(GpuProcess(DAEMON.pid, GIB, True, 0),))
    result = judged("gpu-slower", working, past=earlier)
    assert result.status is status and result.absent is None


# --- memory errors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "ever", "status"), [(0, 0, OK), (0, None, OK), (0, 1, ATTENTION), (1, 1, BAD), (1, None, BAD)]
)
def test_an_uncorrected_error_is_bad_and_one_of_long_ago_wants_attention(
    now: int, ever: int | None, status: Status
) -> None:
    sick = gpu(uncorrected_volatile=now, uncorrected_aggregate=ever)
    assert judged("gpu-ecc-uncorrected", sick).status is status


@pytest.mark.parametrize(
    ("before", "now", "every", "status"),
    [
        (10.0, 69, 3600.0, OK),
        (10.0, 70, 3600.0, ATTENTION),
        (10.0, 129, 7200.0, OK),
        (10.0, 69, 60.0, OK),
        (500.0, 59, 3600.0, OK),
        (500.0, 60, 3600.0, ATTENTION),
    ],
)
def test_corrected_errors_are_judged_by_their_rate(
    before: float, now: int, every: float, status: Status
) -> None:
    past = past_of("gpu_corrected_errors_total", [before], every=every, subject="GPU 0")
    assert judged("gpu-ecc-corrected", gpu(corrected_volatile=now), past=past).status is status


def test_without_a_past_corrected_errors_are_only_counted() -> None:
    result = judged("gpu-ecc-corrected", gpu(corrected_volatile=100_000))
    assert result.status is OK and result.measures[0].value == 100_000


@pytest.mark.parametrize(
    ("pending", "failed", "status"), [(False, False, OK), (True, False, ATTENTION), (True, True, BAD)]
)
def test_rows_that_wait_or_failed_are_told(pending: bool, failed: bool, status: Status) -> None:
    assert judged("gpu-row-remap", gpu(remapped=RemappedRows(1, 2, pending, failed))).status is status


def test_pages_that_wait_are_told() -> None:
    assert judged("gpu-retired-pages", gpu(retired_pages_pending=True)).status is ATTENTION


# --- the kernel log --------------------------------------------------------------------------------------------

DAY = 86_400.0
PROGRAM = {"hardware": False, "verdicts": ("restart", "park")}


@pytest.mark.parametrize(
    ("found", "status"),
    [
        (log(), OK),
        (log(xid(79)), BAD),
        (log(xid(79, last=None)), BAD),
        (log(xid(79, last=WALL - 6.9 * DAY)), BAD),
        (log(xid(79, last=WALL - 7.1 * DAY)), ATTENTION),
        (log(xid(48, verdicts=("restart", "repair"))), ATTENTION),
        (log(xid(48, verdicts=("restart", "repair"), count=2)), BAD),
        (log(xid(13, **PROGRAM, last=WALL - DAY)), ATTENTION),
        (log(xid(13, **PROGRAM, last=WALL - DAY - 1)), OK),
        (log(xid(13, **PROGRAM, count=9)), ATTENTION),
        (log(xid(43, harmless=True)), OK),
        (log(problem="it may not be read"), UNKNOWN),
        (log(lines=0), UNKNOWN),
        (log(lines=0, has_driver=False, problem="it may not be read"), OK),
    ],
)
def test_faults_in_the_kernel_log_are_judged_by_the_catalogue(found: XidLog, status: Status) -> None:
    assert told(CHECKS, "gpu-xid", found).status is status


def test_a_kernel_log_that_cannot_be_read_does_not_matter_without_a_gpu() -> None:
    none = log(lines=0, has_driver=False, problem="it may not be read")
    assert told(CHECKS, "gpu-xid", none).absent
    assert told(CHECKS, "gpu-xid", none, settings=wanting(8)).status is UNKNOWN


def test_a_fault_is_told_with_its_device_its_age_and_what_to_do() -> None:
    said = sentences(told(CHECKS, "gpu-xid", log(xid(79, count=2))))
    assert said == "GPU at 0000:50:00: Xid 79 2 times, 60 s ago: A fault; Reset it."


# --- links and modes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("use", "generation", "width", "status", "applies"),
    [
        (97, 5, 16, OK, True),
        (97, 4, 16, ATTENTION, True),
        (97, 5, 8, ATTENTION, True),
        (81, 1, 16, ATTENTION, True),
        (80, 1, 16, OK, False),
        (0, 5, 16, OK, True),
    ],
)
def test_a_narrow_link_is_told_only_at_load(
    use: int, generation: int, width: int, status: Status, applies: bool
) -> None:
    result = judged("gpu-pcie", gpu(utilization=use, pcie_generation=generation, pcie_width=width))
    assert result.status is status and (result.absent is None) == applies


@pytest.mark.parametrize(
    ("links", "status", "applies"),
    [
        ([(True, True), (True, True)], OK, True),
        ([(True, True), (True, False)], BAD, True),
        ([(True, True), (False, False)], BAD, True),
        ([(True, False), (True, False)], ATTENTION, True),
        ([(False, False), (False, False)], OK, False),
    ],
)
def test_a_link_that_is_down_among_others_is_told(
    links: list[tuple[bool, ...]], status: Status, applies: bool
) -> None:
    result = judged("gpu-nvlink", *(gpu(index, nvlinks=one) for index, one in enumerate(links)))
    assert result.status is status and (result.absent is None) == applies


def test_persistence_mode_that_is_off_is_told() -> None:
    assert judged("gpu-persistence", gpu(persistence=False)).status is ATTENTION


@pytest.mark.parametrize(
    ("modes", "pending", "status"),
    [
        ((False, False), (False, False), OK),
        ((True, True), (True, True), OK),
        ((True, False), (True, False), ATTENTION),
        ((False, False), (True, False), ATTENTION),
        ((False, None), (False, None), OK),
    ],
)
def test_a_mode_that_waits_or_differs_is_told(
    modes: tuple[bool | None, ...], pending: tuple[bool | None, ...], status: Status
) -> None:
    listed = [gpu(index, mig=one, mig_pending=pending[index]) for index, one in enumerate(modes)]
    assert judged("gpu-mig", *listed).status is status


# --- who holds memory ------------------------------------------------------------------------------------------

MUCH = 512 << 20
ORPHAN = Row(msgspec.structs.replace(DAEMON, pid=4500), "python", "S", run="run-0", folder="/logs")


def held_by(*holders: GpuProcess, **how: Any) -> Result:
    value = machine(gpu(processes=holders, memory_used=8 * GIB))
    return told(CHECKS, "gpu-processes", value, supervision(orphans=(ORPHAN,)), **how)


@pytest.mark.parametrize(
    ("holder", "status", "words"),
    [
        (GpuProcess(DAEMON.pid, GIB, True, 0, "python"), OK, "1 process of this run"),
        (GpuProcess(77, GIB, True, 0, "python", None, (60, DAEMON.pid, 1)), OK, "1 process of this run"),
        (GpuProcess(77, GIB, True, 0, "python", "run-1"), OK, "1 process of this run"),
        (GpuProcess(77, GIB, True, 0, "python", "run-0"), ATTENTION, "not of this run"),
        (GpuProcess(4500, GIB, True, 0, "python", "run-0"), BAD, "an orphan of this daemon"),
        (GpuProcess(77, MUCH, True, 1000, "jupyter"), ATTENTION, "pid 77 (jupyter) of user 1000"),
        (GpuProcess(77, MUCH - 1, True, 1000, "jupyter"), OK, "matter little"),
        (GpuProcess(77, None, True, 1000, "jupyter"), ATTENTION, "memory are held"),
        (GpuProcess(NOBODY, 5, False), BAD, "which is dead"),
        (GpuProcess(NOBODY, GIB, None), OK, "cannot be seen from here"),
    ],
)
def test_who_holds_memory_is_told(holder: GpuProcess, status: Status, words: str) -> None:
    result = held_by(holder)
    assert result.status is status and words in sentences(result)


@pytest.mark.parametrize(
    ("visible", "status"),
    [("0", ATTENTION), ("1,2", OK), ("GPU-0", ATTENTION), ("GPU-1", OK), ("MIG-7", ATTENTION), ("", OK)],
)
def test_a_gpu_that_the_daemon_does_not_use_may_be_anybodys(visible: str, status: Status) -> None:
    settings = settings_of({"environment": {"CUDA_VISIBLE_DEVICES": visible}})
    assert held_by(GpuProcess(77, 9 * GIB, True, 1000, "jupyter"), settings=settings).status is status


@pytest.mark.parametrize(
    ("used", "changes", "status"),
    [
        (GIB - 1, {}, OK),
        (GIB, {}, ATTENTION),
        (8 * GIB, {}, BAD),
        (8 * GIB, {"graphics_processes": 1}, OK),
        (8 * GIB, {"processes": (GpuProcess(77, GIB, True),)}, OK),
    ],
)
def test_memory_that_nobody_holds_is_told(used: int, changes: dict[str, Any], status: Status) -> None:
    result = judged("gpu-memory-idle", gpu(memory_used=used, **changes))
    assert result.status is status and result.absent is None


def test_in_a_container_memory_that_others_may_hold_is_no_finding() -> None:
    value = machine(gpu(memory_used=8 * GIB), sees_all_processes=False)
    assert of("gpu-memory-idle", value).absent


# --- over the stand-in -----------------------------------------------------------------------------------------

Look = Callable[..., dict[str, Any]]


class Looker:
    """A process that finds the stand-in, and runs the checks each time that it is told to."""

    def __init__(self, stand_in: StandIn, folder: Path) -> None:
        self.stand_in = stand_in
        self.driver = folder / "driver"
        self.logs = folder / "logs"
        self.process = subprocess.Popen(
            [sys.executable, str(Path(nvml.__file__).with_name("looking.py"))],
            env={**stand_in.environment, "PATH": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(
        self, health: dict[str, Any] | None = None, module: str | None = nvml.VERSION, **changes: Any
    ) -> Any:
        self.stand_in.tell(**changes)
        self.driver.mkdir(exist_ok=True)
        text = "" if module is None else f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {module}  Tue\n"
        (self.driver / "version").write_text(text)
        asked = {"health": health or {}, "driver": str(self.driver), "logs": str(self.logs)}
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps(asked), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())


@pytest.fixture(scope="module")
def look(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Looker]:
    if nvml.COMPILER is None:
        pytest.skip("this machine has no C compiler to build the stand-in for NVML")
    folder = tmp_path_factory.mktemp("looking")
    looker = Looker(StandIn(nvml.build(folder), folder), folder)
    yield looker
    assert looker.process.stdin is not None
    looker.process.stdin.close()
    looker.process.wait(30)


# What the kernel log of this machine holds, and what needs a past, is told by no stand-in.
BY_THE_MACHINE = {"gpu-xid", "gpu-slower"}


def test_a_sound_machine_is_fine(look: Looker) -> None:
    results = look({"gpus": 2})
    told = {name: one["status"] for name, one in results.items() if name not in BY_THE_MACHINE}
    assert set(told.values()) == {"OK"} and len(told) >= 16
    assert [name for name, one in results.items() if one["absent"] and name not in BY_THE_MACHINE] == []
    assert results["gpu-temperature"]["measures"] == {
        "gpu_temperature_celsius@GPU 0": 64.0,
        "gpu_temperature_celsius@GPU 1": 64.0,
    }


@pytest.mark.parametrize(
    ("check_id", "status", "words", "changes"),
    [
        ("gpu-count", "BAD", "1 of the 2 of health.gpus", {"count": 1}),
        ("gpu-count", "BAD", "1 of the 2 of health.gpus", {"handle__1": "!15"}),
        ("gpu-count", "ATTENTION", "3 answer", {"count": 3}),
        ("gpu-lost", "BAD", "GPU 1: gives no answer: GPU is lost", {"handle__1": "!15"}),
        ("gpu-lost", "BAD", "GPU 1: answers: GPU is lost", {"temperature__1": "!15"}),
        ("gpu-temperature", "UNKNOWN", "GPU 1: its temperature is not known", {"temperature__1": "!999"}),
        ("gpu-temperature", "BAD", "GPU 1: 93 °C", {"temperature__1": 93}),
        (
            "gpu-throttle",
            "BAD",
            "GPU 0: slows itself down at 64 °C: hardware slowdown",
            {"reasons__0": "0x8"},
        ),
        ("gpu-ecc-uncorrected", "BAD", "GPU 1: 3 uncorrected", {"uncorrected_volatile__1": 3}),
        ("gpu-ecc-uncorrected", "ATTENTION", "in its life", {"uncorrected_aggregate__1": 3}),
        ("gpu-row-remap", "ATTENTION", "waits for a reset", {"remapped__1": "0 1 1 0"}),
        ("gpu-row-remap", "BAD", "could not be replaced", {"remapped__1": "0 1 0 1"}),
        ("gpu-retired-pages", "ATTENTION", "GPU 1", {"retired_pending__1": 1}),
        ("gpu-pcie", "ATTENTION", "generation 5 of 5, 8 of 16 lanes", {"pcie_width__1": 8}),
        (
            "gpu-nvlink",
            "BAD",
            "GPU 1: 17 NVLinks are active, on others 18; not 5",
            {"nvlinks__1": "111110111111111111"},
        ),
        ("gpu-persistence", "ATTENTION", "nvidia-smi -pm 1", {"persistence": 0}),
        ("gpu-power", "ATTENTION", "may draw 400 W, by default 700 W", {"power_limit__0": 400_000}),
        ("gpu-processes", "ATTENTION", "pid {pid} (", {"processes__0": f"{{pid}}:{2 * GIB}"}),
        ("gpu-clocks", "ATTENTION", "210 of 1980 MHz at 97 % load", {"clock__1": 210}),
        ("gpu-mig", "ATTENTION", "will be on after a reset", {"mig__1": "0 1"}),
        ("gpu-driver", "BAD", "Driver Not Loaded", {"init": "!9"}),
        ("gpu-version", "BAD", "reboot", {"init": "!18"}),
    ],
)
def test_each_fault_of_the_library_is_told(
    look: Looker, check_id: str, status: str, words: str, changes: dict[str, Any]
) -> None:
    # A number in a parameter would be another one in each process that collects the tests.
    own = str(os.getpid())
    for name in [name for name, value in changes.items() if isinstance(value, str)]:
        changes = {**changes, name: changes[name].replace("{pid}", own)}
    told = look({"gpus": 2}, **changes)[check_id]
    assert (told["status"], words.replace("{pid}", own) in told["text"]) == (status, True), told


def test_memory_without_a_process_is_told(look: Looker) -> None:
    told = look({}, memory_used__1=9 * GIB)["gpu-memory-idle"]
    sees_all = Path("/proc/self/ns/pid").stat().st_ino == 0xEFFFFFFC
    assert told["status"] == ("BAD" if sees_all else "OK")


def test_a_library_beside_another_module_is_told(look: Looker) -> None:
    told = look({}, module="999.20.02")["gpu-version"]
    assert told["status"] == "BAD" and "999.20.02" in told["text"]


@pytest.mark.parametrize("changes", [{"init": "hang"}, {"temperature__1": "hang"}])
def test_a_driver_that_hangs_is_one_bad_finding_within_five_seconds(
    look: Looker, changes: dict[str, Any]
) -> None:
    began = time.monotonic()
    results = look({"gpus": 2}, **changes)
    took = time.monotonic() - began
    assert results["gpu-driver"]["status"] == "BAD" and "hangs" in results["gpu-driver"]["text"]
    others = {name: one for name, one in results.items() if name not in ("gpu-driver", "gpu-xid")}
    assert {one["status"] for one in others.values()} == {"UNKNOWN"}
    assert {one["undecided"] for one in others.values()} == {"GPUs: no answer within 4.5 s"}
    # The rest is what a busy machine may add.
    assert gpus.GPUS.seconds < 5 and took < gpus.GPUS.seconds + 3


def test_a_library_that_crashes_is_never_fine(look: Looker) -> None:
    results = look({"gpus": 2}, temperature="crash")
    assert results.pop("gpu-driver")["status"] == "BAD"
    others = {name: one["status"] for name, one in results.items() if name != "gpu-xid"}
    assert set(others.values()) == {"UNKNOWN"}


def test_this_machine_can_be_looked_at(tmp_path: Path) -> None:
    settings = settings_of(health=HealthSettings(gpus=64))
    results = {one.check.id: one for one in run_checks(CHECKS, settings, limits_of(settings, CHECKS), Past())}
    assert results["gpu-count"].status is not OK
    assert not any("bug" in sentences(one) for one in results.values())
