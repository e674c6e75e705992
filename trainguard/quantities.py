"""Quantities: sizes and durations as people read them."""


def size_text(number: float) -> str:
    """A number of bytes: `3.1 GiB`, `4.0 MiB`."""
    if number >= 1 << 40:
        return f"{number / (1 << 40):.1f} TiB"
    # Below, one digit behind the point would say too little.
    return f"{number / (1 << 30):.1f} GiB" if number >= 100 << 20 else f"{number / (1 << 20):.1f} MiB"


def duration_text(seconds: float) -> str:
    """A duration: `0.004 s`, `12 s`, `15 min`, `2 h 05 min`."""
    if seconds < 10:
        return f"{seconds:.3g} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
