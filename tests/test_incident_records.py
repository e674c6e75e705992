"""Incident records: which one is asked for, and which of them can be understood."""

from pathlib import Path

import msgspec
import pytest
from test_investigation import record

from trainguard.config import ExpectedError
from trainguard.incidents import IncidentRecord, find_record, list_records


def keep(incidents: Path, seconds: int, number: int, name: str | None = None) -> Path:
    """An incident of the given moment in a folder of its own, or of another name."""
    one: IncidentRecord = record(
        Path("a.log"),
        0,
        9,
        id=f"{seconds}-{number}",
        run_number=number,
        time=f"2026-01-05T03:12:{number:02}+0000",
    )
    folder = incidents / (name or one.id)
    folder.mkdir(parents=True)
    (folder / "incident.json").write_bytes(msgspec.json.encode(one))
    return folder


def test_the_last_incident_is_the_newest(tmp_path: Path) -> None:
    keep(tmp_path, 1767582764, 9)
    keep(tmp_path, 1767582799, 10)
    assert find_record(tmp_path, "last").id == "1767582799-10"
    assert find_record(tmp_path, "1767582764-9").run_number == 9


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"id": 3}'])
def test_that_the_newest_incident_cannot_be_understood_is_said(tmp_path: Path, content: bytes) -> None:
    keep(tmp_path, 1767582764, 9)
    (keep(tmp_path, 1767582799, 10) / "incident.json").write_bytes(content)
    with pytest.raises(
        ExpectedError, match=r"1767582799-10/.*cannot be understood.*before it is 1767582764-9"
    ):
        find_record(tmp_path, "last")
    keep(tmp_path, 1767582800, 11)
    assert find_record(tmp_path, "last").id == "1767582800-11"


def test_where_no_incident_can_be_understood_that_is_said(tmp_path: Path) -> None:
    (keep(tmp_path, 1767582799, 1) / "incident.json").write_bytes(b"{")
    with pytest.raises(ExpectedError, match=r"cannot be understood$"):
        find_record(tmp_path, "last")
    (tmp_path / "1767582799-1" / "incident.json").unlink()
    with pytest.raises(ExpectedError, match="no such incident"):
        find_record(tmp_path, "last")


def test_a_copy_of_an_incident_under_another_name_is_none(tmp_path: Path) -> None:
    keep(tmp_path, 1767582764, 9)
    keep(tmp_path, 1767582799, 10, "kept for later")
    assert [one.id for one in list_records(tmp_path)] == ["1767582764-9"]
    assert find_record(tmp_path, "last").id == "1767582764-9"
