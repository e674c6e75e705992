"""How fast logs are scanned, beside ripgrep and grep, and how soon the crash detector answers.

    .venv/bin/python benchmarks/scan.py [--small] [--rounds 3] [--folder FOLDER]

Logs are generated from a seed: a normal one (progress bars ended by carriage returns, interleaved ranks, warnings,
hostile bytes, a traceback now and then) and one with trigger words on every line. Whole processes are timed, in a
new order each round, over files that the page cache holds as far as they fit. ripgrep gets the same patterns, and
both of the others -a, since a NUL byte would end their search at the first match.
"""

import argparse
import json
import os
import random
import re
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from trainguard.scanner.database import STRUCTURE  # noqa: E402
from trainguard.signatures import load_signatures  # noqa: E402

DETECTOR = ROOT / "crash_detector.py"
SEED = 7
PART = 8 << 20
SPARSE = 10 << 30
SCAN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from trainguard.scanner import open_database, open_signatures, scan_file
cache = Path(sys.argv[3])
signatures, _ = open_signatures(None, cache)
scan_file(Path(sys.argv[2]), open_database(signatures, cache))
"""


# --- the logs --------------------------------------------------------------------------------------------------


def bar(chance: random.Random, step: int) -> str:
    done = step % 100
    filled = "█" * (done // 10) + " " * (10 - done // 10)
    rate, loss = chance.random() * 3, chance.random() * 3
    return (
        f"\r {done:3d}%|{filled}| {step}/120000 [03:{step % 60:02d}<59:01, {rate:.2f}it/s, loss={loss:.4f}]"
    )


def metrics(chance: random.Random, step: int) -> str:
    rate = chance.random() * 1e-4
    return f"{{'loss': {chance.random() * 3:.4f}, 'grad_norm': {chance.random():.4f}, 'learning_rate': {rate:.4e}}}\n"


def rank_line(chance: random.Random, step: int) -> str:
    rank, second = chance.randrange(8), chance.randrange(60)
    loss, speed = chance.random() * 4, chance.randrange(100_000)
    clock = f"2026-03-04 11:52:{second:02d}"
    return f"[rank{rank}]: {clock} INFO trainer: step {step} lm loss {loss:.5f} tokens/s {speed}\n"


def channel(chance: random.Random, _step: int) -> str:
    rank, pid = chance.randrange(8), chance.randrange(9999)
    return f"node{rank}:{pid}:{pid + 9} [{rank}] NCCL INFO Channel 0{rank}/0 : {rank} -> {(rank + 1) % 8} via P2P\n"


def warning(chance: random.Random, _step: int) -> str:
    line = chance.randrange(900)
    return f"/data/env/lib/python3.11/site-packages/loader/core.py:{line}: UserWarning: this option is old\n"


def hostile(chance: random.Random, _step: int) -> str:
    return chance.randbytes(60).decode("latin-1") + "\n"


def retried(chance: random.Random, step: int) -> str:
    rank = chance.randrange(8)
    frames = f'[rank{rank}]:   File "/data/run7/loader.py", line {step % 400}, in fetch\n' * 6
    return (
        f"[rank{rank}]: Traceback (most recent call last):\n{frames}"
        f"[rank{rank}]: ConnectionResetError: [Errno 104] Connection reset by peer\n"
        f"[rank{rank}]: retrying sample {step}\n"
    )


KINDS: tuple[tuple[Callable[[random.Random, int], str], float], ...] = (
    (bar, 70),
    (metrics, 15),
    (rank_line, 10),
    (channel, 3),
    (warning, 1.85),
    (hostile, 0.13),
    (retried, 0.02),
)


def normal_lines(chance: random.Random) -> Iterator[bytes]:
    makers, weights = zip(*KINDS, strict=True)
    step = 0
    while True:
        for maker in chance.choices(makers, weights, k=1000):
            step += 1
            yield maker(chance, step).encode("latin-1" if maker is hostile else "utf-8")


def trigger_lines(chance: random.Random) -> Iterator[bytes]:
    while True:
        day, worker, failed = chance.randrange(1, 29), chance.randrange(64), chance.randrange(100)
        yield (
            f"2026-03-{day:02d} INFO worker {worker}: exit status ok, error count 0, failed requests {failed}, "
            "retry after error: none, killed 0\n"
        ).encode()


def write_log(file: Path, lines: Iterator[bytes], size: int) -> None:
    """A log of about this size, of a few parts in random order."""
    chance = random.Random(SEED)
    parts = []
    for _ in range(4):
        part, length = [], 0
        while length < PART:
            part.append(next(lines))
            length += len(part[-1])
        parts.append(b"".join(part))
    with file.open("wb") as stream:
        while stream.tell() < size:
            stream.write(chance.choice(parts))


# --- the scanners ----------------------------------------------------------------------------------------------


def write_patterns(file: Path) -> None:
    """The rows' patterns in ripgrep's dialect: no group names, no needless escapes, bytes beyond ASCII as any."""
    patterns = [row.pattern for row in load_signatures()] + list(STRUCTURE)
    told = []
    for pattern in patterns:
        pattern = re.sub(r"\(\?P<\w+>", "(?:", pattern)
        pattern = re.sub(r"\\([^\w\s.+*?()|\[\]{}^$\\#&~-])", r"\1", pattern)
        pattern = re.sub(r"[^ -~]", ".", pattern)
        if "(?=" not in pattern and "(?!" not in pattern and "(?<" not in pattern:
            told.append(pattern)
    file.write_text("\n".join(told) + "\n")
    print(f"{len(patterns)} patterns, {len(told)} of them in ripgrep's dialect")


def timed(words: list[str]) -> tuple[float, float]:
    """Seconds of a whole process, and its peak memory in 10^6 bytes, looked at every few milliseconds."""
    before = time.perf_counter()
    # A pipe: grep stops at the first match where its output is /dev/null.
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    handle = os.pidfd_open(process.pid)
    ended = select.poll()
    ended.register(handle, select.POLLIN)
    peak = 0.0
    while not ended.poll(5):
        # Not the kernel's count at the end: that one begins with the memory of this process.
        told = Path(f"/proc/{process.pid}/status").read_text()
        if f"Name:\t{Path(words[0]).name[:15]}\n" in told and (found := re.search(r"VmHWM:\s*(\d+)", told)):
            peak = int(found[1]) * 1024 / 1e6
    seconds = time.perf_counter() - before
    os.close(handle)
    complaint = process.communicate()[1]
    if complaint:
        raise SystemExit(f"{Path(words[0]).name}: {complaint.decode(errors='replace').strip()[-400:]}")
    return seconds, peak


def compare(folder: Path, file: Path, rounds: int) -> None:
    """Time all scanners over one log in turns, and print their medians."""
    commands = {
        "trainguard": [sys.executable, "-c", SCAN, str(ROOT), str(file), str(folder / "cache")],
        "ripgrep": ["rg", "--no-unicode", "-a", "-c", "-f", str(folder / "patterns"), str(file)],
        "grep -F": [
            "grep",
            "-F",
            "-c",
            "-e",
            "Traceback",
            "-e",
            "out of memory",
            "-e",
            "NCCL WARN",
            str(file),
        ],
    }
    if shutil.which("rg") is None:
        print("ripgrep is not installed here and is left out")
        del commands["ripgrep"]
    timed(commands["trainguard"])
    times: dict[str, list[float]] = {name: [] for name in commands}
    memory = dict.fromkeys(commands, 0.0)
    for _ in range(rounds):
        for name in random.sample(list(commands), len(commands)):
            seconds, peak = timed(commands[name])
            times[name].append(seconds)
            memory[name] = max(memory[name], peak)
    ours, size = statistics.median(times["trainguard"]), file.stat().st_size
    print(f"\n{file.stem}, {size / 1e6:.0f} MB, medians of {rounds} rounds")
    print(f"{'':<14}{'s':>8}{'GB/s':>8}{'time / ours':>13}{'peak MB':>9}")
    for name, values in times.items():
        middle = statistics.median(values)
        print(
            f"{name:<14}{middle:>8.2f}{size / middle / 1e9:>8.2f}{middle / ours:>13.2f}{memory[name]:>9.1f}",
            flush=True,
        )


# --- the crash detector ----------------------------------------------------------------------------------------


def ask(config: Path, *words: str) -> tuple[float, dict[str, list[dict[str, object]]]]:
    """Seconds of one call of crash_detector.py, and what it told."""
    before = time.perf_counter()
    told = subprocess.run(
        [sys.executable, str(DETECTOR), "--config", str(config), "--json", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - before
    if told.returncode not in (0, 1, 2, 3) or not told.stdout.startswith("{"):
        raise SystemExit(f"crash_detector.py: {told.returncode}: {told.stderr.strip()[-400:]}")
    return seconds, json.loads(told.stdout)


def configure(folder: Path, log: Path) -> Path:
    config = folder / "config.yaml"
    config.write_text(f"daemon:\n  command: [/bin/true]\n  log: {log}\nlogs:\n  directory: {folder}/logs\n")
    return config


def measure_incident(folder: Path, rounds: int) -> None:
    """The verdict on the last run in a sparse log of 10 GB, whose offset the watchdog recorded."""
    folder.mkdir()
    log = folder / "training.log"
    lines = normal_lines(random.Random(SEED))
    with log.open("wb") as stream:
        stream.truncate(SPARSE)
        stream.seek(SPARSE)
        stream.write(b"\n" + b"".join(next(lines) for _ in range(20_000)))
        stream.write(
            b"\nTraceback (most recent call last):\n"
            b'  File "/data/run7/train.py", line 88, in <module>\n    loss.backward()\n'
            b"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of "
            b"79.15 GiB of which 1.20 GiB is free.\n"
        )
        end = stream.tell()
    place = folder / "logs" / "incidents" / "20260304-115200-1"
    place.mkdir(parents=True)
    record: dict[str, object] = dict.fromkeys(
        ("step", "total", "loss", "checkpoint", "checkpoint_step", "next_run_id", "seconds_to_new_process")
    )
    record |= dict.fromkeys(("seconds_to_new_step", "first_new_step", "steps_lost"))
    record |= {
        "id": place.name,
        "kind": "crash",
        "time": "2026-03-04T11:52:00+0000",
        "run_id": "r1",
        "run_number": 1,
        "pid": 4711,
        "ending": {"exit_code": 1},
        "log": {"file": str(log), "start": SPARSE, "end": end},
        "decision": "restart",
        "orphans": [],
        "closed": True,
        "last_lines": [],
    }
    (place / "incident.json").write_text(json.dumps(record))
    config = configure(folder, log)
    ask(config, "--incident", place.name)
    print(f"\nlast run of a sparse log of {end / 1e9:.1f} GB by its incident, goal 0.5 s")
    for words in ((), ("--no-history",)):
        times = []
        for _ in range(rounds):
            seconds, told = ask(config, "--incident", place.name, *words)
            times.append(seconds)
            if [one["type"] for one in told["crashes"]] != ["cuda_oom"]:
                raise SystemExit(f"the incident is not told as cuda_oom: {told}")
        print(f"{' '.join(words) or 'with the history':<18}{statistics.median(times):>8.3f} s")


def measure_rescan(folder: Path, rounds: int) -> None:
    """A further scan of a configured log in which nothing is new."""
    folder.mkdir()
    log = folder / "training.log"
    lines = normal_lines(random.Random(SEED))
    log.write_bytes(b"".join(next(lines) for _ in range(200_000)))
    config = configure(folder, log)
    first, _ = ask(config)
    times = [ask(config)[0] for _ in range(max(rounds, 9))]
    bare = []
    for _ in times:
        before = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        bare.append(time.perf_counter() - before)
    print(
        f"rescan with nothing new: {statistics.median(times) * 1e3:.0f} ms, goal 100 "
        f"(the first scan {first:.2f} s; the interpreter alone {statistics.median(bare) * 1e3:.0f} ms)"
    )


def main() -> None:
    """Generate, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each comparison (default: 3)")
    parser.add_argument(
        "--sizes", type=int, nargs="*", default=[256, 2048], metavar="MIB", help="sizes (default: 256 2048)"
    )
    parser.add_argument("--small", action="store_true", help="only logs of 64 MiB")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="scan-", dir=arguments.folder))
    try:
        print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} before the start")
        write_patterns(folder / "patterns")
        for size in [64] if arguments.small else arguments.sizes:
            for name, lines in (("normal", normal_lines), ("trigger words", trigger_lines)):
                log = folder / f"{name}.log"
                write_log(log, lines(random.Random(SEED)), size << 20)
                compare(folder, log, arguments.rounds)
                log.unlink()
        measure_incident(folder / "incident", arguments.rounds)
        measure_rescan(folder / "rescan", arguments.rounds)
        print(f"\nload {os.getloadavg()[0]:.1f} at the end")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
