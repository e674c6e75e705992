"""Standstills: what processes that hang show, gathered from real ones within a time limit."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from support import ROOT, identity_of, wait_for

from trainguard.gpu import Gpu, GpuProcess, Gpus
from trainguard.processes import children_of
from trainguard.standstills import STACKS, gathering, read_standstill
from trainguard.standstills.gathering import STACKED, ask_each, choose, gather
from trainguard.standstills.judging import (
    Kind,
    Standstill,
    describe_standstill,
    find_odd_one_out,
    judge_standstill,
    odd_one_out,
    peers,
)
from trainguard.standstills.readings import (
    Frame,
    Reading,
    Thread,
    parse_cpu,
    parse_io,
    parse_rank,
    read_process,
)
from trainguard.standstills.stacks import (
    Stacks,
    find_py_spy,
    innermost,
    innermost_own,
    main_thread,
    parse_refusal,
    parse_stacks,
    ways,
)

DEADLOCK = """
import threading
one, other, both = threading.Lock(), threading.Lock(), threading.Barrier(2)
def take_other_first():
    with other:
        both.wait()
        with one:
            pass
def take_one_first():
    with one:
        both.wait()
        print("ready", flush=True)
        with other:
            pass
threading.Thread(target=take_other_first).start()
take_one_first()
"""
LOOP = """
def tokenize():
    print("ready", flush=True)
    while True:
        pass
tokenize()
"""
WAIT = """
import time
def wait_for_data():
    print("ready", flush=True)
    time.sleep(600)
wait_for_data()
"""
SAVE = """
import os, sys, time
file = open(sys.argv[1], "wb")
file.write(b"x" * 5000)
file.flush()
file.seek(1234)
pipe = os.open(sys.argv[2], os.O_RDWR)
print("ready", flush=True)
time.sleep(600)
"""
# Until the child of a vfork ends, the kernel keeps its parent in state D (kernel/fork.c).
VFORK = """
import ctypes, time
def save():
    print("ready", flush=True)
    ctypes.PyDLL(None).vfork()
    time.sleep(600)
save()
"""


def read(pid: int) -> Reading:
    found = read_process(pid, None)
    assert isinstance(found, Reading)
    return found


def stands(pid: int, name: str = "") -> bool:
    found = read(pid)
    return found.name.startswith(name) and all(thread.state == "S" for thread in found.threads)


class Stage:
    """Processes of a test, which end with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._children: list[subprocess.Popen[bytes]] = []

    def python(
        self, code: str, *arguments: str, name: str = "train.py", rank: int | None = None, waits: bool = True
    ) -> int:
        """Start a program of Python, and wait until it is ready, and stands unless it never does."""
        script = self.folder / name
        script.write_text(code)
        environment = dict(os.environ) if rank is None else {**os.environ, "RANK": str(rank)}
        child = subprocess.Popen(
            [sys.executable, str(script), *arguments], stdout=subprocess.PIPE, env=environment
        )
        self._children.append(child)
        assert child.stdout is not None and child.stdout.readline() == b"ready\n"
        if waits:
            wait_for(lambda: stands(child.pid), what="all threads to stand")
        return child.pid

    def sleep(self) -> int:
        child = subprocess.Popen(["sleep", "600"])
        self._children.append(child)
        wait_for(lambda: stands(child.pid, "sleep"), what="the program sleep")
        return child.pid

    def end(self, pid: int) -> None:
        child = next(child for child in self._children if child.pid == pid)
        child.kill()
        child.wait()

    def end_all(self) -> None:
        for child in self._children:
            child.kill()
            child.wait()
            if child.stdout is not None:
                child.stdout.close()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    here = Stage(tmp_path)
    yield here
    here.end_all()


def gathered(stage: Stage, *pids: int, seconds: float = 8.0) -> Standstill:
    wanted = {pid: identity_of(pid).start_time for pid in pids}
    return list(gather(wanted, stage.folder, [stage.folder], seconds))[-1]


def only(standstill: Standstill, pid: int) -> Reading:
    return next(reading for reading in standstill.processes if reading.pid == pid)


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A py-spy of the test's own, found first."""
    program = folder / "bin" / "py-spy"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


def thread(number: int = 1, **changes: object) -> Thread:
    return msgspec.structs.replace(Thread(number, "python", "S", 1.0, state_later="S", share=0.0), **changes)


def reading(pid: int, **changes: object) -> Reading:
    idle = Reading(
        pid=pid,
        start_time=pid,
        name="python",
        parent=1,
        state="S",
        at=0.0,
        cpu=1.0,
        thread_count=1,
        threads=(thread(pid),),
        state_later="S",
        share=0.0,
    )
    return msgspec.structs.replace(idle, **changes)


def busy(pid: int, threads: int = 1, share: float = 1.0) -> Reading:
    return reading(
        pid, share=share * threads, threads=tuple(thread(pid + n, share=share) for n in range(threads))
    )


def gpus(*uses: tuple[int | None, int | None]) -> Gpus:
    """GPUs of a utilization each, and the process on it."""
    return Gpus(
        tuple(
            Gpu(n, None, None, None, None, use, None, () if pid is None else (GpuProcess(pid, None),))
            for n, (use, pid) in enumerate(uses)
        ),
        kernel_module="999.10.01",
    )


NO_GPU = Gpus(error="no library")
STEP, REDUCE = Frame("step", "/home/user/train.py", 88), Frame("all_reduce", "/x/distributed_c10d.py", 2501)


def test_both_functions_of_a_deadlock_are_in_the_stacks(stage: Stage) -> None:
    pid = stage.python(DEADLOCK)
    known = gathered(stage, pid)
    text = (stage.folder / STACKS).read_text()
    assert "take_one_first (" in text and "take_other_first (" in text
    assert known.kind is Kind.ALL_IDLE
    assert known.sentence == f"nothing works: process {pid} (python) waits in take_one_first (train.py:13)"
    assert only(known, pid).own_frame == Frame("take_one_first", str(stage.folder / "train.py"), 13)
    assert sum(only(known, pid).waits.values()) == 2


def test_a_loop_is_busy_and_named(stage: Stage) -> None:
    pid = stage.python(LOOP, waits=False)
    known = gathered(stage, pid)
    assert known.kind is Kind.CPU_BUSY
    assert f"process {pid} (python) works in tokenize (train.py:" in known.sentence


def test_a_stopped_process_is_frozen_and_stays_stopped_and_its_stack_is_known(stage: Stage) -> None:
    pid = stage.python(WAIT)
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: read(pid).state == "T", what="the stop")
    known = gathered(stage, pid)
    assert known.kind is Kind.FROZEN
    assert f"process {pid} (python) is stopped (state T) in wait_for_data (train.py:5)" in known.sentence
    assert read(pid).state == "T"


def test_a_process_in_the_keeping_of_the_kernel_is_told_with_what_it_waits_for(stage: Stage) -> None:
    pid = stage.python(VFORK, waits=False)
    wait_for(lambda: read(pid).state == "D", what="state D")
    children = read(pid).children
    assert children is not None and len(children) == 1
    try:
        known = gathered(stage, pid)
    finally:
        os.kill(children[0], signal.SIGKILL)
    assert known.kind is Kind.DISK_SLEEP
    assert f"process {pid} (python) waits in state D (" in known.sentence
    assert "in save (train.py:" in known.sentence


def test_a_program_that_is_no_python_is_said_to_be_none(stage: Stage) -> None:
    pid = stage.sleep()
    known = gathered(stage, pid)
    assert (only(known, pid).is_python, only(known, pid).no_stacks) == (False, "it is no Python")
    assert known.kind is Kind.ALL_IDLE
    assert f"process {pid} (sleep) waits" in known.sentence


def test_a_process_that_ends_meanwhile_costs_only_itself(stage: Stage) -> None:
    gone, stays = stage.python(WAIT), stage.python(WAIT)
    wanted = {pid: identity_of(pid).start_time for pid in (gone, stays)}
    growing = gather(wanted, stage.folder, [], 8.0)
    next(growing)
    stage.end(gone)
    known = list(growing)[-1]
    assert (only(known, gone).state_later, only(known, gone).no_stacks) == ("X", "it has ended")
    assert only(known, stays).own_frame is not None
    assert f"process {stays} " in known.sentence


def test_another_process_with_the_number_is_left_alone(stage: Stage) -> None:
    pid = stage.sleep()
    known = list(gather({pid: 1, 4194304: None}, stage.folder, [], 8.0))[-1]
    assert known.processes == () and known.kind is Kind.UNKNOWN
    assert "belongs to another process" in known.skipped[str(pid)]
    assert known.skipped["4194304"] == "has ended"


def test_an_open_checkpoint_file_is_named_with_its_place_and_a_pipe_is_not_read(stage: Stage) -> None:
    folder = stage.folder / "checkpoints"
    folder.mkdir()
    file, pipe = folder / "optimizer.pt", folder / "pipe"
    os.mkfifo(pipe)
    pid = stage.python(SAVE, str(file), str(pipe))
    wanted = {pid: identity_of(pid).start_time}
    first = only(list(gather(wanted, stage.folder, [folder], 8.0))[-1], pid)
    assert first.open_files is not None and [one.path for one in first.open_files] == [str(file), str(pipe)]
    assert (first.open_files[0].mode, first.open_files[0].position, first.open_files[0].size) == (
        "w",
        1234,
        5000,
    )
    assert f"w {file} at 1234 of 5000" in (stage.folder / STACKS).read_text()


def test_without_py_spy_there_is_what_proc_shows_and_a_note(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(stage.folder))
    monkeypatch.setattr(sys, "executable", str(stage.folder / "python"))
    assert find_py_spy() is None
    monkeypatch.undo()
    pid = stage.python(DEADLOCK)
    alone = stage.folder / "alone"
    alone.mkdir()
    (alone / "python").symlink_to(sys.executable)
    reply = subprocess.run(
        [str(alone / "python"), "-m", "trainguard.standstills", "--folder", str(stage.folder), str(pid)],
        cwd=ROOT,
        env={"PATH": str(alone), "PYTHONPATH": str(Path(msgspec.__file__).parent.parent)},
        capture_output=True,
        timeout=60,
        check=True,
    )
    last = json.loads(reply.stdout.splitlines()[-1])
    assert any("py-spy is not installed" in note for note in last["notes"])
    assert last["kind"] == "all_idle" and "waits in the kernel's futex" in last["sentence"]
    assert "futex" in (stage.folder / STACKS).read_text()


def test_py_spy_beside_this_python_is_found_though_path_lacks_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "py-spy"
    program.touch(0o755)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert find_py_spy() == str(program)


def test_the_time_limit_holds_when_py_spy_hangs_with_twenty_processes(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(stage.folder, monkeypatch, "exec sleep 600")
    pids = [stage.sleep() for _ in range(20)]
    before = set(children_of(os.getpid()) or ())
    begin = time.monotonic()
    known = gathered(stage, *pids, seconds=4.0)
    assert time.monotonic() - begin < 4.0 + 0.5
    assert len(known.left_out) == 20 - STACKED
    assert {only(known, pid).no_stacks is None for pid in pids} == {False, True}
    answers = {only(known, pid).no_stacks for pid in set(pids) - set(known.left_out)}
    assert answers <= {"py-spy gave no answer in time", "no time was left to ask py-spy"}
    assert known.kind is Kind.ALL_IDLE and known.gpus is not None
    wait_for(lambda: set(children_of(os.getpid()) or ()) <= before, what="the end of each py-spy")


def test_where_stopping_a_process_fails_it_is_asked_without(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = find_py_spy()
    assert real is not None
    install(
        stage.folder,
        monkeypatch,
        f'case "$*" in *--nonblocking*) exec {real} "$@";; *) exec sleep 600;; esac',
    )
    pid = stage.python(LOOP, waits=False)
    known = gathered(stage, pid)
    frame = only(known, pid).own_frame
    assert frame is not None and frame.function == "tokenize"


def test_twenty_processes_are_gathered_in_time_and_those_left_out_are_named(stage: Stage) -> None:
    pids = [stage.python(WAIT) for _ in range(20)]
    known = gathered(stage, *pids)
    assert known.seconds < 8.0
    stacked = [one.pid for one in known.processes if one.own_frame is not None]
    assert (len(known.processes), len(stacked)) == (20, STACKED)
    assert sorted(stacked + list(known.left_out)) == sorted(pids)


def test_the_rank_that_stands_elsewhere_is_named(stage: Stage) -> None:
    same = [stage.python(WAIT, rank=rank) for rank in (0, 1, 3)]
    other = stage.python(DEADLOCK, name="other.py", rank=2)
    known = gathered(stage, *same, other)
    assert known.odd_one_out == other
    assert known.sentence == (
        f"nothing works: rank 2 (process {other}) waits in take_one_first (other.py:13), "
        "while all its peers stand in wait_for_data (train.py:5)"
    )


def test_the_child_says_more_and_more_and_the_last_whole_line_counts(stage: Stage) -> None:
    pid = stage.python(WAIT)
    answer = stage.folder / "standstill.json"
    command = [sys.executable, "-m", "trainguard.standstills", "--folder", str(stage.folder)]
    with answer.open("wb") as output:
        word = f"{pid}:{identity_of(pid).start_time}"
        subprocess.run(
            [*command, "--checkpoints", str(stage.folder), word],
            cwd=ROOT,
            stdout=output,
            timeout=60,
            check=True,
        )
    lines = answer.read_bytes().splitlines(keepends=True)
    assert len(lines) > 2
    last = read_standstill(answer)
    assert last is not None and (last["kind"], "gpus" in last) == ("all_idle", True)
    answer.write_bytes(b"".join(lines[:2]) + lines[2][:40])
    torn = read_standstill(answer)
    assert torn is not None and "gpus" not in torn and "processes" in torn
    answer.write_bytes(lines[0][:40])
    assert read_standstill(answer) is None
    assert read_standstill(stage.folder / "absent") is None


def test_a_driver_that_hangs_costs_only_its_own_answer(stage: Stage) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("this machine has no C compiler to build the stand-in for NVML")
    source = stage.folder / "nvml.c"
    source.write_text("#include <unistd.h>\nint nvmlInitWithFlags(unsigned f) { for (;;) pause(); }\n")
    library = str(stage.folder / "libnvidia-ml.so.1")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, str(source)], check=True)
    pid = stage.python(WAIT)
    begin = time.monotonic()
    reply = subprocess.run(
        [
            sys.executable,
            "-m",
            "trainguard.standstills",
            "--folder",
            str(stage.folder),
            "--seconds",
            "4",
            str(pid),
        ],
        cwd=ROOT,
        env={**os.environ, "LD_LIBRARY_PATH": str(stage.folder)},
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert time.monotonic() - begin < 4.0 + 2.0
    last = json.loads(reply.stdout.splitlines()[-1])
    assert last["gpus"]["hung"] and last["kind"] == "unknown"
    assert last["sentence"].endswith(
        f"process {pid} (python) waits in wait_for_data (train.py:5); the GPU driver does not answer"
    )


def test_an_ordinary_user_reads_its_own_processes_and_says_what_it_may_not_see(stage: Stage) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become an ordinary user beside another one's process")
    foreign = stage.sleep()
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            own = subprocess.Popen(["/bin/sleep", "600"])
            wait_for(lambda: stands(own.pid, "sleep"), 10)
            both = [read_process(pid, None) for pid in (own.pid, foreign)]
            own.kill()
            os.write(sending, msgspec.json.encode(both))
        os._exit(0)
    os.close(sending)
    with os.fdopen(receiving, "rb") as pipe:
        mine, another = msgspec.json.decode(pipe.read(), type=list[Reading])
    os.waitpid(child, 0)
    assert (mine.denied, mine.io is None, mine.threads[0].wait_channel is None) == (("stack",), False, False)
    assert set(another.denied) == {"io", "stack", "syscall"} and another.threads[0].wait_channel is None


def test_a_question_that_hangs_or_fails_costs_only_its_own_answer() -> None:
    def question(number: int) -> int:
        if number == 1:
            time.sleep(600)
        if number == 2:
            raise RuntimeError("a fault")
        return number

    begin = time.monotonic()
    answers = dict(ask_each(question, range(20), begin + 0.5))
    assert time.monotonic() - begin < 2.0
    assert answers == {number: number for number in range(20) if number not in (1, 2)}


def test_a_mount_that_hangs_costs_only_the_open_files(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stuck, free = stage.python(WAIT), stage.python(WAIT, rank=5)
    real = gathering.read_belongings
    monkeypatch.setattr(
        gathering, "read_belongings", lambda pid, at: time.sleep(600) if pid == stuck else real(pid, at)
    )
    known = gathered(stage, stuck, free, seconds=4.0)
    assert (only(known, stuck).open_files, only(known, free).rank) == (None, 5)
    assert only(known, stuck).share is not None and only(known, stuck).own_frame is not None
    assert known.kind is Kind.ALL_IDLE and known.seconds < 4.0


@pytest.mark.parametrize(
    ("readings", "seen", "kind"),
    [
        ([], None, Kind.UNKNOWN),
        ([reading(1, state="Z", state_later="Z")], NO_GPU, Kind.UNKNOWN),
        ([reading(1, state_later="X")], NO_GPU, Kind.UNKNOWN),
        ([reading(1)], NO_GPU, Kind.ALL_IDLE),
        ([reading(1)], gpus((0, 1)), Kind.ALL_IDLE),
        ([reading(1)], gpus((19, 1)), Kind.ALL_IDLE),
        # Not asked, not answering, or half busy: what an idle processor means is open.
        ([reading(1)], None, Kind.UNKNOWN),
        ([reading(1)], Gpus(hung=True), Kind.UNKNOWN),
        ([reading(1)], Gpus(kernel_module="999.10.01"), Kind.UNKNOWN),
        ([reading(1)], gpus((None, 1)), Kind.UNKNOWN),
        ([reading(1)], gpus((20, 1)), Kind.UNKNOWN),
        ([reading(1)], gpus((79, 1)), Kind.UNKNOWN),
        ([reading(1, share=None)], NO_GPU, Kind.UNKNOWN),
        ([reading(1)], gpus((80, 1)), Kind.GPU_BUSY),
        ([busy(1)], gpus((100, 1)), Kind.GPU_BUSY),
        ([busy(1)], gpus((0, 1)), Kind.CPU_BUSY),
        ([busy(1)], NO_GPU, Kind.CPU_BUSY),
        ([busy(1, share=0.49)], NO_GPU, Kind.ALL_IDLE),
        ([busy(1, share=0.5)], NO_GPU, Kind.CPU_BUSY),
        ([reading(1, state="R", state_later="R", share=0.2)], NO_GPU, Kind.CPU_BUSY),
        ([busy(1, threads=8)], None, Kind.CPU_BUSY),
        # One rank compiles or reads data, and the others wait for it in a collective.
        ([busy(1, threads=8), busy(20)], gpus((100, 1), (100, 20)), Kind.CPU_BUSY),
        ([busy(1), busy(2)], gpus((0, 1), (100, 2)), Kind.CPU_BUSY),
        # Another container's GPU, or numbers that this one does not know.
        ([reading(1)], gpus((100, 7), (0, 1)), Kind.ALL_IDLE),
        ([busy(1)], gpus((100, 7), (0, None)), Kind.GPU_BUSY),
        ([reading(1, state_later="T"), busy(2)], gpus((100, 2)), Kind.FROZEN),
        ([reading(1, threads=(thread(1, wait_channel="do_freezer_trap"),))], NO_GPU, Kind.FROZEN),
        ([reading(1, threads=(thread(1, state="D", state_later="D"),))], gpus((100, 1)), Kind.DISK_SLEEP),
        ([reading(1, threads=(thread(1, state="D"),))], NO_GPU, Kind.ALL_IDLE),
        ([reading(1, threads=(thread(1, state="D", state_later="D", share=0.3),))], NO_GPU, Kind.ALL_IDLE),
    ],
)
def test_a_standstill_is_judged_by_what_works(readings: list[Reading], seen: Gpus | None, kind: Kind) -> None:
    assert judge_standstill(readings, seen) is kind


def test_the_odd_one_out_stands_in_another_line_or_else_function() -> None:
    later, elsewhere = Frame("step", STEP.file, 90), Frame("load", "/home/user/data.py", 7)
    assert odd_one_out({1: STEP, 2: STEP, 3: later}) == 3
    assert odd_one_out({1: STEP, 2: later, 3: elsewhere}) == 3
    assert odd_one_out({1: STEP, 2: STEP, 3: None, 4: elsewhere}) == 4
    assert odd_one_out({1: STEP, 2: STEP, 3: STEP}) is None
    assert odd_one_out({1: STEP, 2: elsewhere}) is None
    assert odd_one_out({1: STEP, 2: STEP, 3: elsewhere, 4: elsewhere}) is None
    assert odd_one_out({1: STEP, 2: STEP, 3: elsewhere, 4: REDUCE}) is None
    assert odd_one_out({}) is None


def test_the_peers_are_the_first_process_of_each_rank_and_not_its_workers() -> None:
    launcher, agent = reading(1), reading(2, frame=STEP)
    ranks = [reading(10 + rank, parent=1, rank=rank, frame=STEP) for rank in range(3)]
    workers = [reading(20 + n, parent=10, rank=0, frame=REDUCE) for n in range(5)]
    assert peers([launcher, agent, *workers, *ranks]) == ranks
    assert find_odd_one_out([*ranks, *workers]) is None


def test_without_ranks_the_peers_are_the_most_siblings() -> None:
    siblings = [reading(10 + n, parent=1, frame=STEP) for n in range(3)]
    worker = reading(20, parent=10, frame=REDUCE)
    assert peers([worker, *siblings]) == siblings
    assert peers([reading(1)]) == []


def test_ranks_come_before_their_workers_when_not_all_have_their_turn() -> None:
    compilers = [reading(100 + n, parent=10, is_python=False) for n in range(10)]
    workers = [reading(200 + n, parent=300, rank=0, is_python=True) for n in range(10)]
    ranks = [reading(300 + rank, parent=1, rank=rank, is_python=True) for rank in range(8)]
    chosen, left_out = choose([*compilers, *workers, *ranks, reading(10, rank=9)])
    assert chosen[0] == 10 and chosen[1:9] == [one.pid for one in ranks]
    assert len(chosen) == STACKED and set(left_out) > {one.pid for one in compilers}


def test_a_sentence_names_the_rank_the_call_and_the_line_that_made_it() -> None:
    told = [reading(4127, rank=3, own_frame=STEP, frame=REDUCE)]
    assert describe_standstill(Kind.GPU_BUSY, told) == (
        "the GPUs are busy without a step: rank 3 (process 4127) waits in "
        "all_reduce (distributed_c10d.py:2501), called from step (train.py:88)"
    )
    sleeper = reading(
        7, threads=(thread(7, state="D", state_later="D", wait_channel="nfs_wait"),), frame=STEP
    )
    assert describe_standstill(Kind.DISK_SLEEP, [*told, sleeper]) == (
        "the kernel waits, and no signal gets through: "
        "process 7 (python) waits in state D (nfs_wait) in step (train.py:88)"
    )
    assert describe_standstill(Kind.UNKNOWN, []) == "no process of the run was left to look at"


def test_a_process_is_stopped_for_its_stack_only_when_it_works() -> None:
    assert ways(busy(1))[0] == ()
    assert ways(reading(1))[0] == ("--nonblocking",)
    for state in "DTt":
        stuck = reading(1, share=1.0, threads=(thread(1), thread(2, state=state)))
        assert () not in ways(stuck)


def test_an_own_line_is_neither_the_library_nor_a_package() -> None:
    names = [
        ("wait", "/usr/lib/python3.11/threading.py"),
        ("all_reduce", "/env/lib/python3.11/site-packages/torch/distributed/distributed_c10d.py"),
        ("compiled", "<string>"),
        ("step", "/home/user/train.py"),
        ("<module>", "/env/bin/accelerate"),
    ]
    frames = [{"name": name, "filename": file, "line": 5} for name, file in names]
    told = {"thread_name": "MainThread", "os_thread_id": None, "active": False, "owns_gil": True}
    other = {**told, "thread_name": "Thread-1", "frames": []}
    stacks = parse_stacks(json.dumps([other, {**told, "frames": frames}]).encode())
    main = main_thread(4127, stacks)
    assert innermost(main) == Frame("wait", "/usr/lib/python3.11/threading.py", 5)
    assert innermost_own(main) == Frame("step", "/home/user/train.py", 5)
    assert main_thread(1, Stacks()) is None and innermost(None) is None and innermost_own(None) is None


def test_a_refusal_is_told_in_its_own_words() -> None:
    failed = "Error: Failed to suspend\n\nCaused by:\n    0: busy\n\nStack backtrace:\n   0: x\n"
    assert parse_refusal(failed) == Stacks(why="py-spy: Error: Failed to suspend; 0: busy")
    assert parse_refusal("Error: Failed to find python version from target process").is_python is False
    assert (parse_refusal("Permission Denied: Try running again").why or "").startswith("Permission Denied: ")
    assert parse_refusal("").why == "py-spy: it failed without a word"
    assert "cannot be understood" in (parse_stacks(b"{}").why or "")
    assert parse_stacks(b"[]").why == "it has no Python thread"


def test_what_proc_says_is_parsed_and_what_is_torn_is_unknown() -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    stat = b"7 (a) b) S 1 1 1 0 -1 0 0 0 0 0 %d %d 0 0" % (ticks, 2 * ticks)
    assert (parse_cpu(stat), parse_cpu(b"7 (a) S 1"), parse_cpu(b"")) == (3.0, None, None)
    assert parse_io(b"rchar: 3\nwchar: 4\nread_bytes: 1\n") is None
    assert parse_rank(b"A=1\0RANK=12\0SLURM_PROCID=4\0") == 12
    assert parse_rank(b"SLURM_PROCID=4\0RANK=x\0broken") == 4
    assert parse_rank(b"LOCAL_RANK=1") is None
