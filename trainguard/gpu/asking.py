"""Asking for the GPUs: NVML first, then `nvidia-smi`, then AMD's tools, all within a time that the caller gives."""

import re
import sys
import time
from pathlib import Path

import msgspec

from trainguard import commands
from trainguard.gpu import amd, nvidia_smi, nvml
from trainguard.gpu.holders import sees_all_processes
from trainguard.gpu.values import Gpus

DEFAULT_SECONDS = 10.0
# What is left to this process beyond its readings: to start, and to write.
_GRACE_SECONDS = 0.3
_PROJECT = Path(__file__).resolve().parent.parent.parent
DRIVER = Path("/proc/driver/nvidia")


def ask_gpus(seconds: float = DEFAULT_SECONDS) -> Gpus:
    """Ask for the GPUs in a child, which is left to itself when the driver hangs; never raises OSError."""
    left = str(max(0.1, seconds - _GRACE_SECONDS))
    try:
        reply = commands.ask_command([sys.executable, "-m", "trainguard.gpu", left], seconds, _PROJECT)
    except TimeoutError:
        return Gpus(error=f"the driver does not answer within {seconds:g} s", hung=True)
    except OSError as error:
        return Gpus(error=f"the driver could not be asked: {error}")
    try:
        return msgspec.json.decode(reply.output, type=Gpus)
    except (msgspec.DecodeError, UnicodeDecodeError):
        how = f"exit status {reply.code}" if reply.code >= 0 else f"signal {-reply.code}"
        return Gpus(error=f"the question to the driver ended with {how}")


def read_gpus(seconds: float = DEFAULT_SECONDS) -> Gpus:
    """Ask NVML (nvidia-ml-py). It may hang with the driver: call it in a child that can be abandoned.

    Where NVML gives no GPU, `nvidia-smi` and AMD's tools are asked, for no longer than `seconds` from now.
    """
    deadline = time.monotonic() + seconds
    told = nvml.read()
    if not told.gpus and told.error is not None and not told.refused:
        other = nvidia_smi.ask(deadline)
        if other is None or (other.error is not None and not other.gpus and not other.hung):
            other = amd.ask(deadline) or other
        if other is not None:
            told = _joined(told, other)
    return msgspec.structs.replace(
        told,
        kernel_module=_kernel_module(DRIVER),
        kernel_gpus=_kernel_gpus(DRIVER),
        sees_all_processes=sees_all_processes(),
    )


def _joined(library: Gpus, other: Gpus) -> Gpus:
    """What another tool told, with why NVML did not; AMD's GPUs need no NVML."""
    if other.gpus and other.source != nvidia_smi.SOURCE:
        return other
    errors = [f"NVML: {library.error}"] + ([] if other.error is None else [f"{other.source}: {other.error}"])
    return msgspec.structs.replace(other, error="; ".join(errors), library_version=library.library_version)


def _kernel_module(driver: Path) -> str | None:
    try:
        with (driver / "version").open("rb") as file:
            found = re.search(rb"Kernel Module.*?\s(\d+\.[\d.]+)\s", file.read(4096))
    except OSError:
        return None
    return found[1].decode() if found else None


def _kernel_gpus(driver: Path) -> int | None:
    try:
        return sum(1 for _ in (driver / "gpus").iterdir())
    except OSError:
        return None
