"""The values of GPUs, whoever tells them."""

import msgspec


class GpuProcess(msgspec.Struct, frozen=True):
    """One compute process on a GPU; memory in bytes, None where the driver does not tell.

    `lives` and `uid` are None where the process may be one that this container cannot see. `run` is what the mark
    in its environment says, `ancestors` are the numbers of its parents, the nearest first.
    """

    pid: int
    memory_used: int | None
    lives: bool | None = None
    uid: int | None = None
    name: str | None = None
    run: str | None = None
    ancestors: tuple[int, ...] = ()


class RemappedRows(msgspec.Struct, frozen=True):
    """Rows of memory that were replaced by spare ones; a pending one takes effect with the next reset."""

    correctable: int
    uncorrectable: int
    pending: bool
    failed: bool


class Gpu(msgspec.Struct, frozen=True):
    """One GPU; memory in bytes, utilization in percent, temperature in degrees Celsius, None for unknown.

    The volatile ECC counts begin anew with the driver, the aggregate ones are of the device's life. `error`
    is what the device answered instead of a value, such as that it is lost. Power is in watts, `power_limit` the
    one in force; clocks in MHz; `pcie_generation_max` and `pcie_width_max` are what device and slot can do
    together; `nvlinks` tells of each link whether it is active, `mig` whether the GPU is split into instances,
    `mig_pending` whether it will be after its next reset. `performance_state` is 0 for the fastest.
    `slowdown_temperature` is where the device itself slows down. `graphics_processes` counts what draws on it.
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
    slowdown_temperature: int | None = None
    power_draw: float | None = None
    power_limit: float | None = None
    power_limit_default: float | None = None
    pcie_generation: int | None = None
    pcie_generation_max: int | None = None
    pcie_width: int | None = None
    pcie_width_max: int | None = None
    nvlinks: tuple[bool, ...] | None = None
    persistence: bool | None = None
    clock_sm: int | None = None
    clock_sm_max: int | None = None
    mig: bool | None = None
    mig_pending: bool | None = None
    performance_state: int | None = None
    graphics_processes: int | None = None


class Gpus(msgspec.Struct, frozen=True):
    """All GPUs that answered, and why others did not; `hung` is that the driver gave no answer at all.

    `driver_version` is what the library tells, `kernel_module` the version of the loaded module: where they
    differ, the driver was replaced under a running machine. `library_version` is that of the library's file, also
    where the library refuses to work. `refused` are GPUs that gave no handle, by index, with what they answered.
    `kernel_gpus` counts those that the kernel module knows. `sees_all_processes` is None or False in a container,
    where the driver may hide the processes of others. `source` is who told.
    """

    gpus: tuple[Gpu, ...] = ()
    error: str | None = None
    driver_version: str | None = None
    kernel_module: str | None = None
    hung: bool = False
    library_version: str | None = None
    refused: dict[int, str] = {}
    kernel_gpus: int | None = None
    sees_all_processes: bool | None = None
    source: str = "NVML"
