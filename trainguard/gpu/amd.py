"""AMD's GPUs, as the JSON of `amd-smi` (ROCm 6 and later) or of `rocm-smi` tells them."""

import os
import re
import shutil
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from trainguard import probes
from trainguard.commands import ask_command
from trainguard.gpu.holders import holder_of
from trainguard.gpu.values import Gpu, GpuProcess, Gpus

AMD_SMI, ROCM_SMI = "amd-smi", "rocm-smi"
_FOLDER = "/opt/rocm/bin"
_AMD_SMI = {part: [part, "--json"] for part in ("metric", "static", "process")}
_ROCM_SMI = [
    *("--showproductname", "--showuniqueid", "--showbus", "--showuse", "--showmeminfo", "vram", "--showtemp"),
    *("--showpower", "--showmaxpower", "--showclocks", "--showdriverversion", "--json"),
]
_GRACE_SECONDS = 0.2
_UNITS = {"B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}
# PCI Express Base Specification: what a lane does in each generation, in GT/s.
_GENERATIONS = {2.5: 1, 5.0: 2, 8.0: 3, 16.0: 4, 32.0: 5, 64.0: 6}
# The parts of amd-smi's `throttle` and how NVML calls the like.
_THROTTLES = {
    "prochot_violation_status": "hardware slowdown",
    "ppt_violation_status": "software power cap",
    "socket_thermal_violation_status": "hardware thermal slowdown",
    "vr_thermal_violation_status": "hardware thermal slowdown",
    "hbm_thermal_violation_status": "hardware thermal slowdown",
}


def ask(deadline: float) -> Gpus | None:
    """What AMD's tools tell until this moment (monotonic); None where there are none. `hung`: no answer in time."""
    path = f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{_FOLDER}"
    for name in (AMD_SMI, ROCM_SMI):
        program = shutil.which(name, path=path)
        if program is not None:
            return _ask(name, program, deadline)
    return None


def _ask(name: str, program: str, deadline: float) -> Gpus:
    seconds = max(0.1, deadline - time.monotonic() - _GRACE_SECONDS)
    questions = _AMD_SMI if name == AMD_SMI else {ROCM_SMI: _ROCM_SMI}

    def probe_of(part: str) -> probes.Probe:
        def read() -> bytes:
            return ask_command([program, *questions[part]], seconds).output

        return probes.Probe(part, read, bytes, seconds + _GRACE_SECONDS / 2)

    answers = probes.ask([probe_of(part) for part in questions])
    texts = {part: one.value for part, one in answers.items() if isinstance(one.value, bytes)}
    problems = {part: one.problem for part, one in answers.items() if one.problem is not None}
    main = next(iter(questions))
    if main not in texts:
        late = answers[main].hung or "in time" in (problems[main] or "")
        return Gpus(error=problems[main], hung=late, source=name)
    if name == ROCM_SMI:
        return parse_rocm_smi(texts[main])
    return parse_amd_smi(texts[main], texts.get("static", b""), texts.get("process", b""))


# --- amd-smi ---------------------------------------------------------------------------------------------------


def parse_amd_smi(metric: bytes, static: bytes = b"", process: bytes = b"") -> Gpus:
    """The GPUs in what `amd-smi metric --json`, `static --json` and `process --json` print.

    A number is bare or `{"value": 1, "unit": "W"}`, and `N/A` where it is not known; the list of GPUs is bare or
    under `gpu_data` (ROCm 7).
    """
    metrics, statics, lists = (_by_index(text) for text in (metric, static, process))
    if not metrics:
        return Gpus(error=_not_understood(metric), source=AMD_SMI)
    gpus = tuple(
        _amd_gpu(index, metrics[index], statics.get(index, {}), lists.get(index)) for index in metrics
    )
    versions = (
        _text(_at(one, "driver", "driver_version") or _at(one, "driver", "version"))
        for one in statics.values()
    )
    return Gpus(gpus, None, next(filter(None, versions), None), source=AMD_SMI)


def _amd_gpu(index: int, metric: Any, static: Any, listed: Any) -> Gpu:
    spot = next(
        (one for one in ("hotspot", "edge") if _whole(_at(metric, "temperature", one)) is not None), "edge"
    )
    slowdown = _whole(_at(static, "limit", f"slowdown_{spot}_temperature"))
    clock = next(
        (
            one
            for one in (_at(metric, "clock", name) for name in ("gfx_0", "GFX_0", "gfx"))
            if one is not None
        ),
        None,
    )
    return Gpu(
        index=index,
        name=_text(_at(static, "asic", "market_name")),
        uuid=_text(_at(static, "asic", "asic_serial")),
        memory_used=_size(_at(metric, "mem_usage", "used_vram")),
        memory_total=_size(_at(metric, "mem_usage", "total_vram")),
        memory_free=_size(_at(metric, "mem_usage", "free_vram")),
        utilization=_whole(_at(metric, "usage", "gfx_activity")),
        temperature=_whole(_at(metric, "temperature", spot)),
        processes=None if listed is None else tuple(_amd_processes(_at(listed, "process_list"))),
        pci_bus_id=_text(_at(static, "bus", "bdf")),
        # The driver counts from its own start; it keeps nothing of the device's life.
        corrected_volatile=_whole(_at(metric, "ecc", "total_correctable_count")),
        uncorrected_volatile=_whole(_at(metric, "ecc", "total_uncorrectable_count")),
        throttle_reasons=_amd_throttles(_at(metric, "throttle")),
        slowdown_temperature=slowdown or None,
        power_draw=_real(_at(metric, "power", "socket_power")),
        power_limit=_real(_at(static, "limit", "socket_power")),
        power_limit_default=_real(_at(static, "limit", "max_power")),
        pcie_generation=_generation(_at(metric, "pcie", "speed")),
        pcie_generation_max=_generation(_at(static, "bus", "max_pcie_speed")),
        pcie_width=_whole(_at(metric, "pcie", "width")),
        pcie_width_max=_whole(_at(static, "bus", "max_pcie_width")),
        clock_sm=_whole(_at(clock, "clk")),
        clock_sm_max=_whole(_at(clock, "max_clk")) or None,
    )


def _amd_processes(listed: object) -> list[GpuProcess]:
    found = []
    for one in listed if isinstance(listed, list) else ():
        about = _at(one, "process_info") if _at(one, "process_info") is not None else one
        pid = _whole(_at(about, "pid"))
        if pid is not None and pid > 0:
            memory = _size(_at(about, "memory_usage", "vram_mem"))
            found.append(holder_of(pid, _size(_at(about, "mem_usage")) if memory is None else memory))
    return found


def _amd_throttles(told: object) -> tuple[str, ...] | None:
    states = {name: _at(told, name) for name in _THROTTLES}
    known = {name: state for name, state in states.items() if isinstance(state, str) and state != "N/A"}
    reasons = (_THROTTLES[name] for name, state in known.items() if state.upper() == "ACTIVE")
    return tuple(dict.fromkeys(reasons)) if known else None


def _by_index(text: bytes) -> dict[int, Any]:
    told = _json(text)
    rows = told.get("gpu_data") if isinstance(told, dict) else told
    listed = rows if isinstance(rows, list) else []
    return {one["gpu"]: one for one in listed if isinstance(one, dict) and isinstance(one.get("gpu"), int)}


# --- rocm-smi --------------------------------------------------------------------------------------------------


def parse_rocm_smi(text: bytes) -> Gpus:
    """The GPUs in what `rocm-smi --json` prints: an object a card (`card0`), and `system`; all values are texts."""
    told = _json(text)
    cards = {
        int(found[1]): values
        for name, values in (told.items() if isinstance(told, dict) else ())
        if (found := re.fullmatch(r"card(\d{1,3})", name)) and isinstance(values, dict)
    }
    if not cards:
        return Gpus(error=_not_understood(text), source=ROCM_SMI)
    version = _text(_at(told, "system", "Driver version"))
    return Gpus(
        tuple(_rocm_gpu(index, cards[index]) for index in sorted(cards)), None, version, source=ROCM_SMI
    )


def _rocm_gpu(index: int, card: Mapping[str, object]) -> Gpu:
    values = {name.lower().rstrip(":"): value for name, value in card.items()}

    def first(*names: str) -> object:
        return next((values[name] for name in names if _text(values.get(name)) is not None), None)

    total, used = (_whole(values.get(f"vram total {what}")) for what in ("memory (b)", "used memory (b)"))
    found = re.search(r"(\d+)\s*mhz", str(values.get("sclk clock speed", "")), re.IGNORECASE)
    temperatures = (f"temperature (sensor {sensor}) (c)" for sensor in ("junction", "edge"))
    draw = first("current socket graphics package power (w)", "average graphics package power (w)")
    return Gpu(
        index=index,
        name=_text(first("device name", "card series", "card model")),
        uuid=_text(values.get("unique id")),
        memory_used=used,
        memory_total=total,
        memory_free=None if total is None or used is None else total - used,
        utilization=_whole(values.get("gpu use (%)")),
        temperature=_whole(first(*temperatures)),
        processes=None,
        pci_bus_id=_text(values.get("pci bus")),
        power_draw=_real(draw),
        power_limit=_real(values.get("max graphics package power (w)")),
        clock_sm=int(found[1]) if found else None,
    )


# --- values ----------------------------------------------------------------------------------------------------


def _json(text: bytes) -> Any:
    """What is in the text from its first bracket on, before which warnings may stand; None where that is no JSON."""
    begin = re.search(rb"[\[{]", text)
    try:
        return None if begin is None else msgspec.json.decode(text[begin.start() :])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _not_understood(text: bytes) -> str:
    shown = " ".join(text[:200].decode(errors="replace").split())[:120]
    return f"told what cannot be understood: {shown}" if shown else "told nothing"


def _at(told: object, *names: str) -> Any:
    for name in names:
        told = told.get(name) if isinstance(told, dict) else None
    return told


def _real(told: object) -> float | None:
    value = told.get("value") if isinstance(told, dict) else told
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    found = re.match(r"\s*(-?\d{1,18}(?:\.\d{1,9})?)(?:\s|$)", str(value))
    return float(found[1]) if found else None


def _whole(told: object) -> int | None:
    number = _real(told)
    return None if number is None else round(number)


def _size(told: object) -> int | None:
    number = _real(told)
    unit = str(told.get("unit", "B")) if isinstance(told, dict) else "B"
    factor = _UNITS.get(unit.upper())
    return None if number is None or factor is None else round(number * factor)


def _generation(told: object) -> int | None:
    number = _real(told)
    return None if number is None else _GENERATIONS.get(number)


def _text(told: object) -> str | None:
    return told if isinstance(told, str) and told and told != "N/A" else None
