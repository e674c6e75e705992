"""Acknowledgements end by themselves: at their time, and with the boot."""

from pathlib import Path

import msgspec
import pytest

from trainguard.acknowledgements import FILE, acknowledge, read_acknowledgements


@pytest.mark.parametrize(
    ("boot", "now", "holds"),
    [("one", 99.9, True), ("one", 100.0, False), ("one", 100.1, False), ("two", 50.0, False)],
)
def test_one_with_a_time_holds_until_then_and_never_beyond_a_boot(
    tmp_path: Path, boot: str, now: float, holds: bool
) -> None:
    acknowledge(tmp_path, {}, {"disk-free": ["disk /"]}, "one", 100.0)
    assert ("disk-free" in read_acknowledgements(tmp_path, boot, now)) is holds


def test_one_without_a_time_holds_until_the_next_boot(tmp_path: Path) -> None:
    acknowledge(tmp_path, {}, {"disk-free": ["disk /"]}, "one", None)
    assert str(read_acknowledgements(tmp_path, "one", 1e12)["disk-free"]) == "known until the next boot"
    assert read_acknowledgements(tmp_path, "two", 0.0) == {}


def test_a_second_one_keeps_the_first(tmp_path: Path) -> None:
    acknowledge(tmp_path, {}, {"a": []}, "one", None)
    acknowledge(tmp_path, read_acknowledgements(tmp_path, "one", 0.0), {"b": [], "c": []}, "one", None)
    assert set(read_acknowledgements(tmp_path, "one", 0.0)) == {"a", "b", "c"}


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b'{"a": {"at_wall": "x"}}'])
def test_a_damaged_file_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(msgspec.DecodeError):
        read_acknowledgements(tmp_path, "one", 0.0)
