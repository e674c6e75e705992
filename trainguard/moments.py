"""Moments: seconds since 1970 as the text that records and reports show, and back."""

import re
import time
from datetime import datetime

_DURATION = re.compile(r"(\d{1,9}(?:\.\d+)?)\s*([smhdw])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def text_of(seconds: float) -> str:
    """ISO 8601 in local time, with its offset from UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(seconds))


def seconds_of(text: str | None) -> float | None:
    """Seconds since 1970, from ISO 8601 with or without an offset; None where it is none."""
    try:
        return None if text is None else datetime.fromisoformat(_with_colon(text)).timestamp()
    except (ValueError, OverflowError):
        return None


def moment_before(now: float, text: str) -> float | None:
    """Seconds since 1970, from ISO 8601 or from how long before `now` it was (`90m`, `6h ago`); None for neither."""
    if match := _DURATION.fullmatch(text.strip().removesuffix("ago").rstrip()):
        return now - _seconds(match)
    return seconds_of(text.strip())


def moment_after(now: float, text: str) -> float | None:
    """Seconds since 1970, from ISO 8601 or from how long after `now` it is (`90m`, `2d`); None for neither."""
    if match := _DURATION.fullmatch(text.strip()):
        return now + _seconds(match)
    return seconds_of(text.strip())


def _seconds(duration: re.Match[str]) -> float:
    return float(duration[1]) * _UNITS[duration[2]]


def _with_colon(text: str) -> str:
    """Python 3.10 reads an offset from UTC only with its colon."""
    return f"{text[:-2]}:{text[-2:]}" if re.search(r"[+-]\d{4}$", text) else text
