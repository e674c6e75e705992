"""The run folder: the lock, the state, the requests and the events of one daemon's supervision."""

import errno
import fcntl
import os
import time
from pathlib import Path

import msgspec

from trainguard import files, processes
from trainguard.config import ExpectedError
from trainguard.health import Finding, Status
from trainguard.identity import Identity
from trainguard.policy import Phase, Request, State

STATE_LIMIT = 8 << 20
_EVENTS_READ_AT_MOST = 1 << 20
_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError)


class Holder(msgspec.Struct, frozen=True):
    """Who holds the run folder."""

    identity: Identity
    since_wall: float
    version: str


class HeldError(ExpectedError):
    """Another watchdog holds the run folder."""

    def __init__(self, holder: Holder | None) -> None:
        self.holder = holder
        who = "another process" if holder is None else f"pid {holder.identity.pid}"
        super().__init__(f"the run folder is held by the watchdog that runs as {who}")


class Event(msgspec.Struct, frozen=True):
    """One line of events.jsonl."""

    wall: float
    event: str
    status: str
    text: str
    run: str | None = None
    incident: str | None = None


class RunFolder:
    """One folder per supervised daemon; at most one watchdog works in it, by flock(2) on `watchdog.lock`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.state_file = directory / "state.json"
        self.events_file = directory / "events.jsonl"
        self.incidents = directory / "incidents"
        self._lock_file = directory / "watchdog.lock"
        self._request_file = directory / "request.json"
        self._lock: int | None = None
        self._saved = b""

    # --- the lock ---------------------------------------------------------------------------------------------

    def take(self, version: str, patience: float = 2.0) -> None:
        """Become the one watchdog of this folder. Raises HeldError, OSError."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.lock(patience)
        own = processes.read_process(os.getpid())
        if own is not None and self._lock is not None:
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, msgspec.json.encode(Holder(own.identity, time.time(), version)), 0)
        self._request_file.unlink(missing_ok=True)

    def lock(self, patience: float) -> int:
        """Hold the folder without being its watchdog: who only mends it is asked nothing. Raises HeldError, OSError.

        Gives the descriptor that holds it. Where the recorded holder has ended and the lock is still held, a child of
        it has not reached its exec yet (see `processes.birth`), or somebody mends: that is waited for.
        """
        deadline = time.monotonic() + patience
        while not self._try_to_lock():
            holder = self.holder()
            if holder is not None and _lives(holder.identity):
                raise HeldError(holder)
            if time.monotonic() >= deadline:
                raise HeldError(None)
            time.sleep(0.01)
        assert self._lock is not None
        return self._lock

    def is_ours(self, version: str) -> bool:
        """Whether this watchdog still holds the folder; a folder that was deleted under it is made and taken anew."""
        try:
            here = self._lock_file.stat()
            if self._lock is not None and os.path.samestat(here, os.fstat(self._lock)):
                return True
        except FileNotFoundError:
            pass
        self.leave()
        self._saved = b""
        try:
            self.take(version)
        except HeldError:
            return False
        return True

    def leave(self) -> None:
        """Let go of the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def holder(self) -> Holder | None:
        """The watchdog that wrote itself into the lock file last, whether it lives or not."""
        try:
            return msgspec.json.decode(files.read_small(self._lock_file), type=Holder)
        except (OSError, *_UNDECODABLE):
            return None

    def watchdog(self) -> Holder | None:
        """The watchdog that runs now, None if none does."""
        holder = self.holder()
        return holder if holder is not None and _lives(holder.identity) and self._is_locked() else None

    def _try_to_lock(self) -> bool:
        descriptor = os.open(
            self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644
        )
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), self._lock_file.stat()):
                self._lock = descriptor
                return True
        except FileNotFoundError:
            pass  # deleted between opening and locking: the lock is worth nothing
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                os.close(descriptor)
                raise
        os.close(descriptor)
        return False

    def _is_locked(self) -> bool:
        try:
            descriptor = os.open(self._lock_file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(descriptor)
        return False

    # --- the state --------------------------------------------------------------------------------------------

    def load_state(self) -> tuple[State, Finding | None]:
        """The saved state; a new one where there is none, or where it cannot be understood (then with a finding)."""
        try:
            content = files.read_small(self.state_file, STATE_LIMIT)
            state = msgspec.json.decode(content, type=State)
            if (problem := _why_unusable(content, state)) is not None:
                raise msgspec.DecodeError(problem)
            return state, None
        except FileNotFoundError:
            return State(), None
        except (OSError, *_UNDECODABLE) as error:
            why = getattr(error, "strerror", None) or str(error)
            remedy = "a watchdog sets it aside, finds the daemon by its mark and the restarts in events.jsonl"
            return State(), Finding(Status.ATTENTION, str(self.state_file), f"cannot be read ({why})", remedy)

    def set_aside_state(self) -> None:
        """Rename a state that cannot be understood. Raises OSError."""
        self.state_file.rename(self.state_file.with_name(f"state.json.broken-{int(time.time())}"))

    def save_state(self, state: State, durable: bool) -> None:
        """Write the state whole; an unchanged one is not written again. Raises OSError: then the old one stands."""
        content = msgspec.json.encode(state)
        if content != self._saved or durable:
            self.directory.mkdir(parents=True, exist_ok=True)
            files.write_whole(self.state_file, content, durable)
            self._saved = content

    # --- events -----------------------------------------------------------------------------------------------

    def append_event(self, event: Event) -> None:
        """Append to events.jsonl. Raises OSError."""
        files.append_line(self.events_file, msgspec.json.encode(event))

    def recent_events(self) -> list[Event]:
        """The latest events, oldest first; lines that cannot be read are passed over."""
        try:
            size = self.events_file.stat().st_size
            content = files.read_range(self.events_file, max(0, size - _EVENTS_READ_AT_MOST), size)
        except OSError:
            return []
        events = []
        for line in content.split(b"\n"):
            try:
                events.append(msgspec.json.decode(line, type=Event))
            except _UNDECODABLE:
                continue
        return events

    def restarts_told(self, within: float) -> tuple[float, ...]:
        """The restarts that the events of the last `within` seconds tell, as stamps of the monotonic clock."""
        ages = [time.time() - event.wall for event in self.recent_events() if event.event == "restarted"]
        return tuple(time.monotonic() - age for age in ages if 0 <= age < within)

    # --- requests ---------------------------------------------------------------------------------------------

    def ask(self, request: Request) -> bool:
        """Ask the watchdog that runs for something; False if another request waits already. Raises OSError."""
        return files.write_once(self._request_file, msgspec.json.encode({"request": request.value}))

    def is_asked(self) -> bool:
        """Whether a request waits to be taken."""
        return self._request_file.exists()

    def pending_request(self) -> Request | None:
        """What was asked and not answered yet; a request that cannot be understood is dropped."""
        try:
            content = msgspec.json.decode(
                files.read_small(self._request_file, follow=False), type=dict[str, Request]
            )
            return content.get("request")
        except FileNotFoundError:
            return None
        except (OSError, *_UNDECODABLE):
            self.answer_request()
            return None

    def answer_request(self) -> None:
        """Take the request away: it was obeyed, and the state says so."""
        try:
            self._request_file.unlink(missing_ok=True)
        except OSError:
            return  # it stays and is obeyed again: all requests may be repeated


def _why_unusable(content: bytes, state: State) -> str | None:
    """Why a state that has the right types was not saved by a watchdog: without its run it would wait forever."""
    if b'"phase"' not in content:
        return "it is no watchdog's state"
    if state.phase is Phase.STARTING and state.run is None:
        return "it is starting no run"
    if state.phase is Phase.RUNNING and (state.run is None or state.run.identity is None):
        return "it is running no process"
    return None


def _lives(identity: Identity) -> bool:
    handle = processes.open_handle(identity)
    if handle is None:
        return False
    handle.close()
    return True
