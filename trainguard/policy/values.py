"""The values of the policy: what was seen, what is remembered, what is to be done. All frozen."""

from enum import Enum

import msgspec

from trainguard.health import Status
from trainguard.identity import Identity
from trainguard.policy.patience import Doing, Pace, Work


class Phase(str, Enum):
    """Where one daemon's supervision stands."""

    NEW = "new"  # nothing was started yet, or a person said --start
    STARTING = "starting"  # a child may stand at the gate; it may not have been let through
    RUNNING = "running"
    STOPPING = "stopping"  # the daemon is being stopped, rung by rung
    PREPARING = "preparing"  # the next start is being prepared: checkpoints verified, the end explained
    CLEARING = "clearing"  # the daemon is gone, processes of its run are not
    COOLING = "cooling"  # down; the next try waits for the window
    PARKED = "parked"  # down; tries are rare until a person or a new step helps
    FINISHED = "finished"
    STOPPED = "stopped"  # by a person


OVER = (Phase.FINISHED, Phase.STOPPED)


class Request(str, Enum):
    """What a person asks of the watchdog."""

    START = "start"
    STOP = "stop"
    STOP_WITH_DAEMON = "stop-with-daemon"
    PAUSE = "pause"
    RESUME = "resume"
    LEAVE = "leave"  # end the watchdog for now: SIGTERM, Ctrl-C


class How(str, Enum):
    """In which way a run ended."""

    EXIT = "exit"
    SIGNAL = "signal"
    UNKNOWN = "unknown"  # not our child, and nobody kept its status
    NOT_STARTED = "not_started"
    REBOOT = "reboot"


class Ending(msgspec.Struct, frozen=True):
    """How a run ended: `code` is its exit code or signal number, `text` what is known where there is none."""

    how: How
    code: int | None = None
    text: str = ""


class Alive(msgspec.Struct, frozen=True):
    """The daemon lives. `run_id` is None for one that a PID file named and that bears no mark of ours."""

    identity: Identity
    run_id: str | None
    adopted: bool
    frozen: bool = False


class AtGate(msgspec.Struct, frozen=True):
    """A child waits to be let through."""

    identity: Identity


class Gone(msgspec.Struct, frozen=True):
    """The daemon does not live."""

    ending: Ending


class Leftover(msgspec.Struct, frozen=True):
    """A living process of the run besides the daemon."""

    identity: Identity
    name: str
    state: str


class Cause(msgspec.Struct, frozen=True):
    """What a diagnosis says of one end.

    `retry` is whether a restart helps (`yes`, `clean`, `no`), `verdicts` what is right for the first time, the
    second and all later ones (see trainguard.crash_types). `provisional`: by the end of the log alone.
    """

    type: str
    cause: str
    retry: str
    fingerprint: str
    text: str = ""
    verdicts: tuple[str, ...] = ()
    provisional: bool = False


class Past(msgspec.Struct, frozen=True):
    """An earlier end: its cause if it is known, and whether a new step was made after it."""

    at_wall: float
    cause: Cause | None = None
    stepped: bool = False


class Spoilt(msgspec.Struct, frozen=True):
    """A checkpoint that would stop or poison a resume: its verdict and reason, as they were found.

    `copy` is the path of a verified copy of it that is put back in its place, empty where there is none.
    """

    path: str
    step: int
    verdict: str
    reason: str
    copy: str = ""


class Aside(msgspec.Struct, frozen=True):
    """A checkpoint that was set aside: what it was called, why, and when."""

    path: str
    reason: str
    at_wall: float


class Misled(msgspec.Struct, frozen=True):
    """A pointer file that names no checkpoint, and what is wrong with it."""

    path: str
    problem: str


class Prepared(msgspec.Struct, frozen=True):
    """What is known before a start; `subject` is what was asked.

    `past` are earlier ends, the newest first. `spoilt` are checkpoints that are newer than the one to resume
    from, `resume`, which is None where there is none that will do; `verified` is false where nobody could say.
    `free` and `needed` are bytes on the disk of the checkpoints, and of the last whole one; `prunable` are old whole
    ones, `holders` processes that still hold a GPU's memory, `notes` what could not be found out. `last_step` is the
    last one that the log of the ended run tells.
    """

    subject: str
    cause: Cause | None = None
    past: tuple[Past, ...] = ()
    spoilt: tuple[Spoilt, ...] = ()
    resume: str | None = None
    resume_step: int | None = None
    verified: bool = False
    free: int | None = None
    needed: int | None = None
    misled: tuple[Misled, ...] = ()
    prunable: tuple[str, ...] = ()
    holders: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    last_step: int | None = None


class Standing(msgspec.Struct, frozen=True):
    """How far the run is, as far as anything tells; `advances` and `signs` count up from look to look.

    `said` is the work that its lines told last.
    """

    step: int | None = None
    total: int | None = None
    loss: float | None = None
    source: str | None = None
    advances: int = 0
    signs: int = 0
    ended: bool = False
    said: Work | None = None


class Seen(msgspec.Struct, frozen=True):
    """One look at the world.

    `first` marks the first look of a watchdog, `token` makes a run id unique; `proven` is false where the
    look may have missed a living process; `checkpoint_step` is 0 where there is no checkpoint yet, None where
    nobody says where they would be. `doing` is what the run's processes did since the look before, `examined` the
    incident whose processes were examined last.
    """

    now: float
    wall: float
    boot: str
    token: str = ""
    first: bool = False
    daemon: Alive | AtGate | Gone | None = None
    leftovers: tuple[Leftover, ...] = ()
    proven: bool = True
    standing: Standing = Standing()
    saving: bool = False
    doing: Doing | None = None
    log_size: int = 0
    checkpoint: str | None = None
    checkpoint_step: int | None = None
    prepared: Prepared | None = None
    examined: str | None = None
    request: Request | None = None


class Run(msgspec.Struct, frozen=True):
    """One life of the daemon. `began` is the moment of its gate, or of its adoption where that is unknown.

    `remedy` is the cause whose remedy it was started with. `work` is what it is at, and was at another work
    than training until `elsewhere_at`; `still` is what its processes did since the last step or sign.
    """

    id: str
    number: int
    began: float
    began_wall: float
    log_start: int = 0
    resumed_from: int | None = None
    remedy: str | None = None
    identity: Identity | None = None
    adopted: bool = False
    marked: bool = True
    first_step: int | None = None
    step: int | None = None
    total: int | None = None
    loss: float | None = None
    source: str | None = None
    stepped: bool = False
    moved_at: float | None = None
    work: Work = Work.STARTING
    elsewhere_at: float | None = None
    pace: Pace = Pace()
    still: Doing | None = None
    advances: int = 0
    signs: int = 0
    ended: bool = False
    told_hung: bool = False
    told_silent: bool = False
    ending: Ending | None = None


class Incident(msgspec.Struct, frozen=True):
    """One crash or hang, from its discovery to the first new step after it. Steps lost are repeated steps.

    `seconds_unnoticed` passed before the discovery, at most; all other seconds count from it.
    """

    id: str
    kind: str
    at: float
    at_wall: float
    run_id: str
    run_number: int
    pid: int | None
    ending: Ending | None
    step: int | None
    total: int | None
    loss: float | None
    source: str | None
    checkpoint: str | None
    checkpoint_step: int | None
    log_start: int
    log_end: int
    decision: str = ""
    cause: Cause | None = None
    set_aside: tuple[Spoilt, ...] = ()
    orphans: tuple[Leftover, ...] = ()
    next_run_id: str | None = None
    seconds_unnoticed: float | None = None
    seconds_to_cleared: float | None = None
    seconds_to_new_process: float | None = None
    seconds_to_first_step: float | None = None
    seconds_to_new_step: float | None = None
    first_new_step: int | None = None
    steps_lost: int | None = None
    closed: bool = False


class State(msgspec.Struct, frozen=True):
    """All that must survive the watchdog. `restarts` are the counted starts that may be in the window.

    The start that is being prepared is `counted`, and on `trial` where it was parked. Of ends before
    `forgiven_wall` nothing is held against it: a person took the matter in hand then. `pruned` was deleted last,
    `aside` was to be set aside for this start, `were_aside` was lately. Starts were prepared `asked` times, and room
    was first waited for at `room_wanted_at`. `why_parked` is the cause's reason, `drained_to` the first checkpoint
    that orphans saved. `noted` is what was found out for this start and is not said yet.
    """

    phase: Phase = Phase.NEW
    reason: str = "nothing was started yet"
    boot: str = ""
    looked_at: float = 0.0
    looked_wall: float = 0.0
    watching: bool = True
    paused: bool = False
    run: Run | None = None
    descendants: tuple[Identity, ...] = ()
    runs: int = 0
    restarts: tuple[float, ...] = ()
    rounds: int = 0
    counted: bool = False
    trial: bool = False
    asked: int = 0
    room_wanted_at: float | None = None
    forgiven_wall: float = 0.0
    pruned: tuple[str, ...] = ()
    aside: tuple[str, ...] = ()
    were_aside: tuple[Aside, ...] = ()
    noted: tuple[str, ...] = ()
    why_parked: str = ""
    drained_to: int | None = None
    highest_step: int | None = None
    has_source: bool = False
    next_try: float | None = None
    stop_reason: str | None = None
    rung: int = 0
    deadline: float | None = None
    hold_until: float | None = None
    signalled: tuple[Identity, ...] = ()
    told: str = ""
    incident: Incident | None = None


class Fork(msgspec.Struct, frozen=True):
    """Put a child at the gate; harmless until `Release`."""

    run: Run


class Release(msgspec.Struct, frozen=True):
    """Open the gate: from here on the daemon runs."""

    run: Run


class Dismiss(msgspec.Struct, frozen=True):
    """Send the child at the gate away."""


class Signal(msgspec.Struct, frozen=True):
    """Signal one process of the run."""

    target: Identity
    signal: str


class Prepare(msgspec.Struct, frozen=True):
    """Find out what must be known before the next start; the answer is seen as `Prepared` of the same `subject`.

    Which is the id of the run that ended (empty before the first) and, behind a `#`, the number of the asking.
    """

    subject: str


class Examine(msgspec.Struct, frozen=True):
    """Gather what the processes of a hung run show, for an incident; when that is over is seen as `examined`."""

    incident_id: str
    processes: tuple[Identity, ...]


class SetAside(msgspec.Struct, frozen=True):
    """Rename a spoilt checkpoint, so that a resume falls back to `resume` (None: there is none)."""

    spoilt: Spoilt
    resume: str | None


class Lead(msgspec.Struct, frozen=True):
    """Have a pointer file name the checkpoint `resume`."""

    path: str
    resume: str


class Prune(msgspec.Struct, frozen=True):
    """Delete an old checkpoint that is whole, as the user asked for."""

    path: str


class Tell(msgspec.Struct, frozen=True):
    """Say it: one line for a person, one event for later readers."""

    event: str
    status: Status
    text: str


class Record(msgspec.Struct, frozen=True):
    """Write the incident as it is known by now."""

    incident: Incident


Action = Fork | Release | Dismiss | Signal | Examine | Prepare | SetAside | Lead | Prune | Tell | Record


STOP_BY_PERSON = "a person asked for it"


STOP_FOR_HANG = "it hung"
