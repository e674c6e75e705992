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

from trainguard.gpu import GpuProcess, RemappedRows, ask_gpus
from trainguard.inquiries import Inquiry
from trainguard.snapshots import read_snapshot

COMPILER = shutil.which("cc")
LIBRARY = """
#include <string.h>
#include <unistd.h>
typedef struct { unsigned long long total, free, used; } memory;
int nvmlInitWithFlags(unsigned flags) { HANG return 0; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { return code == 15 ? "GPU is lost" : "an error"; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    *handle = (void *)(index + 1L);
    return index == FIRST_LOST - 1 || FIRST_LOST == 0 ? LOST : 0;
}
int nvmlDeviceGetName(void *gpu, char *name, unsigned length) { strncpy(name, "Stand-in 1", length); return 0; }
int nvmlDeviceGetMemoryInfo(void *gpu, memory *told) { told->total = 80; told->used = 7; told->free = 73; return 0; }
#ifdef WHOLE
typedef struct { unsigned gpu, memory; } rates;
typedef struct { unsigned pid; unsigned long long memory; unsigned instance, compute; } process;
typedef struct {
    char legacy[16]; unsigned domain, bus, device, id, subsystem; char name[32];
} place;
const unsigned pids[] = { PIDS };
int nvmlSystemGetDriverVersion(char *text, unsigned length) { strncpy(text, "999.10.01", length); return 0; }
int nvmlDeviceGetUUID(void *gpu, char *text, unsigned length) { strncpy(text, "GPU-7", length); return 0; }
int nvmlDeviceGetPciInfo_v3(void *gpu, place *told) { strcpy(told->name, "00000000:3B:00.0"); return 0; }
int nvmlDeviceGetUtilizationRates(void *gpu, rates *told) { told->gpu = 97; return 0; }
int nvmlDeviceGetTemperature(void *gpu, int sensor, unsigned *told) { *told = 64; return 0; }
int nvmlDeviceGetTotalEccErrors(void *gpu, int error, int counter, unsigned long long *told) {
    *told = 1 + error * 10 + counter * 100;
    return 0;
}
int nvmlDeviceGetRemappedRows(void *gpu, unsigned *right, unsigned *wrong, unsigned *pending, unsigned *failed) {
    *right = 2; *wrong = 3; *pending = 1; *failed = 0;
    return 0;
}
int nvmlDeviceGetRetiredPagesPendingStatus(void *gpu, int *told) { return 3; }
int nvmlDeviceGetCurrentClocksThrottleReasons(void *gpu, unsigned long long *told) { *told = 0xC0; return 0; }
int nvmlDeviceGetComputeRunningProcesses_v3(void *gpu, unsigned *count, process *told) {
    unsigned had = *count, has = sizeof(pids) / sizeof(*pids);
    *count = has;
    if (had < has) return 7;
    for (unsigned i = 0; i < has; i++) { told[i].pid = pids[i]; told[i].memory = i ? 5 : ~0ULL; }
    return 0;
}
#endif
#ifdef SICK
int nvmlDeviceGetTemperature(void *gpu, int sensor, unsigned *told) { return 15; }
int nvmlDeviceGetUtilizationRates(void *gpu, void *told) { return 3; }
#endif
"""


@pytest.fixture
def stand_in(tmp_path: Path, request: pytest.FixtureRequest) -> dict[str, str]:
    """An environment in which NVML is the stand-in, with what the test's parameter defines."""
    if COMPILER is None:
        pytest.skip("this machine has no C compiler to build the stand-in for NVML")
    source = tmp_path / "nvml.c"
    source.write_text(LIBRARY)
    target = tmp_path / "libnvidia-ml.so.1"
    options = [option.replace("{here}", str(os.getpid())) for option in request.param]
    if not any(option.startswith("-DFIRST_LOST") for option in options):
        options.append("-DFIRST_LOST=0")
    subprocess.run([COMPILER, "-shared", "-fPIC", *options, "-o", str(target), str(source)], check=True)
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
    # Found first, also where there is a driver, and not loadable.
    (tmp_path / "libnvidia-ml.so.1").touch()
    assert "not found" in str(read({**os.environ, "LD_LIBRARY_PATH": str(tmp_path)})["error"]).lower()


@pytest.mark.parametrize("stand_in", [["-DHANG=return 9;", "-DLOST=0"]], indirect=True)
def test_a_driver_that_is_not_loaded_is_an_answer(stand_in: dict[str, str]) -> None:
    answer = read(stand_in)
    assert answer["gpus"] == [] and answer["error"]


@pytest.mark.parametrize("stand_in", [["-DHANG=", "-DLOST=15", "-DFIRST_LOST=1"]], indirect=True)
def test_a_lost_gpu_does_not_hide_the_others(stand_in: dict[str, str]) -> None:
    answer = read(stand_in)
    gpus = answer["gpus"]
    assert isinstance(gpus, list) and [gpu["index"] for gpu in gpus] == [1]
    assert "GPU 0: " in str(answer["error"]) and "lost" in str(answer["error"]).lower()


@pytest.mark.parametrize("stand_in", [["-DHANG=", "-DLOST=0", "-DSICK"]], indirect=True)
def test_an_error_of_the_device_is_told_and_a_question_that_does_not_apply_is_none(
    stand_in: dict[str, str],
) -> None:
    gpus = read(stand_in)["gpus"]
    assert isinstance(gpus, list)
    assert (gpus[0]["temperature"], gpus[0]["utilization"]) == (None, None)
    assert "lost" in gpus[0]["error"].lower()


WHOLE = ["-DHANG=", "-DLOST=0", "-DWHOLE"]


@pytest.mark.parametrize("stand_in", [[*WHOLE, "-DPIDS={here},4194304,0"]], indirect=True)
def test_everything_that_a_gpu_knows_is_asked(
    stand_in: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", stand_in["LD_LIBRARY_PATH"])
    answer = ask_gpus(30)
    assert (answer.error, answer.driver_version, answer.hung) == (None, "999.10.01", False)
    gpu = answer.gpus[0]
    assert (gpu.uuid, gpu.pci_bus_id, gpu.memory_free) == ("GPU-7", "00000000:3B:00.0", 73)
    assert (gpu.utilization, gpu.temperature) == (97, 64)
    assert (gpu.corrected_volatile, gpu.uncorrected_volatile) == (1, 11)
    assert (gpu.corrected_aggregate, gpu.uncorrected_aggregate) == (101, 111)
    assert gpu.remapped == RemappedRows(2, 3, pending=True, failed=False)
    assert gpu.retired_pages_pending is None
    # By the older function, which is all that this library has.
    assert gpu.throttle_reasons == ("hardware thermal slowdown", "hardware power brake")
    assert gpu.error is None


@pytest.mark.parametrize("stand_in", [[*WHOLE, "-DPIDS={here},4194304"]], indirect=True)
def test_memory_held_by_a_dead_process_is_told_apart_from_that_of_a_living_one(
    stand_in: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", stand_in["LD_LIBRARY_PATH"])
    living, dead = ask_gpus(30).gpus[0].processes or ()
    assert living == GpuProcess(os.getpid(), None, True, os.getuid())
    # No kernel gives a number this high; in a container it could be a process of the host.
    first = Path("/proc/self/ns/pid").stat().st_ino == 0xEFFFFFFC
    assert dead == GpuProcess(4194304, 5, False if first else None, None)


@pytest.mark.parametrize("stand_in", [["-DHANG=for(;;)pause();", "-DLOST=0"]], indirect=True)
def test_a_driver_that_hangs_is_the_answer(stand_in: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", stand_in["LD_LIBRARY_PATH"])
    began = time.monotonic()
    answer = ask_gpus(1.5)
    assert answer.hung and answer.error == "the driver does not answer within 1.5 s"
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("stand_in", [["-DHANG=*(volatile int *)0 = 1;", "-DLOST=0"]], indirect=True)
def test_a_library_that_crashes_is_an_answer(
    stand_in: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", stand_in["LD_LIBRARY_PATH"])
    answer = ask_gpus(30)
    assert "signal 11" in str(answer.error) and not answer.hung


@pytest.mark.parametrize("stand_in", [["-DHANG=for(;;)pause();", "-DLOST=0"]], indirect=True)
def test_a_driver_that_hangs_costs_only_its_own_part(
    stand_in: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", stand_in["LD_LIBRARY_PATH"])
    file = tmp_path / "incident" / "snapshot.json"
    inquiry = Inquiry([sys.executable, "-m", "trainguard.snapshots", str(tmp_path)], file, 60)
    wait_for(lambda: any(one.stat().st_size for one in file.parent.iterdir()), 30)
    assert not inquiry.is_over(time.monotonic())
    assert inquiry.is_over(time.monotonic() + 61)
    wait_for(lambda: inquiry.is_over(time.monotonic()), 10)
    inquiry.end()
    told = read_snapshot(file)
    assert told is not None
    host, gpu = told["host"], told["gpu"]
    assert isinstance(host, dict) and host["memory_total"] > 0 and "oom_kills" in host
    assert isinstance(gpu, dict) and "no answer" in gpu["error"]
