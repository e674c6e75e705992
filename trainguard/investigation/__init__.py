"""Investigation: logs, the watchdog's incidents, the kernel log and the GPUs together become crashes."""

from trainguard.investigation.evidence import Evidence, gather
from trainguard.investigation.investigating import (
    EMPTY,
    Knowledge,
    Report,
    investigate,
    open_knowledge,
    since,
)
from trainguard.investigation.sources import (
    Source,
    expand,
    plan,
    seconds_of,
    shortened,
    size_of,
    source_of,
)

__all__ = (
    "EMPTY",
    "Evidence",
    "Knowledge",
    "Report",
    "Source",
    "expand",
    "gather",
    "investigate",
    "open_knowledge",
    "plan",
    "seconds_of",
    "shortened",
    "since",
    "size_of",
    "source_of",
)
