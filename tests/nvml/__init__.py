"""A stand-in for NVIDIA's management library: GPUs and their faults without a GPU."""

import os
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("nvml.c")
COMPILER = shutil.which("cc")
# A test may hide all programs; the compiler needs its own.
PATH = os.environ.get("PATH", os.defpath)
LIBRARY = "libnvidia-ml.so.1"
VERSION = "999.10.01"
GIB = 1 << 30

# A sound GPU that trains; what nvml.h counts in milliwatts and MHz is so here.
HEALTHY: dict[str, object] = {
    "driver": VERSION,
    "count": 2,
    "name": "Stand-in 1",
    "uuid@0": "GPU-7",
    "uuid@1": "GPU-8",
    "bus@0": "00000000:3B:00.0",
    "bus@1": "00000000:5E:00.0",
    "memory.total": 80 * GIB,
    "memory.used": 0,
    "utilization": 97,
    "temperature": 64,
    "slowdown": 90,
    "corrected.volatile": 0,
    "corrected.aggregate": 0,
    "uncorrected.volatile": 0,
    "uncorrected.aggregate": 0,
    "remapped": "0 0 0 0",
    "retired.pending": 0,
    "reasons": "0x4",
    "power": 655_000,
    "power.limit": 700_000,
    "power.default": 700_000,
    "pcie.generation": 5,
    "pcie.generation.max": 5,
    "pcie.width": 16,
    "pcie.width.max": 16,
    "nvlinks": "1" * 18,
    "persistence": 1,
    "state": 0,
    "clock": 1755,
    "clock.max": 1980,
    "mig": "0 0",
    "processes": "",
    "graphics": "",
    "mps": "",
}


def build(folder: Path, *options: str, version: str | None = None) -> Path:
    """Compile the stand-in into a folder; with a version its file bears it, as the driver's does."""
    assert COMPILER is not None
    target = folder / (LIBRARY if version is None else f"libnvidia-ml.so.{version}")
    command = [COMPILER, "-shared", "-fPIC", *options, "-o", str(target), str(SOURCE)]
    subprocess.run(command, env={**os.environ, "PATH": PATH}, check=True)
    if version is not None:
        (folder / LIBRARY).symlink_to(target.name)
    return folder


class StandIn:
    """What the stand-in answers, and the environment in which it is found."""

    def __init__(self, library: Path, folder: Path) -> None:
        self.answers = folder / "nvml.txt"
        self.variables = {"LD_LIBRARY_PATH": str(library), "NVML_STAND_IN": str(self.answers)}
        self.tell()

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, **self.variables}

    def tell(self, **changes: object) -> None:
        """A healthy machine, with changes: `temperature__1=93` is of GPU 1, None is left out, `_` is a point."""
        told = dict(HEALTHY)
        for name, value in changes.items():
            field, _, index = name.partition("__")
            told[field.replace("_", ".") + (f"@{index}" if index else "")] = value
        lines = [f"{name} {value}\n" for name, value in told.items() if value is not None]
        self.answers.write_text("".join(lines))
