"""Remembering: what an investigation found goes into the history, and how far each log was read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from trainguard import moments
from trainguard.history import HEAD, CrashRow, History, identify, take_position

if TYPE_CHECKING:  # these take a while to load, and a scan with nothing new does without
    from trainguard.diagnosis import Crash
    from trainguard.investigation.investigating import Report


def remember(history: History, report: Report) -> tuple[Crash, ...]:
    """Put the crashes into the history; the crashes, with their counts."""
    incident_of = {one.source.path: one.source.incident for one in report.readings}
    counted = history.add([row_of(crash, incident_of.get(crash.root.file)) for crash in report.crashes])
    return tuple(
        msgspec.structs.replace(
            crash,
            count=seen.count,
            first_seen=moments.text_of(seen.first_seen),
            last_seen=moments.text_of(seen.last_seen),
        )
        for crash, seen in zip(report.crashes, counted, strict=True)
    )


def row_of(crash: Crash, incident: str | None) -> CrashRow:
    """A crash as the history keeps it; it is the same one if it stands at the same place of the same file."""
    path, changed = Path(crash.root.file), None
    try:
        identity = identify(str(path.absolute()), _head(path), crash.root.offset)
        changed = path.stat().st_mtime
    except (OSError, ValueError):
        identity = f"{incident or crash.root.file}:{crash.root.offset}:{crash.fingerprint}:{crash.time}"
    at = moments.seconds_of(crash.time) if crash.time is not None else changed
    text, place = crash.root.text, crash.root.offset
    return CrashRow(
        crash.fingerprint, crash.type, identity, crash.cause, crash.rank, at, text, crash.root.file, place
    )


def _head(path: Path) -> bytes:
    from trainguard.scanner import reading

    stream, _ = reading.open_log(path)
    with stream:
        source, _ = reading.decompressed(stream)
        head = bytearray(HEAD)
        filled = 0
        while filled < HEAD and (count := source.readinto(memoryview(head)[filled:])):
            filled += count
        return bytes(head[:filled])


def remember_positions(history: History, report: Report) -> None:
    """How far each log was read."""
    ends: dict[str, tuple[int, int | None]] = {}
    for one in report.readings:
        before, _ = ends.get(one.source.path, (0, None))
        ends[one.source.path] = max(one.end, before), one.source.inode
    positions = []
    for name, (end, inode) in ends.items():
        try:
            # What was rotated away while it was read is read again, rather than its successor never.
            if Path(name).stat().st_ino == inode:
                whole = report.was_whole(name)
                positions.append(take_position(Path(name), Path(name), end, None, whole))
        except OSError:
            continue  # it has gone since; there is nothing to go on with
    history.remember(positions)
