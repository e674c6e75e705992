"""The watchdog over one daemon: one cycle of observing, deciding, saving, acting and waiting."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from trainguard import VERSION, incidents, policy, processes, remedies, reports
from trainguard.config import ConfigError, Settings, load_settings
from trainguard.copies.asking import Copying
from trainguard.daemon import Daemon
from trainguard.health import Finding, Status
from trainguard.incidents import Chronicle
from trainguard.journal import Journal
from trainguard.observer import Observer, log_of, places_of
from trainguard.policy import OVER, Action, Phase, Request, Seen, State
from trainguard.preparations import Preparation
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
        self.preparation = Preparation(folder.directory, self.daemon.helpers)
        self.copying = Copying(folder.directory, self.daemon.helpers)
        self.manager = ServiceManager()
        self.words: list[policy.Tell | policy.Record] = []
        self.summary_due = time.monotonic() + settings.watchdog.summary_interval

    def watch(self, state: State, request: Request | None = None, once: bool = False) -> State:
        """Watch until the state says that it is over, or with `once` until it has settled; the state then."""
        self.manager.say("READY=1")
        while state.watching:
            self.reload_if_asked(state)
            seen = self.observe(state, request)
            wait = TROUBLED_SECONDS
            if seen is not None:
                after, actions = policy.decide(state, seen, self.settings)
                if self.save(after, actions):
                    # Only what was seen: another request may have come since.
                    if seen.request not in (None, Request.LEAVE):
                        self.folder.answer_request()
                    state, request = after, None
                    self.perform(actions)
                    wait = policy.pause(state, seen, self.settings)
            if state.phase is not Phase.STARTING:
                state = self.speak(state)
            if once and (state.phase in SETTLED or state.paused):
                break
            if state.watching:
                self.manager.say(f"STATUS={state.phase.value}: {state.reason}")
                self.wake.wait(self.manager.limit(wait), self.wake_sources())
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
            for finding in self.copying.collect(time.monotonic()):
                self.journal.note(finding)
            prepared = self.preparation.look(time.monotonic())
            request = request or self.folder.pending_request()
            seen = self.observer.look(state, request, prepared, self.chronicle.examined)
        except OSError as error:
            self.journal.note(Finding(Status.BAD, "watchdog", f"cannot look ({error}); nothing is decided"))
            return None
        self.journal.forget("watchdog")
        for finding in self.observer.findings:
            self.journal.note(finding)
        if self.settings.checkpoints.keep_copy and isinstance(seen.daemon, policy.Alive):
            self.keep_copies(seen.now)
        return seen

    def keep_copies(self, now: float) -> None:
        """Have checkpoints that are written over in place copied."""
        try:
            self.copying.keep_up(self.settings.path, self.observer.footprint, now)
        except OSError as error:
            self.journal.note(Finding(Status.ATTENTION, "copies of checkpoints", f"none is made ({error})"))

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
            elif isinstance(action, policy.Examine):
                self.chronicle.examine(action.incident_id, action.processes)
            elif isinstance(action, policy.Prepare):
                # Nobody else is to touch the copies while the child looks for one to put back.
                self.copying.stop(time.monotonic())
                self.preparation.ask(self.settings.path, action.subject)
            elif isinstance(action, policy.SetAside):
                self.attempt("set aside", action.spoilt.path, partial(set_aside, action))
            elif isinstance(action, policy.Lead):
                lead = partial(remedies.lead, Path(action.path), Path(action.resume))
                self.attempt("written", action.path, lead)
            elif isinstance(action, policy.Prune):
                self.attempt("deleted", action.path, partial(remedies.prune, Path(action.path)))
            elif isinstance(action, policy.Signal):
                if (problem := self.daemon.send(action.target, action.signal)) is not None:
                    self.journal.note(problem)
            else:
                self.words.append(action)

    def attempt(self, what: str, path: str, remedy: Callable[[], object]) -> None:
        """Do something to the user's files; that it failed is a finding."""
        try:
            remedy()
        except OSError as error:
            self.journal.note(Finding(Status.BAD, path, f"cannot be {what} ({error.strerror})"))

    def wake_sources(self) -> list[processes.Pollable]:
        """Whatever is worth a look as soon as it ends."""
        askers = (self.daemon, self.chronicle, self.preparation, self.copying)
        return [source for asker in askers for source in asker.wake_sources()]

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

    def reload_if_asked(self, state: State) -> None:
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
        text = f"{fresh.path} was read again; a new command counts from the next start"
        self.journal.tell("reloaded", Status.OK, text, state)


def set_aside(action: policy.SetAside) -> None:
    """Rename a checkpoint that would spoil the resume; its copy may take its place. Raises OSError."""
    path, resume = Path(action.spoilt.path), None if action.resume is None else Path(action.resume)
    remedies.set_aside(
        path, action.spoilt.verdict, resume, remedies.staged_of(path) if action.spoilt.copy else None
    )
