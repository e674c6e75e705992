"""Incidents: one folder for each crash or hang, with one `incident.json` that tells all that is known of it."""

from trainguard.incidents.chronicle import Chronicle
from trainguard.incidents.records import (
    HUNG,
    LAST_LINES,
    IncidentRecord,
    facts_of,
    find_record,
    folder_of,
    list_records,
    quick_facts,
    read_record,
    record,
    sentence,
)

__all__ = (
    "HUNG",
    "LAST_LINES",
    "Chronicle",
    "IncidentRecord",
    "facts_of",
    "find_record",
    "folder_of",
    "list_records",
    "quick_facts",
    "read_record",
    "record",
    "sentence",
)
