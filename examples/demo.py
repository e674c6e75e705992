#!/usr/bin/env python3
"""A minute's story: a training run is killed twice, brought back twice, and reaches its last step.

    make demo

A launcher starts the bundled trainer, and the trainer a stubborn worker that leaves its session and ignores
SIGTERM. The watchdog keeps the launcher alive, with settings of its own in demo-run/. This script kills first
the trainer, then the launcher, and prints what the watchdog writes into events.jsonl meanwhile. At the end it
checks what it told: exit code 0 if all of it happened, 1 if not, 3 if it could not begin.
"""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from rich.console import Console  # noqa: E402

from trainguard import incidents, processes  # noqa: E402
from trainguard.run_folder import RunFolder  # noqa: E402

HOME = ROOT / "demo-run"
MARKER, CONFIG, OUTPUT = HOME / ".made-by-demo", HOME / "config.yaml", HOME / "out"
STEPS, SAVE_STEPS, FIRST_KILL, SECOND_KILL = 300, 25, 90, 190
SECONDS_AT_MOST = 120.0
STYLES = {"OK": "green", "WARN": "yellow", "BAD": "red"}
AFTER_KILL = {
    "trainer": "the launcher gives up; the trainer's worker stays behind, and has to go before a restart",
    "launcher": "its trainer, in a session of its own, trains on as an orphan, and has to go before a restart",
}
SETTINGS = f"""\
daemon:
  name: demo
  command: ["{{python}}", ../examples/launcher.py, "{{python}}", ../examples/training_daemon.py,
    --steps, "{STEPS}", --step-seconds, "0.08", --save-steps, "{SAVE_STEPS}", --output-dir, out,
    --worker-setsid, --worker-ignores-term, --worker-ignores-parent]
  stop: [[SIGTERM, 2], [SIGKILL, 5]]
progress: {{status_file: out/training_status.json}}
checkpoints: {{directory: out, save_timeout: 0}}
watchdog: {{poll_interval: 1, orphan_grace: 1}}
"""
folder = RunFolder(HOME / "logs")
console = Console(highlight=False, soft_wrap=True)
begun = time.monotonic()


def say(text: str, style: str = "bold") -> None:
    console.print(f"{time.monotonic() - begun:5.1f} s  {text}", style=style, markup=False)


def watchdog_command(*options: str) -> list[str]:
    return [sys.executable, str(ROOT / "daemon_watchdog.py"), "--config", str(CONFIG), *options]


def prepare() -> None:
    """An empty folder with the settings; what an earlier demo left is ended and removed, nothing else is."""
    if HOME.exists():
        if not MARKER.exists() or HOME.is_symlink():
            print(f"{HOME}: exists and was not made by this demo; rename it", file=sys.stderr)
            sys.exit(3)
        if CONFIG.exists():
            end_it()
        shutil.rmtree(HOME)
    HOME.mkdir()
    MARKER.touch()
    CONFIG.write_text(SETTINGS)
    CONFIG.chmod(0o644)


def end_it() -> None:
    subprocess.run(watchdog_command("--stop", "--with-daemon"), stdout=subprocess.DEVNULL)


def run_members() -> dict[processes.Process, str]:
    """Every living process that bears the mark of this demo's run folder, with the id of its run."""
    found = {}
    for one in processes.living(processes.all_processes()):
        mark = processes.read_mark(one.pid)
        if mark is not None and mark.folder == str(folder.directory.resolve()):
            found[one] = mark.run
    return found


def kill(whom: str) -> int | None:
    """SIGKILL to the launcher, or to its trainer: proved by the mark and sent through a pidfd. Its pid."""
    members = list(run_members())
    leads = [one for one in members if (mark := processes.read_mark(one.pid)) and mark.leader == one.pid]
    below = [one for one in members if leads and one.parent == leads[0].pid]
    for target in (leads if whom == "launcher" else below)[:1]:
        say(f"kill -9 the {whom}, pid {target.pid}, at step {step()}", "bold magenta")
        processes.send_signal(target.identity, signal.SIGKILL)
        return target.pid
    return None


def step() -> int:
    with contextlib.suppress(OSError, ValueError, KeyError):
        return int(json.loads((OUTPUT / "training_status.json").read_text())["current_step"])
    return 0


def tell_story(watchdog: "subprocess.Popen[bytes]") -> tuple[dict[str, int], int, int]:
    """Watch, kill twice, print the events; the pids that were killed, how often it looked, the most runs seen."""
    plan = [(FIRST_KILL, "trainer"), (SECOND_KILL, "launcher")]
    killed: dict[str, int] = {}
    told = looks = most = 0
    over = False
    while not over:
        over = watchdog.poll() is not None or time.monotonic() - begun > SECONDS_AT_MOST
        looks, most = looks + 1, max(most, len(set(run_members().values())))
        for event in folder.recent_events()[told:]:
            told += 1
            say(f"  {event.status:<4}  {event.text}", STYLES.get(event.status, ""))
        if plan and step() >= plan[0][0] and (pid := kill(plan[0][1])) is not None:
            killed[plan.pop(0)[1]] = pid
            say(AFTER_KILL["trainer" if plan else "launcher"])
        time.sleep(0.03)
    return killed, looks, most


def check(exit_code: int | None, killed: dict[str, int], looks: int, most: int) -> bool:
    """Whether the story is true, fact by fact."""
    events = [event.event for event in folder.recent_events()]
    found = incidents.list_records(folder.incidents)
    say("the incidents, as logs/incidents/ keeps them:")
    for one in found:
        ending = "" if one.ending is None else one.ending.signal or f"exit code {one.ending.exit_code}"
        say(f"  {one.id}  pid {one.pid}: {ending} at step {one.step}, {len(one.orphans)} left behind", "")
        say(f"      checkpoint {one.checkpoint_step}; {one.steps_lost} steps lost and repeated", "")
    endings = [(one.ending.exit_code, one.ending.signal) for one in found if one.ending is not None]
    left = [len(one.orphans) for one in found]
    facts = {
        "two processes were killed, and the daemon ended twice": len(killed) == 2
        and endings == [(1, None), (None, "SIGKILL")],
        "it was restarted twice": events.count("restarted") == 2,
        "orphans were found: the worker, then trainer and worker": left == [1, 2],
        f"no step older than {SAVE_STEPS} was lost": all(
            one.closed and one.steps_lost is not None and one.steps_lost <= SAVE_STEPS for one in found
        ),
        f"the run reached its last step, {STEPS}": step() == STEPS
        and (OUTPUT / f"checkpoint-{STEPS}").is_dir()
        and events[-1] == "finished"
        and exit_code == 0,
        f"never two runs at once (in {looks} looks at the process table)": most == 1,
        "nothing of it runs any more": not run_members(),
    }
    for fact, holds in facts.items():
        say(f"  {'yes' if holds else 'NO '}  {fact}", "green" if holds else "bold red")
    return all(facts.values())


def main() -> int:
    """0 if the story that it told is true."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    prepare()
    say(f"the watchdog starts: daemon_watchdog.py --config {CONFIG.relative_to(ROOT)}")
    with (HOME / "watchdog.log").open("wb") as log:
        watchdog = subprocess.Popen(watchdog_command(), stdout=log, stderr=log, start_new_session=True)
    try:
        killed, looks, most = tell_story(watchdog)
        if watchdog.poll() is None:
            say(f"it took more than {SECONDS_AT_MOST:g} s and is ended", "bold red")
        return 0 if check(watchdog.poll(), killed, looks, most) else 1
    except KeyboardInterrupt:
        say("interrupted")
        return 1
    finally:
        if watchdog.poll() is None:
            say("the watchdog is asked to end, with the daemon")
            end_it()


if __name__ == "__main__":
    sys.exit(main())
