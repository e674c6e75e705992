"""Kernel lines: a kill explains a death only if it came when the run ended, and befell what may be of the run."""

import os
import time
from datetime import datetime
from functools import cache
from pathlib import Path

import pytest

from trainguard.diagnosis import Crash, Facts
from trainguard.investigation import investigating
from trainguard.investigation.evidence import Evidence, devices_below
from trainguard.investigation.investigating import Knowledge, Report
from trainguard.investigation.sources import Source
from trainguard.kernel_log import KernelLine

END = datetime(2026, 1, 5, 14, 10, 9).timestamp()
HOUR = 3600.0
DATED = "2026-01-05 14:10:01 step 7 loss 0.4\n2026-01-05 14:10:09 step 8 loss 0.4\nKilled\n"
UNDATED = "step 7 loss 0.4\nstep 8 loss 0.4\nKilled\n"
NAMED = "step 7 loss 0.4\nstep 8 loss 0.4\nrun.sh: line 3: 4127 Killed                  python train.py\n"


@cache
def knowledge() -> Knowledge:
    return investigating.open_knowledge(None, None, [])


def killed(after: float | None, task: str = "python", pid: int = 4127) -> tuple[KernelLine, ...]:
    """What the kernel says of a kill so long after END."""
    told = (
        "python invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0",
        f"oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,task_memcg=/,task={task},pid={pid},uid=1000",
        f"Out of memory: Killed process {pid} ({task}) total-vm:812kB, anon-rss:612kB, file-rss:0kB",
    )
    return tuple(KernelLine(None if after is None else END + after, text) for text in told)


def report_of(
    log: Path, text: str, kernel: tuple[KernelLine, ...], facts: Facts | None = None, written: float = END
) -> Report:
    log.write_text(text)
    os.utime(log, (written, written))
    return investigating.investigate([Source(str(log), facts=facts)], knowledge(), Evidence(kernel))


def type_of(report: Report) -> str:
    crash: Crash
    (crash,) = report.crashes
    return crash.type


@pytest.mark.parametrize("after", [None, -300.0, 20.0, 900.0])
@pytest.mark.parametrize("text", [DATED, UNDATED])
def test_a_kill_at_the_end_of_the_log_explains_it(tmp_path: Path, text: str, after: float | None) -> None:
    report = report_of(tmp_path / "a.log", text, killed(after), written=END + (after or 0.0))
    assert (type_of(report), report.notes) == ("host_oom", ())


@pytest.mark.parametrize("after", [-22 * 24 * HOUR, -4 * HOUR, 4 * HOUR])
@pytest.mark.parametrize("text", [DATED, UNDATED])
def test_a_kill_at_another_time_explains_nothing_and_is_a_note(
    tmp_path: Path, text: str, after: float
) -> None:
    report = report_of(tmp_path / "a.log", text, killed(after))
    assert type_of(report) == "process_killed"
    assert not report.crashes[0].consequences
    (note,) = report.notes
    assert "3 failures that the kernel log tells of at other times" in note


def test_the_times_in_the_log_go_before_that_of_a_copied_file(tmp_path: Path) -> None:
    copied = time.time()
    assert type_of(report_of(tmp_path / "a.log", DATED, killed(20.0), written=copied)) == "host_oom"
    late = killed(copied - END - 60.0)
    assert type_of(report_of(tmp_path / "a.log", DATED, late, written=copied)) == "process_killed"
    assert type_of(report_of(tmp_path / "a.log", UNDATED, killed(20.0), written=copied)) == "process_killed"


def test_a_process_that_the_log_names_is_known_again_in_a_copied_file(tmp_path: Path) -> None:
    copied = time.time()
    assert type_of(report_of(tmp_path / "a.log", NAMED, killed(20.0), written=copied)) == "host_oom"
    old = killed(-22 * 24 * HOUR)
    dated = DATED.replace("Killed", "run.sh: line 3: 4127 Killed                  python train.py")
    assert type_of(report_of(tmp_path / "a.log", dated, old)) == "process_killed"


def test_a_time_long_before_the_end_of_the_log_does_not_say_when_it_ended(tmp_path: Path) -> None:
    text = "2026-01-05 14:10:09 training begins\n" + UNDATED.replace("Killed\n", "") * 300 + "Killed\n"
    hours = report_of(tmp_path / "a.log", text, killed(6 * HOUR - 30.0), written=END + 6 * HOUR)
    assert type_of(hours) == "host_oom"
    before = report_of(tmp_path / "a.log", text, killed(20.0), written=END + 6 * HOUR)
    assert type_of(before) == "process_killed"


@pytest.mark.parametrize("task", ["java", "mysqld", "clickhouse-serv", "cc1plus"])
def test_the_kill_of_a_program_that_trains_nothing_explains_nothing(tmp_path: Path, task: str) -> None:
    report = report_of(tmp_path / "a.log", DATED, killed(20.0, task))
    assert type_of(report) == "process_killed"
    assert not report.crashes[0].consequences and len(report.notes) == 1
    named = report_of(tmp_path / "a.log", NAMED, killed(20.0, task))
    assert type_of(named) == "host_oom"


@pytest.mark.parametrize("task", ["python3", "pt_data_worker", "ray::train", "our_trainer"])
def test_the_kill_of_any_other_program_may_explain(tmp_path: Path, task: str) -> None:
    assert type_of(report_of(tmp_path / "a.log", DATED, killed(20.0, task, 99))) == "host_oom"


def test_where_the_watchdog_knows_the_time_old_kernel_lines_need_no_note(tmp_path: Path) -> None:
    facts = Facts(signal="SIGKILL", time=END, pids=frozenset({4127}))
    report = report_of(tmp_path / "a.log", UNDATED, killed(-9 * HOUR), facts)
    assert (type_of(report), report.notes) == ("process_killed", ())
    assert type_of(report_of(tmp_path / "a.log", UNDATED, killed(-5.0), facts)) == "host_oom"


FAULT = "RuntimeError: [enforce fail at inline_container.cc:603] . unexpected pos 64 vs 0"


@pytest.mark.parametrize(
    "line",
    [
        "EXT4-fs error (device {}): ext4_find_entry:1683: inode #131074: comm python: reading directory lblock 0",
        "I/O error, dev {}, sector 2048 op 0x1:(WRITE) flags 0x800 phys_seg 1 prio class 2",
        "XFS ({}): Corruption detected. Unmount and run xfs_repair",
        "EXT4-fs ({}): Remounting filesystem read-only",
    ],
)
@pytest.mark.parametrize(
    ("device", "devices", "is_ours"),
    [
        ("nvme1n1p1", frozenset({"nvme1n1p1", "nvme1n1"}), True),
        ("loop0", frozenset({"nvme1n1p1", "nvme1n1"}), False),
        ("dm-3", frozenset({"dm-0", "sda2"}), False),
        ("loop0", None, True),
    ],
)
def test_an_error_of_a_device_that_the_run_does_not_use_is_not_its_own(
    tmp_path: Path, line: str, device: str, devices: frozenset[str] | None, is_ours: bool
) -> None:
    log = tmp_path / "a.log"
    log.write_text(f"step 7 loss 0.4\nTraceback (most recent call last):\n{FAULT}\n")
    os.utime(log, (END, END))
    known = Evidence((KernelLine(END - 5, line.format(device)),), devices=devices)
    report = investigating.investigate([Source(str(log))], knowledge(), known)
    assert (type_of(report) == "storage_error") is is_ours


def test_the_devices_below_what_a_run_uses_are_those_of_its_file_systems(tmp_path: Path) -> None:
    number = tmp_path.stat().st_dev
    device = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    found = devices_below([tmp_path])
    if device.exists():
        assert found is not None and device.resolve().name in found
    else:
        assert found is None or device.name not in found
    assert devices_below([]) is None
