"""Moments: seconds since 1970 as the text that records and reports show, and back."""

import re
import time
from datetime import datetime


def text_of(seconds: float) -> str:
    """ISO 8601 in local time, with its offset from UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(seconds))


def seconds_of(text: str | None) -> float | None:
    """Seconds since 1970, from ISO 8601 with or without an offset; None where it is none."""
    try:
        return None if text is None else datetime.fromisoformat(_with_colon(text)).timestamp()
    except (ValueError, OverflowError):
        return None


def _with_colon(text: str) -> str:
    """Python 3.10 reads an offset from UTC only with its colon."""
    return f"{text[:-2]}:{text[-2:]}" if re.search(r"[+-]\d{4}$", text) else text
