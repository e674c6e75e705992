"""NVIDIA's management library, asked through nvidia-ml-py."""

import contextlib
import re
from collections.abc import Callable
from pathlib import Path

import msgspec

from trainguard.gpu.holders import holder_of
from trainguard.gpu.values import Gpu, GpuProcess, Gpus, RemappedRows

# Bits of nvml.h's nvmlClocksEventReasons.
_REASONS = {
    0x1: "idle",
    0x2: "application clocks",
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
    0x100: "display clocks",
}
# These say that a question does not apply to the device or the user, not that anything is wrong with it:
# invalid argument, not supported, no permission, not found, function not found, version mismatch, deprecated.
_NO_ANSWERS = {2, 3, 4, 6, 13, 25, 26}
# nvml.h, NVML_NVLINK_MAX_LINKS of the package; an older driver refuses the numbers that it does not know.
_LINKS = 36
# nvml.h: P0 to P15; 32 is unknown.
_STATES = range(16)


def read() -> Gpus:
    """All GPUs, or why there are none; hangs where the driver does."""
    try:
        import pynvml
    except ImportError:
        return Gpus(error="the package nvidia-ml-py is not installed")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Gpus(error=str(error), library_version=_library_version())
    try:
        return _read_all(pynvml)
    except pynvml.NVMLError as error:
        return Gpus(error=str(error), library_version=_library_version())
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _read_all(pynvml) -> Gpus:  # type: ignore[no-untyped-def]
    try:
        version = text_of(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        version = None
    gpus, refused = [], {}
    for index in range(pynvml.nvmlDeviceGetCount()):
        try:
            gpus.append(_read_gpu(pynvml, index))
        except pynvml.NVMLError as error:
            # A device that fell off the bus gives no handle: the others are still worth an answer.
            refused[index] = str(error)
    errors = "; ".join(f"GPU {index}: {text}" for index, text in refused.items())
    return Gpus(tuple(gpus), errors or None, version, library_version=_library_version(), refused=refused)


def _library_version(maps: Path = Path("/proc/self/maps")) -> str | None:
    """The version in the name of the library's file (libnvidia-ml.so.535.104.05), as it is mapped."""
    try:
        found = re.search(r"/libnvidia-ml\.so\.(\d+\.[\d.]*\d)$", maps.read_text(), re.MULTILINE)
    except OSError:
        return None
    return found[1] if found else None


def _read_gpu(pynvml, index: int) -> Gpu:  # type: ignore[no-untyped-def]
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    # A driver older than the package raises the latter, which is no NVMLError.
    unknown = (pynvml.NVMLError, getattr(pynvml, "NVMLLibraryMismatchError", pynvml.NVMLError))
    errors: dict[str, None] = {}

    def ask(question: str, *arguments: object) -> object:
        function: Callable[..., object] | None = getattr(pynvml, question, None)
        if function is None:
            return None
        try:
            return function(handle, *arguments)
        except unknown as error:
            if getattr(error, "value", 13) not in _NO_ANSWERS:
                errors[str(error)] = None
            return None

    def ask_either(question: str, older: str) -> object:
        answer = ask(question)
        return ask(older) if answer is None else answer

    memory = ask("nvmlDeviceGetMemoryInfo")
    corrected, uncorrected = (
        pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED,
        pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
    )
    volatile, aggregate = pynvml.NVML_VOLATILE_ECC, pynvml.NVML_AGGREGATE_ECC
    compute = ask_either("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetComputeRunningProcesses_v2")
    drawing = ask("nvmlDeviceGetGraphicsRunningProcesses")
    mig = ask("nvmlDeviceGetMigMode")
    state = _count(ask("nvmlDeviceGetPerformanceState"))
    threshold = ask("nvmlDeviceGetTemperatureThreshold", pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN)
    gpu = Gpu(
        index=index,
        name=text_of(ask("nvmlDeviceGetName")),
        uuid=text_of(ask("nvmlDeviceGetUUID")),
        memory_used=getattr(memory, "used", None),
        memory_total=getattr(memory, "total", None),
        memory_free=getattr(memory, "free", None),
        utilization=getattr(ask("nvmlDeviceGetUtilizationRates"), "gpu", None),
        temperature=_count(ask("nvmlDeviceGetTemperature", pynvml.NVML_TEMPERATURE_GPU)),
        processes=_processes(compute, ask("nvmlDeviceGetMPSComputeRunningProcesses")),
        pci_bus_id=text_of(getattr(ask("nvmlDeviceGetPciInfo"), "busId", None)),
        corrected_volatile=_count(ask("nvmlDeviceGetTotalEccErrors", corrected, volatile)),
        corrected_aggregate=_count(ask("nvmlDeviceGetTotalEccErrors", corrected, aggregate)),
        uncorrected_volatile=_count(ask("nvmlDeviceGetTotalEccErrors", uncorrected, volatile)),
        uncorrected_aggregate=_count(ask("nvmlDeviceGetTotalEccErrors", uncorrected, aggregate)),
        remapped=_remapped(ask("nvmlDeviceGetRemappedRows")),
        retired_pages_pending=_flag(ask("nvmlDeviceGetRetiredPagesPendingStatus")),
        throttle_reasons=reasons_of(
            ask_either("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
        ),
        slowdown_temperature=_count(threshold) or None,
        power_draw=_watts(ask("nvmlDeviceGetPowerUsage")),
        power_limit=_watts(ask("nvmlDeviceGetEnforcedPowerLimit")),
        power_limit_default=_watts(ask("nvmlDeviceGetPowerManagementDefaultLimit")),
        pcie_generation=_count(ask("nvmlDeviceGetCurrPcieLinkGeneration")),
        pcie_generation_max=_count(ask("nvmlDeviceGetMaxPcieLinkGeneration")),
        pcie_width=_count(ask("nvmlDeviceGetCurrPcieLinkWidth")),
        pcie_width_max=_count(ask("nvmlDeviceGetMaxPcieLinkWidth")),
        nvlinks=_links(lambda link: ask("nvmlDeviceGetNvLinkState", link)),
        persistence=_flag(ask("nvmlDeviceGetPersistenceMode")),
        clock_sm=_count(ask("nvmlDeviceGetClockInfo", pynvml.NVML_CLOCK_SM)),
        clock_sm_max=_count(ask("nvmlDeviceGetMaxClockInfo", pynvml.NVML_CLOCK_SM)),
        mig=_flag(mig[0]) if isinstance(mig, list) else None,
        mig_pending=_flag(mig[1]) if isinstance(mig, list) else None,
        performance_state=state if state in _STATES else None,
        graphics_processes=len(drawing) if isinstance(drawing, list) else None,
    )
    return msgspec.structs.replace(gpu, error="; ".join(errors) or None)


def _processes(*lists: object) -> tuple[GpuProcess, ...] | None:
    """The processes of these lists, each once, with all its memory; None where no list was told."""
    told = [one for one in lists if isinstance(one, list)]
    memory: dict[int, int | None] = {}
    for one in (one for listed in told for one in listed):
        # One that is in several instances of a split GPU is told once for each.
        before, held = memory.get(one.pid, 0), one.usedGpuMemory
        memory[one.pid] = None if before is None or held is None else before + held
    return tuple(holder_of(pid, held) for pid, held in memory.items()) if told else None


def _links(ask: Callable[[int], object]) -> tuple[bool, ...] | None:
    states = []
    for link in range(_LINKS):
        state = ask(link)
        if not isinstance(state, int):
            # Links are numbered without gaps, so that what follows is none either.
            break
        states.append(bool(state))
    return tuple(states) or None


def _remapped(told: object) -> RemappedRows | None:
    if not isinstance(told, tuple) or len(told) != 4:
        return None
    correctable, uncorrectable, pending, failed = told
    return RemappedRows(correctable, uncorrectable, bool(pending), bool(failed))


def reasons_of(bits: object) -> tuple[str, ...] | None:
    """The names of the reasons for a lower clock in a bit mask of NVML's."""
    if not isinstance(bits, int):
        return None
    return tuple(name for bit, name in _REASONS.items() if bits & bit)


def _watts(milliwatts: object) -> float | None:
    return milliwatts / 1000 if isinstance(milliwatts, int) else None


def _flag(value: object) -> bool | None:
    return bool(value) if isinstance(value, int) else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) else None


def text_of(value: object) -> str | None:
    """A text of the library; an older package gives bytes."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, str) else None
