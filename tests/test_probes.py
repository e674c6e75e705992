"""Probes: real children that answer, fail, hang, die, and say too much."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from support import ROOT, wait_for

from trainguard import probes
from trainguard.probes import Probe


class Number(msgspec.Struct, frozen=True):
    """What the probes of these tests read."""

    value: int


def probe(read: object, seconds: float = 20.0, name: str = "it") -> Probe:
    return Probe(name, read, Number, seconds)  # type: ignore[arg-type]


def children() -> set[int]:
    told = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return {int(pid) for pid in told.split()}


def test_a_probe_reads_in_a_child_and_gives_a_value_of_its_type() -> None:
    before = children()
    answer = probes.ask([probe(lambda: Number(os.getpid()))])["it"]
    assert isinstance(answer.value, Number) and answer.value.value != os.getpid()
    assert answer.problem is None and not answer.hung
    assert children() <= before


def test_what_a_probe_raises_is_its_problem() -> None:
    def missing() -> object:
        return Number(len(Path("/absent/file").read_bytes()))

    answers = probes.ask([probe(missing, name="file"), probe(lambda: 1 / 0, name="bug")])
    assert answers["file"].problem == "/absent/file: No such file or directory"
    assert answers["bug"].problem == "ZeroDivisionError: division by zero"
    assert not answers["bug"].hung and answers["bug"].value is None


def test_a_hanging_probe_is_left_at_its_deadline_and_hides_no_other() -> None:
    before, began = children(), time.monotonic()
    answers = probes.ask(
        [probe(lambda: time.sleep(60), 0.3, "hangs"), probe(lambda: Number(1), 20.0, "answers")]
    )
    assert time.monotonic() - began < 10
    assert answers["hangs"].hung and answers["hangs"].problem == "no answer within 0.3 s"
    assert answers["answers"].value == Number(1)
    wait_for(lambda: children() <= before, what="the end of the child that hung")


def test_a_stopped_probe_is_left_like_one_that_hangs() -> None:
    def stop() -> object:
        os.kill(os.getpid(), signal.SIGSTOP)
        return Number(1)

    assert probes.ask([probe(stop, 0.3)])["it"].hung


def test_a_probe_that_is_killed_is_told_as_that() -> None:
    def die() -> object:
        os.kill(os.getpid(), signal.SIGKILL)
        return Number(1)

    answer = probes.ask([probe(die)])["it"]
    assert answer.problem == "what was to read it died" and not answer.hung


def test_probes_run_side_by_side() -> None:
    def meet(own: int, other: int) -> object:
        """Both end only if both are there at once."""
        os.write(own, b"x")
        return Number(len(os.read(other, 1)))

    first, second = os.pipe(), os.pipe()
    answers = probes.ask(
        [
            probe(lambda: meet(first[1], second[0]), name="one"),
            probe(lambda: meet(second[1], first[0]), name="two"),
        ]
    )
    for descriptor in (*first, *second):
        os.close(descriptor)
    assert [answer.value for answer in answers.values()] == [Number(1), Number(1)]


def test_probes_may_ask_probes() -> None:
    def outer() -> object:
        inner = probes.ask([probe(lambda: Number(7), name="a"), probe(lambda: time.sleep(60), 0.2, "b")])
        assert inner["b"].hung
        return inner["a"].value

    assert probes.ask([probe(outer)])["it"].value == Number(7)


def test_an_answer_of_another_type_is_a_problem() -> None:
    assert probes.ask([probe(lambda: ["no", "number"])])["it"].problem == "what was to read it died"


def test_a_large_answer_comes_whole() -> None:
    answers = probes.ask([Probe("large", lambda: b"x" * (5 << 20), bytes, 20.0)])
    assert answers["large"].value == b"x" * (5 << 20)


def test_each_answer_is_announced_and_they_come_in_the_order_asked() -> None:
    announced: list[str] = []
    answers = probes.ask(
        [probe(lambda: (time.sleep(0.2), Number(1))[1], name="slow"), probe(lambda: Number(2), name="quick")],
        lambda one: announced.append(one.name),
    )
    assert list(answers) == ["slow", "quick"]
    assert sorted(announced) == ["quick", "slow"]


def test_a_child_whose_parent_is_killed_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "LONE_SECONDS", 0.2)
    reading, writing = os.pipe()

    def hang() -> object:
        os.write(writing, str(os.getpid()).encode())
        time.sleep(60)
        return Number(1)

    parent = os.fork()
    if parent == 0:
        probes.ask([probe(hang, 0.3)])
        os._exit(0)
    pid = int(os.read(reading, 20))
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    os.close(reading)
    os.close(writing)

    def is_gone() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except FileNotFoundError:
            return True

    wait_for(is_gone, what="the end of the lone child")


def test_what_was_printed_before_is_printed_once_and_what_a_child_prints_never() -> None:
    code = (
        "import sys; from trainguard import probes; print('once', end=''); "
        "probes.ask([probes.Probe('a', lambda: print('never', flush=True), None, 20.0)]); print()"
    )
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout == "once\n" and told.stderr == ""
