"""The table of all checks, in the order in which they are listed."""

from trainguard.checks import (
    checkpoints,
    configuration,
    daemon,
    disks,
    gpus,
    logs,
    memory,
    network,
    orphans,
    python_environment,
    system,
    training,
)
from trainguard.checks.values import Check

CHECKS: tuple[Check, ...] = (
    *disks.CHECKS,
    *memory.CHECKS,
    *system.CHECKS,
    *gpus.CHECKS,
    *daemon.CHECKS,
    *orphans.CHECKS,
    *configuration.CHECKS,
    *checkpoints.CHECKS,
    *training.CHECKS,
    *logs.CHECKS,
    *python_environment.CHECKS,
    *network.CHECKS,
)
