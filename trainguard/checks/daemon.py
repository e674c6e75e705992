"""Checks of the daemon and its watchdog: do both live, are they who they should be, and does the run move."""

from collections.abc import Iterator, Mapping

import msgspec

from trainguard.checks.memory import MEMORY
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
from trainguard.config import Settings
from trainguard.daemon import runs_command
from trainguard.health import Finding, Status
from trainguard.memory import Memory
from trainguard.moments import text_of
from trainguard.policy import OVER, Phase
from trainguard.policy.patience import judge_patience
from trainguard.policy.running import quiet_since
from trainguard.processes import same_process
from trainguard.quantities import duration_text, size_text
from trainguard.run_folder import RunFolder
from trainguard.supervision import (
    DAY,
    Appetite,
    Incidents,
    Row,
    Supervision,
    Verdict,
    read_appetite,
    read_incidents,
    read_supervision,
)
from trainguard.vitals import slope

ENSURE = "daemon_watchdog.py --ensure"
PASSING = (Phase.STARTING, Phase.STOPPING, Phase.PREPARING, Phase.CLEARING, Phase.COOLING)
# What is learnt in less time is how a run begins, not how it grows.
GROWTH_SECONDS = 1800.0
GROWTH_LOOKS = 5
DIAGNOSED_SECONDS = 600.0


class Standing(msgspec.Struct, frozen=True):
    """What --status tells, in its own words; `pid` is the living daemon's, `watchdog` the living watchdog's."""

    name: str
    phase: str
    status: Status
    sentence: str
    paused: bool
    pid: int | None
    watchdog: int | None
    restarts_left: int


def read_standing(settings: Settings) -> Standing:
    """How it stands now. Raises OSError."""
    from trainguard.reports import (
        judge_status,
        report_status,
        summary_of,
    )  # with the incidents, which costs time

    folder = RunFolder(settings.logs.directory)
    told = report_status(settings, folder, folder.load_state()[0])
    return Standing(
        told.name,
        told.phase,
        judge_status(told),
        summary_of(told),
        told.paused,
        told.pid,
        told.watchdog,
        told.restarts_left,
    )


STATUS = Reading("status", Standing, lambda settings, deep: read_standing(settings), 5.0)
SUPERVISION = Reading("supervision", Supervision, lambda settings, deep: read_supervision(settings), 5.0)
APPETITE = Reading("daemon's tree", Appetite, lambda settings, deep: read_appetite(settings), 3.0)
INCIDENTS = Reading("incidents", Incidents, lambda settings, deep: read_incidents(settings), 3.0)


def _is_new(now: Supervision) -> bool:
    return now.state.phase is Phase.NEW and now.daemon is None and now.watchdog is None


NOT_BEGUN = Absent("nothing was started yet")
NO_DAEMON = Absent("the daemon does not run")


def judge_state(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Standing)
    subject = f"daemon {now.name}"
    yield Measure("daemon_running", float(now.pid is not None))
    if now.phase == "new":
        yield Absent("nothing was started yet")
        return
    remedies = {
        "parked": "crash_detector.py tells why; then daemon_watchdog.py --resume",
        "down": f"{ENSURE} starts both, or daemon_watchdog.py --stop ends the matter",
    }
    if now.paused:
        remedy = "daemon_watchdog.py --resume ends the pause"
    elif now.watchdog is None:
        remedy = remedies.get(now.phase, f"{ENSURE} watches it again")
    else:
        remedy = remedies.get(now.phase, "daemon_watchdog.py --status tells how it goes on")
    yield Finding(now.status, subject, now.sentence, "" if now.status is Status.OK else remedy)


def judge_pid_file(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Supervision)
    named = now.pid_file
    if named is None:
        yield Absent("daemon.pid_file is not set")
        return
    subject = f"PID file {named.path}"
    if named.verdict is Verdict.DAEMON:
        yield ok(subject, named.text)
    elif named.verdict is Verdict.MISSING and now.daemon is not None:
        remedy = "without it a daemon that forked away may not be found again: have it write the file"
        yield attention(subject, f"is not there, though the daemon runs as pid {now.daemon.pid}", remedy)
    elif named.verdict is Verdict.MISSING:
        yield ok(subject, "is not there, and no daemon runs")
    elif named.verdict is Verdict.UNREADABLE:
        yield attention(subject, named.text, "make it a regular file that this user may read")
    elif named.verdict is Verdict.STRANGER:
        yield bad(subject, named.text, "whoever signals by this file hits a stranger: remove it")
    else:
        yield attention(subject, named.text, "remove it")


def judge_identity(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Supervision)
    run = now.state.run
    if run is None or run.identity is None or run.ending is not None or now.state.phase in OVER:
        yield Absent("no living daemon is on record")
        return
    if run.identity.boot_id != now.boot:
        yield Absent("the machine has booted since the daemon was recorded")
        return
    found, subject = now.recorded, f"pid {run.identity.pid}"
    if found is None:
        yield Absent("the recorded daemon has ended")
    elif not same_process(found.identity, run.identity):
        fact = f"is {found.name} now, which began at another time than the recorded daemon"
        yield attention(subject, fact, f"the number was given away: signal it in no way; {ENSURE}")
    elif found.run is not None and found.run != run.id:
        remedy = f"a state from elsewhere? compare state.json with events.jsonl; then {ENSURE}"
        yield bad(subject, f"bears the mark of run {found.run}, recorded is {run.id}", remedy)
    elif found.run == run.id:
        yield ok(subject, f"has the recorded start time and the mark of run {run.id}")
    elif run.marked:
        # Whoever is another user, or has cleared its environment, shows none.
        yield attention(
            subject,
            "has the recorded start time, and shows no mark of its run",
            "run this check as the daemon's user, or do not clear its environment",
        )
    else:
        yield _judge_unmarked(facts.settings, now, found, subject)


def _judge_unmarked(settings: Settings, now: Supervision, found: Row, subject: str) -> Finding:
    is_command = runs_command(found.command, settings.daemon.command)
    is_there = found.directory is not None and found.directory == now.directory
    proven = [word for word, holds in (("command", is_command), ("directory", is_there)) if holds]
    if len(proven) == 2:
        return ok(subject, "has the recorded start time, the configured command and directory")
    other = "directory" if is_command else "command" if is_there else "command and directory"
    remedy = "make sure that it is the daemon; set daemon.command and daemon.directory to what it runs"
    return attention(subject, f"has the recorded start time and another {other} than configured", remedy)


def judge_single(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Supervision)
    subject = f"daemon {facts.settings.daemon.name}"
    yield Measure("daemon_instances", float(len(now.leaders) + len(now.twins)))
    if len(now.leaders) > 1:
        pids = ", ".join(str(one.pid) for one in now.leaders)
        fact = f"{len(now.leaders)} daemons of this run folder run at once: pid {pids}"
        yield bad(subject, fact, "they write over each other's checkpoints: end all but one")
    for one in now.twins:
        owner = "nobody watches it" if one.folder is None else f"it is watched in {one.folder}"
        remedy = "two of them write over each other's checkpoints: end one, or name a daemon.pid_file"
        yield bad(subject, f"pid {one.pid} runs the same command in the same folder, and {owner}", remedy)
    if len(now.leaders) == 1 and not now.twins:
        yield ok(subject, f"pid {now.leaders[0].pid} is the only one")
    elif not now.leaders and not now.twins:
        yield ok(subject, "none runs")


def judge_watchdog(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Supervision)
    if now.watchdog is not None:
        since = duration_text(max(0.0, now.wall - now.watchdog.since_wall))
        yield Measure("watchdog_running", 1.0)
        yield ok("watchdog", f"runs as pid {now.watchdog.identity.pid}, since {since}")
    elif now.state.phase in OVER:
        yield ok("watchdog", f"none runs, and none should: {now.state.reason}")
    elif _is_new(now):
        yield NOT_BEGUN
    else:
        yield Measure("watchdog_running", 0.0)
        left = now.last_event is not None and now.last_event.event == "left"
        why = "it was told to end" if left else _last_of(now)
        daemon = "the daemon does not run either" if now.daemon is None else "the daemon runs unwatched"
        remedy = f"{ENSURE} starts one; daemon_watchdog.py --stop says that none should run"
        yield bad("watchdog", f"none runs ({why}), and {daemon}", remedy)


def _last_of(now: Supervision) -> str:
    if now.holder is None:
        return "none is on record"
    return f"the last was pid {now.holder.identity.pid}, its last look {text_of(now.state.looked_wall)}"


def judge_fresh(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Supervision)
    if now.watchdog is None:
        yield Absent("no watchdog runs")
        return
    pid = now.watchdog.identity.pid
    subject, age = f"watchdog pid {pid}", _age_of_look(now)
    yield Measure("watchdog_look_age_seconds", age)
    interval = facts.settings.watchdog.poll_interval
    fact = f"looked {duration_text(age)} ago, and should every {duration_text(interval)}"
    if now.watchdog_state is not None and now.watchdog_state in "Tt":
        fact = f"is frozen (state T: a signal or a debugger stopped it) and {fact}"
        yield bad(subject, fact, f"kill -CONT {pid}")
        return
    late = age - interval
    if now.watchdog_state == "D" and late >= limits["attention"]:
        remedy = "it waits in the kernel for a disk or a file server: look at the run folder's disk"
        yield bad(subject, f"hangs in the kernel (state D), and {fact}", remedy)
        return
    remedy = f"its output in logs/ may tell why; py-spy dump --pid {pid} shows where it is"
    yield grade(late, limits, subject, fact, remedy)


def _age_of_look(now: Supervision) -> float:
    """Seconds since the watchdog looked last; since it began, where it has not looked yet."""
    same_boot = now.state.boot == now.boot and now.state.looked_at > 0
    # The wall clock may have been set meanwhile.
    age = now.now - now.state.looked_at if same_boot else now.wall - now.state.looked_wall
    begun = now.wall - now.watchdog.since_wall if now.watchdog is not None else age
    return max(0.0, min(age, begun) if begun >= 0 else age)


def judge_progress(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Supervision)
    run, subject = now.state.run, f"daemon {facts.settings.daemon.name}"
    if now.daemon is None or run is None or run.ending is not None:
        yield NO_DAEMON
        return
    if now.watchdog is None:
        yield unknown(subject, "nobody watches its steps", f"{ENSURE} watches it again")
        return
    if now.state.boot != now.boot:
        yield unknown(subject, "was not looked at since the machine booted")
        return
    # As of the last look: a late watchdog is another check's finding.
    age = max(0.0, now.state.looked_at - quiet_since(run))
    patience = judge_patience(run.work, run.pace, facts.settings.progress)
    at = f"at step {run.step}" if run.step is not None else "before its first step"
    if run.step is None and not now.state.has_source and run.moved_at is None and patience is not None:
        at = "and nothing tells its step"
    yield Measure("daemon_step_age_seconds", age, "", None, patience)
    if patience is None:
        yield ok(subject, f"is {run.work.value}, and may wait for ever")
        return
    fact = f"is {run.work.value}, {at}, without a sign for {duration_text(age)} of {duration_text(patience)} allowed"
    scaled = {"attention": limits["attention"] * patience / 100, "bad": patience}
    remedy = "see what it does: py-spy dump --pid " + str(now.daemon.pid)
    yield grade(age, scaled, subject, fact, remedy)
    if run.stepped is False and now.state.has_source is False and age < scaled["attention"]:
        names = "progress.status_file or progress.log_file"
        if run.moved_at is None and now.now - run.began > facts.settings.progress.timeout:
            yield attention(subject, "no step was ever told, so no hang can be noticed", f"set {names}")


def judge_phase(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Supervision)
    phase, subject = now.state.phase, f"daemon {facts.settings.daemon.name}"
    if _is_new(now):
        yield NOT_BEGUN
        return
    if phase in PASSING and now.watchdog is None:
        yield Absent("no watchdog runs that could end the phase")
        return
    if phase not in PASSING:
        yield ok(subject, f"{phase.value}, which is no passing phase")
        return
    begun = now.wall if now.watchdog is None else now.watchdog.since_wall
    age = max(0.0, now.wall - (begun if now.last_event is None else now.last_event.wall))
    fact = f"{phase.value} ({now.state.reason}), and for {duration_text(age)} nothing new was told"
    if phase is Phase.COOLING:
        yield _judge_cooling(now, subject, limits["attention"])
        return
    settings = facts.settings
    ladder = sum(rung.wait for rung in settings.daemon.stop) + settings.checkpoints.save_timeout
    allowed = limits["attention"] + (ladder if phase in (Phase.STOPPING, Phase.CLEARING) else 0.0)
    if phase is Phase.CLEARING and settings.watchdog.orphans == "drain":
        allowed += settings.watchdog.drain_timeout
    remedy = "daemon_watchdog.py --status tells what it waits for"
    yield grade(age, {"attention": allowed}, subject, fact, remedy)


def _judge_cooling(now: Supervision, subject: str, allowed: float) -> Finding:
    if now.state.next_try is None or now.state.boot != now.boot:
        return ok(subject, f"cooling: {now.state.reason}")
    left = now.state.next_try - now.now
    if left > -allowed:
        return ok(subject, f"cooling ({now.state.reason}), the next try in {duration_text(max(0.0, left))}")
    fact = f"cooling, and the next try was due {duration_text(-left)} ago"
    return attention(subject, fact, "daemon_watchdog.py --resume tries at once")


def judge_restarts(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now, left = facts.of(Supervision), facts.of(Standing).restarts_left
    if _is_new(now):
        yield NOT_BEGUN
        return
    settings, count = facts.settings.restart, now.restarts_day
    earlier = [value for _, value in facts.past.series("daemon_restarts_day")]
    yield Measure("daemon_restarts_left", float(left), "", 1.0, None, True)
    yield Measure("daemon_restarts_day", float(count), "", limits["attention"])
    subject = f"daemon {facts.settings.daemon.name}"
    window = duration_text(settings.window)
    usual = f", {max(earlier[-60:]):.0f} at most at earlier looks" if earlier else ""
    told = f"{count} restarts in the last day{usual}; {left} of {settings.max_restarts} left in {window}"
    remedy = "crash_detector.py --history tells what ends it; the same cause parks it in the end"
    if left == 0:
        yield attention(subject, f"{told}, so the next crash waits", remedy)
    else:
        yield grade(count, limits, subject, told, remedy)


def judge_parked(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now, subject = facts.of(Supervision), f"daemon {facts.settings.daemon.name}"
    if _is_new(now):
        yield NOT_BEGUN
        return
    if now.state.phase is not Phase.PARKED:
        yield ok(subject, f"{now.state.phase.value}, not parked")
        return
    since = "" if now.parked_wall is None else f" for {duration_text(max(0.0, now.wall - now.parked_wall))}"
    why = now.state.why_parked or now.state.reason
    tries = ""
    if now.state.next_try is not None and now.state.boot == now.boot and now.watchdog is not None:
        tries = f"; the next try in {duration_text(max(0.0, now.state.next_try - now.now))}"
    remedy = "mend the cause (crash_detector.py), then daemon_watchdog.py --resume"
    yield bad(subject, f"parked{since}: {why}{tries}", remedy)


def judge_memory(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now, machine = facts.of(Appetite), facts.of(Memory)
    if now.pid is None:
        yield NO_DAEMON
        return
    subject = f"daemon's memory (pid {now.pid})"
    if now.memory is None:
        yield unknown(subject, "may not be asked for", "run this check as the daemon's user")
        return
    yield Measure("daemon_memory_bytes", float(now.memory))
    left = machine.available
    if machine.allowance is not None:
        left = min(left, max(0, machine.allowance.limit - machine.allowance.used))
    used = f"{size_text(now.memory)} in {now.processes} processes"
    begun = now.since_wall or 0.0
    series = [(wall, size) for wall, size in facts.past.series("daemon_memory_bytes") if wall >= begun]
    series.append((facts.now_wall, float(now.memory)))
    grows = slope(series)
    span = series[-1][0] - series[0][0]
    if grows is None or len(series) < GROWTH_LOOKS or span < GROWTH_SECONDS:
        yield ok(subject, f"{used}; too few looks at this run to tell whether it grows")
        return
    hours = left / grows / 3600 if grows > 0 else float("inf")
    if hours == float("inf"):
        yield ok(subject, f"{used}, and does not grow")
        return
    yield Measure("daemon_memory_full_hours", hours, "", limits["attention"], limits["bad"], True)
    fact = f"{used}, {size_text(grows * 3600)} more each hour: {size_text(left)} last {duration_text(hours * 3600)}"
    remedy = "a leak, often in a data loader: fewer workers, persistent_workers, or a planned restart"
    yield grade(hours, limits, subject, fact, remedy, low_is_bad=True)


def judge_open_files(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Appetite)
    if now.pid is None:
        yield NO_DAEMON
        return
    if now.open_files is None or now.open_limit is None:
        yield unknown("daemon's open files", "may not be counted", "run this check as the daemon's user")
        return
    share = 100 * now.open_files / max(1, now.open_limit)
    yield Measure("daemon_open_files_percent", share, "", limits["attention"], limits["bad"])
    fact = f"{now.open_files} of the {now.open_limit} that its soft limit allows"
    remedy = "raise it (ulimit -n, LimitNOFILE=) before the next start, or use fewer workers"
    yield grade(share, limits, f"open files of pid {now.fullest}", fact, remedy)


def judge_request(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Supervision)
    waiting, file = now.request, str(facts.settings.logs.directory / "request.json")
    if waiting is None:
        yield ok("requests", "none waits")
        return
    age = max(0.0, now.wall - waiting.since_wall)
    if waiting.asked is None:
        yield attention(
            file, f"cannot be understood, and waits for {duration_text(age)}", "remove it and ask again"
        )
        return
    fact = f"`{waiting.asked}` waits for {duration_text(age)}"
    if now.watchdog is None:
        yield attention(file, f"{fact}, and no watchdog runs", "remove it, and ask again once one runs")
        return
    settings = facts.settings
    ladder = sum(rung.wait for rung in settings.daemon.stop) + settings.checkpoints.save_timeout
    allowed = limits["attention"] + (ladder if waiting.asked == "stop-with-daemon" else 0.0)
    yield grade(
        age, {"attention": allowed}, file, fact, "see the check watchdog-fresh; remove it and ask again"
    )


def judge_state_file(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now, file = facts.of(Supervision), str(facts.settings.logs.directory / "state.json")
    if now.state_problem is not None:
        remedy = "set it aside: a watchdog finds the daemon by its mark, the restarts in events.jsonl"
        yield attention(file, now.state_problem, remedy)
    elif now.has_state:
        yield ok(file, f"can be read: {now.state.phase.value}, {now.state.runs} runs")
    elif now.has_events or now.watchdog is not None or now.daemon is not None:
        remedy = f"{ENSURE} makes it anew; the restarts before it are then counted from events.jsonl"
        yield attention(file, "is not there, though this run folder was in use", remedy)
    else:
        yield NOT_BEGUN


def judge_incidents(facts: Facts, limits: Mapping[str, float]) -> Iterator[Told]:
    now = facts.of(Incidents)
    recent = [one for one in now.rows if 0 <= facts.now_wall - one.wall < DAY]
    yield Measure("incidents_day", float(len(recent)))
    yield Measure("incidents_total", float(now.folders))
    if recent:
        last = recent[-1]
        cause = last.cause or "of no known cause"
        fact = f"{len(recent)} in the last day; the last, {last.id}, was a {last.kind}: {cause}"
        yield attention("incidents", fact, f"crash_detector.py --incident {last.id} tells what to do")
    else:
        yield ok("incidents", f"none in the last day, {now.folders} in all")
    waiting = [one for one in recent if not one.diagnosed and facts.now_wall - one.wall > DIAGNOSED_SECONDS]
    if waiting:
        fact = f"{len(waiting)} of the last day have no diagnosis, as {waiting[-1].id}"
        yield attention("incidents", fact, f"crash_detector.py --incident {waiting[-1].id}")
    last_row = now.rows[-1] if now.rows else None
    if last_row is not None and not last_row.closed:
        age = facts.now_wall - last_row.wall
        fact = f"{last_row.id} is {duration_text(max(0.0, age))} old, and no new step was made since"
        yield grade(
            age, limits, "incidents", fact, "see why it does not come on: daemon_watchdog.py --status"
        )


CHECKS = (
    Check(
        id="daemon-state",
        component="daemon",
        explain="How the daemon stands, as --status tells: running and watched, down, parked, paused, ended.",
        reads=(STATUS,),
        answers_for=(STATUS,),
        judge=judge_state,
    ),
    Check(
        id="daemon-pid-file",
        component="daemon",
        explain="Whom daemon.pid_file names: the daemon, nobody, or a stranger whom a signal would then hit.",
        reads=(SUPERVISION,),
        judge=judge_pid_file,
        fix="stale-pid-file",
    ),
    Check(
        id="daemon-identity",
        component="daemon",
        explain="Whether the recorded number is still the recorded process: its start time, mark or command.",
        reads=(SUPERVISION,),
        judge=judge_identity,
    ),
    Check(
        id="daemon-single",
        component="daemon",
        explain="Whether another process runs the same training: two of them spoil each other's checkpoints.",
        reads=(SUPERVISION,),
        judge=judge_single,
        gates=True,
    ),
    Check(
        id="watchdog-alive",
        component="daemon",
        explain="Whether a watchdog runs where one should: without it the next crash costs until somebody looks.",
        reads=(SUPERVISION,),
        answers_for=(SUPERVISION,),
        judge=judge_watchdog,
        fix="ensure-watchdog",
    ),
    Check(
        id="watchdog-fresh",
        component="daemon",
        explain="How long ago the watchdog looked, beyond watchdog.poll_interval: a frozen one watches nothing.",
        reads=(SUPERVISION,),
        judge=judge_fresh,
        limits=(
            Limit("attention", 60.0, "s", "a choice: a look over many checkpoints on a slow disk takes less"),
            Limit("bad", 300.0, "s", "a choice: as the window of restarts, in which it should have acted"),
        ),
    ),
    Check(
        id="daemon-progress",
        component="daemon",
        explain="How long the run makes no step, in per cent of what it may by its own pace (trainguard.policy).",
        reads=(SUPERVISION,),
        judge=judge_progress,
        limits=(Limit("attention", 75.0, "%", "a choice: a quarter of the time is left to look by oneself"),),
    ),
    Check(
        id="daemon-phase",
        component="daemon",
        explain="How long it starts, stops, prepares, clears or cools down without news: it should be passing.",
        reads=(SUPERVISION,),
        judge=judge_phase,
        worst=Status.ATTENTION,
        limits=(
            Limit("attention", 300.0, "s", "a choice: more than the 120 s that preparing a start may take"),
        ),
    ),
    Check(
        id="daemon-restarts",
        component="daemon",
        explain="How many restarts the window still allows, and how many there were in the last day.",
        reads=(SUPERVISION, STATUS),
        judge=judge_restarts,
        worst=Status.ATTENTION,
        limits=(Limit("attention", 10.0, "restarts", "restart.same_cause: so many of one cause park it"),),
    ),
    Check(
        id="daemon-parked",
        component="daemon",
        explain="Whether the daemon is parked, why and since when: it then waits for a person.",
        reads=(SUPERVISION,),
        judge=judge_parked,
    ),
    Check(
        id="daemon-memory",
        component="daemon",
        explain="Memory of the daemon and all that it forked: at its growth in this run, when there is none left.",
        reads=(APPETITE, MEMORY),
        answers_for=(APPETITE,),
        judge=judge_memory,
        limits=(
            Limit("attention", 24.0, "h", "a choice: a day to plan a restart"),
            Limit("bad", 2.0, "h", "a choice: the next save must still fall into it"),
        ),
    ),
    Check(
        id="daemon-open-files",
        component="daemon",
        explain="Open descriptors of the daemon's fullest process against its soft limit: beyond it workers die.",
        reads=(APPETITE,),
        judge=judge_open_files,
        limits=(
            Limit("attention", 80.0, "%", "a choice: a fifth is what a new epoch's workers may open"),
            Limit("bad", 95.0, "%", "a choice: the next workers fail with EMFILE, see getrlimit(2)"),
        ),
    ),
    Check(
        id="daemon-request",
        component="daemon",
        explain="A request to the watchdog that nobody has obeyed: it blocks every other one.",
        reads=(SUPERVISION,),
        judge=judge_request,
        worst=Status.ATTENTION,
        limits=(Limit("attention", 120.0, "s", "a choice: who asks gives up after 15 s and takes it back"),),
        fix="stuck-request",
    ),
    Check(
        id="daemon-state-file",
        component="daemon",
        explain="Whether state.json can be understood: what a new watchdog knows of the run is in it.",
        reads=(SUPERVISION,),
        judge=judge_state_file,
        worst=Status.ATTENTION,
        fix="broken-state",
    ),
    Check(
        id="daemon-incidents",
        component="daemon",
        explain="Crashes and hangs of the last day, those without a diagnosis, and one that the run is not past.",
        reads=(INCIDENTS,),
        answers_for=(INCIDENTS,),
        judge=judge_incidents,
        worst=Status.ATTENTION,
        limits=(Limit("attention", 3600.0, "s", "progress.startup_timeout: as long a start may take"),),
    ),
)
