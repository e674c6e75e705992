"""Observing: one look at the daemon, its run's progress, its checkpoints and a person's requests."""

import os
import time
from pathlib import Path

from trainguard import activity, checkpoints, processes
from trainguard.config import Settings
from trainguard.daemon import Daemon, Look
from trainguard.health import Finding, Status
from trainguard.policy import Alive, Doing, Ending, Gone, How, Prepared, Request, Run, Seen, Standing, State
from trainguard.progress import Follower, Progress

_STILL_SAVING_SECONDS = 5.0


class Observer:
    """Looks at all that the policy wants to know. What cannot be read is unknown and a finding."""

    def __init__(self, settings: Settings, daemon: Daemon) -> None:
        self._settings = settings
        self._daemon = daemon
        self._follower: Follower | None = None
        self._followed: str | None = None
        self._footprint: checkpoints.Footprint | None = None
        self._grew_at: float | None = None
        self._activity: activity.Activity | None = None
        self._first = True
        self.findings: tuple[Finding, ...] = ()

    def reload(self, settings: Settings) -> None:
        """Take new settings; progress is read anew from their sources."""
        self._settings = settings
        self._followed = None

    def look(
        self,
        state: State,
        request: Request | None,
        prepared: Prepared | None = None,
        examined: str | None = None,
    ) -> Seen:
        """One look; `prepared` is what was found out for the next start, `examined` the incident examined last.

        Raises OSError where even the process table cannot be read.
        """
        now = time.monotonic()
        found = self._daemon.look(state, now)
        findings = list(found.findings)
        run, log = state.run, log_of(self._settings)
        alive = isinstance(found.daemon, Alive)
        standing = Standing()
        # Between a crash and the new start nothing is read that the decision does not need.
        if run is not None and run.identity is not None and (alive or _ended_otherwise(found.daemon, run)):
            standing = self._read_standing(run, findings)
        # Orphans may save as well.
        saving = (alive or bool(found.leftovers)) and self._is_saving(now, findings)
        doing = self._what_is_done(found, now)
        checkpoint = self._newest(findings)
        has_folder = self._settings.checkpoints.directory is not None
        first, self._first = self._first, False
        self.findings = tuple(findings)
        return Seen(
            now=now,
            wall=time.time(),
            boot=processes.boot_id(),
            token=os.urandom(3).hex(),
            first=first,
            daemon=found.daemon,
            leftovers=found.leftovers,
            proven=found.proven,
            standing=standing,
            saving=saving,
            doing=doing,
            log_size=_size(log),
            checkpoint=None if checkpoint is None else str(checkpoint.path),
            checkpoint_step=checkpoint.step if checkpoint is not None else 0 if has_folder else None,
            prepared=prepared,
            examined=examined,
            request=request,
        )

    @property
    def footprint(self) -> checkpoints.Footprint | None:
        """What lay in the checkpoint folder at the last look while somebody might save."""
        return self._footprint

    def last_words(self, run_id: str, state: State) -> Standing:
        """What an ended run told since the last look; nothing if it lives, or is not followed any more."""
        ended = state.run is None or state.run.id != run_id or state.run.ending is not None
        if self._follower is None or self._followed != run_id or not ended:
            return Standing()
        self._followed = None
        return _standing(self._follower.look()[0])

    def _read_standing(self, run: Run, findings: list[Finding]) -> Standing:
        settings = self._settings
        if self._follower is None or self._followed != run.id:
            if self._follower is not None:
                self._follower.close()
            self._follower = Follower(
                log_of(settings),
                run.log_start,
                began_wall=run.began_wall,
                status_file=settings.progress.status_file,
                status_names=settings.progress.status_names,
                checkpoint_directory=settings.checkpoints.directory,
                list_checkpoints=checkpoints.list_checkpoints,
                heartbeat_file=settings.progress.heartbeat_file,
            )
            self._followed = run.id
        progress, news = self._follower.look()
        findings += news
        return _standing(progress)

    def _is_saving(self, now: float, findings: list[Finding]) -> bool:
        """Whether files in the checkpoint folder grew lately, as far as two looks can tell."""
        directory = self._settings.checkpoints.directory
        if directory is None:
            return False
        try:
            footprint = checkpoints.measure(checkpoints.find_folder(directory))
        except OSError as error:
            findings.append(_unreadable(directory, error))
            return False
        if self._footprint is not None and checkpoints.has_grown(self._footprint, footprint):
            self._grew_at = now
        self._footprint = footprint
        return self._grew_at is not None and now - self._grew_at < _STILL_SAVING_SECONDS

    def _what_is_done(self, found: Look, now: float) -> Doing | None:
        """What the processes of a run that lives did since the last look, None at the first."""
        if not isinstance(found.daemon, Alive):
            self._activity = None
            return None
        pids = [found.daemon.identity.pid, *(one.identity.pid for one in found.leftovers)]
        before, self._activity = self._activity, activity.read_activity(pids, now)
        return None if before is None else activity.compare(before, self._activity)

    def _newest(self, findings: list[Finding]) -> checkpoints.Checkpoint | None:
        directory = self._settings.checkpoints.directory
        if directory is None:
            return None
        try:
            return checkpoints.newest_checkpoint(directory)
        except OSError as error:
            findings.append(_unreadable(directory, error))
            return None


def log_of(settings: Settings) -> Path:
    """The log in which a run's steps and errors stand."""
    return settings.progress.log_file or settings.daemon.log


def places_of(settings: Settings) -> list[Path]:
    """Paths whose disks matter to the run."""
    places = [settings.logs.directory, settings.daemon.directory, Path("/dev/shm"), Path("/tmp")]
    return places if settings.checkpoints.directory is None else [*places, settings.checkpoints.directory]


def _standing(progress: Progress) -> Standing:
    return Standing(
        progress.step,
        progress.total,
        progress.loss,
        progress.source,
        progress.advances,
        progress.signs,
        progress.finished,
        progress.work,
    )


def _ended_otherwise(daemon: object, run: Run) -> bool:
    """Whether the run has just ended, and not in a way that calls for a restart at once."""
    if not isinstance(daemon, Gone) or run.ending is not None:
        return False
    return daemon.ending.how in (How.UNKNOWN, How.REBOOT) or daemon.ending == Ending(How.EXIT, 0)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _unreadable(directory: Path, error: OSError) -> Finding:
    return Finding(Status.ATTENTION, f"checkpoint folder {directory}", f"cannot be read ({error.strerror})")
