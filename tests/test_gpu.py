"""GPUs without a GPU: a library of the tests' own stands in for NVML, found through LD_LIBRARY_PATH."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import nvml
import pytest
from nvml import GIB, StandIn
from support import ROOT, wait_for

from trainguard.gpu import Gpus, RemappedRows, ask_gpus, asking
from trainguard.inquiries import Inquiry
from trainguard.snapshots import read_snapshot

# include/linux/proc_ns.h: elsewhere a number that is not seen may be a process of the host.
SEES_ALL = Path("/proc/self/ns/pid").stat().st_ino == 0xEFFFFFFC
# No kernel gives a number this high.
NOBODY = 4194304


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if nvml.COMPILER is None:
        pytest.skip("this machine has no C compiler to build the stand-in for NVML")
    return nvml.build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def stand_in(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """The stand-in, which the children of this test find."""
    made = StandIn(library, tmp_path)
    for name, value in made.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", str(tmp_path))
    return made


def test_everything_that_a_gpu_knows_is_asked(stand_in: StandIn) -> None:
    stand_in.tell(
        corrected_volatile=1,
        corrected_aggregate=101,
        uncorrected_volatile=11,
        uncorrected_aggregate=111,
        remapped="2 3 1 0",
        reasons="0xC0",
        nvlinks="1101",
        mig="0 1",
        state=2,
        graphics="77:1",
        memory_used=7 * GIB,
    )
    answer = ask_gpus(30)
    assert (answer.error, answer.hung, answer.source, answer.refused) == (None, False, "NVML", {})
    assert (answer.driver_version, answer.sees_all_processes) == (nvml.VERSION, SEES_ALL)
    assert [gpu.uuid for gpu in answer.gpus] == ["GPU-7", "GPU-8"]
    gpu = answer.gpus[0]
    assert (gpu.name, gpu.pci_bus_id, gpu.error) == ("Stand-in 1", "00000000:3B:00.0", None)
    assert (gpu.memory_used, gpu.memory_free, gpu.memory_total) == (7 * GIB, 73 * GIB, 80 * GIB)
    assert (gpu.utilization, gpu.temperature, gpu.slowdown_temperature) == (97, 64, 90)
    assert (gpu.corrected_volatile, gpu.uncorrected_volatile) == (1, 11)
    assert (gpu.corrected_aggregate, gpu.uncorrected_aggregate) == (101, 111)
    assert gpu.remapped == RemappedRows(2, 3, pending=True, failed=False)
    assert gpu.retired_pages_pending is False
    assert gpu.throttle_reasons == ("hardware thermal slowdown", "hardware power brake")
    assert (gpu.power_draw, gpu.power_limit, gpu.power_limit_default) == (655.0, 700.0, 700.0)
    assert (gpu.pcie_generation, gpu.pcie_generation_max) == (5, 5)
    assert (gpu.pcie_width, gpu.pcie_width_max) == (16, 16)
    assert gpu.nvlinks == (True, True, False, True)
    assert (gpu.persistence, gpu.performance_state, gpu.mig, gpu.mig_pending) == (True, 2, False, True)
    assert (gpu.clock_sm, gpu.clock_sm_max, gpu.graphics_processes) == (1755, 1980, 1)
    assert gpu.processes == ()


def test_what_the_library_does_not_know_is_unknown(stand_in: StandIn) -> None:
    stand_in.answers.write_text("count 1\nname Bare\n")
    gpu = ask_gpus(30).gpus[0]
    known = {name: getattr(gpu, name) for name in gpu.__struct_fields__ if getattr(gpu, name) is not None}
    assert known == {"index": 0, "name": "Bare"}


def test_an_older_library_is_asked_by_its_older_names(
    stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(nvml.build(tmp_path, "-DOLD")))
    assert ask_gpus(30).gpus[0].throttle_reasons == ("software power cap",)


def test_a_lost_gpu_does_not_hide_the_others(stand_in: StandIn) -> None:
    stand_in.tell(handle__0="!15")
    answer = ask_gpus(30)
    assert [gpu.index for gpu in answer.gpus] == [1]
    assert answer.refused == {0: "GPU is lost"} and answer.error == "GPU 0: GPU is lost"


def test_where_all_are_lost_no_other_tool_is_asked(stand_in: StandIn, tmp_path: Path) -> None:
    write_program(tmp_path, "nvidia-smi", f"touch {tmp_path}/asked")
    stand_in.tell(handle="!15")
    answer = ask_gpus(30)
    assert answer.gpus == () and set(answer.refused) == {0, 1}
    assert not (tmp_path / "asked").exists()


def test_an_error_of_the_device_is_told_and_a_question_that_does_not_apply_is_none(stand_in: StandIn) -> None:
    stand_in.tell(temperature="!15", utilization="!3", clock="!4")
    gpu = ask_gpus(30).gpus[0]
    assert (gpu.temperature, gpu.utilization, gpu.clock_sm) == (None, None, None)
    assert gpu.error == "GPU is lost"


def test_memory_held_by_a_dead_process_is_told_apart_from_that_of_a_living_one(stand_in: StandIn) -> None:
    stand_in.tell(processes=f"{os.getpid()}:- {NOBODY}:5", mps="")
    living, dead = ask_gpus(30).gpus[0].processes or ()
    assert (living.pid, living.memory_used, living.lives, living.uid) == (
        os.getpid(),
        None,
        True,
        os.getuid(),
    )
    assert living.name and os.getppid() in living.ancestors
    assert (dead.pid, dead.memory_used, dead.lives) == (NOBODY, 5, False if SEES_ALL else None)


def test_the_memory_of_one_process_in_several_instances_is_summed(stand_in: StandIn) -> None:
    stand_in.tell(processes="7:5 7:6 8:1", mps="8:2")
    assert [(one.pid, one.memory_used) for one in ask_gpus(30).gpus[0].processes or ()] == [(7, 11), (8, 3)]


def test_the_library_tells_its_version_by_its_file_also_where_it_refuses(
    stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(nvml.build(tmp_path, version="999.20.02")))
    stand_in.tell(init="!18")
    answer = ask_gpus(30)
    assert answer.library_version == "999.20.02" and "mismatch" in str(answer.error)


def test_the_kernel_module_tells_its_version_and_its_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  999.10.01  Tue\n")
    for name in ("0000:3b:00.0", "0000:5e:00.0"):
        (tmp_path / "gpus" / name).mkdir(parents=True)
    monkeypatch.setattr(asking, "DRIVER", tmp_path)
    answer = asking.read_gpus(1.0)
    assert (answer.kernel_module, answer.kernel_gpus) == ("999.10.01", 2)


def test_a_machine_without_the_driver_is_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Found first, also where there is a driver, and not loadable.
    (tmp_path / nvml.LIBRARY).touch()
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "not found" in str(ask_gpus(30).error).lower()


def test_a_driver_that_is_not_loaded_is_an_answer(stand_in: StandIn) -> None:
    stand_in.tell(init="!9")
    answer = ask_gpus(30)
    assert answer.gpus == () and answer.error == "Driver Not Loaded"


def test_a_driver_that_hangs_is_the_answer(stand_in: StandIn) -> None:
    stand_in.tell(init="hang")
    began = time.monotonic()
    answer = ask_gpus(1.5)
    assert answer.hung and answer.error == "the driver does not answer within 1.5 s"
    assert time.monotonic() - began < 10


def test_a_library_that_crashes_is_an_answer(stand_in: StandIn) -> None:
    stand_in.tell(temperature="crash")
    answer = ask_gpus(30)
    assert "signal 6" in str(answer.error) and not answer.hung


def test_a_driver_that_hangs_costs_only_its_own_part(stand_in: StandIn, tmp_path: Path) -> None:
    stand_in.tell(init="hang")
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


def test_the_room_prints_what_it_reads(stand_in: StandIn) -> None:
    told = subprocess.run(
        [sys.executable, "-m", "trainguard.gpu"], cwd=ROOT, capture_output=True, timeout=30, check=True
    )
    assert len(json.loads(told.stdout)["gpus"]) == 2


# --- other tools -----------------------------------------------------------------------------------------------


def write_program(folder: Path, name: str, script: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
    file.chmod(0o755)


@pytest.fixture
def without_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for programs, the only one on PATH, where NVML's library cannot be loaded."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (tmp_path / nvml.LIBRARY).touch()
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    monkeypatch.setenv("PATH", str(programs))
    return programs


def test_without_the_library_nvidia_smi_is_asked(without_library: Path) -> None:
    # An older one refuses what it does not know, and answers the question without it.
    write_program(
        without_library,
        "nvidia-smi",
        'case "$1" in\n'
        "*clocks_event_reasons.active*) echo 'Field \"clocks_event_reasons.active\" is not a valid field to query.'\n"
        "  exit 2;;\n"
        f"--query-compute-apps*) echo 'GPU-7, {os.getpid()}, 512';;\n"
        '*) echo "$1" | tr , "\\n" | sed -e "1s/.*/0/" -e "s/^uuid$/GPU-7/" -e "s/^temperature.gpu$/71/"'
        ' -e "s/^[a-z].*/[N\\/A]/" | paste -sd, | sed "s/,/, /g";;\n'
        "esac",
    )
    answer = ask_gpus(30)
    assert answer.source == "nvidia-smi" and "NVML: NVML Shared Library Not Found" in str(answer.error)
    gpu = answer.gpus[0]
    assert (gpu.index, gpu.temperature, gpu.memory_used, gpu.error) == (0, 71, None, None)
    holder = (gpu.processes or ())[0]
    assert (holder.pid, holder.memory_used, holder.lives) == (os.getpid(), 512 << 20, True)


def test_an_nvidia_smi_that_hangs_is_left_soon(without_library: Path) -> None:
    write_program(without_library, "nvidia-smi", "exec sleep 60")
    began = time.monotonic()
    answer = ask_gpus(30)
    assert answer.hung and "nvidia-smi: no answer within 2 s" in str(answer.error)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 'NVIDIA-SMI has failed because it could not communicate'; exit 9", "has failed"),
        ("head -c 2000 /dev/zero | tr '\\0' '\\377'", "cannot be understood"),
        ("exit 3", "exit status 3"),
    ],
)
def test_an_nvidia_smi_that_fails_is_told(without_library: Path, script: str, words: str) -> None:
    write_program(without_library, "nvidia-smi", script)
    answer = ask_gpus(30)
    assert answer.gpus == () and words in str(answer.error) and not answer.hung


def test_amds_tools_are_asked_where_there_is_no_nvml(without_library: Path) -> None:
    write_program(without_library, "amd-smi", 'echo \'[{"gpu": 0, "usage": {"gfx_activity": 9}}]\'')
    answer: Gpus = ask_gpus(30)
    assert (answer.source, answer.error, len(answer.gpus)) == ("amd-smi", None, 1)
    assert answer.gpus[0].utilization == 9


def test_an_amd_tool_that_hangs_is_told(without_library: Path) -> None:
    write_program(without_library, "rocm-smi", "exec sleep 60")
    answer = ask_gpus(2.0)
    assert answer.hung and answer.gpus == ()
