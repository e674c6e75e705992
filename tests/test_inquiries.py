"""Inquiries: children that are asked, and left when they do not answer in time."""

import os
import sys
import time
from pathlib import Path

from support import identity_of, lives, wait_for

from trainguard.inquiries import Inquiry


def test_an_answer_is_in_its_place_once_the_child_has_ended(tmp_path: Path) -> None:
    answer = tmp_path / "incident" / "answer.json"
    inquiry = Inquiry([sys.executable, "-c", "print('42')"], answer, 60)
    wait_for(lambda: inquiry.is_over(time.monotonic()), what="the end of the child")
    assert not answer.exists()
    assert inquiry.end()
    assert answer.read_text() == "42\n"
    assert [file.name for file in answer.parent.iterdir()] == ["answer.json"]


def test_a_child_that_takes_too_long_is_killed_and_what_it_said_is_kept(tmp_path: Path) -> None:
    code = "import time; print('half', flush=True); time.sleep(600)"
    inquiry = Inquiry([sys.executable, "-c", code], tmp_path / "answer", 600)
    part = tmp_path / ".answer.part"
    wait_for(lambda: part.read_text() == "half\n", what="the first word")
    child, now = identity_of(inquiry.pid), time.monotonic()
    assert not inquiry.is_over(now)
    assert inquiry.is_over(now + 601)
    wait_for(lambda: not lives(child), what="the end of the child")
    assert inquiry.end()
    assert (tmp_path / "answer").read_text() == "half\n"


def test_a_child_stands_behind_the_daemon_for_the_processor(tmp_path: Path) -> None:
    inquiry = Inquiry([sys.executable, "-c", "import time; time.sleep(600)"], tmp_path / "answer", 600)
    assert os.getpriority(os.PRIO_PROCESS, inquiry.pid) > os.getpriority(os.PRIO_PROCESS, 0)
    child = identity_of(inquiry.pid)
    inquiry.end()
    wait_for(lambda: not lives(child), what="the end of the child")


def test_the_child_of_a_watchdog_that_died_does_not_write_into_the_next_ones_answer(tmp_path: Path) -> None:
    answer, go = tmp_path / "answer", tmp_path / "go"
    code = (
        "import pathlib, sys, time\n"
        f"while not pathlib.Path({str(go)!r}).exists(): time.sleep(0.01)\n"
        "print('of the former one, which is long', flush=True)"
    )
    former = Inquiry([sys.executable, "-c", code], answer, 60)
    inquiry = Inquiry([sys.executable, "-c", "print('42')"], answer, 60)
    wait_for(lambda: inquiry.is_over(time.monotonic()), what="the end of the child")
    go.touch()
    wait_for(lambda: former.is_over(time.monotonic()), what="the end of the former child")
    assert inquiry.end()
    assert answer.read_text() == "42\n"
