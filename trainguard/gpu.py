"""The GPUs as NVIDIA's management library shows them at a moment."""

from collections.abc import Callable

import msgspec


class GpuProcess(msgspec.Struct, frozen=True):
    """One compute process on a GPU; memory in bytes, None where the driver does not tell."""

    pid: int
    memory_used: int | None


class Gpu(msgspec.Struct, frozen=True):
    """One GPU; memory in bytes, utilization in percent, temperature in degrees Celsius, None for unknown."""

    index: int
    name: str | None
    uuid: str | None
    memory_used: int | None
    memory_total: int | None
    utilization: int | None
    temperature: int | None
    processes: tuple[GpuProcess, ...] | None


class Gpus(msgspec.Struct, frozen=True):
    """All GPUs, or why they could not be asked."""

    gpus: tuple[Gpu, ...] = ()
    error: str | None = None


def read_gpus() -> Gpus:
    """Ask NVML (nvidia-ml-py). It may hang with the driver: call it in a child that can be abandoned."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Gpus(error=str(error))
    try:
        count = pynvml.nvmlDeviceGetCount()
        return Gpus(tuple(_read_gpu(pynvml, index) for index in range(count)))
    except pynvml.NVMLError as error:
        return Gpus(error=str(error))
    finally:
        pynvml.nvmlShutdown()


def _read_gpu(pynvml, index: int) -> Gpu:  # type: ignore[no-untyped-def]
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    # A driver older than the package raises the latter, which is no NVMLError.
    unknown = (pynvml.NVMLError, getattr(pynvml, "NVMLLibraryMismatchError", pynvml.NVMLError))

    def ask(question: Callable[..., object], *arguments: object) -> object:
        try:
            return question(handle, *arguments)
        except unknown:
            return None

    memory = ask(pynvml.nvmlDeviceGetMemoryInfo)
    rates = ask(pynvml.nvmlDeviceGetUtilizationRates)
    found = ask(pynvml.nvmlDeviceGetComputeRunningProcesses)
    temperature = ask(pynvml.nvmlDeviceGetTemperature, pynvml.NVML_TEMPERATURE_GPU)
    return Gpu(
        index=index,
        name=_text(ask(pynvml.nvmlDeviceGetName)),
        uuid=_text(ask(pynvml.nvmlDeviceGetUUID)),
        memory_used=getattr(memory, "used", None),
        memory_total=getattr(memory, "total", None),
        utilization=getattr(rates, "gpu", None),
        temperature=temperature if isinstance(temperature, int) else None,
        processes=tuple(GpuProcess(one.pid, one.usedGpuMemory) for one in found)
        if isinstance(found, list)
        else None,
    )


def _text(value: object) -> str | None:
    return (
        value.decode(errors="replace")
        if isinstance(value, bytes)
        else value
        if isinstance(value, str)
        else None
    )
