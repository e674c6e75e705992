"""Evidence: a kernel log in a file, in any form in which it is kept."""

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from trainguard.investigation import evidence

KILLED = "Out of memory: Killed process 4711 (python3)"
LINES = f"[  812.000000] usb 1-1: new device\n[ 1234.567891] {KILLED}\n"


def gathered(file: Path, notes: list[str]) -> list[str]:
    return [line.text for line in evidence.gather(file, False, None, False, notes).kernel]


@pytest.mark.parametrize(
    "pack",
    [bytes, gzip.compress, bz2.compress, lzma.compress, zstandard.ZstdCompressor().compress],
)
def test_a_kernel_log_is_read_as_logs_are(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    file = tmp_path / "dmesg"
    file.write_bytes(pack(LINES.encode()))
    notes: list[str] = []
    assert gathered(file, notes) == ["usb 1-1: new device", KILLED]
    assert notes == []


def test_a_kernel_log_that_was_cut_short_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    file = tmp_path / "dmesg.gz"
    packed = gzip.compress(LINES.encode() * 2000)
    file.write_bytes(packed[: len(packed) // 2])
    notes: list[str] = []
    assert KILLED in gathered(file, notes)
    assert len(notes) == 1 and "damaged or cut short" in notes[0]


def test_a_small_file_that_holds_much_is_not_read_to_its_end(tmp_path: Path) -> None:
    file = tmp_path / "dmesg.gz"
    file.write_bytes(gzip.compress(LINES.encode() * 20_000))
    notes: list[str] = []
    assert len(evidence.read_kernel_file(file, notes, limit=10_000)) == 10_000
    assert notes == [f"{file}: only its first 10000 bytes are read"]


@pytest.mark.parametrize("content", ["", "step 1 loss 0.4\n", "2026-01-05 03:12:44,123 INFO loader: none\n"])
def test_a_file_without_kernel_lines_is_a_note(tmp_path: Path, content: str) -> None:
    file = tmp_path / "training.log"
    file.write_text(content)
    notes: list[str] = []
    gathered(file, notes)
    assert len(notes) == 1 and f"{file}: no line in it is marked as the kernel's" in notes[0]


def test_a_folder_is_no_kernel_log(tmp_path: Path) -> None:
    notes: list[str] = []
    assert gathered(tmp_path, notes) == [] and notes == [f"{tmp_path}: a folder, not a log"]
