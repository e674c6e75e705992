"""Vitals: what is kept of a health check, read back defensively, and the slope of a series."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainguard import vitals
from trainguard.vitals import Past, Sample, append, read_past, slope


def sample(wall: float, **values: float) -> Sample:
    return Sample(wall, "boot", wall, values, {})


def test_samples_come_back_in_order(tmp_path: Path) -> None:
    for wall in (1.0, 2.0, 3.0):
        append(tmp_path, sample(wall, free=10 - wall))
    assert read_past(tmp_path).series("free") == [(1.0, 9.0), (2.0, 8.0), (3.0, 7.0)]
    assert read_past(tmp_path).series("free", "/data") == []


def test_without_a_file_there_is_no_past(tmp_path: Path) -> None:
    assert read_past(tmp_path) == Past()


@pytest.mark.parametrize(
    "damage", [b'{"wall": 1', b"\xff\xfe\n", b"[]\n", b'{"wall": "x", "boot": 1}\n', b"\0" * 100]
)
def test_damaged_lines_are_passed_over(tmp_path: Path, damage: bytes) -> None:
    append(tmp_path, sample(1.0, free=1.0))
    with (tmp_path / vitals.FILE).open("ab") as file:
        file.write(damage)
    append(tmp_path, sample(2.0, free=2.0))
    series = read_past(tmp_path).series("free")
    assert (series[0], series[-1]) == ((1.0, 1.0), (2.0, 2.0))


def test_a_file_that_has_grown_long_keeps_its_newer_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vitals, "KEPT_BYTES", 4000)
    monkeypatch.setattr(vitals, "READ_BYTES", 2000)
    for wall in range(200):
        append(tmp_path, sample(float(wall), free=1.0))
    assert (tmp_path / vitals.FILE).stat().st_size <= 4200
    walls = [wall for wall, _ in read_past(tmp_path).series("free")]
    assert walls == sorted(walls) and walls[-1] == 199.0 and len(walls) > 10


def test_the_slope_of_a_straight_line_is_its_own() -> None:
    assert slope([(0.0, 100.0), (10.0, 80.0), (30.0, 40.0)]) == pytest.approx(-2.0)


def test_fewer_than_three_moments_have_no_slope() -> None:
    assert slope([(0.0, 1.0), (1.0, 2.0)]) is None
    assert slope([(1.0, 1.0), (1.0, 2.0), (1.0, 3.0)]) is None


@given(
    st.floats(-1e6, 1e6),
    st.lists(st.integers(0, 10**6), min_size=9, max_size=40, unique=True),
    st.integers(0, 10**6),
)
def test_a_single_wild_value_hardly_moves_the_slope(rate: float, moments: list[int], seed: int) -> None:
    series = [(float(at), rate * at) for at in sorted(moments)]
    place = random.Random(seed).randrange(len(series))
    series[place] = (series[place][0], 1e15)
    assert slope(series) == pytest.approx(rate, rel=1e-6, abs=1e-3)
