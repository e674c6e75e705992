"""The training daemon as this watchdog finds it: alive or gone, with all that it forked."""

import os
import resource
import signal
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec

from trainguard import files, processes
from trainguard.config import Remedy, Settings, program_fault, resolve_program, search_path
from trainguard.health import Finding, Status
from trainguard.identity import Identity
from trainguard.policy import Alive, AtGate, Ending, Gone, How, Leftover, Run, State
from trainguard.policy.causes import FILES
from trainguard.processes import Handle, Mark, Newborn, Process

_HANDOVER_SECONDS = 10.0
_STATUS_SECONDS = 3.0
_CLOCK_SLACK_SECONDS = 1.0
_HANDLES_AT_MOST = 256


class Look(msgspec.Struct, frozen=True):
    """What one look found: the daemon, the other living processes of its run, and whether none can be missing."""

    daemon: Alive | AtGate | Gone | None
    leftovers: tuple[Leftover, ...] = ()
    proven: bool = True
    findings: tuple[Finding, ...] = ()


class Daemon:
    """One daemon under this watchdog's eyes.

    A run that this process started is a tree below it (it is a child subreaper), and the kernel itself proves
    it gone. Of a run that an earlier watchdog started, the pieces are found in the process table: by the mark
    in their environment, by their session, and by what the earlier watchdog had recorded.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder = os.path.realpath(settings.logs.directory)
        self._never = {os.getpid(), *processes.ancestors(os.getpid())}
        self._newborn: Newborn | None = None
        self._failure: str | None = None
        self._handle: Handle | None = None
        self._leftover_handles: dict[Identity, Handle] = {}
        self._seen_alive: Identity | None = None
        self._gone_since: float | None = None
        self._command_ended: float | None = None
        self._heir: Identity | None = None
        self._heir_is_named = False
        self._statuses: dict[int, int] = {}
        self._members: tuple[Identity, ...] = ()
        self._searched = False
        self.helpers: set[int] = set()

    def reload(self, settings: Settings) -> None:
        """Take new settings; those of a run that lives apply from its next start."""
        self._settings = settings

    # --- acting -----------------------------------------------------------------------------------------------

    def fork(self, run: Run) -> None:
        """Put a child at the gate. A failure is kept and shows at the next look."""
        settings = self._settings.daemon
        self._newborn = self._failure = self._command_ended = self._heir = None
        self._statuses.clear()
        self._drop_handles()
        mark = Mark(run.id, self._folder, settings.name, None)
        remedy = self._settings.restart.on_crash.get(run.remedy or "", Remedy())
        variables = {**settings.environment, **remedy.environment}
        environment = processes.environment_of_run(os.environ, variables, mark)
        if not resolve_program(settings.command[0], settings.directory, search_path(self._settings)):
            self._failure = f"{settings.command[0]}: {program_fault(self._settings)}"
            return
        try:
            settings.log.parent.mkdir(parents=True, exist_ok=True)
            self._newborn = processes.stand_at_gate(
                (*settings.command, *remedy.arguments), environment, settings.directory, settings.log
            )
            if run.remedy == FILES:
                _raise_limit_of_files(self._newborn.identity.pid)
        except OSError as error:
            self._failure = f"{error.filename or settings.command[0]}: {error.strerror or error}"

    def release(self) -> None:
        """Open the gate; what stood there is the daemon now."""
        if self._newborn is not None:
            self._newborn.open_gate()

    def dismiss(self) -> None:
        """Send the child at the gate away."""
        if self._newborn is not None:
            self._newborn.send_away()

    def send(self, target: Identity, name: str) -> Finding | None:
        """Signal a process of the run; what went wrong, or None if it was sent or the process has ended."""
        try:
            processes.send_signal(target, signal.Signals[name])
        except OSError as error:
            return Finding(Status.BAD, f"{name} to pid {target.pid}", error.strerror or str(error))
        return None

    def wake_sources(self) -> list[Handle]:
        """Handles whose readiness means that somebody of the run has ended."""
        alive = [self._handle] if self._handle is not None and self._gone_since is None else []
        return alive + list(self._leftover_handles.values())

    # --- looking ----------------------------------------------------------------------------------------------

    def look(self, state: State, now: float) -> Look:
        """Find the daemon and the rest of its run as they are at `now` (monotonic seconds).

        Raises OSError where the process table cannot be read: then nothing is known.
        """
        run = state.run
        if self._failure is not None:
            return Look(Gone(Ending(How.NOT_STARTED, text=self._failure)))
        if self._newborn is not None:
            return self._look_at_own(self._newborn, run, now)
        if run is not None and run.identity is not None and run.ending is None:
            return self._look_at_recorded(run, run.identity, state, now)
        known = self._members or state.descendants
        if run is not None and run.ending is not None and known:
            return self._look_at_remains(run, Gone(run.ending), known)
        return self._search()

    # --- a run of our own -------------------------------------------------------------------------------------

    def _look_at_own(self, newborn: Newborn, run: Run | None, now: float) -> Look:
        code = newborn.exit_code()
        if run is None or run.identity is None:
            return Look(AtGate(newborn.identity) if code is None else Gone(_ending_of_code(code)))
        below = self._below(newborn)
        if code is None:
            return self._living(newborn.identity, run.id, below)
        heir = self._find_heir(code, below, now)
        if heir is not None:
            return self._living(heir.identity, run.id, below)
        leftovers = processes.without_spared(below, self._settings.watchdog.spare)
        self._mark_gone(now)
        self._watch_leftovers(leftovers)
        return Look(
            Gone(self._own_ending(code)),
            _as_leftovers(leftovers),
            bool(leftovers) or self._is_alone(below, newborn),
        )

    def _living(self, identity: Identity, run_id: str, below: list[Process]) -> Look:
        self._watch(identity)
        process = processes.read_process(identity.pid)
        others = [one for one in below if one.pid != identity.pid]
        current = identity if process is None else process.identity
        frozen = process is not None and process.state in "Tt"
        return Look(Alive(current, run_id, adopted=False, frozen=frozen), _as_leftovers(others))

    def _is_alone(self, below: list[Process], newborn: Newborn) -> bool:
        """Whether nothing of the run lives but what is spared. Without any child the kernel proves it; else a
        second walk must show nobody new, since a list of children may miss one while its siblings end."""
        if not below and not processes.has_children():
            return True
        return {one.identity for one in self._below(newborn)} <= {one.identity for one in below}

    def _below(self, newborn: Newborn) -> list[Process]:
        """All living descendants of this process but its helpers; zombies among its children are collected."""
        own = os.getpid()
        helped = set(self.helpers)
        found = []
        for one in processes.descendants(own):
            if one.pid in helped or one.parent in helped:
                helped.add(one.pid)
            elif not processes.is_gone(one):
                found.append(one)
            elif one.parent == own and one.pid != newborn.identity.pid:
                status = processes.reap(one.pid)
                if status is not None:
                    self._statuses[one.pid] = status
        return found

    def _find_heir(self, code: int, below: list[Process], now: float) -> Process | None:
        """Who goes on when the command has exited with 0 and handed over to a process of its run.

        The one that the PID file names. Until it names one, the oldest: an intermediate process of a double
        fork may end meanwhile without the daemon's having ended.
        """
        if code != 0 or self._settings.daemon.pid_file is None:
            return None
        if self._command_ended is None:
            self._command_ended = now
        candidates = {one.pid: one for one in processes.without_spared(below, self._settings.watchdog.spare)}
        named = candidates.get(self._read_pid_file()[0] or 0)
        current = candidates.get(self._heir.pid) if self._heir is not None else None
        settling = not self._heir_is_named and now - self._command_ended < _HANDOVER_SECONDS
        if named is not None and (settling or self._heir is None):
            self._heir, self._heir_is_named = named.identity, True
            return named
        if current is None and candidates and settling:
            current = min(candidates.values(), key=lambda one: (one.identity.start_time, one.pid))
            self._heir, self._heir_is_named = current.identity, False
        return current

    def _own_ending(self, code: int) -> Ending:
        if self._heir is None:
            return _ending_of_code(code)
        status = self._statuses.get(self._heir.pid)
        return Ending(How.UNKNOWN) if status is None else _ending_of_code(os.waitstatus_to_exitcode(status))

    # --- a run of an earlier watchdog -------------------------------------------------------------------------

    def _look_at_recorded(self, run: Run, identity: Identity, state: State, now: float) -> Look:
        self._members = self._members or state.descendants
        if identity.boot_id != processes.boot_id():
            # A state that was brought from another machine looks the same: what bears the mark here counts.
            return self._look_at_remains(run, Gone(Ending(How.REBOOT)), ())
        process = processes.read_process(identity.pid)
        if (
            process is not None
            and processes.same_process(process.identity, identity)
            and not processes.is_gone(process)
        ):
            self._watch(identity)
            self._seen_alive = identity
            below = processes.living(processes.descendants(identity.pid))
            self._members = tuple({*state.descendants, *(one.identity for one in below)})
            frozen = process.state in "Tt"
            return Look(Alive(process.identity, run.id, adopted=True, frozen=frozen), self._known_alive())
        ending = self._ending_of_other(process is not None, now)
        if ending is None:
            return Look(None, proven=False)  # its end is judged once, so it is not told before it is known
        return self._look_at_remains(run, Gone(ending), self._members)

    def _known_alive(self) -> tuple[Leftover, ...]:
        """The recorded members that still live, also those that left the daemon's tree since."""
        rows = (processes.read_living(identity) for identity in self._members)
        return _as_leftovers(row for row in rows if row is not None)

    def _ending_of_other(self, is_zombie: bool, now: float) -> Ending | None:
        """How a daemon that is not our child ended; None while its parent may yet collect it."""
        first = self._mark_gone(now)
        if self._handle is None:
            return Ending(How.UNKNOWN)
        status = processes.read_exit_status(self._handle)
        if status is not None:
            return _ending_of_code(os.waitstatus_to_exitcode(status))
        return None if is_zombie and now - first < _STATUS_SECONDS else Ending(How.UNKNOWN)

    def _look_at_remains(self, run: Run, gone: Gone, known: Iterable[Identity]) -> Look:
        """Search the whole process table for what is left; finding nothing counts when it happened twice."""
        for _ in range(2):
            members = self._members_in_table(run, tuple(known))
            self._members = tuple({*known, *(one.identity for one in members)})
            leftovers = processes.without_spared(members, self._settings.watchdog.spare)
            self._watch_leftovers(leftovers)
            if leftovers:
                return Look(gone, _as_leftovers(leftovers))
        self._members = ()
        return Look(gone)

    def _members_in_table(self, run: Run, known: tuple[Identity, ...]) -> list[Process]:
        # A session number proves something only if its leader was seen alive, since it could be somebody else's
        # by now; and a daemon that bears no mark of ours may sit in the session of a person's shell.
        leader = self._seen_alive
        session = leader.pid if leader is not None and run.marked else None
        table = processes.living(processes.all_processes())
        return processes.run_members(
            table,
            known,
            session,
            lambda one: run.marked and self._is_of(one, run.id),
            self._never | self.helpers,
        )

    def _is_of(self, process: Process, run_id: str | None) -> bool:
        mark = processes.read_mark(process.pid)
        if mark is None or (mark.folder, mark.daemon) != (self._folder, self._settings.daemon.name):
            return False
        return run_id is None or mark.run == run_id

    # --- a run that nobody recorded ---------------------------------------------------------------------------

    def _search(self) -> Look:
        """Find a daemon by the mark in its environment, or by its PID file.

        The table is searched until it was once found empty: the lock of the run folder sees to it that nobody
        else starts a daemon with our mark.
        """
        if not self._searched:
            leader, others = self._find_marked()
            if leader is not None:
                return leader
            self._watch_leftovers(others)
            if others:
                return Look(None, _as_leftovers(others))
            self._searched = True
        named, finding = self._find_by_pid_file()
        return Look(named, findings=() if finding is None else (finding,))

    def _find_marked(self) -> tuple[Look | None, list[Process]]:
        for _ in range(2):
            table = processes.living(processes.all_processes())
            marked = processes.run_members(
                table, self._members, None, lambda one: self._is_of(one, None), self._never | self.helpers
            )
            self._members = tuple(one.identity for one in marked)
            marked = processes.without_spared(marked, self._settings.watchdog.spare)
            named = self._read_pid_file()[0] if self._settings.daemon.pid_file is not None else None
            for one in sorted(marked, key=lambda one: -one.identity.start_time):
                mark = processes.read_mark(one.pid)
                leads = mark is not None and (mark.leader == one.pid or one.pid == named)
                if mark is not None and leads and one.identity.uid in (os.geteuid(), os.getuid()):
                    self._watch(one.identity)
                    self._members = tuple(other.identity for other in marked if other.pid != one.pid)
                    return Look(Alive(one.identity, mark.run, adopted=True), self._known_alive()), marked
            if marked:
                return None, marked
        return None, []

    def _find_by_pid_file(self) -> tuple[Alive | None, Finding | None]:
        pid, finding = self._read_pid_file()
        path = self._settings.daemon.pid_file
        if pid is None or path is None:
            return None, finding
        process = processes.read_process(pid)
        if process is None or processes.is_gone(process):
            return None, _about(path, f"names pid {pid}, which does not run; it is ignored")
        stranger = self._why_stranger(process, path)
        if stranger is not None:
            return None, _about(
                path, f"names pid {pid} ({process.name}), which is not the daemon: {stranger}; ignored"
            )
        self._watch(process.identity)
        return Alive(process.identity, None, adopted=True), None

    def _why_stranger(self, process: Process, path: Path) -> str | None:
        """Why the process that a PID file names is not the configured daemon, None if it is."""
        settings = self._settings.daemon
        if process.identity.uid != os.geteuid():
            return f"it belongs to uid {process.identity.uid}"
        if not runs_command(processes.read_command_line(process.pid), settings.command):
            return "it has another command line"
        if processes.read_directory(process.pid) != os.path.realpath(settings.directory):
            return "it runs in another directory"
        # Start times count from boot, with suspended time (proc_pid_stat(5)); files bear wall time.
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - process.identity.start_time / os.sysconf("SC_CLK_TCK")
        if time.time() - age > path.stat().st_mtime + _CLOCK_SLACK_SECONDS:
            return "it started after the file was written"
        return None

    def _read_pid_file(self) -> tuple[int | None, Finding | None]:
        path = self._settings.daemon.pid_file
        if path is None:
            return None, None
        try:
            text = files.read_small(path, limit=64, follow=False).strip()
        except FileNotFoundError:
            return None, None
        except OSError as error:
            return None, _about(path, f"cannot be used ({error.strerror}); it is ignored")
        pid = parse_pid(text)
        if pid is None or pid in self._never:
            shown = text[:20].decode(errors="replace") or "nothing"
            return None, _about(path, f"holds {shown!r}, which is no daemon's number; it is ignored")
        return pid, None

    # --- handles ----------------------------------------------------------------------------------------------

    def _watch(self, identity: Identity) -> None:
        self._gone_since = None
        if self._handle is None or not processes.same_process(self._handle.identity, identity):
            if self._handle is not None:
                self._handle.close()
            self._handle = processes.open_handle(identity)

    def _mark_gone(self, now: float) -> float:
        self._gone_since = now if self._gone_since is None else self._gone_since
        return self._gone_since

    def _watch_leftovers(self, leftovers: list[Process]) -> None:
        wanted = {one.identity for one in leftovers[:_HANDLES_AT_MOST]}
        for identity in [one for one in self._leftover_handles if one not in wanted]:
            self._leftover_handles.pop(identity).close()
        for identity in wanted - self._leftover_handles.keys():
            handle = processes.open_handle(identity)
            if handle is not None:
                self._leftover_handles[identity] = handle

    def _drop_handles(self) -> None:
        self._watch_leftovers([])
        if self._handle is not None:
            self._handle.close()
        self._handle = self._gone_since = self._seen_alive = None
        self._members = ()


def _raise_limit_of_files(pid: int) -> None:
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))


def _about(path: Path, fact: str) -> Finding:
    return Finding(Status.ATTENTION, f"PID file {path}", fact)


def _as_leftovers(rows: Iterable[Process]) -> tuple[Leftover, ...]:
    return tuple(Leftover(one.identity, one.name, one.state) for one in rows)


def _ending_of_code(code: int) -> Ending:
    """From an exit code as subprocess gives it: negative for a signal."""
    return Ending(How.SIGNAL, -code) if code < 0 else Ending(How.EXIT, code)


_INTERPRETERS = ("sh", "bash", "dash", "ksh", "zsh", "python", "perl", "ruby", "node", "env")


def parse_pid(text: bytes) -> int | None:
    """The process number that a PID file holds, None for anything else; 0, 1 and numbers beyond pid_t are none."""
    digits = text.strip()
    return int(digits) if digits.isdigit() and len(digits) < 11 and 1 < int(digits) < 1 << 31 else None


def runs_command(words: tuple[str, ...], command: tuple[str, ...]) -> bool:
    """Whether a command line is the configured one: its program by name or path.

    Of a script that names its interpreter in its first line, the kernel shows that interpreter first.
    """
    if len(words) == len(command) + 1 and Path(words[0]).name.startswith(_INTERPRETERS):
        words = words[1:]
    return (
        len(words) == len(command)
        and words[1:] == command[1:]
        and Path(words[0]).name == Path(command[0]).name
    )
