"""`nvidia-smi`, the driver's own command, where NVML cannot be asked in this process."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from trainguard.commands import Reply, ask_command
from trainguard.gpu.holders import holder_of
from trainguard.gpu.nvml import reasons_of
from trainguard.gpu.values import Gpu, GpuProcess, Gpus, RemappedRows

SOURCE = "nvidia-smi"
SECONDS = 2.0
# An older driver refuses a field that it does not know, and names one at a time.
_REFUSALS = 12
_REFUSED = re.compile(r'Field "([^"]+)" is not a valid field to query')
_MIB = 1 << 20
_SHOWN = 120


def _whole(text: str) -> int | None:
    return int(text) if re.fullmatch(r"-?\d{1,18}", text) else None


def _real(text: str) -> float | None:
    return float(text) if re.fullmatch(r"-?\d{1,12}(\.\d{1,9})?", text) else None


def _size(text: str) -> int | None:
    number = _whole(text)
    return None if number is None else number * _MIB


def _flag(text: str) -> bool | None:
    return {"enabled": True, "yes": True, "1": True, "disabled": False, "no": False, "0": False}.get(
        text.lower()
    )


def _state(text: str) -> int | None:
    found = re.fullmatch(r"P(\d{1,2})", text)
    return int(found[1]) if found else None


def _reasons(text: str) -> tuple[str, ...] | None:
    return reasons_of(int(text, 16)) if re.fullmatch(r"0x[0-9A-Fa-f]{1,16}", text) else None


# `nvidia-smi --help-query-gpu`: what each property is called there and here, and how it is read; sizes in MiB.
_PROPERTIES: dict[str, tuple[str, Callable[[str], object]]] = {
    "index": ("index", _whole),
    "name": ("name", str),
    "uuid": ("uuid", str),
    "pci.bus_id": ("pci_bus_id", str),
    "memory.used": ("memory_used", _size),
    "memory.total": ("memory_total", _size),
    "memory.free": ("memory_free", _size),
    "utilization.gpu": ("utilization", _whole),
    "temperature.gpu": ("temperature", _whole),
    "power.draw": ("power_draw", _real),
    "enforced.power.limit": ("power_limit", _real),
    "power.default_limit": ("power_limit_default", _real),
    "pcie.link.gen.current": ("pcie_generation", _whole),
    "pcie.link.gen.max": ("pcie_generation_max", _whole),
    "pcie.link.width.current": ("pcie_width", _whole),
    "pcie.link.width.max": ("pcie_width_max", _whole),
    "persistence_mode": ("persistence", _flag),
    "clocks.sm": ("clock_sm", _whole),
    "clocks.max.sm": ("clock_sm_max", _whole),
    "mig.mode.current": ("mig", _flag),
    "mig.mode.pending": ("mig_pending", _flag),
    "pstate": ("performance_state", _state),
    "ecc.errors.corrected.volatile.total": ("corrected_volatile", _whole),
    "ecc.errors.corrected.aggregate.total": ("corrected_aggregate", _whole),
    "ecc.errors.uncorrected.volatile.total": ("uncorrected_volatile", _whole),
    "ecc.errors.uncorrected.aggregate.total": ("uncorrected_aggregate", _whole),
    "retired_pages.pending": ("retired_pages_pending", _flag),
    "clocks_throttle_reasons.active": ("throttle_reasons", _reasons),
    "clocks_event_reasons.active": ("throttle_reasons", _reasons),
}
_OTHERS = (
    "driver_version",
    "remapped_rows.correctable",
    "remapped_rows.uncorrectable",
    "remapped_rows.pending",
    "remapped_rows.failure",
)
FIELDS = (*_PROPERTIES, *_OTHERS)


def ask(deadline: float) -> Gpus | None:
    """What `nvidia-smi` tells until this moment (monotonic), and for two seconds at most; None where it is missing.

    `hung` where it gives no answer.
    """
    deadline = min(deadline, time.monotonic() + SECONDS)
    fields = list(FIELDS)
    try:
        for _ in range(_REFUSALS):
            reply = _ask([f"--query-gpu={','.join(fields)}"], deadline)
            refused = _REFUSED.search((reply.output + reply.errors).decode(errors="replace"))
            if refused is None or refused[1] not in fields:
                break
            fields.remove(refused[1])
        gpus = parse_gpus(reply.output, fields)
        if reply.code and not gpus.gpus:
            return msgspec.structs.replace(gpus, error=_said(reply))
        holders = _ask(["--query-compute-apps=gpu_uuid,pid,used_memory"], deadline)
    except FileNotFoundError:
        return None
    except TimeoutError:
        return Gpus(error=f"no answer within {SECONDS:g} s", hung=True, source=SOURCE)
    except OSError as error:
        return Gpus(error=error.strerror or str(error), source=SOURCE)
    return gpus if holders.code else _with_processes(gpus, parse_processes(holders.output))


def parse_gpus(output: bytes, fields: Sequence[str] = FIELDS) -> Gpus:
    """The rows of `--query-gpu=FIELDS --format=csv,noheader,nounits`; one that cannot be understood is an error.

    `[N/A]` and `[Not Supported]` are None; `[Unknown Error]` and `[GPU is lost]` become the GPU's error.
    """
    gpus, errors, version = [], [], None
    for line in output.decode(errors="replace").splitlines():
        values = [part.strip() for part in line.split(", ")]
        told = dict(zip(fields, values, strict=False))
        index = _whole(told.get("index", ""))
        if not line.strip():
            continue
        if len(values) != len(fields) or index is None:
            errors.append(f"told what cannot be understood: {line.strip()[:_SHOWN]}")
            continue
        gpus.append(_gpu(index, told))
        version = _known(told.get("driver_version", "")) or version
    return Gpus(tuple(gpus), "; ".join(errors[:3]) or None, version, source=SOURCE)


def parse_processes(output: bytes) -> list[tuple[str, int, int | None]]:
    """The rows of `--query-compute-apps=gpu_uuid,pid,used_memory`: UUID, process number, memory in bytes."""
    rows = []
    for line in output.decode(errors="replace").splitlines():
        values = [part.strip() for part in line.split(", ")]
        pid = _whole(values[1]) if len(values) == 3 else None
        if pid is not None and pid > 0:
            rows.append((values[0], pid, _size(values[2])))
    return rows


def _ask(arguments: Sequence[str], deadline: float) -> Reply:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError(None, "gave no answer in time", SOURCE)
    return ask_command([SOURCE, *arguments, "--format=csv,noheader,nounits"], left)


def _gpu(index: int, told: Mapping[str, str]) -> Gpu:
    values: dict[str, Any] = {}
    for field, (name, read) in _PROPERTIES.items():
        text = _known(told.get(field, ""))
        if text is not None and (value := read(text)) is not None:
            values[name] = value
    told_by_all = ("name", "uuid", "memory_used", "memory_total", "utilization", "temperature", "processes")
    blank: dict[str, Any] = dict.fromkeys(told_by_all)
    rows = {field.partition(".")[2]: _known(told.get(field, "")) for field in _OTHERS[1:]}
    error = "; ".join(dict.fromkeys(filter(None, map(_complaint, told.values()))))
    return Gpu(**{**blank, **values, "index": index, "remapped": _remapped(rows), "error": error or None})


def _known(text: str) -> str | None:
    return None if not text or text.startswith("[") or text in ("N/A", "Unknown Error") else text


def _complaint(text: str) -> str | None:
    """What the device answered instead of a value, where that is an error."""
    bare = text.strip("[]")
    harmless = ("N/A", "Not Supported", "Insufficient Permissions", "Deprecated", "Function Not Found")
    is_complaint = text.startswith("[") or bare in ("Unknown Error", "GPU is lost")
    return bare if is_complaint and bare not in harmless else None


def _remapped(told: Mapping[str, str | None]) -> RemappedRows | None:
    counts = [_whole(told[name] or "") for name in ("correctable", "uncorrectable")]
    flags = [_flag(told[name] or "") for name in ("pending", "failure")]
    if None in counts or None in flags:
        return None
    return RemappedRows(counts[0] or 0, counts[1] or 0, bool(flags[0]), bool(flags[1]))


def _with_processes(told: Gpus, rows: Sequence[tuple[str, int, int | None]]) -> Gpus:
    def processes_of(gpu: Gpu) -> tuple[GpuProcess, ...] | None:
        if gpu.uuid is None:
            return None
        return tuple(holder_of(pid, memory) for uuid, pid, memory in rows if uuid == gpu.uuid)

    gpus = tuple(msgspec.structs.replace(gpu, processes=processes_of(gpu)) for gpu in told.gpus)
    return msgspec.structs.replace(told, gpus=gpus)


def _said(reply: Reply) -> str:
    said = (reply.output + reply.errors).decode(errors="replace").split("\n")
    text = next((line.strip() for line in said if line.strip()), "")
    return text[:_SHOWN] or f"ended with exit status {reply.code}"
