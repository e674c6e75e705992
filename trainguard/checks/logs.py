"""Checks of the logs: are they written, do they fill the disk, and can what they remember be read back."""

from collections.abc import Iterator, Mapping

from trainguard.checks.daemon import INCIDENTS, SUPERVISION
from trainguard.checks.values import (
    Absent,
    Check,
    Facts,
    Limit,
    Measure,
    Reading,
    Told,
    attention,
    bad,
    grade,
    ok,
    unknown,
)
from trainguard.health import Status
from trainguard.log_files import LogFile, LogFiles, read_log_files
from trainguard.moments import text_of
from trainguard.policy import Phase
from trainguard.quantities import duration_text, size_text
from trainguard.run_records import Copies, Remembered, read_copies, read_history
from trainguard.supervision import Incidents, Supervision
from trainguard.vitals import slope

LOG_FILES = Reading("log files", LogFiles, lambda settings, deep: read_log_files(settings), 4.0)
HISTORY = Reading("crash history", Remembered, lambda settings, deep: read_history(settings), 5.0)
COPIES = Reading("copies", Copies, lambda settings, deep: read_copies(settings), 4.0)
GROWING = ("daemon.log", "progress.log_file", "watchdog.log", "events.jsonl")


def judge_daemon_log(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now, log = facts.of(Supervision), facts.of(LogFiles).of("daemon.log")
    if log is None or log.problem is not None:
        yield _unreadable("daemon.log", log)
        return
    subject, daemon = f"daemon.log {log.path}", now.daemon
    output = None if daemon is None else daemon.output
    has_run = now.state.runs > 0 or daemon is not None
    if log.kind is None and not has_run:
        yield Absent("nothing was started yet")
    elif log.kind is None and daemon is not None:
        goes = "nobody knows where" if output is None else output
        fact = f"is not there, though the daemon runs: what pid {daemon.pid} says goes to {goes}"
        yield bad(subject, fact, "its errors will not be found; the next start makes the file anew")
    elif log.kind is None:
        yield attention(subject, "is not there, though the daemon has run", "what it said is lost")
    elif log.kind == "a device":
        yield attention(
            subject, "is a device that keeps nothing", "name a file, or no crash can be explained"
        )
    elif log.kind != "a file":
        yield bad(subject, f"is {log.kind}", "name a file")
    elif not log.writable:
        yield bad(subject, "cannot be written, so that the next start fails", "change its permissions")
    elif output is not None and output.endswith(" (deleted)"):
        fact = f"is a new file; what pid {daemon.pid if daemon else 0} says goes to the deleted one"
        yield attention(subject, fact, "rotate with copytruncate, or restart the daemon when it suits")
    else:
        yield from _judge_silence(facts, log, subject, limits)


def _judge_silence(facts: Facts, log: LogFile, subject: str, limits: Mapping[str, float]) -> Iterator[Told]:
    age = max(0.0, facts.now_wall - (log.wall or facts.now_wall))
    fact = f"{size_text(log.size)}, written {duration_text(age)} ago"
    told_elsewhere = facts.settings.progress.status_file or facts.settings.progress.log_file
    if facts.of(Supervision).daemon is None or told_elsewhere is not None:
        yield ok(subject, fact)
    else:
        remedy = "start it with PYTHONUNBUFFERED=1, or set progress.status_file: silence looks like a hang"
        yield grade(age / 3600, limits, subject, f"{fact}, and steps are read from it", remedy)


def _unreadable(setting: str, log: LogFile | None) -> Told:
    if log is None:
        return unknown(setting, "was not looked at")
    return bad(f"{setting} {log.path}", log.problem or "", "see whether its disk or file server answers")


def judge_size(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    rows = _growing(facts)
    if not rows:
        yield Absent("there is no log yet")
    for row in rows:
        yield Measure("log_bytes", float(row.size), row.path, limits["attention"], limits["bad"])
        remedy = "rotate it: comprehensive_health_check.py --fix, or logrotate with copytruncate"
        yield grade(row.size, limits, f"log {row.path}", f"is {size_text(row.size)} long", remedy)


def _growing(facts: Facts) -> list[LogFile]:
    rows = (facts.of(LogFiles).of(role) for role in GROWING)
    return list({row.path: row for row in rows if row is not None and row.kind == "a file"}.values())


def judge_growth(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    rows = _growing(facts)
    if not rows:
        yield Absent("there is no log yet")
    for row in rows:
        series = [*facts.past.series("log_bytes", row.path), (facts.now_wall, float(row.size))]
        grows, subject = slope(series), f"log {row.path}"
        if grows is None:
            yield ok(subject, "too few looks to tell how fast it grows")
        elif grows <= 0 or row.free is None:
            yield ok(subject, f"is {size_text(row.size)} long, and does not grow")
        else:
            hours = row.free / grows / 3600
            lasts = f"{size_text(row.free)} last {duration_text(hours * 3600)}"
            fact = f"{size_text(grows * 3600)} more each hour: {lasts}"
            remedy = "have it rotated, or say less in it: a full disk spoils the next save"
            yield grade(hours, limits, subject, fact, remedy, low_is_bad=True)


def judge_history(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Remembered)
    if not now.is_there:
        yield Absent("no crash was remembered yet")
        return
    for problem in now.problems:
        if "damaged" in problem:
            yield bad(now.path, problem, "set it aside: crash_detector.py counts anew from the logs")
        else:
            yield unknown(now.path, problem, "look again; see who has it open")
    if not now.problems:
        yield ok(now.path, f"can be read: {now.count} crashes")


def judge_crashes(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Remembered)
    if not now.is_there:
        yield Absent("no crash was remembered yet")
        return
    if now.problems:
        yield unknown("crashes", "the crash history cannot be read, see log-history")
        return
    yield Measure("history_crashes_total", float(now.count))
    earlier = [value for _, value in facts.past.series("history_crashes_total")]
    # The history begins anew where it was set aside.
    before = earlier[-1] if earlier and earlier[-1] <= now.count else 0.0
    new, since = now.count - before, "since the last health check" if earlier else "in all"
    if new > 0:
        last = "" if now.newest_wall is None else f" at {text_of(now.newest_wall)}"
        trend = f", the trend is {now.verdict}" if now.verdict in ("rising", "falling") else ""
        fact = f"{new:.0f} {since}, the newest {now.newest}{last}{trend}"
        yield attention("crashes", fact, "crash_detector.py --history tells all")
    else:
        yield ok("crashes", f"none {since}, {now.count} remembered")


def judge_records(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    logs, found = facts.of(LogFiles), facts.of(Incidents)
    folder, events, health = (logs.of(role) for role in ("logs.directory", "events.jsonl", "health.jsonl"))
    if folder is None or folder.problem is not None:
        yield _unreadable("logs.directory", folder)
        return
    if folder.kind is None:
        yield attention(folder.path, "the run folder is not there yet", f"mkdir -p {folder.path}")
        return
    told = 0
    if not folder.writable:
        told += 1
        yield bad(
            folder.path, "the run folder cannot be written: no start, no record", "change its permissions"
        )
    for row in (events, health):
        if row is None or row.kind is None:
            continue
        if row.kind != "a file" or row.problem is not None:
            told += 1
            yield attention(row.path, row.problem or f"is {row.kind}", "move it away; it is made anew")
        elif row.torn:
            told += 1
            fact = f"{row.torn} of its last {row.lines} lines are no JSON, and passed over"
            yield attention(row.path, fact, "a full disk or a power cut tore them; delete these lines")
        elif not row.writable:
            told += 1
            yield attention(row.path, "cannot be written", "change its permissions")
    if found.damaged:
        told += 1
        fact = f"{len(found.damaged)} incident records cannot be understood, as {found.damaged[-1]}"
        yield attention(f"{folder.path}/incidents", fact, "move these folders away, or mend incident.json")
    if not told:
        yield ok(folder.path, f"can be written; {found.folders} incidents and all records can be read")


def judge_copies(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Copies)
    if not now.is_wanted:
        yield Absent("checkpoints.keep_copy is off")
        return
    if now.directory is None:
        yield attention(
            "copies", "checkpoints.keep_copy is on, and no folder is named", "set checkpoints.directory"
        )
        return
    if not now.rows:
        yield ok(now.directory, "holds no file that is written over in place")
    for row in now.rows:
        age = facts.now_wall - row.wall
        if row.copied_wall == row.wall and row.copied_size == row.size:
            yield ok(row.path, f"a copy of its save at {text_of(row.wall)} is kept")
        elif age < limits["attention"]:
            yield ok(row.path, f"was saved {duration_text(max(0.0, age))} ago; its copy is still to come")
        else:
            held = (
                "no copy is kept" if row.copied_wall is None else f"its copy is of {text_of(row.copied_wall)}"
            )
            fact = f"was saved {duration_text(age)} ago, and {held}"
            remedy = "the watchdog copies while the daemon runs: its output tells why none was made"
            yield attention(row.path, fact, remedy)


def judge_progress(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now, logs = facts.of(Supervision), facts.of(LogFiles)
    roles = ("progress.status_file", "progress.log_file", "progress.heartbeat_file")
    rows = [row for role in roles if (row := logs.of(role)) is not None]
    if not rows:
        yield ok("progress", "steps are read from daemon.log")
    for row in rows:
        yield _judge_source(facts, now, row)


def _judge_source(facts: Facts, now: Supervision, row: LogFile) -> Told:
    subject, run = f"{row.role} {row.path}", now.state.run
    limits = facts.settings.progress
    # Before its first step a run may take so long.
    grown_up = (
        now.daemon is not None
        and now.state.phase is Phase.RUNNING
        and run is not None
        and now.wall - run.began_wall > min(limits.timeout, limits.startup_timeout)
    )
    if row.problem is not None:
        return bad(subject, row.problem, "make it a file that this user may read")
    if row.kind is None and grown_up:
        return attention(
            subject, "is not there, though the daemon runs", "set the name that the trainer writes"
        )
    if row.kind is None:
        return ok(subject, "is not there yet")
    if row.kind != "a file":
        return bad(subject, f"is {row.kind}, not a file", "name a file")
    if row.json == "partial":
        remedy = "write it to another name and rename it over this one"
        return attention(subject, "is no JSON, or only a part of it", remedy)
    if row.json == "other":
        return attention(subject, "is no JSON object", "write an object with the step in it")
    if grown_up and run is not None and row.wall is not None and row.wall < run.began_wall:
        ran = duration_text(now.wall - run.began_wall)
        fact = f"was last written {duration_text(now.wall - row.wall)} ago, before this run began {ran} ago"
        return attention(subject, fact, "set the name that the trainer writes; the old one tells nothing")
    age = "" if row.wall is None else f", written {duration_text(max(0.0, facts.now_wall - row.wall))} ago"
    return ok(subject, f"can be read{age}")


CHECKS = (
    Check(
        id="log-daemon",
        component="logs",
        explain="Whether daemon.log is a file that is written: without it no crash can be explained.",
        reads=(LOG_FILES, SUPERVISION),
        answers_for=(LOG_FILES,),
        judge=judge_daemon_log,
        limits=(Limit("attention", 24.0, "h", "a choice: a day without a line, where lines tell the steps"),),
        gates=True,
    ),
    Check(
        id="log-size",
        component="logs",
        explain="How long the logs of the daemon and the watchdog are: nobody rotates them unasked.",
        reads=(LOG_FILES,),
        judge=judge_size,
        limits=(
            Limit("attention", float(1 << 30), "bytes", "a choice: an editor opens no more"),
            Limit(
                "bad", float(10 << 30), "bytes", "a choice: as large as a checkpoint that has no room then"
            ),
        ),
        fix="long-logs",
    ),
    Check(
        id="log-growth",
        component="logs",
        explain="How fast the logs grew at earlier health checks, and when the disk that they lie on is full.",
        reads=(LOG_FILES,),
        judge=judge_growth,
        limits=(
            Limit("attention", 48.0, "h", "a choice: over a weekend nobody looks"),
            Limit("bad", 6.0, "h", "a choice: over a night nobody looks"),
        ),
    ),
    Check(
        id="log-history",
        component="logs",
        explain="Whether the crash history can be read: how often a crash was seen is counted from it.",
        reads=(HISTORY,),
        answers_for=(HISTORY,),
        judge=judge_history,
        fix="broken-history",
    ),
    Check(
        id="log-crashes",
        component="logs",
        explain="Crashes that were remembered since the last health check, and the newest one's cause.",
        reads=(HISTORY,),
        judge=judge_crashes,
        worst=Status.ATTENTION,
    ),
    Check(
        id="log-records",
        component="logs",
        explain="Whether the run folder can be written, and its events, health checks and incidents read back.",
        reads=(LOG_FILES, INCIDENTS),
        judge=judge_records,
        gates=True,
    ),
    Check(
        id="log-copies",
        component="logs",
        explain="Whether a checkpoint that is written over in place has its copy, where checkpoints.keep_copy is on.",
        reads=(COPIES,),
        answers_for=(COPIES,),
        judge=judge_copies,
        worst=Status.ATTENTION,
        limits=(Limit("attention", 900.0, "s", "copying may take 600 s, and rests after it"),),
    ),
    Check(
        id="log-progress",
        component="logs",
        explain="Whether the files in which the trainer tells its step are there, whole, and of this run.",
        reads=(LOG_FILES, SUPERVISION),
        judge=judge_progress,
    ),
)
