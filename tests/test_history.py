"""The history: each crash once, whoever writes, and whatever happens to the file, the disk or the log."""

import contextlib
import gzip
import math
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import ROOT, wait_for

from trainguard.history import (
    APPLICATION,
    Counted,
    CrashRow,
    History,
    find_rotated,
    identify,
    judge_trend,
    resume_at,
    take_position,
)

NOW = 1_790_000_000.0
DAY = 86_400.0
NAME = "crash_history.sqlite3"


def crash(identity: str, fingerprint: str = "f1", at: float | None = NOW, kind: str = "cuda_oom") -> CrashRow:
    return CrashRow(fingerprint, kind, identity, "cuda_oom", 3, at, "out of memory", "train.log", 77)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "logs" / NAME


def filled(file: Path, count: int = 3) -> None:
    history = History(file)
    for number in range(count):
        history.add([crash(f"old {number}", at=NOW - DAY * (count - number))])
    history.remember([take_position(ROOT / "pyproject.toml", ROOT / "pyproject.toml", 10, 2)])
    history.close()
    assert history.notes == []


# --- counting --------------------------------------------------------------------------------------------------


def test_the_same_crash_read_twice_counts_once(file: Path) -> None:
    for _ in range(2):
        history = History(file)
        assert history.add([crash("a")], NOW) == [Counted(1, NOW, NOW)]
        history.close()
    assert History(file).add([crash("b", at=NOW + 5)]) == [Counted(2, NOW, NOW + 5)]


def test_crashes_of_one_scan_are_counted_together_and_fingerprints_apart(file: Path) -> None:
    told = History(file).add([crash("a"), crash("b", at=NOW + 9), crash("c", "f2", NOW + 1)])
    assert told == [Counted(2, NOW, NOW + 9), Counted(2, NOW, NOW + 9), Counted(1, NOW + 1, NOW + 1)]


def test_a_crash_that_is_diagnosed_anew_is_still_one(file: Path) -> None:
    history = History(file)
    history.add([crash("a", "f1")])
    assert history.add([crash("a", "f2", at=None, kind="host_oom")], NOW + 50) == [Counted(1, NOW, NOW)]
    told = history.summary(NOW)
    assert told.by_type == {"host_oom": 1} and [one.fingerprint for one in told.seen] == ["f2"]


def test_a_crash_without_a_time_happened_when_it_was_read(file: Path) -> None:
    for at in (None, math.nan, math.inf):
        assert History(file).add([crash(f"a{at}", f"f{at}", at)], NOW) == [Counted(1, NOW, NOW)]


def test_any_text_and_number_can_be_remembered(file: Path) -> None:
    history = History(file)
    odd = "\ud800 \0 \x1b ü" + "x" * 1_000_000
    row = CrashRow(odd, odd, odd, odd, 1 << 80, NOW, odd, odd, None)
    assert history.add([row]) == [Counted(1, NOW, NOW)]
    assert len(history.summary(NOW).seen[0].text) < 5000
    assert history.notes == []


def test_the_summary_counts_by_type_and_fingerprint(file: Path) -> None:
    history = History(file)
    history.add(
        [crash("a", "f1", NOW - 4000), crash("b", "f2", NOW, "disk_full"), crash("c", "f1", NOW - 1000)]
    )
    told = history.summary(NOW)
    assert told.count == 3 and told.by_type == {"cuda_oom": 2, "disk_full": 1}
    first = told.seen[0]
    assert (first.fingerprint, first.count, first.first_seen, first.last_seen) == (
        "f1",
        2,
        NOW - 4000,
        NOW - 1000,
    )
    assert (told.first_seen, told.last_seen, told.mean_seconds_between) == (NOW - 4000, NOW, 2000)
    assert first.text == "out of memory"


def test_nothing_is_created_where_there_is_nothing_to_write(file: Path) -> None:
    history = History(file)
    assert history.summary(NOW).count == 0
    assert history.summary(NOW).mean_seconds_between is None
    assert history.position(file) is None
    assert history.add([]) == []
    history.remember([])
    history.forget_all()
    history.close()
    assert not file.parent.exists() and history.notes == []


def test_a_history_that_is_only_read_counts_and_stays(file: Path) -> None:
    filled(file)
    before = file.read_bytes()
    history = History(file, writable=False)
    assert history.add([crash("new")])[0].count == 4
    assert history.add([crash("old 1")])[0].count == 3
    history.forget_all()
    history.close()
    assert file.read_bytes() == before and [one.name for one in file.parent.iterdir()] == [NAME]


@pytest.mark.parametrize(
    ("last", "before", "verdict"),
    [
        (4, 0, "too few to tell"),
        (2, 2, "too few to tell"),
        (3, 3, "steady"),
        (9, 1, "rising"),
        (1, 9, "falling"),
        (6, 4, "steady"),
        (0, 5, "falling"),
        (0, 4, "too few to tell"),
    ],
)
def test_a_trend_is_more_than_chance(last: int, before: int, verdict: str) -> None:
    times = [NOW - 10 * DAY] * before + [NOW - DAY] * last + [NOW - 100 * DAY]
    told = judge_trend(times, NOW)
    assert (told.verdict, told.per_day, told.per_day_before) == (verdict, last / 7, before / 7)


def test_a_history_of_less_than_a_week_has_no_trend() -> None:
    assert judge_trend([NOW - DAY] * 50, NOW).verdict == "too few to tell"


# --- several writers, and death in the middle ------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from trainguard.history import CrashRow, History
path, name = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
history = History(path)
for number in range(40):
    history.add([CrashRow("f1", "cuda_oom", f"{name} {number}", time=1000.0 + number)])
print(history.notes, flush=True)
"""


def begin(script: str, *arguments: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def line_of(child: "subprocess.Popen[str]") -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def test_two_writers_at_once_lose_nothing(file: Path) -> None:
    writers = [begin(WRITER, file, name) for name in ("a", "b")]
    try:
        assert [line_of(writer) for writer in writers] == ["ready", "ready"]
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("go\n")
            writer.stdin.flush()
        for writer in writers:
            output, errors = writer.communicate(timeout=60)
            assert (output.strip(), errors) == ("[]", "")
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
    assert History(file).add([crash("last", at=999.0)]) == [Counted(81, 999.0, 1039.0)]


INTERRUPTED = """
import sqlite3, sys, time
database = sqlite3.connect(sys.argv[1], isolation_level=None)
# With so small a cache, the unfinished pages are written to the file itself.
database.execute("PRAGMA cache_size = 5")
database.execute("BEGIN IMMEDIATE")
for number in range(3000):
    database.execute(
        "INSERT INTO crash (identity, fingerprint, type, time, text, source) VALUES (?, 'f1', 't', 1.0, ?, '')",
        (f"half {number}", "x" * 500),
    )
print("half", flush=True)
time.sleep(1000)
"""


def test_a_writer_that_is_killed_in_the_middle_leaves_nothing_half_done(file: Path) -> None:
    filled(file)
    size = file.stat().st_size
    child = begin(INTERRUPTED, file)
    try:
        assert line_of(child) == "half"
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    assert file.stat().st_size > size, "nothing had been written yet"
    assert file.with_name(NAME + "-journal").exists()
    history = History(file)
    assert history.add([crash("after")])[0].count == 4
    assert history.notes == []


HOLDER = """
import sqlite3, sys, time
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
time.sleep(1000)
"""


def test_a_history_that_another_keeps_locked_costs_seconds_and_a_note(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(file)
    monkeypatch.setattr("trainguard.history.BUSY_SECONDS", 0.2)
    child = begin(HOLDER, file)
    try:
        assert line_of(child) == "held"
        history = History(file)
        assert history.add([crash("a")]) == [Counted(1, NOW, NOW)]
        assert "locked" in history.notes[0]
    finally:
        child.kill()
        child.communicate()
    assert history.add([crash("a")])[0].count == 4


# --- a damaged, foreign or newer file, and a disk that refuses -------------------------------------------------


def asides(file: Path) -> list[Path]:
    return sorted(file.parent.glob(f"{NAME}.corrupt-*"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"this is no database " * 500,
        lambda content: content[: len(content) // 2],
        lambda content: content[:4096] + random.Random(5).randbytes(len(content) - 4096),
        lambda content: content[:68] + bytes(4) + content[72:],
        lambda content: content[:100] + bytes(len(content) - 100),
    ],
    ids=["text", "truncated", "random pages", "no application", "zeros behind the header"],
)
def test_a_damaged_history_is_set_aside_and_begun_anew(file: Path, damage: Callable[[bytes], bytes]) -> None:
    filled(file, 30)
    content = damage(file.read_bytes())
    file.write_bytes(content)
    history = History(file)
    assert history.add([crash("a")]) == [Counted(1, NOW, NOW)]
    (aside,) = asides(file)
    assert aside.read_bytes() == content
    assert any("set aside" in note and aside.name in note for note in history.notes)
    history.close()
    again = History(file)
    assert again.add([crash("b")])[0].count == 2 and again.notes == []


def test_what_was_set_aside_is_never_overwritten(file: Path) -> None:
    for number in range(3):
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"damaged %d" % number * 100)
        history = History(file)
        history.add([crash("a")])
        history.close()
    assert sorted(aside.read_bytes()[:9] for aside in asides(file)) == [
        b"damaged 0",
        b"damaged 1",
        b"damaged 2",
    ]


def test_an_empty_file_becomes_a_history(file: Path) -> None:
    file.parent.mkdir()
    file.touch()
    history = History(file)
    assert history.summary(NOW).count == 0
    assert history.add([crash("a")])[0].count == 1
    assert history.notes == [] and asides(file) == []


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("good") / NAME
    filled(file, 40)
    return file.read_bytes()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_history_with_any_bytes_gives_an_answer(good: bytes, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        # Half of the damage goes to the first page, where header and schema are.
        limit = data.draw(st.sampled_from([110, 4096, len(content) - 1]))
        start = data.draw(st.integers(0, limit))
        piece = data.draw(st.binary(min_size=1, max_size=40))
        content[start : start + len(piece)] = piece
    content = content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))]
    folder = tmp_path / "any"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    file = folder / NAME
    file.write_bytes(content)
    history = History(file)
    history.position(ROOT / "pyproject.toml")
    (told,) = history.add([crash("new")])
    assert told.count >= 1
    history.summary(NOW)
    history.remember([take_position(file, file, 0, 1)])
    history.forget_all()
    history.close()
    # Nothing is lost: what could not be used is kept as it was, and told.
    assert all(history.notes and one.read_bytes() == bytes(content) for one in asides(file))
    assert {one.name for one in folder.iterdir()} == {NAME, *(one.name for one in asides(file))}


def test_a_history_of_a_newer_version_is_left_alone(file: Path) -> None:
    filled(file)
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA user_version = 2")
    before = file.read_bytes()
    history = History(file)
    assert history.add([crash("a")]) == [Counted(1, NOW, NOW)]
    assert history.position(ROOT / "pyproject.toml") is None
    history.forget_all()
    assert len(history.notes) == 1 and "newer version" in history.notes[0]
    assert file.read_bytes() == before and asides(file) == []


def test_a_database_of_something_else_is_left_alone(file: Path) -> None:
    file.parent.mkdir()
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE letters (text)")
    before = file.read_bytes()
    history = History(file)
    assert history.add([crash("a")])[0].count == 1
    assert "something else" in history.notes[0] and file.read_bytes() == before and asides(file) == []


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_a_note(file: Path, make: Callable[[Path], None]) -> None:
    file.parent.mkdir()
    make(file)
    history = History(file)
    assert history.add([crash("a")])[0].count == 1
    assert "not a regular file" in history.notes[0]


def test_a_history_that_was_set_aside_by_another_is_left_by_this_one(file: Path) -> None:
    history = History(file)
    history.add([crash("a")])
    file.rename(file.with_name("moved"))
    other = History(file)
    other.add([crash("b")])
    assert history.add([crash("c")])[0].count == 2


LIMITED = """
import resource, sys
from pathlib import Path
from trainguard.history import CrashRow, History
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
history = History(Path(sys.argv[1]))
rows = [CrashRow("f1", "cuda_oom", f"new {n}", time=5000.0, text="x" * 1500) for n in range(60)]
print(len(history.add(rows)), history.add(rows)[0].count, len(history.notes), flush=True)
print(history.notes)
"""


@pytest.mark.parametrize("limit", [0, 512, 4096, 12_288, 40_960])
def test_a_disk_that_takes_no_more_costs_a_note_and_nothing_that_was_there(file: Path, limit: int) -> None:
    filled(file)
    told = subprocess.run(
        [sys.executable, "-c", LIMITED, str(file), str(limit)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    # All that is known is counted: three that were there, and the sixty that could not be written.
    assert told.stdout.splitlines()[0] == "60 63 1", told.stdout
    history = History(file)
    assert history.summary(NOW).count == 3 and history.notes == [] and asides(file) == []


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 64 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if os.getuid() != 0 or shutil.which("mount") is None or subprocess.run(command, check=False).returncode:
        pytest.skip("this user may not mount a tmpfs")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_file_system_costs_a_note_and_nothing_that_was_there(full_disk: Path) -> None:
    file = full_disk / NAME
    filled(file)
    with contextlib.suppress(OSError), (full_disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    history = History(file)
    rows = [CrashRow("f1", "cuda_oom", f"new {number}", time=NOW, text="x" * 1500) for number in range(60)]
    assert history.add(rows)[0].count == 63
    assert len(history.notes) == 1 and "full" in history.notes[0]
    history.close()
    (full_disk / "filler").unlink()
    again = History(file)
    assert again.summary(NOW).count == 3 and again.add([crash("a")])[0].count == 4 and again.notes == []
    # Or else the file system could not be taken away.
    again.close()


READ_ONLY = """
import os, sys
from pathlib import Path
import sqlite3
from trainguard.history import CrashRow, History
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
history = History(Path(sys.argv[1]))
print(history.add([CrashRow("f1", "cuda_oom", "new", time=5000.0)])[0].count, len(history.notes), flush=True)
"""


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_that_may_not_be_written_costs_a_note(tmp_path: Path, exists: bool) -> None:
    folder = Path("/tmp" if os.getuid() == 0 else tmp_path) / f"trainguard-readonly-{os.getpid()}"
    folder.mkdir(mode=0o755)
    try:
        file = folder / NAME
        if exists:
            filled(file)
            file.chmod(0o444)
        folder.chmod(0o555)
        told = subprocess.run(
            [sys.executable, "-c", READ_ONLY, str(file)], cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        assert told.stdout.split() == ["4" if exists else "1", "1"], told.stderr
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


# --- positions and logs ----------------------------------------------------------------------------------------


@pytest.fixture
def log(tmp_path: Path) -> Path:
    log = tmp_path / "train.log"
    log.write_text("".join(f"step {number} loss 0.{number}\n" for number in range(1000)))
    return log


def test_a_log_that_only_grew_goes_on_where_it_stopped(log: Path, file: Path) -> None:
    size = log.stat().st_size
    history = History(file)
    history.remember([take_position(log, log, size, 1001)])
    history.close()
    with log.open("a") as appended:
        appended.write("more\n")
    again = resume_at(log, History(file).position(log))
    assert (again.offset, again.line, again.note) == (size, 1001, None)


def test_a_log_that_is_unknown_begins_at_its_first_line(log: Path) -> None:
    assert (resume_at(log, None).offset, resume_at(log, None).line) == (0, 1)


def rotate(log: Path) -> None:
    log.rename(log.with_name("train.log.1"))
    log.write_text("new\n" * 10_000)


def copy_and_truncate(log: Path) -> None:
    shutil.copyfile(log, log.with_name("train.log.1"))
    with log.open("r+b") as file:
        file.truncate(0)


def copy_truncate_and_grow(log: Path) -> None:
    copy_and_truncate(log)
    with log.open("a") as file:
        file.write("new\n" * 10_000)


def copy_truncate_and_begin_alike(log: Path) -> None:
    head = log.read_bytes()[:6000]
    copy_and_truncate(log)
    with log.open("ab") as file:
        file.write(head + b"other\n" * 10_000)


@pytest.mark.parametrize(
    "change", [rotate, copy_and_truncate, copy_truncate_and_grow, copy_truncate_and_begin_alike]
)
def test_a_log_that_was_rotated_is_read_from_its_beginning_and_its_rest_is_found(
    log: Path, change: Callable[[Path], None]
) -> None:
    size = log.stat().st_size
    position = take_position(log, log, size, 1001)
    with log.open("a") as file:
        file.write("the last words\n")
    change(log)
    told = resume_at(log, position)
    assert (told.offset, told.line) == (0, 1) and told.note
    rest = find_rotated(log, position)
    assert rest == log.with_name("train.log.1")
    assert rest.read_bytes()[size:] == b"the last words\n"


def test_a_rotated_log_that_was_read_to_its_end_is_not_read_again(log: Path) -> None:
    position = take_position(log, log, log.stat().st_size, 1001)
    rotate(log)
    assert find_rotated(log, position) is None


def test_a_log_renamed_by_its_date_is_found(log: Path) -> None:
    position = take_position(log, log, 0, 1)
    log.rename(log.with_name("train-20261004.log"))
    log.write_text("new\n")
    assert find_rotated(log, position) == log.with_name("train-20261004.log")


def test_a_compressed_log_is_remembered_whole(tmp_path: Path) -> None:
    log = tmp_path / "train.log.gz"
    log.write_bytes(gzip.compress(b"old\n" * 1000))
    position = take_position(log, log, 4000, 1001, whole=True)
    assert resume_at(log, position).offset == log.stat().st_size
    log.write_bytes(gzip.compress(b"new\n" * 100_000))
    assert resume_at(log, position).offset == 0


def test_a_position_is_taken_of_the_file_that_was_read(log: Path) -> None:
    descriptor = os.open(log, os.O_RDONLY)
    try:
        rotate(log)
        position = take_position(descriptor, log, 100, 5)
    finally:
        os.close(descriptor)
    assert resume_at(log, position).offset == 0
    assert find_rotated(log, position) == log.with_name("train.log.1")


def test_a_log_that_vanished_or_is_a_trap_is_an_error(log: Path, tmp_path: Path) -> None:
    position = take_position(log, log, 100, 5)
    log.unlink()
    with pytest.raises(FileNotFoundError):
        resume_at(log, position)
    os.mkfifo(log)
    with pytest.raises(OSError):
        resume_at(log, position)


def test_a_log_whose_name_is_no_text_is_remembered(tmp_path: Path, file: Path) -> None:
    log = Path(os.fsdecode(os.fsencode(tmp_path) + b"/tr\xffin.log"))
    log.write_text("a\n")
    history = History(file)
    history.remember([take_position(log, log, 2, 2)])
    found = history.position(log)
    assert found is not None and found.offset == 2 and history.notes == []


def test_remembering_what_is_known_writes_nothing(file: Path, log: Path) -> None:
    history = History(file)
    history.remember([take_position(log, log, 100, 5)])
    before = file.stat().st_mtime_ns
    history.remember([take_position(log, log, 100, 5)])
    assert file.stat().st_mtime_ns == before


def test_forgetting_the_positions_keeps_the_crashes(file: Path, log: Path) -> None:
    history = History(file)
    history.add([crash("a")])
    history.remember([take_position(log, log, 100, 5)])
    history.forget_all()
    assert history.position(log) is None and history.summary(NOW).count == 1


HEAD_OF_LOG = b"start\nboom\n"


@pytest.mark.parametrize("name", ["train.log.1", "train.log-20260105", "train.log.12.gz", "train.log.zst"])
def test_a_crash_keeps_its_identity_when_its_log_grows_is_rotated_or_compressed(name: str) -> None:
    before = identify("/data/run7/train.log", HEAD_OF_LOG, 6)
    assert identify(f"/data/run7/{name}", HEAD_OF_LOG + b"more\n" * 5000, 6) == before
    assert identify(f"/data/run7/{name}", HEAD_OF_LOG, 11) != before


@pytest.mark.parametrize("path", ["/data/run8/train.log", "/data/run7/eval.log", "/data/run7/train-4712.log"])
def test_the_same_output_in_two_logs_is_two_crashes(path: str) -> None:
    assert identify(path, HEAD_OF_LOG, 6) != identify("/data/run7/train.log", HEAD_OF_LOG, 6)


def test_a_log_that_began_anew_holds_other_crashes() -> None:
    other = identify("/data/run7/train.log", b"other\nboom\n", 6)
    assert other != identify("/data/run7/train.log", HEAD_OF_LOG, 6)


def test_the_header_says_whose_the_file_is(file: Path) -> None:
    filled(file)
    assert file.read_bytes()[68:72] == APPLICATION.to_bytes(4, "big") == b"TGch"


def test_the_clock_of_the_test_is_not_asked(file: Path) -> None:
    before = time.time()
    (told,) = History(file).add([crash("a", at=None)])
    assert before <= told.first_seen <= time.time()
    wait_for(file.exists, 1)
