"""Scans of a log that grows: each crash is told once, whatever a scan has cut it into."""

import gzip
import os
import time
from pathlib import Path

import pytest
import yaml

import crash_detector
from trainguard.history import REST

PROGRESS = "".join(f"step {step}/1000 loss {3 / step:.3f}\n" for step in range(1, 30))
FAILED = """\
Traceback (most recent call last):
  File "/data/run7/train.py", line 41, in <module>
    main()
ModuleNotFoundError: No module named 'einops'
"""


class Log:
    """A log that config.yaml names."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "train.log"
        self.config = folder / "config.yaml"
        self.config.write_text(
            yaml.safe_dump({"daemon": {"command": ["{python}", "train.py"], "log": "train.log"}})
        )

    def grow(self, text: str, ago: float = 0.0) -> None:
        """Append, as if it had been done `ago` seconds ago."""
        with self.path.open("a") as stream:
            stream.write(text)
        moment = time.time() - ago
        os.utime(self.path, (moment, moment))

    def scan(self, *arguments: str) -> int:
        return crash_detector.main(["--config", str(self.config), "--quiet", *arguments])


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


def test_a_lost_loss_that_two_scans_have_cut_is_told(log: Log) -> None:
    log.grow(PROGRESS + "step 30/1000 loss nan\nstep 31/1000 loss nan\n")
    assert log.scan() == 0
    log.grow("step 32/1000 loss nan\nstep 33/1000 loss nan\n")
    assert log.scan() in (1, 2)
    log.grow("step 34/1000 loss nan\n")
    assert log.scan() == 0


@pytest.mark.parametrize("left", range(1, len("ModuleNotFoundError: No module named 'einops'\n")))
def test_a_final_line_that_a_scan_has_cut_is_told(
    log: Log, left: int, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = PROGRESS + FAILED
    log.grow(whole[:-left])
    log.scan()
    capfd.readouterr()
    log.grow(whole[-left:])
    assert log.scan() == 2
    assert "No module named 'einops'" in capfd.readouterr().out
    assert log.scan() == 0


def test_the_same_failure_of_a_later_start_is_told_and_counted(
    log: Log, capfd: pytest.CaptureFixture[str]
) -> None:
    log.grow(FAILED, ago=2 * REST)
    assert log.scan() == 2
    log.grow(FAILED)
    assert log.scan() == 2
    capfd.readouterr()
    assert log.scan("--history") == 0
    assert "seen 2 times" in capfd.readouterr().out


def test_the_same_failure_of_a_start_soon_after_is_told(log: Log) -> None:
    log.grow(FAILED)
    assert log.scan() == 2
    log.grow(FAILED)
    assert log.scan() == 2


def test_what_a_crash_that_was_told_sets_off_is_no_crash(log: Log) -> None:
    log.grow(PROGRESS + FAILED, ago=2 * REST)
    assert log.scan() == 2
    log.grow("WARNING: 1 leaked semaphore\n  exitcode  : 1 (pid: 4127)\n")
    assert log.scan() == 0


def test_since_leaves_out_a_crash_without_a_time_in_a_log_that_is_older(log: Log) -> None:
    log.grow(FAILED, ago=3 * 3600)
    assert log.scan("--all", "--since", "2h ago") == 0
    assert log.scan("--all", "--since", "4h ago") == 2


@pytest.mark.parametrize("name", ["train.log.1", "train.log.1.gz"])
def test_a_crash_that_is_read_again_after_rotation_counts_once(
    log: Log, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    log.grow(PROGRESS + FAILED)
    assert log.scan(str(log.path)) == 2
    opened = gzip.open if name.endswith(".gz") else open
    with opened(log.path.with_name(name), "wb") as stream:
        stream.write(log.path.read_bytes())
    log.path.unlink()
    assert log.scan(str(log.path.with_name(name))) == 2
    capfd.readouterr()
    assert log.scan("--history") == 0
    assert "seen 1 time," in capfd.readouterr().out
