"""Vitals: what each health check has measured, kept in the run folder, so that the next one knows a past."""

import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from trainguard import files

FILE = "health.jsonl"
# A year of daily looks, or three days of a look every five minutes.
KEPT_BYTES = 4 << 20
READ_BYTES = 2 << 20


class Sample(msgspec.Struct, frozen=True):
    """One health check: when (wall seconds), in which boot, at what since boot, what was measured, how it was.

    `values` are by `name` or `name@subject`, `statuses` by check.
    """

    wall: float
    boot: str
    since_boot: float
    values: dict[str, float] = {}
    statuses: dict[str, str] = {}


class Past(msgspec.Struct, frozen=True):
    """The earlier samples, the oldest first."""

    samples: tuple[Sample, ...] = ()

    def series(self, name: str, subject: str = "") -> list[tuple[float, float]]:
        """What was measured under a name: (wall seconds, value), the oldest first."""
        key = key_of(name, subject)
        return [(one.wall, one.values[key]) for one in self.samples if key in one.values]


def key_of(name: str, subject: str) -> str:
    """How a measure is called in a sample."""
    return f"{name}@{subject}" if subject else name


def slope(series: Sequence[tuple[float, float]]) -> float | None:
    """How much a value grows per second: the median of the slopes between all pairs (Theil and Sen).

    A single jump, as when files are deleted, does not change it. None for fewer than three moments.
    """
    points = series[-60:]
    slopes = [
        (later - earlier) / (end - begin)
        for place, (begin, earlier) in enumerate(points)
        for end, later in points[place + 1 :]
        if end > begin
    ]
    return statistics.median(slopes) if len(points) >= 3 and slopes else None


def read_past(directory: Path) -> Past:
    """The samples of a run folder, those that can be read; none where there is no file. Raises OSError."""
    path = directory / FILE
    try:
        size = path.stat().st_size
        content = files.read_range(path, max(0, size - READ_BYTES), size)
    except FileNotFoundError:
        return Past()
    return Past(tuple(_decoded(content.split(b"\n"))))


def append(directory: Path, sample: Sample) -> None:
    """Keep a sample; of a file that has grown long the newer half stays. Raises OSError."""
    path = directory / FILE
    files.append_line(path, msgspec.json.encode(sample))
    size = path.stat().st_size
    if size > KEPT_BYTES:
        kept = files.read_range(path, size - READ_BYTES, size)
        files.write_whole(path, kept[kept.find(b"\n") + 1 :], durable=False)


def _decoded(lines: Iterable[bytes]) -> Iterable[Sample]:
    for line in lines:
        try:
            yield msgspec.json.decode(line, type=Sample)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue


def since_boot() -> float:
    """Seconds since the machine booted, also those in which it slept."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
