"""Crashes, told: in a line, in full, and what the history and the crash types have to say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainguard.command_line import counted, marked, near, printable
from trainguard.config import ExpectedError, clipped
from trainguard.crash_types import CAUSES, HELPS, TYPES, Cause, CrashType, Retry
from trainguard.health import Status
from trainguard.history import HistorySummary
from trainguard.moments import text_of
from trainguard.quantities import size_text

if TYPE_CHECKING:  # these take a while to load, and a scan that finds nothing does without
    from trainguard.accounting import Account
    from trainguard.diagnosis import Crash

CONSEQUENCES = 6
NAMES = 3


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
    told += [f"      {number}. {printable(step)}" for number, step in enumerate(crash.advice, 1)]
    seen = "" if crash.count == 1 else f", seen {counted(crash.count, 'time')} since {crash.first_seen}"
    return [*told, f"      fingerprint {crash.fingerprint}{seen}; more: --explain {crash.cause}"]


def place(file: str, line: int | None) -> str:
    """Where a line stands."""
    if not file:
        return "exit status"
    name = printable(str(near(Path(file))))
    return name if line is None else f"{name}:{line}"


def in_a_line(crashes: Sequence[Crash]) -> str:
    """The newest crash, and how many there are besides."""
    more = f" (before it {counted(len(crashes) - 1, 'other crash')})" if len(crashes) > 1 else ""
    told = f"{headline(crashes[0])}: {clipped(crashes[0].root.text.strip(), 160)}{more}"
    return marked(judge(crashes[0]), told)


def no_crash(files: Sequence[str], size: int, unread: Sequence[str]) -> str:
    """That nothing crashed in the files that were read (`size` in bytes), or that this is not known."""
    read = f"no crash in {counted(len(files), 'log')}, {size_text(size)}" if files else ""
    if not unread:
        return marked(Status.OK, read or "no crash (nothing new since the last scan)")
    names = ", ".join(str(near(Path(name))) for name in unread[:NAMES])
    names += f" and {len(unread) - NAMES} more" if len(unread) > NAMES else ""
    return marked(Status.UNKNOWN, f"could not tell: nothing could be read of {names}{read and '; '}{read}")


def of_history(summary: HistorySummary) -> list[str]:
    """What the history holds: how often, what, and whether it is getting worse."""
    if summary.first_seen is None or summary.last_seen is None:
        return [marked(Status.OK, "no crash in the history")]
    between, trend = summary.mean_seconds_between, summary.trend
    first, last = text_of(summary.first_seen), text_of(summary.last_seen)
    told = f"{counted(summary.count, 'crash')} {f'from {first} to' if first != last else 'at'} {last}"
    told += "" if between is None else f", {between / 3600:.1f} hours between failures on average"
    lines = [f"{told}; the last seven days: {trend.per_day:.2f} a day, {trend.verdict}"]
    lines += [f"{count:>6}  {name}" for name, count in summary.by_type.items()]
    for seen in summary.seen:
        often = counted(seen.count, "time")
        lines.append(f"\n{seen.fingerprint}  {seen.type}, seen {often}, last {text_of(seen.last_seen)}")
        lines.append(f"  | {clipped(seen.text.strip(), 160)}")
    return lines


def of_account(account: Account) -> list[str]:
    """What crashes and hangs have cost the watched daemon, by the watchdog's incidents."""
    from trainguard.accounting import rows_of

    return ["", *(f"{name:<20}  {text}" for name, text in rows_of(account))] if account.failures else []


def find_type(name: str) -> CrashType | Cause:
    """The crash type or the cause of this name, in any spelling. Raises ExpectedError, with the nearest name."""
    spelt = re.sub(r"[\s-]+", "_", name.strip().lower())
    found = TYPES.get(spelt) or CAUSES.get(spelt)
    if found is None:
        import difflib  # takes a while to load, and only a wrong name needs it

        near_names = difflib.get_close_matches(spelt, [*TYPES, *CAUSES], 1)
        hint = f"did you mean {near_names[0]}? " if near_names else ""
        raise ExpectedError(f"{name}: no crash type and no cause; {hint}--list names them all")
    return found


def explanation(found: CrashType | Cause) -> list[str]:
    """What a crash type or a cause is, how to tell it, and what to do."""
    if isinstance(found, CrashType):
        lines = [f"{found.name} ({found.blame.value}; restart: {found.retry.value})", "", found.what]
        lines += ["", f"How to tell: {found.signs}"]
        lines += [f"  {one.name}: {one.what}" for one in _causes_of(found.name)]
    else:
        whose = f"a cause of {found.type or 'no crash by itself'} ({_verdicts(found)})"
        lines = [f"{found.name}, {whose}", "", found.what]
    lines += ["", "What to do:", *(f"  {number}. {step}" for number, step in enumerate(_steps(found), 1))]
    return [*lines, "", *(f"Source: {source}" for source in found.sources)]


def explanation_for_json(found: CrashType | Cause) -> dict[str, object]:
    """The same facts by their names; `type` is a cause's own, `causes` are a type's."""
    told = {"name": found.name, "what": found.what, "steps": _steps(found), "sources": found.sources}
    if isinstance(found, Cause):
        return {**told, "type": found.type, "verdicts": found.verdicts}
    causes = [_in_short(one) for one in _causes_of(found.name)]
    return {**told, "class": found.blame, "retry": found.retry, "signs": found.signs, "causes": causes}


def all_types() -> list[str]:
    """All types, and under each its causes; last the causes that are no crash by themselves."""
    lines = []
    for kind in TYPES.values():
        lines.append(f"{kind.name:<28}{kind.blame.value:<16}restart: {kind.retry.value}")
        lines += [f"  {one.name:<26}{_verdicts(one)}" for one in _causes_of(kind.name)]
    return [*lines, "no crash by itself", *(f"  {one.name:<26}{_verdicts(one)}" for one in _causes_of(None))]


def all_types_for_json() -> dict[str, object]:
    """The same; `causes` are those that are no crash by themselves."""
    types = [
        {
            "name": kind.name,
            "class": kind.blame,
            "retry": kind.retry,
            "what": kind.what,
            "causes": [_in_short(one) for one in _causes_of(kind.name)],
        }
        for kind in TYPES.values()
    ]
    return {"types": types, "causes": [_in_short(one) for one in _causes_of(None)]}


def _causes_of(crash_type: str | None) -> list[Cause]:
    return [one for one in CAUSES.values() if one.type == crash_type]


def _in_short(cause: Cause) -> dict[str, object]:
    return {"name": cause.name, "verdicts": cause.verdicts, "what": cause.what}


def _steps(found: CrashType | Cause) -> list[str]:
    # What a crash's own lines tell stands in braces; here there is none.
    return [re.sub(r"\{(\w+)\}", r"<\1>", step) for step in found.steps]


def _verdicts(cause: Cause) -> str:
    return ", then ".join(one.value for one in cause.verdicts)
