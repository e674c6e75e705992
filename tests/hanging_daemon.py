"""A daemon for tests that makes steps, then once stands still as trainings do, or only seems to."""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

STEP_SECONDS = 0.02
REST_SECONDS = 4.0


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--kind", choices=sorted({*HANGS, *RESTS}), required=True)
    parser.add_argument("--hang-at", type=int, default=30)
    options = parser.parse_args()
    with (options.folder / "starts.jsonl").open("a") as starts:
        starts.write(json.dumps({"pid": os.getpid()}) + "\n")
    once, step = options.folder / "hung", 0
    while True:
        time.sleep(STEP_SECONDS)
        step += 1
        if step == options.hang_at and not once.exists():
            once.touch()
            {**HANGS, **RESTS}[options.kind](options.folder)
        print(f"step {step}/100000", flush=True)


def deadlock(folder: Path) -> None:
    """Two threads, two locks, each holds one and wants the other."""
    locks, both_hold = (threading.Lock(), threading.Lock()), threading.Barrier(2)

    def take(first: threading.Lock, second: threading.Lock) -> None:
        with first:
            both_hold.wait()
            with second:
                pass

    threads = [threading.Thread(target=take, args=pair, daemon=True) for pair in (locks, locks[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def heartbeat(folder: Path) -> None:
    """A thread goes on touching the heartbeat file and printing, while the main one waits for ever."""

    def beat() -> None:
        while True:
            (folder / "heartbeat").touch()
            print("INFO still alive", flush=True)
            time.sleep(0.05)

    threading.Thread(target=beat, daemon=True).start()
    threading.Event().wait()


def full_pipe(folder: Path) -> None:
    """A child that fills a pipe that nobody reads, and a parent that waits for its end."""
    code = "import os\nwhile True: os.write(1, bytes(4096))"
    subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE).wait()


def spin(folder: Path) -> None:
    """As a collective that waits for its peers."""
    while True:
        pass


def frozen_peer(folder: Path) -> None:
    """Waits for a process of the run that was stopped."""
    code = "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"
    subprocess.Popen([sys.executable, "-c", code]).wait()


def frozen(folder: Path) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def evaluation_that_hangs(folder: Path) -> None:
    print("***** Running Evaluation *****", flush=True)
    threading.Event().wait()


def evaluation(folder: Path) -> None:
    print("***** Running Evaluation *****", flush=True)
    time.sleep(REST_SECONDS)


def idleness(folder: Path) -> None:
    print("Queue is empty, waiting for new jobs", flush=True)
    time.sleep(REST_SECONDS)


def save(folder: Path) -> None:
    """A checkpoint that grows for seconds, and of which no line tells."""
    checkpoint = folder / "checkpoints" / "checkpoint-29"
    checkpoint.mkdir(parents=True)
    end = time.monotonic() + REST_SECONDS
    with (checkpoint / "model.safetensors").open("wb", buffering=0) as weights:
        while time.monotonic() < end:
            weights.write(bytes(64))
            time.sleep(0.02)


def compile_code(folder: Path) -> None:
    """A child that bears the name of a compiler."""
    code = "import sys, time; open('/proc/self/comm', 'w').write('cc1plus'); time.sleep(float(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(REST_SECONDS)], check=True)


HANGS: dict[str, Callable[[Path], None]] = {
    one.__name__: one
    for one in (deadlock, heartbeat, full_pipe, spin, frozen_peer, frozen, evaluation_that_hangs)
}
RESTS: dict[str, Callable[[Path], None]] = {
    one.__name__: one for one in (evaluation, idleness, save, compile_code)
}

if __name__ == "__main__":
    sys.exit(main())
