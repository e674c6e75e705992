"""Unread: what was asked for and told nothing, so that no crash is not taken for a good end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainguard.config import Settings

if TYPE_CHECKING:  # it takes a while to load, and a scan with nothing new does without
    from trainguard.investigation.investigating import Report


def list_asked(named: Sequence[str], settings: Settings | None) -> list[str]:
    """The logs and folders that were named on the command line, else the logs that the settings name."""
    if named:
        return [str(Path(name)) for name in named]
    logs = () if settings is None else (settings.daemon.log, *settings.detector.logs)
    return [str(path) for path in logs if not path.is_dir()]


def list_unread(paths: Iterable[str], report: Report | None, notes: Sequence[str]) -> list[str]:
    """Those of the logs and folders of which nothing could be read, as a note of each says.

    A log without a note was empty, or had nothing new.
    """
    readings = () if report is None else report.readings
    read = {one.source.path for one in readings if one.end > one.source.start}
    missing = (path for path in dict.fromkeys(paths) if path not in read)
    return [path for path in missing if any(note.startswith(f"{path}: ") for note in notes)]


def list_empty(paths: Iterable[str], report: Report, unread: Sequence[str]) -> list[str]:
    """Those of the logs that could be read and held nothing."""
    empty = {one.source.path for one in report.readings if one.end == 0}
    return [path for path in dict.fromkeys(paths) if path in empty and path not in unread]
