"""Laws of the policy in a simulated world: whatever happens, in whatever order, none of them is broken."""

import random
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from trainguard.config import DaemonSettings, ProgressSettings, RestartSettings, Settings, WatchdogSettings
from trainguard.identity import Identity
from trainguard.policy import (
    OVER,
    Alive,
    AtGate,
    Cause,
    Dismiss,
    Ending,
    Examine,
    Fork,
    Gone,
    How,
    Leftover,
    Past,
    Phase,
    Prepare,
    Prepared,
    Release,
    Request,
    Seen,
    Signal,
    Standing,
    State,
    decide,
    start_again,
)

SETTINGS = Settings(
    path=Path("config.yaml"),
    daemon=DaemonSettings(command=("train",)),
    progress=ProgressSettings(timeout=100.0, startup_timeout=200.0),
    watchdog=WatchdogSettings(poll_interval=5.0),
    restart=RestartSettings(max_restarts=3, window=300.0, rounds=2, parked_retry=400.0),
)
EVENTS = (
    *["look"] * 12, *["steps"] * 4, *["crash"] * 6,
    "exit", "hang", "back", "orphan", "orphan", "foreign", "unsure", "gap", "long", "watchdog", "watchdog", "reboot",
    "pause", "resume", "resume", "start", "leave", "stop", "stop_all",
)  # fmt: skip
REQUESTS = {
    "pause": Request.PAUSE, "resume": Request.RESUME, "start": Request.START,
    "leave": Request.LEAVE, "stop": Request.STOP, "stop_all": Request.STOP_WITH_DAEMON,
}  # fmt: skip


CAUSES = (
    None,
    Cause("unknown", "unknown", "yes", "u"),
    Cause("cuda_oom", "cuda_oom", "clean", "o", verdicts=("restart", "fix", "park")),
    Cause("key_error", "python_exception", "no", "k"),
    Cause("gpu_hardware", "gpu_lost", "no", "g", verdicts=("repair",)),
    Cause("disk_full", "disk_full", "clean", "d"),
)


class World:
    """One machine with one daemon, as `decide` sees it; the world's own clock never jumps."""

    def __init__(self) -> None:
        self.time = self.booted = 1000.0
        self.boot = 1
        self.pids = 100
        self.state = State()
        self.gate: Identity | None = None
        self.daemon: Identity | None = None
        self.run_id: str | None = None
        self.ours = False
        self.ending: Ending | None = None
        self.prepared: Prepared | None = None
        self.examined: str | None = None
        self.past: tuple[Past, ...] = ()
        self.leftovers: dict[Identity, float] = {}
        self.step: int | None = None
        self.advances = 0
        self.first = True
        self.human = True
        self.releases: list[float] = []
        self.counts = {"steps": 0, "releases": 0, "signals": 0, "parked": 0, "over": 0}

    def new_process(self) -> Identity:
        self.pids += 1
        return Identity(self.pids, self.pids * 7, f"boot-{self.boot}", 1000)

    def die(self, ending: Ending) -> None:
        if self.daemon is not None:
            self.daemon, self.ending = None, ending

    def happen(self, event: str, seconds: float) -> None:
        """Let `seconds` pass and one event come; then the watchdog looks and its actions take place."""
        self.time += seconds + {"gap": 250.0, "long": 900.0}.get(event, 0.0)
        proven, request = event != "unsure", REQUESTS.get(event)
        if event == "steps" and self.daemon is not None:
            self.step, self.advances = (self.step or 0) + 10, self.advances + 1
            self.past = tuple(replace(one, stepped=True) for one in self.past)
        elif event == "back" and self.step:
            self.step = max(0, self.step - 25)
        elif event == "hang":
            self.time += 110.0
        elif event == "crash":
            self.die(Ending(How.SIGNAL, 11))
        elif event == "exit":
            self.die(Ending(How.EXIT, 0))
        elif event == "orphan":
            self.leftovers[self.new_process()] = self.time + 40.0
            self.die(Ending(How.EXIT, 1))
        elif event == "foreign" and self.daemon is None and self.gate is None:
            self.daemon, self.run_id, self.ours = self.new_process(), None, False
        elif event == "watchdog":
            self.watchdog_dies()
        elif event == "reboot":
            self.watchdog_dies()
            self.die(Ending(How.REBOOT))
            self.leftovers = {}
            self.boot, self.booted = self.boot + 1, self.time
            self.time += 3.0
        self.leftovers = {one: until for one, until in self.leftovers.items() if until > self.time}
        self.look(proven, request)
        if not self.state.watching:
            self.counts["over"] += 1
            self.ended_stays()
            self.watchdog_dies()
            self.human = self.human or self.state.phase in OVER
            over = self.state.phase in OVER
            self.state = (
                start_again(self.state) if over else msgspec.structs.replace(self.state, watching=True)
            )

    def watchdog_dies(self) -> None:
        self.gate, self.first, self.ours, self.prepared = None, True, False, None
        self.state = msgspec.json.decode(msgspec.json.encode(self.state), type=State)

    def seen(self, proven: bool, request: Request | None) -> Seen:
        daemon: Any = None
        run = self.state.run
        if self.daemon is not None:
            daemon = Alive(self.daemon, self.run_id, adopted=not self.ours)
        elif self.gate is not None:
            daemon = AtGate(self.gate)
        elif run is not None and run.identity is not None:
            how = self.ending or Ending(How.UNKNOWN)
            rebooted = run.identity.boot_id != f"boot-{self.boot}"
            daemon = Gone(Ending(How.REBOOT) if rebooted else run.ending or how)
        standing = Standing(step=self.step, total=5000, advances=self.advances)
        return Seen(
            now=self.time - self.booted + 1.0,
            wall=1.7e9 + self.time,
            boot=f"boot-{self.boot}",
            token=f"{self.pids:x}",
            first=self.first,
            daemon=daemon,
            leftovers=tuple(Leftover(one, "worker", "S") for one in self.leftovers),
            proven=proven,
            standing=standing if self.daemon is not None else Standing(),
            checkpoint_step=0,
            prepared=self.prepared,
            examined=self.examined,
            request=request,
        )

    def look(self, proven: bool, request: Request | None) -> None:
        before, seen = self.state, self.seen(proven, request)
        self.state, actions = decide(before, seen, SETTINGS)
        self.first = False
        self.counts["steps"] += 1
        self.counts["parked"] += self.state.phase is Phase.PARKED
        self.judge(before, seen, actions)
        for action in actions:
            self.act(action)

    def judge(self, before: State, seen: Seen, actions: tuple[Any, ...]) -> None:
        births = [action for action in actions if isinstance(action, Fork | Release)]
        signals = [action for action in actions if isinstance(action, Signal)]
        assert sum(isinstance(action, Fork) for action in births) <= 1
        assert len(births) <= 1
        if any(isinstance(action, Fork) for action in births) and before.phase is not Phase.STARTING:
            late = seen.now - (before.deadline or seen.now)
            assert seen.prepared is not None or late >= 0, "a start that was not prepared"
        if births:
            assert self.daemon is None, "a birth beside a living daemon"
        if any(isinstance(action, Fork) for action in births):
            assert seen.proven, "a birth where somebody may live unseen"
            assert not seen.leftovers, "a birth beside leftovers"
            assert self.gate is None, "a second child at the gate"
        if self.state.paused:
            assert not births, "a birth while paused"
            assert not signals, "a signal while paused"
        visible = {leftover.identity for leftover in seen.leftovers}
        visible |= {seen.daemon.identity} if isinstance(seen.daemon, Alive) else set()
        assert {action.target for action in signals} <= visible, "a signal to somebody unseen"
        self.judge_progress(before, seen)

    def judge_progress(self, before: State, seen: Seen) -> None:
        old, new = before.run, self.state.run
        if new is not None and new.moved_at is not None:
            assert new.moved_at <= seen.now, (
                "progress is dated in the future: no hang could be noticed until then"
            )
        same = old is not None and new is not None and old.id == new.id and before.boot == self.state.boot
        if not same or old is None or new is None or before.phase is not Phase.RUNNING:
            return
        lower = seen.standing.step is not None and old.step is not None and seen.standing.step < old.step
        short = seen.now - before.looked_at < 20
        if lower and short and seen.standing.advances == old.advances and not (seen.first and new.adopted):
            assert new.moved_at == old.moved_at, "a step back was taken for progress"
            if seen.request is None:
                assert self.state.rounds == before.rounds, "a step back reset the rounds"

    def act(self, action: Any) -> None:
        if isinstance(action, Examine):
            self.examined = action.incident_id if self.pids % 2 else None
        elif isinstance(action, Prepare):
            cause = CAUSES[self.pids % len(CAUSES)]
            free = 0 if self.pids % 4 == 0 else 1 << 40
            self.prepared = Prepared(action.subject, cause, self.past, free=free, verified=True)
            self.past = (Past(1.7e9 + self.time, cause), *self.past)[:20]
        elif isinstance(action, Fork):
            self.gate, self.prepared = self.new_process(), None
        elif isinstance(action, Dismiss):
            self.gate = None
        elif isinstance(action, Release) and self.gate is not None:
            self.daemon, self.gate = self.gate, None
            self.run_id, self.ours, self.ending = action.run.id, True, None
            self.step, self.advances = 0, 0
            self.counts["releases"] += 1
            if self.human:
                self.human = False
                return
            limits = SETTINGS.restart
            self.releases = [at for at in self.releases if self.time - at < limits.window - 1e-6]
            self.releases.append(self.time)
            assert len(self.releases) <= limits.max_restarts, f"restarts at {self.releases}"
        elif isinstance(action, Signal):
            self.counts["signals"] += 1
            if action.signal == "SIGKILL":
                self.leftovers.pop(action.target, None)
                if action.target == self.daemon:
                    self.die(Ending(How.SIGNAL, 9))

    def ended_stays(self) -> None:
        state, seen = self.state, self.seen(True, Request.RESUME)
        assert decide(state, seen, SETTINGS) == (state, ())


def drive(world: World, choices: list[tuple[str, float]]) -> None:
    for event, seconds in choices:
        world.happen(event, seconds)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.tuples(st.sampled_from(EVENTS), st.sampled_from((0.02, 1.0, 7.0, 15.0))), min_size=20, max_size=80
    )
)
def test_no_history_breaks_a_law(choices: list[tuple[str, float]]) -> None:
    drive(World(), choices)


def test_no_law_is_broken_in_two_hundred_thousand_random_looks() -> None:
    counts: dict[str, int] = {}
    for seed in range(500):
        chance = random.Random(seed)
        # Some histories know only ends, some no person: rounds and parking come only where nobody forgives them.
        calm = seed % 3 == 0
        events = [
            one for one in EVENTS if not (calm and (one in REQUESTS or one in ("steps", "exit", "foreign")))
        ]
        world = World()
        choices = [(chance.choice(events), chance.choice((0.02, 1.0, 7.0, 15.0))) for _ in range(420)]
        try:
            drive(world, choices)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, look {world.counts['steps']}: {error}") from error
        for name, count in world.counts.items():
            counts[name] = counts.get(name, 0) + count
    assert counts["steps"] >= 200_000
    # The world is worth nothing as a witness unless much happens in it.
    assert counts["releases"] > 5000
    assert counts["signals"] > 1000
    assert counts["parked"] > 500
    assert counts["over"] > 1000
