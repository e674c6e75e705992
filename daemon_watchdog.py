#!/usr/bin/env python3
"""Keep one training daemon alive.

    nohup python3 daemon_watchdog.py > logs/watchdog.log 2>&1 &

starts the daemon of config.yaml, or adopts it if it runs already, and watches it: its death is noticed at once,
a standstill after progress.timeout seconds. What it left behind is stopped, then it is started again, at most
restart.max_restarts times in any restart.window seconds. The watchdog ends when the daemon has finished (exit
code 0), or when a person says so; SIGTERM and Ctrl-C end the watchdog alone. SIGHUP reads config.yaml again.

    2026-01-05 03:12:44  WARN     daemon demo: restarted as pid 4127, at checkpoint 350, 0.004 s after ...

exit codes: 0 fine, 1 attention, 2 bad (--status), 3 could not tell or could not begin
"""

from trainguard import packages

packages.require("msgspec", "yaml")

import sys
import time
from argparse import Namespace
from collections.abc import Sequence

from msgspec.structs import replace

from trainguard import VERSION, command_line, incidents, policy, processes, reports, requests
from trainguard.config import ConfigError, ExpectedError, Settings, load_settings, make_folders
from trainguard.daemon import Daemon
from trainguard.health import Finding, Status
from trainguard.incidents import Chronicle
from trainguard.journal import Journal
from trainguard.observer import Observer, log_of, places_of
from trainguard.policy import OVER, Action, Phase, Request, Seen, State
from trainguard.run_folder import RunFolder
from trainguard.service_manager import ServiceManager
from trainguard.wake import Wake

TROUBLED_SECONDS = 5.0
SETTLED = (Phase.RUNNING, Phase.COOLING, Phase.PARKED)


class Watchdog:
    """One watchdog over one daemon: observe, decide, save, act, wait."""

    def __init__(self, settings: Settings, folder: RunFolder) -> None:
        self.settings = settings
        self.folder = folder
        self.journal = Journal(settings.daemon.name, folder)
        self.wake = Wake()
        self.daemon = Daemon(settings)
        self.observer = Observer(settings, self.daemon)
        self.chronicle = Chronicle(settings, folder.incidents, self.daemon.helpers)
        self.manager = ServiceManager()
        self.words: list[policy.Tell | policy.Record] = []
        self.summary_due = time.monotonic() + settings.watchdog.summary_interval

    def watch(self, state: State, request: Request | None = None, once: bool = False) -> State:
        """Watch until the state says that it is over, or with `once` until it has settled; the state then."""
        self.manager.say("READY=1")
        while state.watching:
            self.reload_if_asked()
            seen = self.observe(state, request)
            wait = TROUBLED_SECONDS
            if seen is not None:
                after, actions = policy.decide(state, seen, self.settings)
                if self.save(after, actions):
                    state, request = after, None
                    self.perform(actions)
                    wait = policy.pause(state, seen, self.settings)
            if state.phase is not Phase.STARTING:
                state = self.speak(state)
            if once and (state.phase in SETTLED or state.paused):
                break
            if state.watching:
                self.manager.say(f"STATUS={state.phase.value}: {state.reason}")
                sources = [*self.daemon.wake_sources(), *self.chronicle.wake_sources()]
                self.wake.wait(self.manager.limit(wait), sources)
        state = self.speak(state)
        self.manager.say("STOPPING=1")
        return state

    def observe(self, state: State, request: Request | None) -> Seen | None:
        """Look at the world; None if even that failed: then nothing is decided."""
        try:
            diagnosed = self.chronicle.collect(time.monotonic())
            if diagnosed is not None:
                self.journal.tell("diagnosed", Status.ATTENTION, incidents.sentence(diagnosed), state)
            if self.wake.wants_to_leave():
                request = Request.LEAVE
            elif not self.folder.is_ours(VERSION):
                self.journal.say(
                    Status.BAD, f"{self.folder.directory}: another watchdog took it over; this one ends"
                )
                request = Request.LEAVE
            seen = self.observer.look(state, request or self.folder.pending_request())
        except OSError as error:
            self.journal.note(Finding(Status.BAD, "watchdog", f"cannot look ({error}); nothing is decided"))
            return None
        self.journal.forget("watchdog")
        for finding in self.observer.findings:
            self.journal.note(finding)
        return seen

    def save(self, state: State, actions: Sequence[Action]) -> bool:
        """Save before acting. Where that fails nothing is done: what is not on record could be done twice."""
        acts = any(isinstance(action, policy.Release | policy.Signal) for action in actions)
        subject = str(self.folder.state_file)
        try:
            self.folder.save_state(state, durable=acts or state.phase in OVER)
        except OSError as error:
            fact = f"cannot be written ({error.strerror}); nothing is started or stopped until it can"
            self.journal.note(Finding(Status.BAD, subject, fact))
            return False
        if self.journal.forget(subject):
            self.journal.say(Status.OK, f"{subject}: can be written again")
        self.folder.answer_request()
        return True

    def perform(self, actions: Sequence[Action]) -> None:
        """Act. What is to be said or written down waits until a start that is under way is done."""
        for action in actions:
            if isinstance(action, policy.Fork):
                self.daemon.fork(action.run)
            elif isinstance(action, policy.Release):
                self.daemon.release()
            elif isinstance(action, policy.Dismiss):
                self.daemon.dismiss()
            elif isinstance(action, policy.Signal):
                if (problem := self.daemon.send(action.target, action.signal)) is not None:
                    self.journal.note(problem)
            else:
                self.words.append(action)

    def speak(self, state: State) -> State:
        """Tell the events, write the incidents, and now and then a summary; what was learnt is in the state."""
        words, self.words = self.words, []
        for word in words:
            if isinstance(word, policy.Tell):
                self.journal.tell(word.event, word.status, word.text, state)
                continue
            state = policy.learn_last_words(state, self.observer.last_words(word.incident.run_id, state))
            current = state.incident is not None and state.incident.id == word.incident.id
            incident = state.incident if current and state.incident is not None else word.incident
            try:
                self.chronicle.write(incident, log_of(self.settings), places_of(self.settings))
            except OSError as error:
                self.journal.note(
                    Finding(Status.ATTENTION, f"incident {incident.id}", f"not written ({error})")
                )
        if time.monotonic() >= self.summary_due:
            self.summary_due = time.monotonic() + self.settings.watchdog.summary_interval
            report = reports.report_status(self.settings, self.folder, state)
            self.journal.say(
                reports.judge_status(report), f"daemon {report.name}: {reports.summary_of(report)}"
            )
        return state

    def reload_if_asked(self) -> None:
        """Read config.yaml again after SIGHUP; a broken one is told, and the old settings stay."""
        if not self.wake.wants_reload():
            return
        try:
            fresh = load_settings(self.settings.path)
        except ConfigError as error:
            for problem in (*error.problems, "is not used; the settings stay as they were"):
                self.journal.say(Status.BAD, f"{self.settings.path}: {problem}")
            return
        if (fresh.logs, fresh.daemon.name) != (self.settings.logs, self.settings.daemon.name):
            self.journal.say(
                Status.ATTENTION, "daemon.name and logs.directory change only with a new watchdog"
            )
            daemon = replace(fresh.daemon, name=self.settings.daemon.name)
            fresh = replace(fresh, logs=self.settings.logs, daemon=daemon)
        self.settings = fresh
        self.daemon.reload(fresh)
        self.observer.reload(fresh)
        self.chronicle.reload(fresh)
        self.journal.say(Status.OK, f"{fresh.path}: was read again; a new command counts from the next start")


def begin(settings: Settings, again: bool = False, request: Request | None = None, once: bool = False) -> int:
    """Take the run folder and watch; what had ended stays so unless it is to begin `again`."""
    if (problem := processes.self_test()) is not None:
        raise ExpectedError(problem)
    make_folders(settings)
    folder = RunFolder(settings.logs.directory)
    folder.take(VERSION)
    journal = Journal(settings.daemon.name, folder)
    state, finding = folder.load_state()
    if finding is not None:
        journal.say(finding.status, str(finding))
        folder.set_aside_state()
        state = replace(state, restarts=folder.restarts_told(settings.restart.window))
    if again:
        state = policy.start_again(state)
    if state.phase in OVER:
        print(command_line.marked(Status.OK, f"daemon {settings.daemon.name}: {state.reason}"))
        return Status.OK
    if not processes.become_subreaper():
        journal.say(Status.ATTENTION, "cannot become a subreaper; orphans are found by mark only")
    state = Watchdog(settings, folder).watch(replace(state, watching=True), request, once)
    return {Phase.COOLING: Status.ATTENTION, Phase.PARKED: Status.BAD}.get(state.phase, Status.OK)


def ask(settings: Settings, request: Request, patience: float = requests.ANSWER_SECONDS) -> int:
    """Ask the watchdog that runs; where none runs, do it in its place."""
    folder = RunFolder(settings.logs.directory)
    if (holder := folder.watchdog()) is not None:
        requests.ask(folder, holder, request, patience)
        return tell_state(settings, folder)
    state, finding = folder.load_state()
    if request is Request.START:
        return begin(settings, again=True)
    if request in (Request.PAUSE, Request.RESUME) and finding is None:
        make_folders(settings)
        folder.take(VERSION)
        folder.save_state(replace(state, paused=request is Request.PAUSE), durable=True)
    elif state.phase is not Phase.FINISHED:
        return begin(settings, again=True, request=request)
    return tell_state(settings, folder)


def ensure(settings: Settings, again: bool) -> int:
    """Start a watchdog in the background if none runs and there is something to watch, or to begin `again`."""
    folder = RunFolder(settings.logs.directory)
    if folder.watchdog() is None and (again or folder.load_state()[0].phase not in OVER):
        make_folders(settings)
        requests.start_in_background(settings, [__file__, *(["--start"] if again else [])], folder)
    return tell_state(settings, folder)


def tell_state(settings: Settings, folder: RunFolder) -> int:
    """One line about how it stands now."""
    report = reports.report_status(settings, folder, folder.load_state()[0])
    status = reports.judge_status(report)
    print(command_line.marked(status, f"daemon {report.name}: {reports.summary_of(report)}"))
    return Status.OK


def show_status(settings: Settings, as_json: bool) -> int:
    """Print how it stands; the exit code says how good that is."""
    folder = RunFolder(settings.logs.directory)
    state, finding = folder.load_state()
    report = reports.report_status(settings, folder, state)
    if finding is not None:
        command_line.complain(command_line.marked(finding.status, str(finding), sys.stderr))
    print(command_line.json_of(report) if as_json else reports.text_of(report))
    return max(reports.judge_status(report), Status.OK if finding is None else finding.status)


def show_plan(settings: Settings) -> int:
    """Look once, decide, and say what would be done."""
    folder = RunFolder(settings.logs.directory)
    if (holder := folder.watchdog()) is not None:
        print(f"a watchdog runs as pid {holder.identity.pid}; in its place one would now:")
    state, finding = folder.load_state()
    state = replace(state, watching=state.phase not in OVER)
    observer = Observer(settings, Daemon(settings))
    after, actions = policy.decide(state, observer.look(state, None), settings)
    findings = observer.findings if finding is None else (finding, *observer.findings)
    print("\n".join([*map(str, findings), *reports.plan_of(actions, settings)]))
    print(f"then: {after.phase.value}, {after.reason}")
    return Status.OK


def parse(argv: Sequence[str] | None) -> Namespace:
    """The command line."""
    parser = command_line.parser(__doc__, __file__)
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--status", action="store_true", help="say how it stands; the exit code says how good that is"
    )
    what.add_argument("--once", action="store_true", help="look and act once, then leave the daemon running")
    what.add_argument("--dry-run", action="store_true", help="look once and say what would be done")
    what.add_argument("--ensure", action="store_true", help="start a watchdog in the background if none runs")
    what.add_argument(
        "--stop", action="store_true", help="end the watchdog for good, leave the daemon running"
    )
    what.add_argument("--pause", action="store_true", help="watch on, but start and stop nothing")
    what.add_argument(
        "--resume", action="store_true", help="end a pause; try again at once where it is parked"
    )
    parser.add_argument(
        "--start", action="store_true", help="begin (again), also after it finished or was stopped"
    )
    parser.add_argument("--with-daemon", action="store_true", help="with --stop: stop the daemon too")
    parser.add_argument("--json", action="store_true", help="with --status: one JSON object")
    arguments = parser.parse_args(argv)
    if arguments.with_daemon and not arguments.stop:
        parser.error("--with-daemon goes with --stop")
    others = ("status", "once", "dry_run", "stop", "pause", "resume")
    if arguments.start and any(getattr(arguments, name) for name in others):
        parser.error("--start goes alone or with --ensure")
    if arguments.json and not arguments.status:
        parser.error("--json goes with --status")
    return arguments


def run(arguments: Namespace) -> int:
    """Do what the command line says."""
    if arguments.check_config:
        return command_line.check_config(arguments.config)
    try:
        settings = load_settings(arguments.config)
    except ConfigError as error:
        hint = "a watchdog that runs goes on with its former settings; SIGTERM to the pid in watchdog.lock ends it"
        raise ConfigError((*error.problems, hint) if arguments.stop else error.problems, error.path) from None
    if arguments.status:
        return show_status(settings, arguments.json)
    if arguments.dry_run:
        return show_plan(settings)
    if arguments.ensure:
        return ensure(settings, arguments.start)
    if arguments.start:
        return ask(settings, Request.START)
    if arguments.stop and arguments.with_daemon:
        ladder = sum(rung.wait for rung in settings.daemon.stop) + settings.checkpoints.save_timeout
        return ask(settings, Request.STOP_WITH_DAEMON, ladder + requests.ANSWER_SECONDS)
    if arguments.stop:
        return ask(settings, Request.STOP)
    if arguments.pause or arguments.resume:
        return ask(settings, Request.PAUSE if arguments.pause else Request.RESUME)
    return begin(settings, once=arguments.once)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of one call."""
    return command_line.guarded(lambda: run(parse(argv)), __file__)


if __name__ == "__main__":
    sys.exit(main())
