"""What a health check costs: wall time and memory on a healthy box, and beside all that can hang at once.

    .venv/bin/python benchmarks/health.py [--rounds 5]

A run folder with a watchdog and its daemon, and 1,000 checkpoint folders laid out like the Trainer's. Whole processes
are timed, in turns; memory is the largest that any one process of the check had. The second part wants root, a C
compiler and /dev/fuse: a management library that never answers, a mount that never answers, and a frozen daemon.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from checkpoint_files import hugging_face  # noqa: E402
from disk_faults import mute  # noqa: E402
from support import Sandbox  # noqa: E402

CHECK = ROOT / "comprehensive_health_check.py"
FOLDERS = 1000
NVML = """
#include <unistd.h>
int nvmlInit_v2(void) { for (;;) pause(); }
int nvmlInitWithFlags(unsigned flags) { for (;;) pause(); }
"""


# A child begins with the memory of whom it was made by: this one is small.
MEASURE = """
import os, subprocess, sys, time
began = time.perf_counter()
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
said = child.stdout.read()
usage = os.wait4(child.pid, 0)[2]
print(time.perf_counter() - began, usage.ru_maxrss / 1024, flush=True)
sys.stdout.buffer.write(said)
"""


def run(
    sandbox: Sandbox, arguments: Sequence[str], **environment: str
) -> tuple[float, float, dict[str, object]]:
    """One whole health check: seconds of wall time, the largest memory of a process in MB, and what it told."""
    check = [sys.executable, str(CHECK), "--config", str(sandbox.config), "--json", *arguments]
    told = subprocess.run(
        [sys.executable, "-c", MEASURE, *check],
        stdout=subprocess.PIPE,
        check=True,
        env={**os.environ, **environment},
    )
    first, _, said = told.stdout.partition(b"\n")
    seconds, memory = map(float, first.split())
    return seconds, memory, json.loads(said)


def seconds_of(told: dict[str, object], component: str) -> float:
    """The longest of a component's readings."""
    checks = told["checks"]
    assert isinstance(checks, list)
    return max((one["seconds"] for one in checks if one["component"] == component), default=0.0)


def row(name: str, values: Sequence[float], unit: str, goal: str) -> str:
    return f"| {name} | {statistics.median(values):.3g} {unit} | {max(values):.3g} {unit} | {goal} |"


def build_library(folder: Path) -> str:
    """A management library that never answers; the folder that has it."""
    source = folder / "nvml.c"
    source.write_text(NVML)
    library = folder / "libnvidia-ml.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return str(folder)


def healthy(sandbox: Sandbox, rounds: int) -> list[str]:
    """The rows of the healthy box; in each round each question once."""
    whole, gate, saves = [], [], []
    for _ in range(rounds):
        whole.append(run(sandbox, []))
        gate.append(run(sandbox, ["--gate"]))
        saves.append(run(sandbox, ["--component", "checkpoints"]))
    alone = [seconds_of(one[2], "checkpoints") for one in saves]
    beside = [seconds_of(one[2], "checkpoints") for one in whole]
    return [
        row("whole check", [one[0] for one in whole], "s", "1.5 s"),
        row("its gate alone", [one[0] for one in gate], "s", ""),
        row("memory of its largest process", [one[1] for one in whole], "MB", "45 MB"),
        row(f"reading {FOLDERS} checkpoint folders", alone, "s", "0.3 s"),
        row("the same beside all other readings", beside, "s", ""),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        sandbox = Sandbox(Path(temporary))
        saves = sandbox.folder / "checkpoints"
        for number in range(1, FOLDERS + 1):
            hugging_face(saves, number * 100)
        checkpoints = {"directory": str(saves)}
        endless = ("--save-every", "1000000000", "--steps", "1000000000")
        sandbox.configure(*endless, checkpoints=checkpoints)
        try:
            sandbox.start()
            daemon = sandbox.wait_for_start()["pid"]
            run(sandbox, [])
            rows = healthy(sandbox, arguments.rounds)
            os.kill(daemon, signal.SIGSTOP)
            library = build_library(sandbox.folder)
            with mute(sandbox.folder / "dead") as dead:
                sandbox.configure(*endless, checkpoints=checkpoints, health={"mounts": [str(dead)]})
                slow = [run(sandbox, [], LD_LIBRARY_PATH=library) for _ in range(2)]
        finally:
            sandbox.clean_up()
    times = [one[0] for one in slow]
    rows.append(row("NVML hangs, a mount is dead, the daemon is frozen", times, "s", "10 s"))
    print("| | median | most | goal |\n|---|---:|---:|---:|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
