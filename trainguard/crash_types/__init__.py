"""Crash types and their finer causes: what each is, whether a restart helps, and what a person does about it."""

from trainguard.crash_types import code, gpu, host
from trainguard.crash_types.exceptions import CAUSE_OF_TYPE, EXCEPTIONS, POINTERS, type_of_exception
from trainguard.crash_types.types import TYPES
from trainguard.crash_types.values import HELPS, Blame, Cause, CrashType, Retry, Verdict

CAUSES = {cause.name: cause for cause in (*gpu.CAUSES, *host.CAUSES, *code.CAUSES)}

__all__ = (
    "CAUSES",
    "CAUSE_OF_TYPE",
    "EXCEPTIONS",
    "HELPS",
    "POINTERS",
    "TYPES",
    "Blame",
    "Cause",
    "CrashType",
    "Retry",
    "Verdict",
    "type_of_exception",
)
