"""Accounting: what crashes and hangs have cost one daemon so far, and how often it should save."""

import math
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median

import msgspec

from trainguard import incidents
from trainguard.checkpoints.contents import list_files
from trainguard.checkpoints.judging import is_meant, judge_newest
from trainguard.checkpoints.listing import find_folder, list_saves
from trainguard.checkpoints.verdicts import Verdict
from trainguard.commands import ask_command
from trainguard.config import Settings
from trainguard.incidents import IncidentRecord
from trainguard.moments import seconds_of, text_of
from trainguard.policy import State
from trainguard.quantities import duration_text
from trainguard.run_folder import Event, RunFolder

BEGINNINGS = ("started", "restarted", "adopted")
ENDS = ("stopped", "finished")
# So many of the last saves tell how far apart they are.
SAVES = 9
# The checkpoints may lie on a file server that hangs.
SECONDS = 10.0

Span = tuple[float, float]


class Saves(msgspec.Struct, frozen=True):
    """How many seconds a save takes, and how many pass from one to the next; None where that is unknown."""

    seconds: float | None = None
    interval_seconds: float | None = None


class Recovery(msgspec.Struct, frozen=True):
    """Mean seconds from the end of progress to the first step beyond it, and of what they consist.

    `detection` until it is noticed; `stopping` until nothing of the run lives any more; `waiting` until the new
    process, prepared, cooled down or parked; `start_up` until its first step, starts that came to nothing
    included; `catching_up` until the first new step, all before being repeated.
    """

    total: float | None = None
    detection: float | None = None
    stopping: float | None = None
    waiting: float | None = None
    start_up: float | None = None
    catching_up: float | None = None


class Account(msgspec.Struct, frozen=True):
    """The account of one daemon since `since` (local ISO 8601), while it was meant to run. None is unknown.

    A failure is a stretch without new steps, however many crashes it takes; it counts from the end of progress to
    the first new step. `effective_training_ratio` is the rest of the time; the first start-up and what a save takes
    are not known as lost.
    """

    since: str | None = None
    observed_seconds: float | None = None
    failures: int = 0
    restarts: int = 0
    restarts_by_cause: dict[str, int] = {}
    steps_lost: int | None = None
    mean_seconds_between_failures: float | None = None
    mean_recovery: Recovery = Recovery()
    effective_training_ratio: float | None = None
    save_seconds: float | None = None
    save_interval_seconds: float | None = None
    advised_interval_seconds: float | None = None


class Outage(msgspec.Struct, frozen=True):
    """A stretch without new steps (wall seconds) and its incidents, the oldest first."""

    begin: float
    end: float
    recovered: bool
    records: tuple[IncidentRecord, ...]


# --- the machine -----------------------------------------------------------------------------------------------


def read_account(settings: Settings, folder: RunFolder, state: State) -> Account:
    """The account of the daemon of these settings, from its run folder and its checkpoints."""
    records, events = incidents.list_records(folder.incidents), folder.recent_events()
    account = take_account(records, events, state.looked_wall, state.has_source)
    directory = settings.checkpoints.directory
    if directory is None or account.mean_seconds_between_failures is None:
        return account
    return with_saves(account, ask_saves(directory))


def ask_saves(directory: Path, seconds: float = SECONDS) -> Saves:
    """What the saves in a folder cost, asked in a child; all unknown where it gives no answer in time."""
    try:
        here = Path(__file__).resolve().parent.parent
        reply = ask_command([sys.executable, "-m", "trainguard.accounting", str(directory)], seconds, here)
        return msgspec.json.decode(reply.output, type=Saves)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return Saves()


def read_saves(directory: Path, now_wall: float) -> Saves:
    """What the saves in a folder cost, by their files' own times. Raises OSError.

    A save takes as long as from its first file to its last, so that one in a single file tells nothing; where it
    is written beside the training, the daemon waits for less.
    """
    judged = judge_newest(directory, living=True, now_wall=now_wall)
    whole = next((one for one in judged if one.verdict is Verdict.COMPLETE or is_meant(one)), None)
    seconds = None if whole is None else list_files(whole.checkpoint).duration or None
    saves = [one for one in list_saves(find_folder(directory)) if one.is_step][-SAVES:]
    times = [changed for one in saves if (changed := list_files(one).newest_mtime) is not None]
    # A restart between two saves makes them lie further apart, or in another order.
    apart = [later - earlier for earlier, later in pairwise(times) if later > earlier]
    interval = median(apart) if apart else None
    if seconds is not None and interval is not None and seconds > interval:
        seconds = None  # somebody has touched its files later
    return Saves(seconds, interval)


# --- the account -----------------------------------------------------------------------------------------------


def take_account(
    records: Sequence[IncidentRecord], events: Sequence[Event], until: float, has_source: bool
) -> Account:
    """The account by incidents and events, both oldest first; `until` is the last look (wall seconds).

    `has_source`: something has told a step. Where nothing ever did, how long an outage lasted is unknown.
    """
    spans = list_spans(events, records, until)
    if not spans:
        return Account()
    records = [one for one in records if (seconds_of(one.time) or 0.0) >= spans[0][0] - 1.0]
    ends = [one for one in records if one.kind != "exit"]
    has_source = has_source or any(one.step is not None or one.first_new_step is not None for one in ends)
    outages = list_outages(ends, spans)
    observed = sum(end - begin for begin, end in spans)
    down = sum(one.end - one.begin for one in outages)
    failures = len(outages) if has_source else len(ends)
    known = has_source and observed > 0
    causes = Counter(cause_of(one) for one in records if one.next_run_id is not None)
    lost = [one.steps_lost for one in ends if one.steps_lost is not None]
    working = max(0.0, observed - down) if known else observed
    return Account(
        since=text_of(spans[0][0]),
        observed_seconds=observed,
        failures=failures,
        restarts=causes.total(),
        restarts_by_cause=dict(causes.most_common()),
        steps_lost=sum(lost) if lost else None,
        mean_seconds_between_failures=working / failures if failures else None,
        mean_recovery=mean_recovery(outages if has_source else []),
        effective_training_ratio=working / observed if known else None,
    )


def with_saves(account: Account, saves: Saves) -> Account:
    """The account with what is known of the saves, and with the interval that follows."""
    between = account.mean_seconds_between_failures
    known = saves.seconds is not None and between is not None
    return msgspec.structs.replace(
        account,
        save_seconds=saves.seconds,
        save_interval_seconds=saves.interval_seconds,
        advised_interval_seconds=advise_interval(saves.seconds or 0.0, between or 0.0) if known else None,
    )


def advise_interval(save_seconds: float, between_failures: float) -> float:
    """The seconds of training between two saves that waste the least time.

    To first order sqrt(2 * save * between) (Young, "A first order approximation to the optimum checkpoint
    interval", CACM 17(9), 1974); here with the further terms of Daly, "A higher order estimate of the optimum
    checkpoint interval for restart dumps", Future Generation Computer Systems 22(3), 2006. A save that takes more
    than twice the time between failures is never worth its while: then that time itself.
    """
    if save_seconds >= 2 * between_failures:
        return between_failures
    ratio = save_seconds / (2 * between_failures)
    first_order = math.sqrt(2 * save_seconds * between_failures)
    return first_order * (1 + math.sqrt(ratio) / 3 + ratio / 9) - save_seconds


def list_spans(events: Sequence[Event], records: Sequence[IncidentRecord], until: float) -> list[Span]:
    """When the daemon was meant to run: from a start to a person's stop or its own finish (wall seconds).

    What was before the first event is not known, and without any it begins with the first incident; the last span
    lasts `until` the last look.
    """
    spans: list[Span] = []
    begin = events[0].wall if events and events[0].event not in ENDS else None
    for event in events:
        if event.event in BEGINNINGS and begin is None:
            begin = event.wall
        elif event.event in ENDS and begin is not None:
            spans.append((begin, event.wall))
            begin = None
    if begin is None and not spans and records:
        begin = _onset(records[0])
    if begin is not None and until > begin:
        spans.append((begin, until))
    return spans


def list_outages(records: Sequence[IncidentRecord], spans: Sequence[Span]) -> list[Outage]:
    """The stretches without new steps; one that nothing has ended lasts as long as its span."""
    outages = []
    for begin, end in spans:
        open_since: list[IncidentRecord] = []
        for record in records:
            if not begin <= _time(record) + 1.0 or _time(record) > end:
                continue
            open_since.append(record)
            if record.first_new_step is not None and record.seconds_to_new_step is not None:
                closed = _time(record) + record.seconds_to_new_step
                outages.append(_outage(open_since, min(closed, end), True, begin))
                open_since = []
        if open_since:
            outages.append(_outage(open_since, end, False, begin))
    return outages


def mean_recovery(outages: Iterable[Outage]) -> Recovery:
    """The mean of each part over the outages that are over and of which it is known."""
    each = [parts_of(one) for one in outages if one.recovered]
    means = {}
    for name in Recovery.__struct_fields__:
        known = [value for one in each if (value := getattr(one, name)) is not None]
        means[name] = sum(known) / len(known) if known else None
    return Recovery(**means)


def parts_of(outage: Outage) -> Recovery:
    """Of what one outage consists."""
    records, total = outage.records, outage.end - outage.begin
    detection = _sum(one.seconds_unnoticed for one in records)
    stopping = _sum(one.seconds_to_cleared for one in records)
    waiting = _sum(_less(one.seconds_to_new_process, one.seconds_to_cleared) for one in records)
    catching_up = _less(records[-1].seconds_to_new_step, records[-1].seconds_to_first_step)
    others = _sum((detection, stopping, waiting, catching_up))
    start_up = None if others is None else max(0.0, total - others)
    return Recovery(total, detection, stopping, waiting, start_up, catching_up)


def cause_of(record: IncidentRecord) -> str:
    """The cause of an incident in a word: by the full diagnosis, else by the look before the restart."""
    told = record.diagnosis or {}
    if told.get("provisional") and record.cause is not None:
        return record.cause.cause
    cause = told.get("cause") or (None if record.cause is None else record.cause.cause)
    if isinstance(cause, str) and cause != "unknown":
        return cause
    return "unknown" if record.kind == "crash" else record.kind


def _outage(records: list[IncidentRecord], end: float, recovered: bool, earliest: float) -> Outage:
    return Outage(max(_onset(records[0]), earliest), max(end, _time(records[-1])), recovered, tuple(records))


def _time(record: IncidentRecord) -> float:
    return seconds_of(record.time) or 0.0


def _onset(record: IncidentRecord) -> float:
    return _time(record) - (record.seconds_unnoticed or 0.0)


def _less(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else max(0.0, one - other)


def _sum(values: Iterable[float | None]) -> float | None:
    """The sum, None where one is unknown."""
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)


# --- in words --------------------------------------------------------------------------------------------------


def rows_of(account: Account) -> list[tuple[str, str]]:
    """The account for people, as names and texts; empty before the first failure."""
    if not account.failures and not account.restarts:
        return []
    recovery = account.mean_recovery
    parts = ", ".join(
        f"{name} {_told(value)}"
        for name, value in (
            ("detection", recovery.detection),
            ("stopping", recovery.stopping),
            ("waiting", recovery.waiting),
            ("start-up", recovery.start_up),
            ("catching up", recovery.catching_up),
        )
    )
    causes = ", ".join(f"{count} {name}" for name, count in account.restarts_by_cause.items())
    lost = "unknown" if account.steps_lost is None else str(account.steps_lost)
    ratio = account.effective_training_ratio
    effective = "unknown" if ratio is None else f"{math.floor(ratio * 1000) / 10:.1f} %"
    return [
        ("restarts", f"{account.restarts}{causes and ': '}{causes}; steps lost and repeated: {lost}"),
        (
            "between failures",
            f"{_told(account.mean_seconds_between_failures)} on average ({account.failures} since {account.since})",
        ),
        ("recovery", f"{_told(recovery.total)} on average: {parts}"),
        ("effective training", f"{effective} of {_told(account.observed_seconds)}"),
        (
            "checkpoint interval",
            f"{_told(account.advised_interval_seconds)} by Young and Daly, it is "
            f"{_told(account.save_interval_seconds)}; a save takes {_told(account.save_seconds)}",
        ),
    ]


def _told(seconds: float | None) -> str:
    return "unknown" if seconds is None else duration_text(seconds)


def main(arguments: Sequence[str]) -> int:
    """Print what the saves in a folder cost, as JSON."""
    print(msgspec.json.encode(read_saves(Path(arguments[0]), time.time())).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
