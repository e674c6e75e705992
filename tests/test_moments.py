"""Moments: what a person may write for one."""

import pytest

from trainguard.moments import moment_before

NOW = 1_767_582_764.0


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-05T03:12:44+0000", NOW),
        (" 2026-01-05 03:12:44+00:00 ", NOW),
        ("30s", NOW - 30),
        ("1.5h", NOW - 5400),
        ("6h ago", NOW - 6 * 3600),
        ("2d", NOW - 2 * 86_400),
        ("1 w", NOW - 7 * 86_400),
        ("soon", None),
        ("6", None),
        ("-6h", None),
        ("9" * 400 + "h", None),
        ("", None),
    ],
)
def test_a_moment_is_a_date_or_how_long_ago(text: str, moment: float | None) -> None:
    assert moment_before(NOW, text) == moment
