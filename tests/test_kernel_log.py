"""The kernel log: each form in which it is written, and the real one where this machine lets it be read."""

import os
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import ROOT

from trainguard.kernel_log import KernelLine, has_kernel_lines, parse_kernel_log, read_kernel_log

BOOT = 1_790_000_000.0
KILLED = "Memory cgroup out of memory: Killed process 4711 (python3)"
MOMENT = datetime(2026, 10, 4, 6, 30, 15, tzinfo=timezone.utc).timestamp()
LOCAL = datetime(2026, 10, 4, 6, 30, 15).timestamp()
NOW = datetime(2026, 11, 1, 12, 0, 0).timestamp()


@pytest.mark.parametrize(
    ("line", "moment", "text"),
    [
        (f"3,812,1234567891,-;{KILLED}", BOOT + 1234.567891, KILLED),
        (f"3,812,1234567891,-,caller=T4711;{KILLED}", BOOT + 1234.567891, KILLED),
        (f"[ 1234.567891] {KILLED}", BOOT + 1234.567891, KILLED),
        (f"[ 1234.567891][ T4711] {KILLED}", BOOT + 1234.567891, KILLED),
        (f"<3>[ 1234.567891] {KILLED}", BOOT + 1234.567891, KILLED),
        (f"kern  :err   : [ 1234.567891] {KILLED}", BOOT + 1234.567891, KILLED),
        (f"\x1b[32m[ 1234.567891] \x1b[0m\x1b[31m{KILLED}\x1b[0m", BOOT + 1234.567891, KILLED),
        (f"[Sun Oct  4 06:30:15 2026] {KILLED}", LOCAL, KILLED),
        ("[Sun Oct  4 06:30:15 2026] nvme nvme1: I/O 7 timeout", LOCAL, "nvme nvme1: I/O 7 timeout"),
        (f"2026-10-04T06:30:15,250000+00:00 {KILLED}", MOMENT + 0.25, KILLED),
        ("2026-10-04T06:30:15,250000+00:00 nvme nvme1: reset", MOMENT + 0.25, "nvme nvme1: reset"),
        (f"[Oct 4 06:30] {KILLED}", None, KILLED),
        (f"[  +0.000012] {KILLED}", None, KILLED),
        (f"2026-10-04T08:30:15+0200 node3 kernel: {KILLED}", MOMENT, KILLED),
        (f"2026-10-04T03:00:15.5-03:30 node3 kernel: {KILLED}", MOMENT + 0.5, KILLED),
        (f"2026-10-04T06:30:15Z node3 kernel: [ 1234.567891] {KILLED}", MOMENT, KILLED),
        (f"Sun 2026-10-04 06:30:15 UTC node3 kernel: {KILLED}", MOMENT, KILLED),
        (f"{MOMENT:.6f} node3 kernel: {KILLED}", MOMENT, KILLED),
        (f"[ 1234.567891] node3 kernel: {KILLED}", BOOT + 1234.567891, KILLED),
        (f"Oct  4 06:30:15 node3 kernel: {KILLED}", LOCAL, KILLED),
        (f"Oct  4 06:30:15 node3 kernel: [ 1234.567891] {KILLED}", LOCAL, KILLED),
        ("Oct  4 06:30:15 node3 kernel: nvme nvme1: reset", LOCAL, "nvme nvme1: reset"),
        ("Oct  4 06:30:15 node3 systemd-oomd[81]: Killed /a", LOCAL, "systemd-oomd[81]: Killed /a"),
        (KILLED, None, KILLED),
    ],
)
def test_each_form_gives_its_time_and_its_bare_text(line: str, moment: float | None, text: str) -> None:
    (told,) = parse_kernel_log(line.encode() + b"\r\n", boot_wall=BOOT, now_wall=NOW)
    assert told.text == text
    assert told.time == (None if moment is None else pytest.approx(moment, abs=1e-5))
    # Neither a bare line nor one of another program tells that this is the kernel's log.
    marked = line != KILLED and "systemd-oomd" not in line
    assert has_kernel_lines(b"a line before\n" + line.encode() + b"\r\n") is marked


def test_a_time_since_an_unknown_boot_is_unknown() -> None:
    assert parse_kernel_log(b"[ 12.500000] up\n3,1,2,-;up\n") == [
        KernelLine(None, "up"),
        KernelLine(None, "up"),
    ]


def test_a_date_without_a_year_is_the_last_one_that_is_not_in_the_future() -> None:
    line = b"Dec 31 23:59:58 node3 kernel: bye\n"
    new_year = datetime(2026, 1, 1, 0, 0, 5).timestamp()
    assert parse_kernel_log(line, now_wall=new_year)[0].time == new_year - 7
    assert parse_kernel_log(line)[0].time is None
    leap = parse_kernel_log(b"Feb 29 01:02:03 node3 kernel: leap\n", now_wall=NOW)[0].time
    assert leap == datetime(2024, 2, 29, 1, 2, 3).timestamp()


def test_what_the_kernel_escaped_is_written_out_and_a_record_of_two_lines_is_two() -> None:
    told = parse_kernel_log(
        b"6,1,2000000,-;Gr\\xc3\\xbc\\xc3\\x9fe\\x0asecond\n SUBSYSTEM=pci\n", boot_wall=BOOT
    )
    assert told == [KernelLine(BOOT + 2, "Grüße"), KernelLine(BOOT + 2, "second")]


def test_remarks_of_journalctl_are_no_lines() -> None:
    assert parse_kernel_log(b"-- No entries --\n-- Boot 5a5a --\n\n") == []


@given(st.binary(max_size=300))
def test_any_bytes_are_read_as_lines(content: bytes) -> None:
    for line in parse_kernel_log(content, boot_wall=BOOT, now_wall=NOW):
        assert "\n" not in line.text


@given(st.from_regex(r"\A(Feb|Jun|Xyz) [0-9]{1,2} [0-9]{2}:[0-9]{2}:[0-9]{2} h kernel: t\Z"))
def test_a_date_that_does_not_exist_is_no_time(line: str) -> None:
    (told,) = parse_kernel_log(line.encode(), now_wall=NOW)
    assert told.text == "t"


def test_the_kernel_log_of_this_machine_is_read_to_its_end_at_once() -> None:
    began = time.monotonic()
    try:
        lines = read_kernel_log(None)
    except OSError as error:
        assert "--kernel-log" in str(error)
        pytest.skip(f"this machine's kernel log may not be read: {error}")
    assert lines
    assert time.monotonic() - began < 10
    assert all(line.time is not None and line.time <= time.time() + 1 for line in lines[-20:])
    assert len(read_kernel_log(time.time() - 60)) <= len(lines)


def test_who_may_not_read_it_is_told_what_to_do() -> None:
    if os.getuid() != 0:
        pytest.skip("only root can become a user who may not read the kernel log")
    script = (
        "import os; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "from trainguard.kernel_log import read_kernel_log\n"
        "try:\n    print(len(read_kernel_log(None)))\nexcept OSError as error:\n    print(error)\n"
    )
    # Imported before the rights are given up, since the folder may be closed to others.
    script = "import trainguard.kernel_log, subprocess, selectors\n" + script
    told = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    )
    if Path("/proc/sys/kernel/dmesg_restrict").read_text().strip() == "0":
        pytest.skip("this machine lets everybody read the kernel log")
    assert "--kernel-log" in told.stdout and "dmesg_restrict" in told.stdout


JOURNALCTL = """#!/bin/sh
echo "$@" > "$0.arguments"
{body}
"""


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A journalctl of the test's own is first in the path, and /dev/kmsg is not there."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("trainguard.kernel_log.KMSG", str(tmp_path / "no kmsg"))
    return tmp_path / "journalctl"


def give(journal: Path, body: str) -> None:
    journal.write_text(JOURNALCTL.format(body=body))
    journal.chmod(0o755)


def test_without_kmsg_the_journal_is_read(journal: Path) -> None:
    give(journal, f"echo '1790000123.500000 node3 kernel: {KILLED}'")
    assert read_kernel_log(1_790_000_000.0) == [KernelLine(1_790_000_123.5, KILLED)]
    assert "--since=@1790000000" in journal.with_name("journalctl.arguments").read_text()


@pytest.mark.parametrize(
    "body", ["echo No journal files were found. >&2", "echo Hint: You are not seeing messages >&2", "exit 1"]
)
def test_a_journal_that_may_be_hidden_is_not_taken_for_a_quiet_one(journal: Path, body: str) -> None:
    give(journal, body)
    with pytest.raises(OSError, match="--kernel-log"):
        read_kernel_log(None)


def test_a_quiet_journal_is_an_answer(journal: Path) -> None:
    give(journal, "echo '-- No entries --'")
    assert read_kernel_log(time.time()) == []


def test_a_journal_that_hangs_is_given_up(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainguard.kernel_log.READ_SECONDS", 0.3)
    give(journal, "exec sleep 1000")
    with pytest.raises(OSError, match="no answer"):
        read_kernel_log(None)


def test_without_kmsg_and_journal_it_is_said(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(journal.parent))
    with pytest.raises(OSError, match="--kernel-log"):
        read_kernel_log(None)
