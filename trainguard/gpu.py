"""The GPUs as NVIDIA's management library shows them at a moment."""

import contextlib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from trainguard import commands, processes

_PROJECT = Path(__file__).resolve().parent.parent
_KERNEL_MODULE = Path("/proc/driver/nvidia/version")
# include/linux/proc_ns.h: the inode of the first PID namespace, in which every process has a number.
_FIRST_PID_NAMESPACE = 0xEFFFFFFC

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


class GpuProcess(msgspec.Struct, frozen=True):
    """One compute process on a GPU; memory in bytes, None where the driver does not tell.

    `lives` and `uid` are None where the process may be one that this container cannot see.
    """

    pid: int
    memory_used: int | None
    lives: bool | None = None
    uid: int | None = None


class RemappedRows(msgspec.Struct, frozen=True):
    """Rows of memory that were replaced by spare ones; a pending one takes effect with the next reset."""

    correctable: int
    uncorrectable: int
    pending: bool
    failed: bool


class Gpu(msgspec.Struct, frozen=True):
    """One GPU; memory in bytes, utilization in percent, temperature in degrees Celsius, None for unknown.

    The volatile ECC counts begin anew with the driver, the aggregate ones are of the device's life. `error`
    is what the device answered instead of a value, such as that it is lost.
    """

    index: int
    name: str | None
    uuid: str | None
    memory_used: int | None
    memory_total: int | None
    utilization: int | None
    temperature: int | None
    processes: tuple[GpuProcess, ...] | None
    memory_free: int | None = None
    pci_bus_id: str | None = None
    corrected_volatile: int | None = None
    corrected_aggregate: int | None = None
    uncorrected_volatile: int | None = None
    uncorrected_aggregate: int | None = None
    remapped: RemappedRows | None = None
    retired_pages_pending: bool | None = None
    throttle_reasons: tuple[str, ...] | None = None
    error: str | None = None


class Gpus(msgspec.Struct, frozen=True):
    """All GPUs that answered, and why others did not; `hung` is that the driver gave no answer at all.

    `driver_version` is what the library tells, `kernel_module` the version of the loaded module: where they
    differ, the driver was replaced under a running machine.
    """

    gpus: tuple[Gpu, ...] = ()
    error: str | None = None
    driver_version: str | None = None
    kernel_module: str | None = None
    hung: bool = False


def ask_gpus(seconds: float = 10.0) -> Gpus:
    """Ask for the GPUs in a child, which is left to itself when the driver hangs; never raises OSError."""
    try:
        reply = commands.ask_command([sys.executable, "-m", "trainguard.gpu"], seconds, _PROJECT)
    except TimeoutError:
        return Gpus(error=f"the driver does not answer within {seconds:g} s", hung=True)
    except OSError as error:
        return Gpus(error=f"the driver could not be asked: {error}")
    try:
        return msgspec.json.decode(reply.output, type=Gpus)
    except (msgspec.DecodeError, UnicodeDecodeError):
        how = f"exit status {reply.code}" if reply.code >= 0 else f"signal {-reply.code}"
        return Gpus(error=f"the question to the driver ended with {how}")


def read_gpus() -> Gpus:
    """Ask NVML (nvidia-ml-py). It may hang with the driver: call it in a child that can be abandoned."""
    module = _kernel_module()
    try:
        import pynvml
    except ImportError:
        return Gpus(error="the package nvidia-ml-py is not installed", kernel_module=module)
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Gpus(error=str(error), kernel_module=module)
    try:
        return _read_all(pynvml, module)
    except pynvml.NVMLError as error:
        return Gpus(error=str(error), kernel_module=module)
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _read_all(pynvml, module: str | None) -> Gpus:  # type: ignore[no-untyped-def]
    try:
        version = _text(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        version = None
    gpus, errors = [], []
    for index in range(pynvml.nvmlDeviceGetCount()):
        try:
            gpus.append(_read_gpu(pynvml, index))
        except pynvml.NVMLError as error:
            # A device that fell off the bus gives no handle: the others are still worth an answer.
            errors.append(f"GPU {index}: {error}")
    return Gpus(tuple(gpus), "; ".join(errors) or None, version, module)


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
    found = ask_either("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetComputeRunningProcesses_v2")
    pending = _count(ask("nvmlDeviceGetRetiredPagesPendingStatus"))
    gpu = Gpu(
        index=index,
        name=_text(ask("nvmlDeviceGetName")),
        uuid=_text(ask("nvmlDeviceGetUUID")),
        memory_used=getattr(memory, "used", None),
        memory_total=getattr(memory, "total", None),
        memory_free=getattr(memory, "free", None),
        utilization=getattr(ask("nvmlDeviceGetUtilizationRates"), "gpu", None),
        temperature=_count(ask("nvmlDeviceGetTemperature", pynvml.NVML_TEMPERATURE_GPU)),
        processes=tuple(map(_process, found)) if isinstance(found, list) else None,
        pci_bus_id=_text(getattr(ask("nvmlDeviceGetPciInfo"), "busId", None)),
        corrected_volatile=_count(ask("nvmlDeviceGetTotalEccErrors", corrected, volatile)),
        corrected_aggregate=_count(ask("nvmlDeviceGetTotalEccErrors", corrected, aggregate)),
        uncorrected_volatile=_count(ask("nvmlDeviceGetTotalEccErrors", uncorrected, volatile)),
        uncorrected_aggregate=_count(ask("nvmlDeviceGetTotalEccErrors", uncorrected, aggregate)),
        remapped=_remapped(ask("nvmlDeviceGetRemappedRows")),
        retired_pages_pending=None if pending is None else bool(pending),
        throttle_reasons=_reasons(
            ask_either("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
        ),
    )
    return msgspec.structs.replace(gpu, error="; ".join(errors) or None)


def _process(told: object) -> GpuProcess:
    pid = int(getattr(told, "pid", 0))
    memory = getattr(told, "usedGpuMemory", None)
    try:
        process = processes.read_process(pid)
    except OSError:
        return GpuProcess(pid, memory)
    if process is not None:
        return GpuProcess(pid, memory, not processes.is_gone(process), process.identity.uid)
    return GpuProcess(pid, memory, _hidden_lives(pid))


def _hidden_lives(pid: int) -> bool | None:
    """Whether a process that /proc does not show lives: it may be hidden (hidepid), or outside a container."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        try:
            sees_all = Path("/proc/self/ns/pid").stat().st_ino == _FIRST_PID_NAMESPACE
        except OSError:
            sees_all = False
        return False if sees_all else None
    return True


def _kernel_module() -> str | None:
    try:
        with _KERNEL_MODULE.open("rb") as file:
            found = re.search(rb"Kernel Module.*?\s(\d+\.[\d.]+)\s", file.read(4096))
    except OSError:
        return None
    return found[1].decode() if found else None


def _remapped(told: object) -> RemappedRows | None:
    if not isinstance(told, tuple) or len(told) != 4:
        return None
    correctable, uncorrectable, pending, failed = told
    return RemappedRows(correctable, uncorrectable, bool(pending), bool(failed))


def _reasons(bits: object) -> tuple[str, ...] | None:
    if not isinstance(bits, int):
        return None
    return tuple(name for bit, name in _REASONS.items() if bits & bit)


def _count(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _text(value: object) -> str | None:
    return (
        value.decode(errors="replace")
        if isinstance(value, bytes)
        else value
        if isinstance(value, str)
        else None
    )


def main() -> int:
    """Print what NVML tells as JSON."""
    sys.stdout.buffer.write(msgspec.json.encode(read_gpus()))
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main())
