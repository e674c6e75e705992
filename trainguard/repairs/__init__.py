"""Repairs: what is safe to mend and can be undone. A row of a table each, recorded before it acts."""

from trainguard.repairs.carrying import (
    STAYS,
    UnknownRecordError,
    carry_out,
    list_records,
    plan_repairs,
    undo,
    unfinished,
)
from trainguard.repairs.table import REPAIRS
from trainguard.repairs.values import Outcome, Plan, Record, Repair

__all__ = (
    "REPAIRS",
    "STAYS",
    "Outcome",
    "Plan",
    "Record",
    "Repair",
    "UnknownRecordError",
    "carry_out",
    "list_records",
    "plan_repairs",
    "undo",
    "unfinished",
)
