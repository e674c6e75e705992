"""The table of all checks, in the order in which they are listed."""

from trainguard.checks import memory
from trainguard.checks.values import Check

CHECKS: tuple[Check, ...] = (*memory.CHECKS,)
