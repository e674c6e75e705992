"""The table of all checks, in the order in which they are listed."""

from trainguard.checks import configuration, daemon, disks, logs, memory, orphans, system
from trainguard.checks.values import Check

CHECKS: tuple[Check, ...] = (
    *disks.CHECKS,
    *memory.CHECKS,
    *system.CHECKS,
    *daemon.CHECKS,
    *orphans.CHECKS,
    *configuration.CHECKS,
    *logs.CHECKS,
)
