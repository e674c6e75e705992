"""Gathering a standstill within a time limit: each question in a thread that can be left where it hangs."""

import queue
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from msgspec.structs import replace

from trainguard import files
from trainguard.gpu import Gpus, ask_gpus
from trainguard.standstills import STACKS
from trainguard.standstills.judging import (
    Standstill,
    describe_standstill,
    find_odd_one_out,
    judge_standstill,
)
from trainguard.standstills.readings import (
    Reading,
    notable,
    read_again,
    read_belongings,
    read_process,
)
from trainguard.standstills.stacks import (
    Stacks,
    ask_stacks,
    find_py_spy,
    innermost,
    innermost_own,
    main_thread,
    render,
)

T = TypeVar("T")
PROCESSES = 256
STACKED = 16
INTERVAL = 1.0
_THREADS_TOLD = 8
_WORKERS = 8
# Parts of the whole time after which a question is given up, so that the next one has its turn.
_READ_BY, _BELONGINGS_BY, _AGAIN_BY, _STACKS_BY = 0.15, 0.25, 0.35, 0.65
# What a command is left after its kill (trainguard.commands), and some for the last line.
_GRACE_SECONDS = 0.4
_WRITE_SECONDS = 0.2


def gather(
    wanted: Mapping[int, int | None], folder: Path, checkpoints: Sequence[Path], seconds: float
) -> Iterator[Standstill]:
    """Yield what is known as it grows, what is quick first: /proc, Python's stacks, GPUs.

    `wanted` has the start time of each pid (proc_pid_stat(5), None for any), `folder` gets stacks.txt. Takes
    at most `seconds`, apart from a `folder` that hangs. Raises nothing that the machine may cause.
    """
    begin = time.monotonic()
    notes: dict[str, None] = {}
    skipped = {str(pid): "cannot be looked at: there are too many" for pid in list(wanted)[PROCESSES:]}
    readings: dict[int, Reading] = {}

    def standstill(gpus: Gpus | None = None, left_out: Sequence[int] = ()) -> Standstill:
        ordered = [readings[pid] for pid in wanted if pid in readings]
        kind, odd = judge_standstill(ordered, gpus), find_odd_one_out(ordered)
        return Standstill(
            kind=kind,
            sentence=describe_standstill(kind, ordered, gpus, odd),
            processes=tuple(replace(one, threads=tuple(notable(one, _THREADS_TOLD))) for one in ordered),
            seconds=round(time.monotonic() - begin, 3),
            skipped=skipped,
            left_out=tuple(left_out),
            odd_one_out=odd,
            gpus=gpus,
            notes=tuple(notes),
        )

    asked = list(wanted)[:PROCESSES]
    for pid, answer in ask_each(
        lambda pid: read_process(pid, wanted[pid]), asked, begin + seconds * _READ_BY
    ):
        if isinstance(answer, Reading):
            readings[pid] = answer
        else:
            skipped[str(pid)] = answer
    for pid in asked:
        if pid not in readings:
            skipped.setdefault(str(pid), "/proc gave no answer")
    _note_denied(readings.values(), notes)
    yield standstill()

    deadline = begin + seconds * _BELONGINGS_BY
    for pid, found in ask_each(lambda pid: read_belongings(pid, checkpoints), list(readings), deadline):
        readings[pid] = replace(
            readings[pid], rank=found.rank, is_python=found.is_python, open_files=found.open_files
        )
    if readings:
        time.sleep(max(0.0, min(begin + INTERVAL, deadline) - time.monotonic()))
    deadline = begin + seconds * _AGAIN_BY
    for pid, later in ask_each(lambda pid: read_again(readings[pid]), list(readings), deadline):
        readings[pid] = later
    yield standstill()

    left_out: list[int] = []
    dumped: dict[int, Stacks] = {}
    # Also without stacks this file has each thread, as far as the incident has no room for it.
    _write_stacks(folder, standstill(), readings, dumped, notes)
    program = find_py_spy()
    if program is None:
        notes["py-spy is not installed (python3 -m pip install py-spy), so there are no Python stacks"] = None
    else:
        chosen, left_out = choose(list(readings.values()))
        deadline = begin + seconds * _STACKS_BY
        written = time.monotonic()
        for pid, stacks in ask_each(
            lambda pid: ask_stacks(program, readings[pid], deadline - _GRACE_SECONDS), chosen, deadline
        ):
            dumped[pid] = stacks
            readings[pid] = _with_stacks(readings[pid], stacks)
            if time.monotonic() > written + _WRITE_SECONDS:
                _write_stacks(folder, standstill(), readings, dumped, notes)
                written = time.monotonic()
        _write_stacks(folder, standstill(), readings, dumped, notes)
        for pid in chosen:
            if pid not in dumped:
                readings[pid] = replace(readings[pid], no_stacks="py-spy gave no answer in time")
    yield standstill(left_out=left_out)

    gpus = ask_gpus(max(0.1, begin + seconds - _GRACE_SECONDS - time.monotonic()))
    last = standstill(gpus, left_out)
    _write_stacks(folder, last, readings, dumped, notes)
    yield replace(last, notes=tuple(notes))


def ask_each(question: Callable[[int], T], pids: Sequence[int], deadline: float) -> Iterator[tuple[int, T]]:
    """Ask the question of each, several at a time, and yield what is answered before the deadline.

    One that hangs keeps its thread, and an error of the question is told and costs only its own answer.
    """
    waiting, answers = deque(pids), queue.SimpleQueue[tuple[int, T] | None]()

    def work() -> None:
        while True:
            try:
                pid = waiting.popleft()
            except IndexError:
                return
            try:
                answers.put((pid, question(pid)))
            except Exception:  # a fault of ours with one process must not cost what others show
                traceback.print_exc(file=sys.stderr)
                answers.put(None)

    for _ in range(min(_WORKERS, len(pids))):
        threading.Thread(target=work, daemon=True).start()
    for _ in pids:
        try:
            answer = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            waiting.clear()
            return
        if answer is not None:
            yield answer


def choose(readings: Sequence[Reading]) -> tuple[list[int], list[int]]:
    """Whose stacks are asked for: the first process of each rank, Python, and parents before their workers.

    The pids, and those of the processes that are left out.
    """
    ranks = {reading.pid: reading.rank for reading in readings}

    def order(reading: Reading) -> tuple[bool, bool, int, int]:
        is_first = reading.rank is not None and ranks.get(reading.parent) != reading.rank
        return not is_first, reading.is_python is False, reading.start_time, reading.pid

    pids = [reading.pid for reading in sorted(readings, key=order)]
    return pids[:STACKED], pids[STACKED:]


def _with_stacks(reading: Reading, stacks: Stacks) -> Reading:
    main = main_thread(reading.pid, stacks)
    return replace(
        reading,
        own_frame=innermost_own(main),
        frame=innermost(main),
        is_python=reading.is_python if stacks.is_python is None else stacks.is_python,
        no_stacks=stacks.why,
    )


def _note_denied(readings: Iterable[Reading], notes: dict[str, None]) -> None:
    denied: dict[str, list[int]] = {}
    for reading in readings:
        for name in reading.denied:
            denied.setdefault(name, []).append(reading.pid)
    for name, pids in denied.items():
        some = ", ".join(map(str, pids[:4])) + (f" and {len(pids) - 4} more" if len(pids) > 4 else "")
        notes[f"this user may not read /proc/PID/{name} of {some}"] = None


def _write_stacks(
    folder: Path,
    known: Standstill,
    readings: Mapping[int, Reading],
    dumped: Mapping[int, Stacks],
    notes: dict[str, None],
) -> None:
    parts = [f"{known.sentence}\n", *(render(readings[pid], dumped.get(pid)) for pid in sorted(readings))]
    try:
        files.write_whole(folder / STACKS, "\n".join(parts).encode(errors="replace"), durable=False)
    except OSError as error:
        notes[f"{STACKS} could not be written: {error}"] = None
