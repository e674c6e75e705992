"""The crash detector from outside: files, folders, streams and incidents in; lines, JSON and exit codes out."""

import bz2
import gzip
import json
import lzma
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
import zstandard
from support import ROOT, Sandbox, wait_for

from trainguard.history import CrashRow, History

DETECTOR = ROOT / "crash_detector.py"
PROGRESS = "".join(f"step {step}/1000 loss {3 / step:.3f}\n" for step in range(1, 30))
FAILED = """\
Traceback (most recent call last):
  File "/data/run7/train.py", line 41, in <module>
    step(batch)
  File "/data/run7/train.py", line 17, in step
    return batch["labels"]
KeyError: 'labels'
"""
KILLED = "run.sh: line 3: 4127 Killed                  python train.py\n"
KERNEL = (
    "[ 9120.114312] Memory cgroup out of memory: Killed process 4127 (python) total-vm:81234560kB, "
    "anon-rss:61234560kB, file-rss:1024kB, shmem-rss:0kB, UID:1000 pgtables:120000kB oom_score_adj:0\n"
)


class Place:
    """A folder with a configuration, and the detector called in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "logs" / "training_output.log"
        self.config = folder / "config.yaml"
        self.configure()

    def configure(self, **detector: object) -> None:
        settings: dict[str, object] = {"daemon": {"command": ["{python}", "train.py"]}}
        self.config.write_text(yaml.safe_dump(settings | ({"detector": detector} if detector else {})))

    def write(self, text: str, name: str = "logs/training_output.log", append: bool = False) -> Path:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a" if append else "w") as stream:
            stream.write(text)
        return file

    def call(self, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(DETECTOR), "--config", str(self.config), *map(str, arguments)],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            **options,
        )

    def json(self, *arguments: object, **options: Any) -> dict[str, Any]:
        told = self.call("--json", *arguments, **options)
        assert told.stdout, told.stderr
        content: dict[str, Any] = json.loads(told.stdout)
        assert bool(content["crashes"]) == (told.returncode in (1, 2))
        return content


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# --- what it says -----------------------------------------------------------------------------------------------


def test_the_json_is_the_contract(place: Place) -> None:
    log = place.write(PROGRESS + FAILED)
    told = place.json()
    assert told.keys() == {"crashes", "scanned", "notes"}
    assert told["scanned"].keys() == {"files", "bytes", "seconds"}
    assert (told["scanned"]["files"], told["scanned"]["bytes"]) == ([str(log)], log.stat().st_size)
    (crash,) = told["crashes"]
    assert crash.keys() == {
        *("type", "cause", "class", "retry", "root", "rank", "exception", "consequences", "evidence"),
        *("advice", "fingerprint", "time", "count", "first_seen", "last_seen"),
    }
    assert (crash["type"], crash["class"], crash["retry"]) == ("key_error", "software", "no")
    assert (crash["root"]["file"], crash["root"]["line"]) == (str(log), 35)
    assert crash["root"]["text"] == "KeyError: 'labels'"
    assert crash["advice"] and crash["count"] == 1


def test_a_person_is_told_what_where_and_what_to_do(place: Place) -> None:
    place.write(PROGRESS + FAILED)
    told = place.call()
    assert told.returncode == 2
    assert "BAD  key_error" in told.stdout and "a restart does not help" in told.stdout
    assert "logs/training_output.log:35" in told.stdout and "KeyError: 'labels'" in told.stdout
    assert "1. " in told.stdout
    quiet = place.call("--all", "--quiet").stdout
    assert quiet.count("\n") == 1 and "KeyError: 'labels'" in quiet


def test_the_exit_code_says_whether_a_restart_cures_it(place: Place) -> None:
    assert place.call(place.write(PROGRESS, "fine.log")).returncode == 0
    assert place.call(place.write(PROGRESS + KILLED, "killed.log")).returncode == 1
    assert place.call(place.write(PROGRESS + FAILED, "failed.log")).returncode == 2
    told = place.call("missing.log")
    assert (told.returncode, told.stdout.count("\n")) == (3, 1)
    assert "missing.log: No such file" in told.stderr


def test_every_type_and_cause_is_explained_and_listed(place: Place) -> None:
    listed = place.call("--list").stdout
    names = {line.split()[0] for line in listed.splitlines()}
    assert {"cuda_oom", "cuda_oom_fragmentation", "python_exception", "hang"} <= names
    for name in ("cuda_oom", "gpu_ecc_dbe"):
        told = place.call("--explain", name)
        assert told.returncode == 0 and "What to do:" in told.stdout and "1. " in told.stdout
    for name in ("no_such_type", "CUDA-OOMM"):
        told = place.call("--explain", name)
        assert told.returncode == 3 and "--list names them all" in told.stderr
    assert "did you mean cuda_oom?" in told.stderr
    assert place.call("--explain", "CUDA-OOM").stdout == place.call("--explain", "cuda_oom").stdout


def test_types_and_causes_are_told_as_json_too(place: Place) -> None:
    listed = json.loads(place.call("--list", "--json").stdout)
    causes = {one["name"]: [cause["name"] for cause in one["causes"]] for one in listed["types"]}
    assert "cuda_oom_fragmentation" in causes["cuda_oom"]
    told = json.loads(place.call("--explain", "cuda_oom", "--json").stdout)
    assert (told["class"], told["retry"]) == ("resource", "clean") and told["steps"] and told["signs"]
    assert [one["name"] for one in told["causes"]] == causes["cuda_oom"]
    told = json.loads(place.call("--explain", "gpu_ecc_dbe", "--json").stdout)
    assert (told["type"], told["verdicts"]) == ("gpu_hardware", ["restart", "repair"]) and told["sources"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--history", "run.log"), "--history takes no log"),
        (("--explain", "cuda_oom", "run.log"), "--explain takes no log"),
        (("",), "argument LOG: it is empty"),
        (("--incident", ""), "argument --incident: it is empty"),
        (("--kernel-log", " "), "argument --kernel-log: it is empty"),
        (("--explain", ""), "argument --explain: it is empty"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(place: Place, arguments: tuple[str, ...], told: str) -> None:
    place.write(FAILED, "run.log")
    answer = place.call(*arguments)
    assert (answer.returncode, answer.stdout) == (3, "") and told in answer.stderr


def test_one_is_told_as_one(place: Place) -> None:
    log = place.write(PROGRESS + FAILED)
    assert "no crash in 1 log, " in place.call(place.write(PROGRESS, "fine.log")).stdout
    place.call(log)
    told = place.call("--history").stdout
    assert told.startswith("1 crash at ") and "seen 1 time, last" in told
    place.write(PROGRESS + KILLED, append=True)
    assert "(before it 1 other crash)" in place.call(log, "--quiet").stdout


# --- what it reads ----------------------------------------------------------------------------------------------


def test_only_what_is_new_is_read_and_the_old_crash_is_told_no_more(place: Place) -> None:
    place.write(PROGRESS + FAILED)
    assert place.call().returncode == 2
    told = place.call()
    assert (told.returncode, "nothing new" in told.stdout) == (0, True)
    place.write("restarting\n" + PROGRESS, append=True)
    assert place.call().returncode == 0
    place.write(KILLED, append=True)
    assert [one["type"] for one in place.json()["crashes"]] == ["process_killed"]
    assert [one["type"] for one in place.json("--all")["crashes"]] == ["process_killed", "key_error"]


def test_a_traceback_that_was_half_written_at_the_last_scan_is_told_at_the_next(place: Place) -> None:
    half = FAILED.index("    return")
    place.write(PROGRESS + FAILED[:half])
    assert place.call().returncode == 0
    place.write(FAILED[half:], append=True)
    (crash,) = place.json()["crashes"]
    assert (crash["type"], crash["root"]["line"]) == ("key_error", 35)


def test_a_log_that_was_rotated_or_truncated_is_read_from_its_beginning(place: Place) -> None:
    log = place.write(PROGRESS * 3)
    assert place.call().returncode == 0
    place.write(FAILED, append=True)
    log.rename(log.with_name(f"{log.name}.1"))
    place.write(PROGRESS + KILLED)
    told = place.json()
    assert [one["type"] for one in told["crashes"]] == ["process_killed", "key_error"] or [
        one["type"] for one in told["crashes"]
    ] == ["key_error", "process_killed"]
    assert any("rotated" in note for note in told["notes"])
    with log.open("r+") as stream:
        stream.truncate(0)
    place.write(FAILED, append=True)
    told = place.json()
    assert [one["type"] for one in told["crashes"]] == ["key_error"]
    assert any("truncated" in note for note in told["notes"])


def test_folders_streams_and_the_logs_of_the_configuration_are_read(place: Place) -> None:
    place.write(PROGRESS, "ranks/a.log")
    place.write(FAILED, "ranks/deep/b.err")
    place.write("not a log", "ranks/c.txt")
    told = place.json("ranks")
    assert [Path(name).name for name in told["scanned"]["files"]] == ["a.log", "b.err"]
    assert [one["type"] for one in told["crashes"]] == ["key_error"]
    assert place.json("-", input=PROGRESS + FAILED)["crashes"][0]["root"]["line"] == 35
    place.configure(logs=["ranks"])
    place.write(PROGRESS)
    assert [one["type"] for one in place.json()["crashes"]] == ["key_error"]


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [
        ("gz", gzip.compress),
        ("bz2", bz2.compress),
        ("xz", lzma.compress),
        ("zst", lambda content: zstandard.ZstdCompressor().compress(content)),
    ],
)
def test_compressed_logs_are_read_and_broken_ones_are_a_note(place: Place, suffix: str, pack: Any) -> None:
    file = place.folder / f"run.log.{suffix}"
    content: bytes = pack((PROGRESS * 50 + FAILED).encode())
    file.write_bytes(content)
    (crash,) = place.json(file)["crashes"]
    assert (crash["type"], crash["root"]["line"]) == ("key_error", 29 * 50 + 6)
    file.write_bytes(content[: len(content) // 2] + b"garbage")
    told = place.call("--json", file)
    assert "Traceback" not in told.stderr and json.loads(told.stdout)["notes"]


def test_the_end_of_a_log_and_what_came_since_can_be_asked_for(place: Place) -> None:
    log = place.write(FAILED + "***** Running training *****\n" + PROGRESS * 2)
    assert place.call(log).returncode == 2
    assert place.call(log, "--last-n-lines", "20").returncode == 0
    dated = place.write(f"2026-01-05 03:12:44 ERROR giving up\n{FAILED}", "dated.log")
    assert place.call(dated, "--since", "2026-01-05 03:00").returncode == 2
    assert place.call(dated, "--since", "2026-01-05 04:00").returncode == 0
    assert place.call(dated, "--since", "soon").returncode == 3


def test_logs_of_one_run_are_judged_together(place: Place) -> None:
    closed = "RuntimeError: [../gloo/transport/tcp/pair.cc:525] Connection closed by peer [10.0.0.7]:4310"
    place.write(FAILED.replace("KeyError: 'labels'", closed), "ranks/rank0.log")
    place.write(FAILED, "ranks/rank1.log")
    (crash,) = place.json("ranks")["crashes"]
    assert crash["type"] == "key_error" and crash["root"]["file"].endswith("rank1.log")
    assert [one["type"] for one in crash["consequences"]] == ["collective_error"]


def test_the_kernels_word_counts_where_it_names_the_runs_process(place: Place) -> None:
    log = place.write(PROGRESS + KILLED)
    kernel = place.write(KERNEL, "dmesg.txt")
    (crash,) = place.json(log, "--kernel-log", kernel)["crashes"]
    assert crash["type"] == "host_oom" and [one["type"] for one in crash["consequences"]] == [
        "process_killed"
    ]
    place.write(KERNEL.replace("4127", "99"), "dmesg.txt")
    assert place.json(log, "--kernel-log", kernel)["crashes"][0]["type"] == "process_killed"
    told = place.json(log, "--kernel-log", "missing")
    assert told["crashes"][0]["type"] == "process_killed" and any("missing" in note for note in told["notes"])
    packed = place.folder / "dmesg.gz"
    packed.write_bytes(gzip.compress(KERNEL.encode()))
    told = place.json(log, "--kernel-log", packed)
    assert told["crashes"][0]["type"] == "host_oom" and told["notes"] == []


def test_the_kernels_lines_may_come_from_stdin(place: Place) -> None:
    log = place.write(PROGRESS + KILLED)
    assert place.json(log, "--kernel-log", "-", input=KERNEL)["crashes"][0]["type"] == "host_oom"
    both = place.call("-", "--kernel-log", "-", input=KERNEL)
    assert both.returncode == 3 and "stdin is the log already" in both.stderr


@pytest.mark.skipif(not os.access("/dev/kmsg", os.R_OK), reason="the kernel log may not be read here")
def test_the_machines_own_kernel_log_can_be_named(place: Place) -> None:
    told = place.json(place.write(PROGRESS + KILLED), "--kernel-log", "/dev/kmsg")
    assert told["crashes"] and not any("kmsg" in note for note in told["notes"])


def test_what_is_appended_is_followed(place: Place) -> None:
    place.write(PROGRESS)
    with subprocess.Popen(
        [sys.executable, str(DETECTOR), "--config", str(place.config), "--follow", "--quiet"],
        stdout=subprocess.PIPE,
        text=True,
    ) as follower:
        assert follower.stdout is not None
        assert "no crash" in follower.stdout.readline()
        place.write(FAILED, append=True)
        line = follower.stdout.readline()
        while "no crash" in line:
            line = follower.stdout.readline()
        follower.send_signal(signal.SIGINT)
        assert "KeyError: 'labels'" in line
    assert follower.returncode == 2


# --- the history --------------------------------------------------------------------------------------------------


def test_the_same_crash_read_twice_counts_once_and_again_where_it_happened_again(place: Place) -> None:
    log = place.write(PROGRESS + FAILED)
    prints = {place.json(log)["crashes"][0]["fingerprint"] for _ in range(2)}
    assert place.json(log)["crashes"][0]["count"] == 1
    place.write(PROGRESS + FAILED, append=True)
    newest = place.json(log)["crashes"][0]
    assert (newest["count"], {newest["fingerprint"]}) == (2, prints)
    told = json.loads(place.call("--history", "--json").stdout)["history"]
    assert (told["count"], told["by_type"]) == (2, {"key_error": 2})
    assert "seen 2 times" in place.call("--history").stdout


def test_nothing_is_written_where_no_history_is_wanted(place: Place) -> None:
    log = place.write(PROGRESS + FAILED)
    before = sorted(place.folder.rglob("*"))
    assert place.call("--no-history").returncode == 2
    assert place.call("--no-history", log).returncode == 2
    assert sorted(place.folder.rglob("*")) == before
    assert place.call().returncode == 2
    assert place.call("--no-history", "--all").returncode == 2
    assert place.call().returncode == 0


def test_a_long_history_is_told_within_a_second(place: Place) -> None:
    history = History(place.folder / "logs" / "crash_history.sqlite3")
    rows = [
        CrashRow(f"{number % 4000:016x}", "cuda_oom", f"log:{number}", time=1.7e9 + number * 60, text="oom")
        for number in range(100_000)
    ]
    history.add(rows)
    history.close()
    began = os.times().children_user
    told = json.loads(place.call("--history", "--json").stdout)
    assert told["history"]["count"] == 100_000
    assert os.times().children_user - began < 2


def test_a_broken_history_costs_a_note_and_no_answer(place: Place) -> None:
    log = place.write(PROGRESS + FAILED)
    assert place.call(log).returncode == 2
    history = place.folder / "logs" / "crash_history.sqlite3"
    history.write_bytes(b"not a database" * 999)
    told = place.json(log)
    assert told["crashes"][0]["count"] == 1 and any("crash_history" in note for note in told["notes"])


def test_two_detectors_at_once_both_answer_and_count_once(place: Place) -> None:
    log = place.write(PROGRESS + FAILED)
    with_history = [
        threading.Thread(target=lambda: codes.append(place.call(log, "--quiet").returncode)) for _ in range(4)
    ]
    codes: list[int] = []
    for one in with_history:
        one.start()
    for one in with_history:
        one.join()
    assert codes == [2] * 4
    assert place.json(log)["crashes"][0]["count"] == 1


# --- bad input ----------------------------------------------------------------------------------------------------


def test_hostile_files_get_an_answer_or_a_note_and_never_a_trace(place: Place) -> None:
    folder = place.folder / "hostile"
    folder.mkdir()
    os.mkfifo(folder / "fifo.log")
    (folder / "folder.log").mkdir()
    (folder / "line.log").write_bytes(b"x" * (100 << 20))
    (folder / "zeros.log").write_bytes(b"\0" * 100_000 + FAILED.encode())
    (folder / "latin.log").write_bytes(b"\xff\xfe\xe4" * 5000 + b"\n" + FAILED.encode())
    (folder / "corrupt.log").write_bytes(gzip.compress(FAILED.encode())[:40])
    with (folder / "large.log").open("wb") as stream:
        stream.truncate(4 * (1 << 30) + (100 << 20))
        stream.seek(0, os.SEEK_END)
        stream.write(b"\n" + FAILED.encode())
    for file in sorted(folder.iterdir()):
        began = time.monotonic()
        told = place.call(file, "--json")
        assert "Traceback" not in told.stderr, (file, told.stderr)
        assert told.returncode in (
            (2,) if file.name in ("zeros.log", "latin.log", "large.log") else (0, 3)
        ), file
        assert time.monotonic() - began < 50
    assert place.json(folder / "large.log")["crashes"][0]["type"] == "key_error"


def test_a_file_that_is_cut_while_it_is_read_gets_an_answer(place: Place) -> None:
    log = place.write(PROGRESS * 40_000)
    stop = threading.Event()

    def disturb() -> None:
        while not stop.is_set():
            os.truncate(log, 1000)
            place.write(PROGRESS * 2000, append=True)
            log.unlink()
            place.write(PROGRESS * 1000)

    disturber = threading.Thread(target=disturb)
    disturber.start()
    try:
        for _ in range(5):
            told = place.call(log, "--json", "--no-history")
            assert told.returncode in (0, 3) and "Traceback" not in told.stderr
    finally:
        stop.set()
        disturber.join()


def test_rows_of_the_users_own_are_used_first_and_a_bad_one_is_a_sentence(place: Place) -> None:
    row = {
        "name": "feature_store_gone",
        "pattern": r"FeatureStore: shard (?P<path>\S+) is not reachable",
        "type": "connection_error",
        "role": "root",
        "fatal": True,
        "source": "our loader",
        "sample": "FeatureStore: shard /mnt/store/7 is not reachable, giving up",
        "near_miss": "FeatureStore: shard /mnt/store/7 is reachable",
    }
    log = place.write(PROGRESS + str(row["sample"]) + "\n")
    assert place.call(log).returncode == 0
    place.configure(signatures="rows.yaml")
    place.write(yaml.safe_dump([row]), "rows.yaml")
    assert place.json(log)["crashes"][0]["type"] == "connection_error"
    place.write(yaml.safe_dump([row | {"near_miss": row["sample"]}]), "rows.yaml")
    told = place.call(log)
    assert told.returncode == 0 and "its near miss matches; goes on without" in told.stderr
    place.write(PROGRESS + FAILED)
    for broken in ("[", "- name: x", ""):
        place.write(broken, "rows.yaml")
        assert place.call("--all").returncode == 2
    (place.folder / "rows.yaml").unlink()
    told = place.call("--all")
    assert told.returncode == 2 and "rows.yaml: No such file or directory; goes on without" in told.stderr


def test_a_row_whose_pattern_takes_for_ever_is_left_out_with_a_note(place: Place) -> None:
    row = {
        "name": "shard_marks",
        "pattern": r"shard marks (?:x|xx)+(?=y)",
        "type": "data_error",
        "role": "root",
        "source": "our loader",
        "sample": "shard marks xxy",
        "near_miss": "shard marks zzy",
    }
    place.configure(signatures="rows.yaml")
    place.write(yaml.safe_dump([row]), "rows.yaml")
    log = place.write(PROGRESS + f"shard marks {'x' * 200}z\n" * 50 + FAILED)
    told = place.json(log)
    assert [one["type"] for one in told["crashes"]] == ["key_error"]
    assert [note for note in told["notes"] if "takes too long" in note] == [
        "signature shard_marks: its pattern takes too long to search; it is left out"
    ]
    place.write(yaml.safe_dump([row | {"near_miss": f"shard marks {'x' * 200}"}]), "rows.yaml")
    told = place.json(log)
    assert any("row 1 (shard_marks)" in note and "takes too long" in note for note in told["notes"])


def test_a_configuration_that_cannot_be_used_does_not_keep_named_logs_from_being_read(place: Place) -> None:
    log = place.write(PROGRESS + FAILED)
    place.config.write_text("daemon: [")
    told = place.call(log)
    assert told.returncode == 2 and "goes on without it" in told.stderr
    assert place.call().returncode == 3


def test_a_configuration_that_is_ignored_is_a_note_whether_or_not_a_history_is_kept(place: Place) -> None:
    log = place.write(PROGRESS)
    for broken in ("daemon: [", "deamon: {}"):
        place.config.write_text(broken)
        for more in ((), ("--no-history",)):
            assert "goes on without it" in place.call(log, *more).stderr
            assert any("goes on without it" in note for note in place.json(log, *more)["notes"])
    place.config.unlink()
    assert "goes on without it" in place.call(log, "--no-history").stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--incident", "17-1"), "17-1: no such incident"),
        (("--explain", "gremlins"), "gremlins: no crash type and no cause"),
    ],
)
def test_with_json_an_error_is_told_in_the_object(
    place: Place, arguments: tuple[str, ...], told: str
) -> None:
    answer = place.call("--json", *arguments)
    content = json.loads(answer.stdout)
    assert (answer.returncode, content["crashes"], content["scanned"]["files"]) == (3, [], [])
    assert len(content["notes"]) == 1 and content["notes"][0].startswith(told)


def test_with_json_a_configuration_that_cannot_be_used_is_told_in_the_object(place: Place) -> None:
    place.config.write_text("daemon: {}\nlogs: 3\n")
    several = place.call("--json")
    notes = json.loads(several.stdout)["notes"]
    assert several.returncode == 3 and len(notes) > 1
    assert all(note.startswith("config.yaml: ") for note in notes)
    place.config.unlink()
    missing = place.call("--json")
    assert missing.returncode == 3 and "no such file" in json.loads(missing.stdout)["notes"][0]


def test_a_files_name_cannot_steer_the_terminal(place: Place) -> None:
    name = "run\x1b[31m\n7.log"
    place.write(PROGRESS + FAILED, f"runs/{name}")
    for arguments in (("runs",), ("runs", "--quiet"), (f"runs/{name}.gone",)):
        told = place.call(*arguments)
        assert "\x1b" not in told.stdout + told.stderr
    assert "runs/run\\x1b[31m\\n7.log:35" in place.call("runs").stdout
    assert place.json("runs")["scanned"]["files"][0].endswith(name)


def test_a_log_whose_name_is_no_text_is_told_in_json(place: Place) -> None:
    folder = place.folder / "runs"
    folder.mkdir()
    name = os.fsencode(folder) + b"/run\xff.log"
    with open(name, "w") as stream:  # noqa: PTH123 - a path in bytes
        stream.write(PROGRESS + FAILED)
    told = place.json("runs")
    assert told["crashes"][0]["root"]["file"].endswith("runs/run\\udcff.log")
    assert told["scanned"]["files"][0].endswith("runs/run\\udcff.log")
    history = json.loads(place.call("--history", "--json").stdout)["history"]
    assert history["by_type"] == {"key_error": 1}
    missing = place.call("--json", os.fsdecode(name) + "x")
    assert missing.returncode == 3 and "\\udcff.logx: No such file" in json.loads(missing.stdout)["notes"][0]
    place.configure(logs=["runs"])
    with subprocess.Popen(
        [sys.executable, str(DETECTOR), "--config", str(place.config), "--follow", "--json", "--all"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as follower:
        assert follower.stdout is not None and follower.stderr is not None
        try:
            for more in (PROGRESS + KILLED, ""):
                while follower.stdout.readline() != "}\n":
                    assert follower.poll() is None
                with open(name, "a") as stream:  # noqa: PTH123
                    stream.write(more)
            follower.send_signal(signal.SIGINT)
            assert follower.stderr.read() == ""
        finally:
            follower.kill()
    assert follower.returncode == 1


def test_no_crash_is_only_said_of_what_could_be_read(place: Place) -> None:
    fine = place.write(PROGRESS, "fine.log")
    empty = place.write("", "empty.log")
    garbage = place.folder / "garbage.log.gz"
    garbage.write_bytes(gzip.compress(FAILED.encode())[:10] + b"garbage" * 9)
    told = place.call(empty)
    assert (told.returncode, "empty.log: it is empty" in told.stderr) == (0, True)
    for unread in (garbage, place.folder / "missing.log", place.folder / "rank 0: missing.log"):
        told = place.call(fine, unread)
        assert told.returncode == 3 and "no crash in " in told.stdout
        assert f"could not tell: nothing could be read of {unread.name}" in told.stdout
        assert place.json(fine, unread)["crashes"] == []
        failed = place.write(FAILED, "failed.log")
        assert place.call(failed, unread).returncode == 2
    (place.folder / "nothing").mkdir()
    assert place.call("nothing").returncode == 3
    whole = gzip.compress((PROGRESS * 400).encode())
    garbage.write_bytes(whole[: len(whole) // 2])
    told = place.call(garbage)
    assert (told.returncode, "cut short" in told.stderr) == (0, True)


def test_logs_of_the_configuration_that_cannot_be_read_are_no_good_end(place: Place) -> None:
    told = place.call()
    assert told.returncode == 3 and "training_output.log: No such file" in told.stderr
    place.write(PROGRESS)
    assert place.call().returncode == 0
    log = place.write("", "other.log")
    place.configure(logs=["other.log", "absent.log"])
    for _ in range(2):
        told = place.call()
        assert told.returncode == 3 and "nothing could be read of absent.log" in told.stdout
    place.configure(logs=["other.log"])
    told = place.call()
    assert (told.returncode, "no crash (nothing new since the last scan)" in told.stdout) == (0, True)
    log.rename(log.with_name("other.log.1"))
    place.write("", "other.log")
    assert place.call().returncode == 0


# --- with the watchdog --------------------------------------------------------------------------------------------


def test_the_watchdog_has_a_crash_diagnosed_and_keeps_it_in_the_incident(sandbox: Sandbox) -> None:
    sandbox.configure("--exit-at", "20", "--exit-code", "7")
    sandbox.start()
    event = sandbox.wait_for_event("diagnosed")
    incident = next(one for one in sandbox.incidents() if one["id"] in event["text"])
    assert (incident["diagnosis"]["type"], incident["diagnosis"]["class"]) == ("unknown", "software")
    assert "exit code 7" in incident["diagnosis"]["root"]["text"]
    assert "provisional" not in incident["diagnosis"]
    told = subprocess.run(
        [
            sys.executable,
            str(DETECTOR),
            "--config",
            str(sandbox.config),
            "--incident",
            incident["id"],
            "--json",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    (again,) = json.loads(told.stdout)["crashes"]
    assert (again["fingerprint"], again["count"]) == (
        incident["diagnosis"]["fingerprint"],
        incident["diagnosis"]["count"],
    )


def test_an_incident_without_its_log_is_diagnosed_from_what_it_kept(sandbox: Sandbox) -> None:
    sandbox.configure("--exit-at", "20", "--exit-code", "7")
    sandbox.start()
    event = sandbox.wait_for_event("diagnosed")
    sandbox.call("--stop", "--with-daemon")
    for log in sandbox.logs.glob("*.log"):
        log.unlink()
    told = subprocess.run(
        [sys.executable, str(DETECTOR), "--config", str(sandbox.config), "--incident", "last", "--quiet"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert told.returncode == 1 and "exit code 7" in told.stdout, (told, event)


def test_where_the_diagnosis_fails_the_first_look_stands(sandbox: Sandbox) -> None:
    sandbox.configure("--exit-at", "20", "--exit-code", "7")
    sandbox.start()
    sandbox.wait_for_start()
    sandbox.config.write_text("daemon: [")  # the watchdog has read it, the detector cannot
    folder = wait_for(lambda: list((sandbox.logs / "incidents").glob("*")), what="an incident")[0]
    wait_for(lambda: (folder / "diagnosis.json").exists(), what="the answer of the diagnosis")
    told = json.loads((folder / "incident.json").read_bytes())["diagnosis"]
    assert (told["provisional"], told["type"]) == (True, "unknown")
    assert "exit code 7" in told["root"]["text"]
