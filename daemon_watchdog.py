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
from argparse import Namespace
from collections.abc import Sequence

from msgspec.structs import replace

from trainguard import VERSION, command_line, policy, processes, reports, requests
from trainguard.config import ConfigError, ExpectedError, Settings, load_settings, make_folders
from trainguard.daemon import Daemon
from trainguard.health import Status
from trainguard.journal import Journal
from trainguard.observer import Observer
from trainguard.policy import OVER, Phase, Request
from trainguard.run_folder import RunFolder
from trainguard.watchdog import Watchdog


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
    report = reports.with_account(report, settings, folder, state)
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
    while actions and isinstance(actions[-1], policy.Prepare):
        # It costs memory, which a watchdog that idles does without.
        from trainguard.preparations.finding import find_out

        prepared = find_out(settings, after, actions[-1].subject, cache=None)
        if any(isinstance(action, policy.SetAside | policy.Lead | policy.Prune) for action in actions):
            # As it will be found once that is done.
            prepared = replace(prepared, spoilt=(), misled=(), needed=None, notes=())
        after, more = policy.decide(after, observer.look(after, None, prepared), settings)
        actions = (*actions[:-1], *more)
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
        if problems := command_line.check_causes(settings):
            raise ConfigError(tuple(problems), settings.path)
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
