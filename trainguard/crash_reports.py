"""Crashes, told: in a line, in full, and what the history and the crash types have to say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainguard.command_line import marked, near
from trainguard.config import ExpectedError, clipped
from trainguard.crash_types import CAUSES, HELPS, TYPES, Cause, Retry
from trainguard.health import Status
from trainguard.history import HistorySummary
from trainguard.moments import text_of

if TYPE_CHECKING:  # it takes a while to load, and only a crash needs it
    from trainguard.diagnosis import Crash

CONSEQUENCES = 6


def judge(crash: Crash) -> Status:
    """How bad one crash is: attention where a restart cures it."""
    return Status.BAD if crash.retry is Retry.NO else Status.ATTENTION


def headline(crash: Crash) -> str:
    """One crash in a line."""
    finer = f" ({crash.cause})" if crash.cause != crash.type else ""
    rank = "" if crash.rank is None else f" on rank {crash.rank}"
    at = "" if crash.time is None else f" at {crash.time}"
    return f"{crash.type}{finer}{rank}{at}; {HELPS[crash.retry]}"


def in_full(crash: Crash) -> list[str]:
    """The lines that tell one crash."""
    told = [
        marked(judge(crash), headline(crash)),
        f"      {place(crash.root.file, crash.root.line)}",
    ]
    told.append(f"      | {clipped(crash.root.text.strip(), 400)}")
    for one in crash.consequences[:CONSEQUENCES]:
        rank = "" if one.rank is None else f" on rank {one.rank}"
        told.append(
            f"      set off {one.type}{rank}, {place(one.file, one.line)}: {clipped(one.text.strip(), 100)}"
        )
    if len(crash.consequences) > CONSEQUENCES:
        told.append(f"      and {len(crash.consequences) - CONSEQUENCES} more")
    told += [f"      {number}. {step}" for number, step in enumerate(crash.advice, 1)]
    seen = "" if crash.count == 1 else f", seen {crash.count} times since {crash.first_seen}"
    return [*told, f"      fingerprint {crash.fingerprint}{seen}; more: --explain {crash.cause}"]


def place(file: str, line: int | None) -> str:
    """Where a line stands."""
    if not file:
        return "exit status"
    name = str(near(Path(file)))
    return name if line is None else f"{name}:{line}"


def in_a_line(crashes: Sequence[Crash]) -> str:
    """The newest crash, and how many there are besides."""
    more = f" (and {len(crashes) - 1} earlier)" if len(crashes) > 1 else ""
    told = f"{headline(crashes[0])}: {clipped(crashes[0].root.text.strip(), 160)}{more}"
    return marked(judge(crashes[0]), told)


def of_history(summary: HistorySummary) -> list[str]:
    """What the history holds: how often, what, and whether it is getting worse."""
    if summary.first_seen is None or summary.last_seen is None:
        return [marked(Status.OK, "no crash in the history")]
    between, trend = summary.mean_seconds_between, summary.trend
    told = f"{summary.count} crashes from {text_of(summary.first_seen)} to {text_of(summary.last_seen)}"
    told += "" if between is None else f", {between / 3600:.1f} hours between failures on average"
    lines = [f"{told}; the last seven days: {trend.per_day:.2f} a day, {trend.verdict}"]
    lines += [f"{count:>6}  {name}" for name, count in summary.by_type.items()]
    for seen in summary.seen:
        lines.append(
            f"\n{seen.fingerprint}  {seen.type}, seen {seen.count} times, last {text_of(seen.last_seen)}"
        )
        lines.append(f"  | {clipped(seen.text.strip(), 160)}")
    return lines


def explanation(name: str) -> list[str]:
    """What a crash type or a cause is, how to tell it, and what to do. Raises ExpectedError for any other name."""
    kind, cause = TYPES.get(name), CAUSES.get(name)
    if kind is not None:
        lines = [f"{name} ({kind.blame.value}; restart: {kind.retry.value})", "", kind.what]
        lines += ["", f"How to tell: {kind.signs}"]
        lines += [f"  {one.name}: {one.what}" for one in CAUSES.values() if one.type == name]
        steps, sources = kind.steps, kind.sources
    elif cause is not None:
        lines = [
            f"{name}, a cause of {cause.type or 'no crash by itself'} ({_verdicts(cause)})",
            "",
            cause.what,
        ]
        steps, sources = cause.steps, cause.sources
    else:
        raise ExpectedError(f"{name}: no crash type and no cause; --list names them all")
    # What a crash's own lines tell stands in braces; here there is none.
    told = (re.sub(r"\{(\w+)\}", r"<\1>", step) for step in steps)
    lines += ["", "What to do:", *(f"  {number}. {step}" for number, step in enumerate(told, 1))]
    return [*lines, "", *(f"Source: {source}" for source in sources)]


def all_types() -> list[str]:
    """All types, and under each its causes."""
    lines = []
    for kind in TYPES.values():
        lines.append(f"{kind.name:<26}{kind.blame.value:<16}restart: {kind.retry.value}")
        lines += [f"  {one.name:<24}{_verdicts(one)}" for one in CAUSES.values() if one.type == kind.name]
    return lines


def _verdicts(cause: Cause) -> str:
    return ", then ".join(one.value for one in cause.verdicts)
