#!/usr/bin/env python3
"""Thirty days of one training daemon, again and again, under four supervisors. No process is started.

    .venv/bin/python benchmarks/simulation.py [--seeds 40] [--days 30]

Each seed draws one history of faults for each mix (see MIXES). The same history then happens to a simulated machine
under each supervisor, in turns, in a new order each time:

- ours: the real policy (trainguard.policy.decide, default settings), with simulated looks and answers;
- the ancestor's rules: `kill -0` every 30 s, restart at once, 3 restarts ever; a log that is 10 minutes old is
  a hang: one SIGTERM, and 5 s later a new daemon;
- always restart: a shell loop;
- systemd defaults: Restart=on-failure, RestartSec=100ms, 5 starts within 10 s and then never again;
- all known at once: a bound, which no supervisor can pass, with the same person.

Told are the effective training time ratio (ETTR: the share of the time in which steps were made that no earlier run
had made; saving counts as training), the GPU hours that a daemon held its GPUs without making such steps, on a
machine with 8 GPUs, and how often a person had to help. Means over the seeds with the 95 % interval of the mean. A
person looks every 8 hours; with `alerted` also 15 minutes after a supervisor has given up or parked, whichever
supervisor that is.
"""

import argparse
import math
import random
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# ruff: noqa: E402  (it is started by itself, so it finds the project by its own path)
from trainguard import policy
from trainguard.config import DaemonSettings, Settings
from trainguard.crash_types import TYPES
from trainguard.identity import Identity
from trainguard.policy import (
    Alive,
    AtGate,
    Cause,
    Doing,
    Ending,
    Gone,
    How,
    Past,
    Phase,
    Prepared,
    Request,
    Seen,
    Spoilt,
    Standing,
    State,
)
from trainguard.preparations.finding import verdicts_of

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
GPUS = 8

# The daemon: seconds. A fine-tuning run on one machine; the numbers are ours.
START_UP = 120.0  # imports, weights, data, first step
STEP = 2.0
SAVE_INTERVAL = 900.0
SAVE = 10.0
# When a start that cannot succeed dies.
DIES_AT_EXEC = 0.3  # nothing there to execute
DIES_AT_CUDA = 12.0  # imports, then no GPU
DIES_AT_MEMORY = 40.0  # another process holds the GPU's memory
DIES_AT_RESUME = 60.0  # the checkpoint cannot be read
# How well the quick diagnosis names a cause: benchmarks/RESULTS.md.
NAMED = 0.965
# Ours; a hung process that waits in a collective has no Python code that could act on SIGTERM.
IGNORES_SIGTERM = 0.5

# A person: seconds.
LOOK = 8 * HOUR
ALERT = 15 * MINUTE
QUIET = 30 * MINUTE  # a run that has made no new step for so long looks wrong to who looks
MENDING = {
    "bug": 2 * HOUR,
    "oom": 30 * MINUTE,
    "hardware": 2 * HOUR,
    "disk": 20 * MINUTE,
    "checkpoint": 10 * MINUTE,
}
GLANCE = 5 * MINUTE


# --- what happens ----------------------------------------------------------------------------------------------

# Kinds of faults:
# crash     the daemon dies; a restart cures it (collectives, CUDA, the network, a signal)
# save      it dies in the middle of its next save: the newest checkpoint is half-written
# hang      no step any more, no exit
# stall     no step for some minutes, then it goes on by itself: a slow file server, a node that throttles
# unmounted it dies, and for some minutes nothing is there to execute: a node that hiccups
# bug       from here on it dies at the same step, until a person has changed the code or the data
# oom       it dies of CUDA memory at one step; the next pass gets by, or the one after, or only a person's change
# disk      for some hours no save fits: each dies, half-written
# hardware  it dies, and so does each start until a person has had the machine repaired


class Mix(msgspec.Struct, frozen=True):
    """Faults per 30 days by kind, and where they come from."""

    name: str
    rates: dict[str, float]
    source: str


def scaled(total: float, shares: dict[str, float]) -> dict[str, float]:
    """Rates of these shares that come to `total`."""
    whole = sum(shares.values())
    return {kind: total * share / whole for kind, share in shares.items()}


# Meta, "The Llama 3 Herd of Models" (arXiv:2407.21783), table 5: 419 unexpected interruptions of a run on 16,384 GPUs
# within 54 days. Faulty GPU 148, HBM3 72, SRAM 19, system processor 17, thermal interface 6, CPU 2, system memory 2,
# SSD 3, power supply 3, chassis 2, I/O board 2 and host maintenance 32 are hardware here, network 35, NIC 7 and
# silent data corruption 6 crashes, NCCL watchdog timeouts 7 hangs. Software bug 54 and dependency 2: half and half.
LLAMA = {"hardware": 308.0, "bug": 28.0, "crash": 28.0 + 48.0, "hang": 7.0}
# Kokolis et al., "Revisiting Reliability in Large-Scale Machine Learning Research Clusters" (HPCA 2025,
# arXiv:2410.21680): 6.50 failures per 1,000 node-days on RSC-1.
RSC_PER_NODE = 6.50 / 1000 * 30
# Shares that we take for a large cluster's incidents, in percent: mostly software, and what stands around the GPUs.
LARGE_CLUSTER = {
    "crash": 32.0 + 11.0 + 10.0 + 5.0, "bug": 17.0, "hang": 10.0, "disk": 7.0, "unmounted": 2.0, "hardware": 6.0,
}  # fmt: skip

MIXES = (
    Mix(
        "one node of RSC-1",
        {"hardware": RSC_PER_NODE / 2, "crash": RSC_PER_NODE / 2 + 4, "save": 0.5, "hang": 1, "bug": 0.5},
        "node failures at RSC-1's rate, half of them cured by a restart; what the software adds is ours",
    ),
    Mix(
        "Llama 3's causes",
        scaled(8, LLAMA),
        "shares of Llama 3's table 5; 8 in 30 days are ours",
    ),
    Mix(
        "a large cluster's causes",
        scaled(12, LARGE_CLUSTER),
        "ours, shares and number",
    ),
    Mix(
        "crashes only", {"crash": 30}, "ours: one transient crash a day, the mix that suits a shell loop best"
    ),
    Mix("killed in saves", {"crash": 8, "save": 8}, "ours: half of the deaths fall into a save"),
    Mix("hangs", {"crash": 5, "hang": 10, "stall": 10}, "ours: hangs, and stalls that end by themselves"),
    Mix(
        "a user's code",
        {"bug": 2, "oom": 6, "crash": 5, "hang": 1, "save": 1},
        "ours: memory, errors in code and data",
    ),
    Mix(
        "a poor machine",
        {"disk": 2, "unmounted": 4, "stall": 6, "crash": 10, "save": 2, "hang": 2},
        "ours: full disks and a node that hiccups",
    ),
)


class Fault(msgspec.Struct, frozen=True):
    """One fault: when (seconds), how long it lasts without a person, and a draw for what else it decides."""

    at: float
    kind: str
    lasts: float
    draw: float


def draw_history(mix: Mix, days: float, chance: random.Random) -> list[Fault]:
    """A Poisson process for each kind."""
    faults = []
    for kind, rate in mix.rates.items():
        at = chance.expovariate(rate / (30 * DAY))
        while at < days * DAY:
            lasts = {
                "stall": chance.lognormvariate(math.log(4 * MINUTE), 0.8),
                "unmounted": chance.lognormvariate(math.log(5 * MINUTE), 0.8),
                "disk": chance.uniform(0.5 * HOUR, 6 * HOUR),
            }.get(kind, math.inf)
            faults.append(Fault(at, kind, lasts, chance.random()))
            at += chance.expovariate(rate / (30 * DAY))
    return sorted(faults, key=lambda fault: fault.at)


# --- the machine -----------------------------------------------------------------------------------------------


class Life(msgspec.Struct):
    """One life of the daemon. `work`: seconds of training that its state holds, saves included."""

    began: float
    work: float
    dies_at: float
    why: str
    ready_at: float
    advanced: float = 0.0
    stalled_until: float = 0.0
    stubborn: bool = False


class Machine:
    """One machine, its checkpoints, its faults, and at most one daemon that trains."""

    def __init__(self, history: Sequence[Fault], seed: int) -> None:
        self.history = history
        self.chance = random.Random(seed)
        self.next_fault = 0
        self.now = 0.0
        self.life: Life | None = None
        # The work that each holds, and whether it is whole.
        self.checkpoints: list[tuple[float, bool]] = []
        self.best = 0.0
        self.best_at = 0.0
        self.held = 0.0
        self.starts = 0
        self.deaths = 0
        self.why = ""
        self.seen_at = {"bug": -math.inf, "oom": -math.inf}
        self.mended_at = 0.0
        self.dies_in_save = False
        self.bug: float | None = None
        self.memory: tuple[float, int] | None = None
        self.hardware = False
        self.disk_until = 0.0
        self.unmounted_until = 0.0
        self.holder = False  # a hung process that nobody has ended holds the GPU

    @property
    def trains(self) -> bool:
        """Whether steps are made now."""
        life = self.life
        return life is not None and self.now >= life.ready_at and self.now >= life.stalled_until

    @property
    def is_hung(self) -> bool:
        """Whether the daemon will never make a step."""
        return self.life is not None and math.isinf(self.life.stalled_until)

    def start(self) -> None:
        """Start a daemon; from which checkpoint, and whether it can live, is decided now."""
        assert self.life is None, "two daemons"
        self.starts += 1
        work, whole = self.checkpoints[-1] if self.checkpoints else (0.0, True)
        dies, why = math.inf, ""
        for broken, after, name in (
            (self.now < self.unmounted_until, DIES_AT_EXEC, "unmounted"),
            (self.hardware, DIES_AT_CUDA, "hardware"),
            (self.holder, DIES_AT_MEMORY, "held"),
            (not whole, DIES_AT_RESUME, "checkpoint"),
        ):
            if broken and math.isinf(dies):
                dies, why = self.now + after, name
        resumed = work + SAVE if self.checkpoints else 0.0
        self.life = Life(self.now, resumed, dies, why, self.now + START_UP)

    def die(self, why: str) -> None:
        """The daemon is gone."""
        if self.life is not None:
            self.life, self.why = None, why
            self.deaths += 1
            self.seen_at[why] = self.now

    def quiet_until(self) -> float:
        """Until when nothing but training happens, as long as nobody starts or stops anything."""
        fault = self.history[self.next_fault].at if self.next_fault < len(self.history) else math.inf
        life = self.life
        if life is None:
            return self.now
        if not self.trains or self.dies_in_save or self.now < self.disk_until:
            return self.now
        deadly = [mark - life.work for mark in (self.bug, self.memory and self.memory[0]) if mark is not None]
        return min([fault, *(self.now + left for left in deadly if left >= 0)])

    def run(self, until: float, to_death: bool) -> None:
        """Let time pass, with `to_death` only until the daemon dies."""
        while self.now < until:
            deaths = self.deaths
            fault = self.history[self.next_fault].at if self.next_fault < len(self.history) else math.inf
            self._pass(min(until, fault, self._next_mark()))
            if self.now >= fault:
                self.strike(self.history[self.next_fault])
                self.next_fault += 1
            if to_death and self.deaths > deaths:
                return

    def _next_mark(self) -> float:
        """When something happens in the daemon by itself."""
        life = self.life
        if life is None:
            return math.inf
        if self.now < life.ready_at:
            return min(life.ready_at, life.dies_at)
        if self.now < life.stalled_until:
            return life.stalled_until
        return self.now + max(0.0, self._mark() - life.work)

    def _mark(self) -> float:
        """The next work at which something happens: a save's beginning, middle or end, a deadly step."""
        life = self.life
        assert life is not None
        number = math.floor(life.work / SAVE_INTERVAL)
        marks = [(number + more) * SAVE_INTERVAL + part for more in (0, 1) for part in (0.0, SAVE / 2, SAVE)]
        marks += [mark for mark in (self.bug, self.memory and self.memory[0]) if mark is not None]
        return min(mark for mark in marks if mark > life.work + 1e-6)

    def _pass(self, until: float) -> None:
        life, seconds = self.life, until - self.now
        if self.life is not None or self.holder:
            self.held += seconds
        if life is None:
            self.now = until
            return
        if not self.trains:
            self.now = until
            if until >= life.dies_at:
                self.die(life.why)
            return
        mark = self._mark()
        life.work += seconds
        life.advanced += seconds
        self.now = until
        if life.work > self.best:
            self.best, self.best_at = life.work, until
        if life.work >= mark - 1e-6:
            life.work = mark
            self._reach(mark)

    def _reach(self, mark: float) -> None:
        saved = math.floor(mark / SAVE_INTERVAL + 1e-9) * SAVE_INTERVAL
        if self.bug is not None and mark == self.bug:
            self.die("bug")
        elif self.memory is not None and mark == self.memory[0]:
            left = self.memory[1] - 1
            self.memory = (mark, left) if left else None
            self.die("oom")
        elif mark == saved and saved > 0:
            self.checkpoints = [one for one in self.checkpoints if one[0] != saved][-2:]
            self.checkpoints.append((saved, False))
        elif mark == saved + SAVE / 2 and saved > 0:
            if self.dies_in_save or self.now < self.disk_until:
                self.die("disk" if self.now < self.disk_until else "crash")
                self.dies_in_save = False
        elif mark == saved + SAVE and saved > 0:
            self.checkpoints[-1] = (saved, True)

    def strike(self, fault: Fault) -> None:
        """A fault happens; one that needs a living daemon passes by where there is none."""
        life = self.life
        if fault.kind == "disk":
            self.disk_until = max(self.disk_until, self.now + fault.lasts)
        elif fault.kind == "hardware":
            self.hardware, self.holder = True, False
            self.die("hardware")
        elif fault.kind == "unmounted":
            self.unmounted_until = max(self.unmounted_until, self.now + fault.lasts)
            self.die("crash")
        elif life is None:
            return
        elif fault.kind == "crash":
            self.die("crash")
        elif fault.kind == "save":
            self.dies_in_save = True
        elif fault.kind == "hang":
            life.stalled_until, life.stubborn = math.inf, fault.draw < IGNORES_SIGTERM
        elif fault.kind == "stall" and life.stalled_until <= self.now:
            life.stalled_until = self.now + fault.lasts
        elif fault.kind == "bug" and self.bug is None and self.trains:
            self.bug = self._next_step(life)
        elif fault.kind == "oom" and self.memory is None and self.trains:
            # Two of three never come again, one of five comes twice, the rest until a person changes something.
            self.memory = (
                self._next_step(life),
                1 if fault.draw < 0.65 else 2 if fault.draw < 0.85 else 1_000_000,
            )

    def _next_step(self, life: Life) -> float:
        """The work at which the next step is made that is no save."""
        return max(life.work, math.floor(life.work / SAVE_INTERVAL) * SAVE_INTERVAL + SAVE) + 1.0

    def faults_to_mend(self) -> list[str]:
        """What a person finds who looks."""
        is_broken = {
            "hardware": self.hardware,
            "bug": self.bug is not None and self.seen_at["bug"] >= self.mended_at,
            "oom": self.memory is not None and self.seen_at["oom"] >= self.mended_at,
            "disk": self.now < self.disk_until,
            "checkpoint": bool(self.checkpoints) and not self.checkpoints[-1][1] and not self.trains,
        }
        return [name for name, broken in is_broken.items() if broken]

    def mend(self, faults: Sequence[str]) -> None:
        """A person is done with these."""
        self.holder, self.mended_at = False, self.now
        if "hardware" in faults:
            self.hardware = False
        if "bug" in faults:
            self.bug = None
        if "oom" in faults:
            self.memory = None
        if "disk" in faults:
            self.disk_until = self.now
        if not self.trains:
            self.drop_spoilt()

    def drop_spoilt(self) -> None:
        """Nobody resumes from a half-written checkpoint any more."""
        while self.checkpoints and not self.checkpoints[-1][1]:
            self.checkpoints.pop()


# --- the supervisors -------------------------------------------------------------------------------------------


class Supervisor:
    """What the simulation asks of each: when it looks next, and what it does then."""

    name = ""
    wakes = True  # a death ends its wait

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.due = 0.0
        self.gave_up_at: float | None = None

    def look(self) -> None:
        """It looks now, or was woken."""
        raise NotImplementedError

    def help(self) -> None:
        """A person starts it again."""
        self.gave_up_at, self.due = None, self.machine.now

    def poll(self, seconds: float) -> None:
        """Look again in so many seconds, or as many times later as it only trains until then."""
        calm = min(DAY, self.machine.quiet_until() - self.machine.now)
        self.due = self.machine.now + seconds * max(1, math.floor(calm / seconds))

    def give_up(self) -> None:
        self.due = math.inf
        if self.gave_up_at is None:
            self.gave_up_at = self.machine.now


class Always(Supervisor):
    """A shell loop."""

    name = "always restart"

    def look(self) -> None:
        if self.machine.life is None:
            self.machine.start()
        self.due = math.inf


class Systemd(Supervisor):
    """Restart=on-failure with the defaults of systemd.service(5) and systemd.unit(5)."""

    name = "systemd defaults"

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self.starts: list[float] = []
        self.died = False

    def look(self) -> None:
        now = self.machine.now
        if self.machine.life is not None:
            self.due = math.inf
        elif self.starts and not self.died:
            self.died, self.due = True, now + 0.1
        else:
            self.starts = [at for at in self.starts if now - at < 10.0]
            if len(self.starts) >= 5:
                self.give_up()
                return
            self.starts.append(now)
            self.died, self.due = False, math.inf
            self.machine.start()

    def help(self) -> None:
        self.starts, self.died = [], False
        super().help()


class Ancestor(Supervisor):
    """kill -0 every 30 s, a stale log after 10 minutes, one SIGTERM, 3 restarts ever."""

    name = "the ancestor's rules"
    wakes = False

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self.restarts = -1  # the first start is none
        self.written_at = 0.0

    def look(self) -> None:
        machine = self.machine
        self.poll(30.0)
        life = machine.life
        if life is not None:
            # Loading writes lines too.
            self.written_at = (
                machine.now if machine.now < life.ready_at or machine.trains else self.written_at
            )
            if machine.now - self.written_at < 600.0:
                return
            if life.stubborn:
                # The second daemon finds no memory while the first one holds it.
                machine.holder, machine.life = True, None
            else:
                machine.die("killed")
            self.due = machine.now + 5.0
            return
        if self.restarts >= 3:
            self.give_up()
            return
        self.restarts += 1
        self.written_at = machine.now
        machine.start()

    def help(self) -> None:
        self.restarts = -1
        super().help()


class Bound(Supervisor):
    """Nobody can do better: all is known within half a minute on average, and nothing is tried in vain."""

    name = "(all known at once)"

    def look(self) -> None:
        machine = self.machine
        self.poll(MINUTE)
        if machine.is_hung:
            machine.die("killed")
        if machine.life is not None:
            if self.gave_up_at is not None and machine.best_at > self.gave_up_at:
                self.gave_up_at = None
            return
        machine.drop_spoilt()
        known = {name for name, at in machine.seen_at.items() if at >= machine.mended_at}
        memory = machine.memory is not None and machine.memory[1] > 2 and "oom" in known
        hopeless = machine.hardware or memory or (machine.bug is not None and "bug" in known)
        full = machine.now < machine.disk_until
        if (hopeless or full) and self.gave_up_at is None:
            self.gave_up_at = machine.now
        if not (hopeless or full or machine.now < machine.unmounted_until):
            machine.start()


CAUSES = {
    # What a death is called where the diagnosis is right: type and cause; of crashes one of several.
    "crash": (
        ("collective_timeout", "nccl_timeout"), ("process_killed", "killed_by_signal"), ("unknown", "unknown"),
        ("cuda_error", "cuda_illegal_access"), ("connection_error", "hub_network"), ("host_oom", "host_oom_kernel"),
    ),
    "bug": (("key_error", "key_error"),),
    "oom": (("cuda_oom", "cuda_oom"),),
    "disk": (("disk_full", "disk_full"),),
    "hardware": (("gpu_hardware", "gpu_lost"),),
    "checkpoint": (("checkpoint_corrupt", "ckpt_corrupt_zip"),),
    "unmounted": (("file_not_found", "file_missing"),),
    "killed": (("hang", "hang_all_idle"),),
    "held": (("cuda_oom", "cuda_oom_foreign"),),
}  # fmt: skip
ROOM, CHECKPOINT = 1 << 40, 4 << 30
# What the watchdog's child takes to verify, read the end of the log, and ask the disk.
PREPARING = 2.0
# So many looks before and after anything happens are all made; between them it only trains.
AROUND = 40


class Ours(Supervisor):
    """The real policy; its looks and answers are made of what the machine is."""

    name = "daemon_watchdog.py"

    def __init__(self, machine: Machine, skips: bool = True) -> None:
        super().__init__(machine)
        self.settings = Settings(path=Path("config.yaml"), daemon=DaemonSettings(command=("train",)))
        self.skips = skips
        self.state = State()
        self.gate: Identity | None = None
        self.daemon: Identity | None = None
        self.run_id: str | None = None
        self.pids = 0
        self.first = True
        self.request: Request | None = None
        self.asked: tuple[str, float] | None = None
        self.examined: str | None = None
        self.ends: list[tuple[float, float, Cause | None]] = []  # when, how far, why
        self.deaths = 0
        self.released: list[float] = []
        self.looked = 0.0
        self.looks = 0

    def look(self) -> None:
        machine = self.machine
        seen = self.see()
        self.looks += 1
        self.first, self.request = False, None
        self.state, actions = policy.decide(self.state, seen, self.settings)
        self.looked = machine.now
        for action in actions:
            self.act(action)
        self.due = machine.now + policy.pause(self.state, seen, self.settings)
        if self.state.phase is not Phase.PREPARING:
            self.asked = None
        if self.asked is not None:
            self.due = min(self.due, max(machine.now, self.asked[1]))
        if any(isinstance(action, policy.Examine | policy.Signal | policy.Fork) for action in actions):
            self.due = machine.now + 0.01
        poll = self.settings.watchdog.poll_interval
        quiet = machine.quiet_until() - AROUND * poll
        run = self.state.run
        calm = run is not None and machine.now - run.began > START_UP + AROUND * poll
        if self.skips and self.state.phase is Phase.RUNNING and calm and quiet > self.due:
            self.due = quiet
        if self.gave_up_at is None and self.state.phase in (Phase.PARKED, Phase.COOLING):
            self.gave_up_at = machine.now
        elif self.gave_up_at is not None and machine.best_at > self.gave_up_at:
            self.gave_up_at = None

    def see(self) -> Seen:
        machine, life = self.machine, self.machine.life
        daemon: Alive | AtGate | Gone | None = None
        if life is None and self.daemon is not None:
            self.daemon = None
        if self.daemon is not None:
            daemon = Alive(self.daemon, self.run_id, adopted=False)
        elif self.gate is not None:
            daemon = AtGate(self.gate)
        elif self.state.run is not None and self.state.run.identity is not None:
            daemon = Gone(self.state.run.ending or Ending(How.EXIT, 1))
        standing = Standing()
        if life is not None and machine.now >= life.ready_at:
            standing = Standing(int(life.work / STEP), source="log", advances=int(life.advanced / STEP))
        saved = [int(work / STEP) for work, _ in machine.checkpoints]
        return Seen(
            now=1000.0 + machine.now,
            wall=1.7e9 + machine.now,
            boot="boot",
            token=f"{self.pids:x}",
            first=self.first,
            daemon=daemon,
            standing=standing,
            saving=machine.trains and life is not None and life.work % SAVE_INTERVAL < SAVE,
            doing=None if self.daemon is None else Doing(max(0.01, machine.now - self.looked), 0.0),
            checkpoint_step=max(saved, default=0),
            prepared=self.prepare(),
            examined=self.examined,
            request=self.request,
        )

    def prepare(self) -> Prepared | None:
        if self.asked is None or self.machine.now < self.asked[1]:
            return None
        machine = self.machine
        cause, past = None, list(self.ends)
        if machine.deaths > self.deaths:
            self.deaths = machine.deaths
            cause = self.diagnose(machine.why)
            self.ends.append((1.7e9 + machine.now, machine.best, cause))
        elif self.ends:
            cause, past = self.ends[-1][2], self.ends[:-1]
        farther = [far for _, far, _ in self.ends[1:]] + [machine.best]
        lived = [Past(at, why, after > far) for (at, far, why), after in zip(past, farther, strict=False)]
        newest = machine.checkpoints[-1:]
        whole = [work for work, good in machine.checkpoints if good]
        spoilt = [
            Spoilt(f"checkpoint-{int(work / STEP)}", int(work / STEP), "incomplete", "it ends too early")
            for work, good in newest
            if not good
        ]
        return Prepared(
            self.asked[0],
            cause,
            tuple(reversed(lived))[:64],
            spoilt=tuple(spoilt),
            resume=f"checkpoint-{int(whole[-1] / STEP)}" if whole else None,
            resume_step=int((whole[-1] + SAVE) / STEP) if whole else 0,
            verified=True,
            free=0 if machine.now < machine.disk_until else ROOM,
            needed=CHECKPOINT if whole else None,
        )

    def diagnose(self, why: str) -> Cause:
        chance = self.machine.chance
        kind, cause = chance.choice(CAUSES[why])
        if chance.random() > NAMED:
            kind = cause = "unknown"
        # The same fault has the same fingerprint; chance crashes differ in where they hit.
        mark = (
            cause
            if why in ("bug", "oom", "hardware", "checkpoint", "unmounted")
            else f"{cause} {chance.random()}"
        )
        return Cause(
            kind, cause, TYPES[kind].retry.value, mark, "", verdicts_of(cause, kind), provisional=True
        )

    def act(self, action: policy.Action) -> None:
        machine = self.machine
        if isinstance(action, policy.Prepare):
            self.asked = (action.subject, machine.now + PREPARING)
        elif isinstance(action, policy.Examine):
            self.examined = action.incident_id
        elif isinstance(action, policy.SetAside):
            machine.drop_spoilt()
        elif isinstance(action, policy.Fork):
            self.pids += 1
            self.gate, self.asked = Identity(self.pids, self.pids, "boot", 1000), None
        elif isinstance(action, policy.Dismiss):
            self.gate = None
        elif isinstance(action, policy.Release):
            self.daemon, self.gate, self.run_id = self.gate, None, action.run.id
            self.released.append(machine.now)
            machine.start()
        elif isinstance(action, policy.Signal) and machine.life is not None:
            ends = action.signal == "SIGKILL" or (action.signal == "SIGTERM" and not machine.life.stubborn)
            if ends:
                machine.die("killed")

    def help(self) -> None:
        self.request = Request.RESUME
        super().help()


SUPERVISORS: tuple[type[Supervisor], ...] = (Ours, Ancestor, Always, Systemd, Bound)


# --- the person, and the days ----------------------------------------------------------------------------------


class Outcome(msgspec.Struct, frozen=True):
    """One history under one supervisor: the ETTR, GPU hours held without a new step, starts, a person's helps."""

    ettr: float
    wasted: float
    starts: int
    helps: int


def live(machine: Machine, supervisor: Supervisor, days: float, alerted: bool, first_look: float) -> Outcome:
    """Let the days pass; the person first looks after `first_look` seconds."""
    end, look = days * DAY, first_look
    helps = 0
    mended: tuple[float, list[str]] | None = None
    while machine.now < end:
        called = math.inf
        if alerted and mended is None and supervisor.gave_up_at is not None:
            called = max(machine.now, supervisor.gave_up_at + ALERT)
        done = math.inf if mended is None else mended[0]
        deaths = machine.deaths
        machine.run(min(end, supervisor.due, look, called, done), supervisor.wakes)
        now = machine.now
        if supervisor.wakes and machine.deaths > deaths:
            supervisor.due = now
        if now >= done and mended is not None:
            machine.mend(mended[1])
            mended = None
            if not machine.trains:
                if machine.is_hung:
                    machine.die("killed")
                if machine.life is None or supervisor.gave_up_at is not None:
                    supervisor.help()
            supervisor.gave_up_at = None
        if now >= look or now >= called:
            look = look + LOOK if now >= look else look
            is_wrong = supervisor.gave_up_at is not None or now - machine.best_at > QUIET
            faults = machine.faults_to_mend()
            if is_wrong and mended is None and (faults or not machine.trains):
                helps += 1
                mended = (now + GLANCE + sum(MENDING[name] for name in faults), faults)
            elif machine.trains:
                supervisor.gave_up_at = None  # it has recovered by itself
        if now >= supervisor.due:
            supervisor.look()
    wasted = (machine.held - machine.best) * GPUS / HOUR
    return Outcome(machine.best / end, wasted, machine.starts, helps)


def simulate(mix: Mix, make: type[Supervisor], seed: int, days: float, alerted: bool) -> Outcome:
    """One seed's history of a mix under one supervisor."""
    chance = random.Random(f"{mix.name} {seed}")
    history, first_look = draw_history(mix, days, chance), chance.uniform(0, LOOK)
    machine = Machine(history, seed)
    return live(machine, make(machine), days, alerted, first_look)


def mean_of(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and half of its 95 % interval (normal approximation)."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return statistics.fmean(values), 1.96 * spread / math.sqrt(len(values))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one table for each mix, as Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--days", type=float, default=30.0)
    parser.add_argument("--mix", help="only mixes whose name holds this")
    options = parser.parse_args(arguments)
    began, order = time.monotonic(), random.Random(1)
    twice = ("ETTR %", "ours ahead by", "GPU h in vain", "helps")
    names = ["mix", "supervisor", *(name for one in twice for name in (one, "alerted")), "starts"]
    print(f"| {' | '.join(names)} |\n|---|---|{'---:|' * (len(names) - 2)}")
    for mix in MIXES:
        if options.mix and options.mix not in mix.name:
            continue
        found: dict[tuple[str, bool], list[Outcome]] = {}
        for seed in range(options.seeds):
            turns = [(make, alerted) for make in SUPERVISORS for alerted in (False, True)]
            order.shuffle(turns)
            for make, alerted in turns:
                outcome = simulate(mix, make, seed, options.days, alerted)
                found.setdefault((make.name, alerted), []).append(outcome)
        for make in SUPERVISORS:
            print(row_of(mix, make.name, found), flush=True)
    print(
        f"\n{options.seeds} seeds, {options.days:g} days, {time.monotonic() - began:.0f} s", file=sys.stderr
    )
    return 0


def row_of(mix: Mix, name: str, found: dict[tuple[str, bool], list[Outcome]]) -> str:
    """One supervisor's row; how far ours is ahead is the mean of the differences, seed by seed."""
    cells = []
    for alerted in (False, True):
        cells.append("{:.2f} ± {:.2f}".format(*mean_of([100 * one.ettr for one in found[name, alerted]])))
    for alerted in (False, True):
        pairs = zip(found[Ours.name, alerted], found[name, alerted], strict=True)
        ahead = mean_of([100 * (ours.ettr - other.ettr) for ours, other in pairs])
        cells.append("" if name == Ours.name else "{:+.2f} ± {:.2f}".format(*ahead))
    for alerted in (False, True):
        cells.append(f"{mean_of([one.wasted for one in found[name, alerted]])[0]:.0f}")
    for alerted in (False, True):
        cells.append(f"{mean_of([float(one.helps) for one in found[name, alerted]])[0]:.1f}")
    cells.append(f"{mean_of([float(one.starts) for one in found[name, False]])[0]:.0f}")
    return f"| {mix.name} | {name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
