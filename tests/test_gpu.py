"""GPUs without a GPU: a library of the test's own stands in for NVML, found through LD_LIBRARY_PATH."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import ROOT, wait_for

from trainguard.incidents import SNAPSHOT, Snapshot

COMPILER = shutil.which("cc")
LIBRARY = """
#include <string.h>
#include <unistd.h>
typedef struct { unsigned long long total, free, used; } memory;
int nvmlInitWithFlags(unsigned flags) { HANG return 0; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { return code == 15 ? "GPU is lost" : "an error"; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) { *handle = (void *)(index + 1L); return LOST; }
int nvmlDeviceGetName(void *gpu, char *name, unsigned length) { strncpy(name, "Stand-in 1", length); return 0; }
int nvmlDeviceGetMemoryInfo(void *gpu, memory *told) { told->total = 80; told->used = 7; told->free = 73; return 0; }
"""


@pytest.fixture
def stand_in(tmp_path: Path, request: pytest.FixtureRequest) -> dict[str, str]:
    """An environment in which NVML is the stand-in, with what the test's parameter defines."""
    if COMPILER is None:
        pytest.skip("this machine has no C compiler to build the stand-in for NVML")
    source = tmp_path / "nvml.c"
    source.write_text(LIBRARY)
    target = tmp_path / "libnvidia-ml.so.1"
    subprocess.run([COMPILER, "-shared", "-fPIC", *request.param, "-o", str(target), str(source)], check=True)
    return {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}


def read(environment: dict[str, str]) -> dict[str, object]:
    script = (
        "import msgspec; from trainguard import gpu; print(msgspec.json.encode(gpu.read_gpus()).decode())"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, timeout=30, check=True
    )
    answer: dict[str, object] = json.loads(told.stdout)
    return answer


@pytest.mark.parametrize("stand_in", [["-DHANG=", "-DLOST=0"]], indirect=True)
def test_what_a_gpu_tells_is_told_and_the_rest_is_unknown(stand_in: dict[str, str]) -> None:
    answer = read(stand_in)
    assert answer["error"] is None
    gpus = answer["gpus"]
    assert isinstance(gpus, list) and len(gpus) == 2
    assert (gpus[1]["name"], gpus[1]["memory_used"], gpus[1]["memory_total"]) == ("Stand-in 1", 7, 80)
    assert (gpus[1]["temperature"], gpus[1]["processes"]) == (None, None)


@pytest.mark.parametrize("stand_in", [["-DHANG=", "-DLOST=15"]], indirect=True)
def test_a_lost_gpu_is_an_answer(stand_in: dict[str, str]) -> None:
    answer = read(stand_in)
    assert answer["gpus"] == [] and "lost" in str(answer["error"]).lower()


def test_a_machine_without_the_driver_is_an_answer(tmp_path: Path) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has an NVIDIA driver")
    assert read({**os.environ, "LD_LIBRARY_PATH": str(tmp_path)})["error"]


@pytest.mark.parametrize("stand_in", [["-DHANG=for(;;)pause();", "-DLOST=0"]], indirect=True)
def test_a_driver_that_hangs_costs_only_its_own_part(
    stand_in: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", stand_in["LD_LIBRARY_PATH"])
    snapshot = Snapshot(tmp_path / "incident", [tmp_path])
    file = tmp_path / "incident" / SNAPSHOT
    wait_for(file.exists, 30)
    assert not snapshot.is_over(time.monotonic())
    assert snapshot.is_over(time.monotonic() + 11)
    wait_for(snapshot.abandon, 10)
    told = json.loads(file.read_bytes())
    assert told["host"]["memory_total"] > 0
    assert "no answer" in told["gpu"]["error"]
