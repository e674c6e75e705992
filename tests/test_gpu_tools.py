"""What nvidia-smi, amd-smi, rocm-smi and the kernel log print of GPUs, read back defensively."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainguard import kernel_log
from trainguard.checks.gpus import read_xids
from trainguard.gpu import RemappedRows, amd, nvidia_smi, parse_xids, same_bus
from trainguard.gpu.nvidia_smi import FIELDS
from trainguard.signatures.rows import FOLDER, read_rows

SOUND = {
    "index": "3",
    "name": "Stand-in 1",
    "uuid": "GPU-7",
    "driver_version": "999.10.01",
    "memory.used": "1024",
    "power.draw": "655.21",
    "utilization.gpu": "97",
    "persistence_mode": "Enabled",
    "mig.mode.current": "Disabled",
    "pstate": "P0",
    "ecc.errors.uncorrected.volatile.total": "2",
    "retired_pages.pending": "No",
    "remapped_rows.correctable": "1",
    "remapped_rows.uncorrectable": "2",
    "remapped_rows.pending": "Yes",
    "remapped_rows.failure": "No",
    "clocks_throttle_reasons.active": "0x0000000000000048",
}


def row(**changes: str) -> bytes:
    told = {**dict.fromkeys(FIELDS, "[N/A]"), **SOUND}
    told |= {name.replace("__", "."): value for name, value in changes.items()}
    return (", ".join(told[field] for field in FIELDS) + "\n").encode()


def test_a_row_of_nvidia_smi_becomes_a_gpu() -> None:
    told = nvidia_smi.parse_gpus(row())
    (gpu,) = told.gpus
    assert (told.error, told.driver_version, told.source) == (None, "999.10.01", "nvidia-smi")
    assert (gpu.index, gpu.name, gpu.uuid, gpu.memory_used) == (3, "Stand-in 1", "GPU-7", 1 << 30)
    assert (gpu.power_draw, gpu.utilization, gpu.performance_state) == (655.21, 97, 0)
    assert (gpu.persistence, gpu.mig, gpu.retired_pages_pending) == (True, False, False)
    assert (gpu.uncorrected_volatile, gpu.remapped) == (2, RemappedRows(1, 2, pending=True, failed=False))
    assert gpu.throttle_reasons == ("hardware slowdown", "hardware thermal slowdown")
    assert (gpu.temperature, gpu.error, gpu.processes) == (None, None, None)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("[N/A]", None),
        ("N/A", None),
        ("[Not Supported]", None),
        ("[Unknown Error]", "Unknown Error"),
        ("[GPU is lost]", "GPU is lost"),
        ("seventy", None),
        ("", None),
    ],
)
def test_what_is_no_value_is_unknown_and_an_error_is_told(value: str, error: str | None) -> None:
    (gpu,) = nvidia_smi.parse_gpus(row(temperature__gpu=value)).gpus
    assert (gpu.temperature, gpu.error) == (None, error)


def test_a_row_that_cannot_be_understood_does_not_hide_the_others() -> None:
    told = nvidia_smi.parse_gpus(b"Unable to determine the device handle\n" + row() + row(index="x"))
    assert len(told.gpus) == 1 and "Unable to determine" in str(told.error)


def test_processes_of_nvidia_smi_are_read_with_their_memory() -> None:
    text = b"GPU-7, 12, 512\nGPU-7, 13, [N/A]\nNo running processes found\nGPU-7, x, 1\n"
    assert nvidia_smi.parse_processes(text) == [("GPU-7", 12, 512 << 20), ("GPU-7", 13, None)]


METRIC = {
    "gpu": 0,
    "usage": {"gfx_activity": {"value": 91, "unit": "%"}},
    "power": {"socket_power": {"value": 542, "unit": "W"}},
    "clock": {"gfx_0": {"clk": {"value": 1800, "unit": "MHz"}, "max_clk": {"value": 2100, "unit": "MHz"}}},
    "temperature": {"edge": {"value": 54, "unit": "C"}, "hotspot": {"value": 71, "unit": "C"}},
    "pcie": {"width": 8, "speed": {"value": 16, "unit": "GT/s"}},
    "ecc": {"total_correctable_count": 5, "total_uncorrectable_count": 0},
    "mem_usage": {"total_vram": {"value": 2048, "unit": "MB"}, "used_vram": {"value": 512, "unit": "MB"}},
    "throttle": {"socket_thermal_violation_status": "ACTIVE", "ppt_violation_status": "NOT ACTIVE"},
}
STATIC = {
    "gpu": 0,
    "asic": {"market_name": "AMD Stand-in", "asic_serial": "0x17"},
    "bus": {"bdf": "0000:05:00.0", "max_pcie_width": 16, "max_pcie_speed": {"value": 32, "unit": "GT/s"}},
    "driver": {"version": "6.12.12"},
    "limit": {
        "slowdown_hotspot_temperature": {"value": 100, "unit": "C"},
        "max_power": {"value": 750, "unit": "W"},
    },
}
PROCESS = {
    "gpu": 0,
    "process_list": [
        {
            "process_info": {
                "name": "python",
                "pid": 4194304,
                "memory_usage": {"vram_mem": {"value": 7, "unit": "B"}},
            }
        },
        {"process_info": "No running processes detected"},
    ],
}


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_json_of_amd_smi_becomes_a_gpu(wrapped: bool) -> None:
    def text(row: object) -> bytes:
        return json.dumps({"gpu_data": [row]} if wrapped else [row]).encode()

    told = amd.parse_amd_smi(b"WARNING: User is missing\n" + text(METRIC), text(STATIC), text(PROCESS))
    (gpu,) = told.gpus
    assert (told.error, told.driver_version, told.source) == (None, "6.12.12", "amd-smi")
    assert (gpu.name, gpu.uuid, gpu.pci_bus_id) == ("AMD Stand-in", "0x17", "0000:05:00.0")
    assert (gpu.temperature, gpu.slowdown_temperature, gpu.utilization) == (71, 100, 91)
    assert (gpu.memory_used, gpu.memory_total) == (512 << 20, 2048 << 20)
    assert (gpu.power_draw, gpu.power_limit_default, gpu.power_limit) == (542.0, 750.0, None)
    assert (gpu.pcie_generation, gpu.pcie_generation_max, gpu.pcie_width, gpu.pcie_width_max) == (4, 5, 8, 16)
    assert (gpu.corrected_volatile, gpu.uncorrected_volatile) == (5, 0)
    assert (gpu.clock_sm, gpu.clock_sm_max) == (1800, 2100)
    assert gpu.throttle_reasons == ("hardware thermal slowdown",)
    assert [(one.pid, one.memory_used) for one in gpu.processes or ()] == [(4194304, 7)]


def test_what_amd_smi_does_not_know_is_unknown() -> None:
    (gpu,) = amd.parse_amd_smi(
        b'[{"gpu": 1, "usage": "N/A", "temperature": {"hotspot": "N/A", "edge": 41}}]'
    ).gpus
    assert (gpu.index, gpu.temperature, gpu.utilization, gpu.throttle_reasons) == (1, 41, None, None)
    assert (gpu.processes, gpu.memory_used, gpu.clock_sm) == (None, None, None)


def test_the_json_of_rocm_smi_becomes_a_gpu() -> None:
    card = {
        "Card Series": "AMD Stand-in",
        "Unique ID": "0x17",
        "PCI Bus": "0000:05:00.0",
        "GPU use (%)": "87",
        "VRAM Total Memory (B)": "2048",
        "VRAM Total Used Memory (B)": "512",
        "Temperature (Sensor edge) (C)": "52.0",
        "Temperature (Sensor junction) (C)": "61.0",
        "Average Graphics Package Power (W)": "35.5",
        "Max Graphics Package Power (W)": "170.0",
        "sclk clock speed:": "(1269Mhz)",
    }
    told = amd.parse_rocm_smi(json.dumps({"card2": card, "system": {"Driver version": "6.7.0"}}).encode())
    (gpu,) = told.gpus
    assert (told.driver_version, told.source, gpu.index, gpu.name) == ("6.7.0", "rocm-smi", 2, "AMD Stand-in")
    assert (gpu.memory_used, gpu.memory_free, gpu.utilization, gpu.temperature) == (512, 1536, 87, 61)
    assert (gpu.power_draw, gpu.power_limit, gpu.clock_sm) == (35.5, 170.0, 1269)


@pytest.mark.parametrize(
    "text", [b"", b"ERROR: no driver", b"[1, 2]", b'{"gpu_data": 3}', b'{"card0": 1}', b"[{"]
)
def test_what_is_no_answer_of_amds_tools_is_an_error(text: bytes) -> None:
    for told in (amd.parse_amd_smi(text), amd.parse_rocm_smi(text)):
        assert told.gpus == () and told.error and told.error.startswith("told ")


@given(st.binary(max_size=300))
def test_no_bytes_break_a_reader(text: bytes) -> None:
    nvidia_smi.parse_gpus(text)
    nvidia_smi.parse_processes(text)
    amd.parse_amd_smi(text, text, text)
    amd.parse_rocm_smi(text)


VALUES = st.recursive(st.none() | st.floats() | st.text(max_size=8) | st.integers(), st.lists, max_leaves=4)


@given(st.dictionaries(st.sampled_from(sorted(METRIC)), VALUES))
def test_no_value_breaks_the_reader_of_amd_smi(changes: dict[str, object]) -> None:
    text = json.dumps([{**METRIC, **changes}]).encode()
    amd.parse_amd_smi(text, text, text)


# --- the kernel log --------------------------------------------------------------------------------------------

LOST = "NVRM: Xid (PCI:0000:5e:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."
PROGRAM = "NVRM: Xid (PCI:0000:5e:00): 13, pid=40127, name=python3, Graphics SM Warp Exception"
HARMLESS = "NVRM: Xid (PCI:0000:5e:00): 43, pid=40127, name=python3, Ch 00000012"


def test_messages_of_gpus_are_found_counted_and_known() -> None:
    told = parse_xids(
        [(1.0, PROGRAM), (2.0, "usb 1-1: new device"), (3.0, PROGRAM), (None, LOST), (5.0, HARMLESS)]
    )
    assert told.lines == 5
    program, lost, harmless = told.xids
    assert (program.code, program.count, program.last, program.hardware) == (13, 2, 3.0, False)
    assert (program.bus, program.verdict) == ("PCI:0000:5e:00", "park")
    assert (lost.code, lost.hardware, lost.verdict, lost.last) == (79, True, "repair", None)
    assert "reboot" in lost.action and lost.what
    assert (harmless.code, harmless.harmless) == (43, True)


def test_an_action_names_what_the_line_holds() -> None:
    line = "NVRM: Xid (PCI:0000:5e:00): 154, GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)"
    (only,) = parse_xids([(1.0, line)]).xids
    assert only.hardware and "GPU Reset Required" in only.action


def test_amds_messages_are_found_too() -> None:
    (only,) = parse_xids([(1.0, "amdgpu 0000:05:00.0: amdgpu: ring gfx_0.0.0 timeout, signaled seq=1")]).xids
    assert (only.code, only.hardware) == (None, True)


@pytest.mark.parametrize(
    ("kernel", "library", "same"),
    [
        ("PCI:0000:5e:00", "00000000:5E:00.0", True),
        ("0000:5e:00", "00000000:5E:00.0", True),
        ("PCI:0001:5e:00", "00000000:5E:00.0", False),
        ("PCI:0000:5e:01", "00000000:5E:00.0", False),
        ("PCI:0000:5e:00", None, False),
        ("garbage", "00000000:5E:00.0", False),
    ],
)
def test_two_names_of_a_pci_device_are_matched(kernel: str, library: str | None, same: bool) -> None:
    assert same_bus(kernel, library) is same


def test_a_row_of_the_catalogue_is_found_for_each_of_its_samples() -> None:
    rows = read_rows(FOLDER / "xid.yaml")
    found = [parse_xids([(1.0, row.sample)]).xids for row in rows]
    assert [xids[0].name if xids else None for xids in found] == [row.name for row in rows]


def test_a_storm_of_messages_is_read_in_time() -> None:
    began = time.process_time()
    told = parse_xids((1.0, PROGRAM.replace(" 13,", " 999,") + str(number)) for number in range(20_000))
    assert told.xids[0].count == 20_000
    # A fifth of what the kernel log holds at most, in a fifth of what there is for it.
    assert time.process_time() - began < 1.4


def test_the_kernel_log_is_read_and_one_that_cannot_be_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_log, "KMSG", str(tmp_path / "kmsg"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "may not be read" in str(read_xids().problem)
    (tmp_path / "kmsg").write_text(f"4,1,1000,-;{LOST}")
    told = read_xids()
    assert (told.problem, told.lines, told.xids[0].code) == (None, 1, 79)
