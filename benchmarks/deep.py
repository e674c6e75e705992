"""How fast whole checkpoints are read, beside `cat` of the same files, both from a cold cache.

    .venv/bin/python benchmarks/deep.py [--size MIB] [--rounds 5] [--folder FOLDER]

Four checkpoints of random numbers: safetensors in bfloat16 and in float32, torch's zips with their checksums, and
shards of torch's distributed checkpoint. Before each reading their pages are dropped (POSIX_FADV_DONTNEED), and
whether they were is looked at; the two readers take turns, in a new order each round.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
from checkpoint_files import Tensor, dcp_files, safetensors, torch_zip, trainer_state  # noqa: E402

MIB = 1 << 20
GOAL_RATIO, GOAL_RATE = 0.7, 0.25
READ = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from trainguard.checkpoints.deep import faults_of, read_whole
from trainguard.checkpoints.listing import Checkpoint
read = read_whole(Checkpoint(8, Path(sys.argv[2])), 3600.0)
assert not faults_of(read) and not read.problems, (faults_of(read), read.problems)
print(read.size)
"""


def tensor(chance: np.random.Generator, size: int, dtype: str) -> Tensor:
    """Random numbers of so many bytes."""
    numbers = chance.standard_normal(size // 4, np.float32)
    if dtype == "BF16":
        bits = chance.standard_normal(size // 2, np.float32).view(np.uint32) >> 16
        return Tensor(size // 2, dtype=dtype, data=bits.astype(np.uint16).tobytes())
    return Tensor(size // 4, dtype=dtype, data=numbers.tobytes())


def parts(chance: np.random.Generator, size: int, dtype: str) -> dict[str, Tensor]:
    """A model of matrices of at most 64 MiB."""
    count = max(1, size // (64 * MIB))
    return {f"layers.{one}.weight": tensor(chance, size // count, dtype) for one in range(count)}


def write_safetensors(folder: Path, size: int, dtype: str) -> None:
    chance = np.random.default_rng(1)
    for shard in range(1, 5):
        name = f"model-0000{shard}-of-00004.safetensors"
        (folder / name).write_bytes(safetensors(parts(chance, size // 4, dtype)))


def write_zips(folder: Path, size: int) -> None:
    chance = np.random.default_rng(2)
    for name in ("pytorch_model.bin", "optimizer.pt"):
        (folder / name).write_bytes(torch_zip(parts(chance, size // 2, "F32")))


def write_shards(folder: Path, size: int) -> None:
    """As tests/checkpoint_files.py lays them out, with large pieces."""
    import checkpoint_files

    chance = np.random.default_rng(3)
    small = checkpoint_files.Tensor
    checkpoint_files.Tensor = lambda *_, **__: tensor(chance, size // 8, "F32")  # type: ignore[assignment,misc]
    try:
        for name, content in dcp_files(ranks=4).items():
            (folder / name).write_bytes(content)
    finally:
        checkpoint_files.Tensor = small  # type: ignore[misc]


KINDS: dict[str, Callable[[Path, int], None]] = {
    "safetensors, bfloat16": lambda folder, size: write_safetensors(folder, size, "BF16"),
    "safetensors, float32": lambda folder, size: write_safetensors(folder, size, "F32"),
    "torch's zips": write_zips,
    "distributed shards": write_shards,
}


def drop(folder: Path) -> None:
    """Drop the files of a folder from the page cache. Raises SystemExit where they stay in it."""
    for file in folder.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
    told = subprocess.run(
        ["fincore", "--bytes", "--noheadings", "--output", "RES", *map(str, folder.iterdir())],
        capture_output=True,
        text=True,
        check=True,
    )
    left = sum(map(int, told.stdout.split()))
    if left > 4 * MIB:
        raise SystemExit(f"{left} bytes of {folder} stay in the page cache")


def timed(words: list[str]) -> float:
    began = time.perf_counter()
    with open(os.devnull, "wb") as nothing:  # noqa: PTH123 - a device
        subprocess.run(words, stdout=nothing, check=True)
    return time.perf_counter() - began


def compare(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of whole processes, cold each time; `again` reads what the page cache holds."""
    commands = {
        "cat": ["cat", *map(str, sorted(folder.iterdir()))],
        "ours": [sys.executable, "-c", READ, str(ROOT), str(folder)],
    }
    times: dict[str, list[float]] = {"cat": [], "ours": [], "again": []}
    for _ in range(rounds):
        for name in random.sample(list(commands), len(commands)):
            drop(folder)
            times[name].append(timed(commands[name]))
        times["again"].append(timed(commands["ours"]))
    return times


def main() -> None:
    """Make, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=1024, help="MiB of each checkpoint (default: 1024)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    print(
        f"{cores} cores, load {os.getloadavg()[0]:.1f} before the start, medians of {arguments.rounds} rounds"
    )
    print(
        f"\n| checkpoint | MB | cat GB/s | deep GB/s | of cat (goal {GOAL_RATIO} or {GOAL_RATE} GB/s a core) "
        "| from the page cache GB/s | |\n|---|---|---|---|---|---|---|"
    )
    for name, write in KINDS.items():
        with tempfile.TemporaryDirectory(prefix="deep-", dir=arguments.folder) as place:
            folder = Path(place) / "checkpoint-8"
            folder.mkdir()
            write(folder, arguments.size * MIB)
            (folder / "trainer_state.json").write_bytes(trainer_state(8))
            size = sum(file.stat().st_size for file in folder.iterdir()) / 1e9
            rates = {
                kind: size / statistics.median(values)
                for kind, values in compare(folder, arguments.rounds).items()
            }
        ratio = rates["ours"] / rates["cat"]
        met = "met" if ratio >= GOAL_RATIO or rates["ours"] >= GOAL_RATE * cores else "MISSED"
        print(
            f"| {name} | {size * 1e3:.0f} | {rates['cat']:.2f} | {rates['ours']:.2f} | {ratio:.2f} "
            f"| {rates['again']:.2f} | {met} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
