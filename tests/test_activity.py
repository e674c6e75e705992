"""Activity: real processes that compute, read, sleep, are stopped and bear the name of a compiler."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import wait_for

from trainguard.activity import Activity, Doer, compare, is_compiler, parse_doer, parse_io, read_activity
from trainguard.policy import Doing

STAT = b"42 (a (b) c) S 1 42 42 0 -1 4194560 9 0 0 0 150 50 7 7 20 0 3 0 777 1000 10 0\n"
Start = Callable[[str], int]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts Python with this code and gives its pid once it has said that it is ready."""
    children: list[subprocess.Popen[bytes]] = []

    def begin(code: str) -> int:
        command = [sys.executable, "-c", f"print('ready', flush=True)\n{code}"]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        children.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        return child.pid

    yield begin
    for child in children:
        child.kill()
        child.communicate()


def seen_until(pid: int, condition: Callable[[Doing], bool]) -> Doing:
    """What was done since now, once the condition holds of it."""
    before = read_activity([pid], time.monotonic())

    def look() -> Doing | None:
        doing = compare(before, read_activity([pid], time.monotonic()))
        return doing if condition(doing) else None

    found = wait_for(look)
    assert found is not None
    return found


def test_a_process_that_computes_is_busy(start: Start) -> None:
    pid = start("while True: pass")
    doing = seen_until(pid, lambda doing: doing.cpu_seconds >= 0.2)
    assert doing.seconds > 0
    assert doing.compilers == doing.stopped == doing.stuck == ()


def test_a_process_that_sleeps_does_nothing(start: Start) -> None:
    pid = start("import time; time.sleep(3600)")
    wait_for(lambda: read_activity([pid], 0.0).doers and state_of(pid) == "S")
    doing = seen_until(pid, lambda doing: doing.seconds > 0.3)
    assert doing.cpu_seconds <= 0.02
    assert doing.io_bytes == 0


def test_what_is_read_and_written_is_counted_also_from_the_page_cache(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_bytes(bytes(1 << 20))
    pid = start(
        f"import sys\nsys.stdin.readline()\nfor _ in range(5): open({str(file)!r}, 'rb').read()\nsys.stdin.read()"
    )
    before = read_activity([pid], 0.0)
    with open(f"/proc/{pid}/fd/0", "wb", buffering=0) as channel:  # noqa: PTH123
        channel.write(b"go\n")
    wait_for(lambda: (compare(before, read_activity([pid], 1.0)).io_bytes or 0) >= 5 << 20)


def test_a_stopped_process_is_named(start: Start) -> None:
    pid = start("import time; time.sleep(3600)")
    os.kill(pid, signal.SIGSTOP)
    doing = seen_until(pid, lambda doing: bool(doing.stopped))
    assert doing.stopped[0].startswith(f"pid {pid} (")


def test_a_compiler_among_the_children_is_named(start: Start) -> None:
    pid = start("open('/proc/self/comm', 'w').write('ptxas')\nimport time; time.sleep(3600)")
    assert seen_until(pid, lambda doing: bool(doing.compilers)).compilers == ("ptxas",)


def test_a_process_that_has_ended_is_left_out() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert read_activity([child.pid], 0.0).doers == {}


def state_of(pid: int) -> str:
    return next(doer.state for doer in read_activity([pid], 0.0).doers.values())


def doer(state: str = "S", cpu_seconds: float = 1.0, io_bytes: int | None = 0, name: str = "python") -> Doer:
    return Doer(name, state, cpu_seconds, io_bytes)


def done(before: Doer | None, after: Doer | None) -> Doing:
    """What one process did in ten seconds."""
    rows = [{} if one is None else {(7, 100): one} for one in (before, after)]
    return compare(Activity(0.0, rows[0]), Activity(10.0, rows[1]))


def test_state_d_counts_at_two_looks_without_work_between_them() -> None:
    assert done(doer("D"), doer("D")).stuck == ("pid 7 (python)",)
    assert done(doer("S"), doer("D")).stuck == ()
    assert done(doer("D"), doer("S")).stuck == ()
    assert done(doer("D"), doer("D", cpu_seconds=1.01)).stuck == ()
    assert done(None, doer("D")).stuck == ()


def test_a_process_that_was_not_there_before_adds_no_time_of_its_life_before() -> None:
    assert done(None, doer(cpu_seconds=50.0, io_bytes=9)) == Doing(10.0, 0.0, None)
    assert done(doer(cpu_seconds=50.0), None) == Doing(10.0, 0.0, None)


def test_input_and_output_that_may_not_be_asked_are_unknown_and_not_zero() -> None:
    assert done(doer(io_bytes=None), doer(io_bytes=None)).io_bytes is None
    assert done(doer(io_bytes=5), doer(io_bytes=15)).io_bytes == 10


def test_a_zombie_is_nobody() -> None:
    assert done(doer("R"), doer("Z", name="ptxas")) == Doing(10.0, 0.0, None)


def test_a_stat_line_is_read_with_any_name_in_it() -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    assert parse_doer(STAT) == ("a (b) c", "S", 200 / ticks, 777)
    for torn in (b"", b"42 (a", b"42 (a) S 1 2"):
        with pytest.raises((ValueError, IndexError)):
            parse_doer(torn)


def test_what_is_no_account_of_input_and_output_is_unknown() -> None:
    assert parse_io(b"rchar: 7\nwchar: 5\nsyscr: 1\n") == 12
    for text in (None, b"", b"rchar: 7\n", b"rchar: x\nwchar: 5\n"):
        assert parse_io(text) is None


@pytest.mark.parametrize(
    ("name", "compiles"),
    [
        ("cc1plus", True), ("ptxas", True), ("nvcc", True), ("ninja", True), ("gcc", True), ("ld", True),
        ("x86_64-linux-gn", True), ("clang-18", True),
        ("python", False), ("make", False), ("ldconfig", False), ("tritonserver", False), ("asr_train", False),
    ],
)  # fmt: skip
def test_compilers_are_known_by_name(name: str, compiles: bool) -> None:
    assert is_compiler(name) is compiles
