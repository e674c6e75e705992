"""How soon a killed daemon runs again, what it leaves behind, and what watching costs while nothing happens.

    make benchmarks        or: .venv/bin/python benchmarks/recovery.py [--rounds 15] [--idle 60]

Four supervisors watch the same argument vector at the same time: daemon_watchdog.py at its default poll of 30 s,
a bare shell loop, supervisord, and runit's runsv where they are installed. The daemon's first instruction reads
the monotonic clock. Only processes that were started here are ever signalled, each by its identity.
"""

import argparse
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from trainguard import processes  # noqa: E402
from trainguard.identity import Identity  # noqa: E402

SETTLE_SECONDS = 40.0
GAP_SECONDS = 1.2
T = TypeVar("T")

# Reads the clock, writes `daemon PID NANOSECONDS`, and waits. With "family" as its second word it also leaves
# a worker that begins a session of its own and ignores SIGTERM: `worker PID NANOSECONDS`.
C_DAEMON = r"""
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
static void record(const char *file, const char *who, struct timespec now) {
    char line[80];
    int length = snprintf(line, sizeof line, "%s %d %lld\n", who, (int)getpid(),
                          now.tv_sec * 1000000000LL + now.tv_nsec);
    int descriptor = open(file, O_WRONLY | O_APPEND | O_CREAT, 0644);
    if (descriptor < 0 || write(descriptor, line, length) != length) _exit(1);
    close(descriptor);
}
int main(int count, char **words) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (count < 3) return 1;
    if (strcmp(words[2], "family") == 0 && fork() == 0) {
        setsid();
        signal(SIGTERM, SIG_IGN);
        record(words[1], "worker", now);
        for (;;) pause();
    }
    record(words[1], "daemon", now);
    for (;;) pause();
}
"""

PYTHON_DAEMON = r"""
import time
now = time.monotonic_ns()
import os, signal, sys
def record(who):
    descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(descriptor, b"%s %d %d\n" % (who, os.getpid(), now))
if sys.argv[2] == "family" and os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    record(b"worker")
else:
    record(b"daemon")
while True:
    signal.pause()
"""


def wait_for(condition: Callable[[], T | None], limit: float, what: str) -> T:
    """What the condition gives once it is not None."""
    deadline = time.monotonic() + limit
    while (found := condition()) is None:
        if time.monotonic() > deadline:
            raise SystemExit(f"{what}: not within {limit:g} s")
        time.sleep(0.002)
    return found


def build_daemon(folder: Path) -> tuple[str, ...]:
    """The words that start the tiny daemon: compiled where there is a compiler, else the barest Python."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        (folder / "tiny_daemon.py").write_text(PYTHON_DAEMON)
        return (sys.executable, "-S", "-E", str(folder / "tiny_daemon.py"))
    (folder / "tiny_daemon.c").write_text(C_DAEMON)
    subprocess.run(
        [compiler, "-O2", "-o", str(folder / "tiny_daemon"), str(folder / "tiny_daemon.c")], check=True
    )
    return (str(folder / "tiny_daemon"),)


class Supervisor:
    """One supervisor over one tiny daemon in a folder of its own."""

    def __init__(self, name: str, folder: Path, daemon: tuple[str, ...], kind: str) -> None:
        folder.mkdir()
        self.name = name
        self.folder = folder
        self.records = folder / "records"
        self.command = (*daemon, str(self.records), kind)
        with (folder / "output").open("wb") as output:
            self.process = subprocess.Popen(
                MAKERS[name](self),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.wait_for_daemon(1)

    def lines(self, who: str) -> list[tuple[int, int]]:
        """Number and clock of each beginning so far."""
        try:
            text = self.records.read_text()
        except FileNotFoundError:
            return []
        words = [line.split() for line in text.split("\n")[:-1]]
        return [(int(pid), int(clock)) for name, pid, clock in words if name == who]

    def wait_for_daemon(self, count: int) -> int:
        """The clock of the first instruction of the beginning with this number."""
        wait_for(lambda: len(self.lines("daemon")) >= count or None, 60, f"{self.name}, start {count}")
        return self.lines("daemon")[count - 1][1]

    def identities(self, who: str) -> list[Identity]:
        """Those that recorded themselves and live, proven by their own argument vector."""
        found = []
        for pid, _ in self.lines(who):
            process = processes.read_process(pid)
            if process is None or processes.is_gone(process):
                continue
            if str(self.records) in processes.read_command_line(pid):
                found.append(process.identity)
        return found

    def identities_or_none(self, who: str) -> list[Identity] | None:
        """The same, None while there are none."""
        return self.identities(who) or None

    def kill_daemon(self) -> float:
        """Kill it; milliseconds from the signal to the first instruction of the next."""
        count = len(self.lines("daemon"))
        handle = processes.open_handle(self.identities("daemon")[-1])
        if handle is None:
            raise SystemExit(f"{self.name}: the daemon is gone before its time")
        before = time.monotonic_ns()
        handle.send(signal.SIGKILL)
        handle.close()
        return (self.wait_for_daemon(count + 1) - before) / 1e6

    def cpu_ms(self) -> float:
        """User and system time of the supervisor, by the kernel's CPU clock of that process."""
        return time.clock_gettime_ns((~self.process.pid << 3) | 2) / 1e6

    def rss_mb(self) -> float:
        """VmRSS in units of 10^6 bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024 / 1e6

    def end(self) -> None:
        """End the supervisor, then what it had started."""
        self.process.kill()
        self.process.wait()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            living = [*self.identities("daemon"), *self.identities("worker")]
            for identity in living:
                processes.send_signal(identity, signal.SIGKILL)
            if not living:
                return
            time.sleep(0.02)


def our_watchdog(one: Supervisor) -> list[str]:
    config = one.folder / "config.yaml"
    words = ", ".join(f"'{word}'" for word in one.command)
    config.write_text(f"daemon:\n  command: [{words}]\nrestart:\n  max_restarts: 1000\n")
    return [sys.executable, str(ROOT / "daemon_watchdog.py"), "--config", str(config)]


def shell_loop(one: Supervisor) -> list[str]:
    return ["/bin/sh", "-c", 'while true; do "$@"; done', "shell-loop", *one.command]


def supervisord(one: Supervisor) -> list[str]:
    config = one.folder / "supervisord.conf"
    config.write_text(
        f"[supervisord]\nnodaemon=true\nlogfile={one.folder}/supervisord.log\npidfile={one.folder}/pid\n"
        f"childlogdir={one.folder}\n\n"
        f"[program:tiny]\ncommand={' '.join(one.command)}\nautorestart=true\nstartsecs=0\nstartretries=1000000\n"
    )
    return [find_supervisord() or "supervisord", "--configuration", str(config)]


def runsv(one: Supervisor) -> list[str]:
    script = one.folder / "run"
    script.write_text(f"#!/bin/sh\nexec {' '.join(one.command)}\n")
    script.chmod(0o755)
    return ["runsv", str(one.folder)]


def find_supervisord() -> str | None:
    beside = Path(sys.executable).parent / "supervisord"
    return str(beside) if beside.exists() else shutil.which("supervisord")


OURS, LOOP = "daemon_watchdog.py", "shell loop"
MAKERS = {OURS: our_watchdog, LOOP: shell_loop, "supervisord": supervisord, "runsv": runsv}


def names_here() -> list[str]:
    """The supervisors that are installed."""
    missing = set() if find_supervisord() else {"supervisord"}
    missing |= set() if shutil.which("runsv") else {"runsv"}
    for name in sorted(missing):
        print(f"{name} is not installed here and is left out")
    return [name for name in MAKERS if name not in missing]


def measure_recovery(folder: Path, daemon: tuple[str, ...], rounds: int) -> dict[str, list[float]]:
    """Milliseconds from the kill to the new process, all supervisors taking turns in a new order each round.

    Between two kills lie moments of random length, so that no supervisor's own beat favours it; every daemon
    has then lived more than the second within which runsv would hold its restart back.
    """
    supervisors: list[Supervisor] = []
    times: dict[str, list[float]] = {}
    try:
        for name in names_here():
            supervisors.append(Supervisor(name, folder / name.replace(" ", "_"), daemon, "quiet"))
        time.sleep(3)
        for _ in range(rounds):
            for one in random.sample(supervisors, len(supervisors)):
                time.sleep(GAP_SECONDS + random.random())
                times.setdefault(one.name, []).append(one.kill_daemon())
    finally:
        for one in supervisors:
            one.end()
    return {one.name: times[one.name] for one in supervisors}


def measure_orphans(folder: Path, daemon: tuple[str, ...]) -> dict[str, tuple[int, float]]:
    """Workers of the killed daemon that live beside the new one, and how long the restart took (seconds)."""
    found = {}
    for name in names_here():
        one = Supervisor(name, folder / f"{name.replace(' ', '_')}-family", daemon, "family")
        try:
            wait_for(partial(one.identities_or_none, "worker"), 10, f"{name}, worker")
            time.sleep(2)
            old = one.identities("worker")
            seconds = one.kill_daemon() / 1e3
            found[name] = (len(set(old).intersection(one.identities("worker"))), seconds)
        finally:
            one.end()
    return found


def measure_idle(folder: Path, daemon: tuple[str, ...], seconds: float) -> dict[str, tuple[float, float]]:
    """CPU milliseconds within the time, and resident megabytes at its end, while the daemons only wait."""
    supervisors: list[Supervisor] = []
    try:
        for name in names_here():
            supervisors.append(Supervisor(name, folder / f"{name.replace(' ', '_')}-idle", daemon, "quiet"))
        time.sleep(SETTLE_SECONDS)
        before = [one.cpu_ms() for one in supervisors]
        time.sleep(seconds)
        return {
            one.name: (one.cpu_ms() - start, one.rss_mb())
            for one, start in zip(supervisors, before, strict=True)
        }
    finally:
        for one in supervisors:
            one.end()


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15, help="kills per supervisor (default: 15)")
    parser.add_argument(
        "--idle", type=float, default=60.0, help="seconds of the idle measurement (default: 60)"
    )
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="recovery-", dir=arguments.folder))
    try:
        daemon = build_daemon(folder)
        load = os.getloadavg()[0]
        print(
            f"{os.cpu_count()} CPUs, load {load:.1f} before the start; the daemon: {Path(daemon[0]).name}\n"
        )
        if arguments.rounds > 0:
            times = measure_recovery(folder, daemon, arguments.rounds)
            base = statistics.median(times[LOOP])
            print(f"kill -9 to the first instruction of the new process, ms, {arguments.rounds} rounds")
            print(f"{'':<20}{'minimum':>9}{'median':>9}{'maximum':>9}{'median - shell loop':>21}")
            for name, values in times.items():
                middle = statistics.median(values)
                print(
                    f"{name:<20}{min(values):>9.2f}{middle:>9.2f}{max(values):>9.2f}{middle - base:>+21.2f}",
                    flush=True,
                )
            print("\nworkers of the dead daemon that live beside the new one; s to the new one")
            for name, (count, seconds) in measure_orphans(folder, daemon).items():
                print(f"{name:<20}{count:>9}{seconds:>9.2f}", flush=True)
        if arguments.idle > 0:
            print(f"\nidle, {arguments.idle:g} s")
            print(f"{'':<20}{'CPU ms':>9}{'RSS MB':>9}")
            for name, (cpu, rss) in measure_idle(folder, daemon, arguments.idle).items():
                print(f"{name:<20}{cpu:>9.2f}{rss:>9.2f}", flush=True)
        print(f"\nload {os.getloadavg()[0]:.1f} at the end")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
