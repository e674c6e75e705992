"""Checks: is it safe to train here? One row of a table each, judged purely over what the nouns' rooms have read."""

from trainguard.checks.running import (
    acknowledge,
    choose,
    faults_of,
    limits_of,
    only_attention,
    readings_of,
    run_checks,
    sample_of,
    worst_of,
)
from trainguard.checks.table import CHECKS
from trainguard.checks.values import Check, Measure, Result

__all__ = (
    "CHECKS",
    "Check",
    "Measure",
    "Result",
    "acknowledge",
    "choose",
    "faults_of",
    "limits_of",
    "only_attention",
    "readings_of",
    "run_checks",
    "sample_of",
    "worst_of",
)
