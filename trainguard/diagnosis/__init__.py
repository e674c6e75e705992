"""Diagnosis: what crashed, and why. Pure: lines in, crashes out."""

from trainguard.diagnosis.judging import Failures, combine, describe, find_failures, join, time_of
from trainguard.diagnosis.lines import cut_lines
from trainguard.diagnosis.observing import Observer, observe_kernel
from trainguard.diagnosis.values import (
    Consequence,
    Crash,
    Evidence,
    Facts,
    Gap,
    Line,
    Matcher,
    Observation,
    Rest,
)

__all__ = (
    "Consequence",
    "Crash",
    "Evidence",
    "Facts",
    "Failures",
    "Gap",
    "Line",
    "Matcher",
    "Observation",
    "Observer",
    "Rest",
    "combine",
    "cut_lines",
    "describe",
    "find_failures",
    "join",
    "observe_kernel",
    "time_of",
)
