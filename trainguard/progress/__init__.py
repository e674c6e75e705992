"""Progress: how far a training run has come, read from everything that it writes."""

from trainguard.progress.counting import Progress, judge_progress, note
from trainguard.progress.lines import FORMATS, Format, Mark, Role, parse_line, parse_segment, without_escapes
from trainguard.progress.sources import Follower

__all__ = (
    "FORMATS",
    "Follower",
    "Format",
    "Mark",
    "Progress",
    "Role",
    "judge_progress",
    "note",
    "parse_line",
    "parse_segment",
    "without_escapes",
)
