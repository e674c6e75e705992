"""The scanner: what it hands over of a log, whatever the log is made of and whatever happens to it."""

import bz2
import gzip
import io
import lzma
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import ROOT

from trainguard.scanner import (
    Database,
    Matcher,
    Scan,
    number_lines,
    open_database,
    open_signatures,
    scan_file,
    scan_stream,
    scanning,
)
from trainguard.scanner import database as database_room
from trainguard.scanner import finders as finders_room
from trainguard.scanner.database import DATABASE_FILE, HITS_PER_BLOCK, SIGNATURES_FILE, for_blocks
from trainguard.scanner.finders import LARGE, THREADS, threads_for
from trainguard.scanner.pieces import EARLY_LIMIT, LATE_LIMIT
from trainguard.scanner.scanning import BLOCK
from trainguard.signatures import Role, Signature, SignatureError, load_signatures

ROWS = {
    "memory": "device ran out of memory",
    "killed": r"^(?:worker \d+ )?Killed\s*$",
    "loader": r"loader \w+ died",
    "peer": r"\bpeer .*(?:lost|gone)\b",
    "after": r"(?<!un)expected end",
}
HIT = b"device ran out of memory"
QUIET = b"step 17 of 900: nothing to tell here\n"


def row(name: str, pattern: str) -> Signature:
    return Signature(name, pattern, Role.ROOT, "s", "s", "n", "unknown")


SIGNATURES = tuple(row(name, pattern) for name, pattern in ROWS.items())


@pytest.fixture(scope="module")
def database() -> Database:
    return open_database(SIGNATURES)


def shows_progress(line: bytes) -> bool:
    return line.startswith(b"progress")


def scan_bytes(folder: Path, content: bytes, database: Database, **how: int) -> Scan:
    file = folder / "run.log"
    file.write_bytes(content)
    return number_lines(scan_file(file, database, is_progress=shows_progress, **how), file)


def check_parts(scan: Scan, content: bytes) -> None:
    """Pieces are verbatim, in order, cut at line ends, rightly numbered; with the gaps they fill the scan."""
    parts = sorted(
        [(one.start, one.end) for one in scan.pieces] + [(one.start, one.end) for one in scan.gaps]
    )
    at = scan.start
    for start, end in parts:
        assert start == at and end > start
        at = end
    assert at == scan.end
    for piece in scan.pieces:
        assert content[piece.start : piece.end] == piece.content
        assert piece.line == content.count(b"\n", 0, piece.start) + 1
        assert piece.torn == (piece.start > 0 and content[piece.start - 1] not in b"\r\n")


def inside(scan: Scan, start: int, end: int) -> bool:
    return any(piece.start <= start and end <= piece.end for piece in scan.pieces)


# --- where hits stand ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 2, 5])
@pytest.mark.parametrize("shift", [-60, -24, -12, -1, 0, 1, 30])
def test_a_hit_at_a_blocks_border_is_found(
    tmp_path: Path, database: Database, block: int, shift: int
) -> None:
    lead = block * BLOCK + shift
    content = b"\n".join([b"x" * 99] * (lead // 100)) + b"\n"
    content += b"y" * (lead - len(content) - 1) + b"\n" + HIT + b"\n" + QUIET * 20_000
    at = content.index(HIT)
    scan = scan_bytes(tmp_path, content, database)
    assert scan.hits == 1
    assert inside(scan, at, at + len(HIT))
    check_parts(scan, content)


@pytest.mark.parametrize("shift", range(-26, 3, 4))
def test_a_hit_across_the_cut_in_an_endless_line_is_found(
    tmp_path: Path, database: Database, shift: int
) -> None:
    content = b"x" * (2 * BLOCK + shift) + HIT + b"y" * (3 * BLOCK)
    scan = scan_bytes(tmp_path, content, database)
    at = content.index(HIT)
    assert inside(scan, at, at + len(HIT))


def test_a_carriage_return_ends_a_segment(tmp_path: Path, database: Database) -> None:
    for ending in (b"\r", b"\n", b"\r\n"):
        content = b"bar 1" + ending + b"Killed" + ending + b"bar 2" + ending
        assert scan_bytes(tmp_path, content, database).hits >= 1
    assert scan_bytes(tmp_path, b"the monsters were Killed today\r", database).hits == 0


def test_a_bar_of_carriage_returns_alone_is_cut_at_them(tmp_path: Path, database: Database) -> None:
    content = b"\rprogress bar" * 60_000 + b"\r" + HIT + b"\r" + b"\rprogress bar" * 60_000
    scan = scan_bytes(tmp_path, content, database)
    assert scan.hits == 1
    check_parts(scan, content)
    assert sum(len(piece.content) for piece in scan.pieces) < len(content) // 4


@pytest.mark.parametrize(
    "colored",
    [
        b"device ran \x1b[31mout\x1b[0m of memory",
        b"\x1b[1;31mdevice ran out of mem\x1b[0mory\x1b[K",
        b"dev\x1b]0;a title\x07ice ran out of memory",
    ],
)
def test_an_escape_sequence_inside_a_word_hides_nothing(
    tmp_path: Path, database: Database, colored: bytes
) -> None:
    content = QUIET * 9000 + b"\x1b[32mfine\x1b[0m\n" * 900 + colored + b"\n" + QUIET * 9000
    scan = scan_bytes(tmp_path, content, database)
    at = content.index(colored)
    assert scan.hits == 1
    assert inside(scan, at, at + len(colored))
    check_parts(scan, content)


def test_a_look_behind_costs_no_hit(tmp_path: Path, database: Database) -> None:
    assert scan_bytes(tmp_path, b"met the expected end\n", database).hits == 1


def test_letters_beyond_ascii_are_scanned_for(tmp_path: Path) -> None:
    database = open_database([row("quoted", "path['\u2019]?: denied"), row("word", r"kernel «\w+» gone")])
    for line in ("path\u2019: denied", "path: denied", "path': denied", "kernel «größe» gone"):
        assert scan_bytes(tmp_path, line.encode() + b"\n", database).hits == 1, line


def test_every_rows_sample_is_found_in_a_block() -> None:
    signatures = load_signatures()
    database = open_database(signatures)
    for number, signature in enumerate(signatures):
        found = database.find(b"before\n" + signature.sample.encode() + b"\nafter\n")
        assert found is None or number in {hit for _, hit in found}, signature.name


def test_a_matcher_gives_the_rows_of_a_line_in_their_order(database: Database) -> None:
    matcher = Matcher(database, SIGNATURES)
    assert [one.name for one in matcher("loader a died, peer b gone")] == ["loader", "peer"]
    assert matcher("an unexpected end") == []


# --- what is kept ----------------------------------------------------------------------------------------------


def test_a_window_holds_what_stands_around_a_hit(tmp_path: Path, database: Database) -> None:
    lines = [b"line %d\n" % number for number in range(20_000)]
    lines[5000] = HIT + b"\n"
    content = b"".join(lines)
    scan = scan_bytes(tmp_path, content, database)
    piece = scan.pieces[0]
    assert len(scan.pieces) == 2
    assert piece.line == 5001 - 60
    assert piece.content.count(b"\n") >= 60 + 120
    assert scan.pieces[1].end == len(content)
    check_parts(scan, content)


def test_windows_that_touch_are_one_piece(tmp_path: Path, database: Database) -> None:
    lines = [b"line %d\n" % number for number in range(20_000)]
    for number in (5000, 5100, 5250):
        lines[number] = HIT + b"\n"
    scan = scan_bytes(tmp_path, b"".join(lines), database)
    assert scan.hits == 3
    assert len(scan.pieces) == 2
    check_parts(scan, b"".join(lines))


def test_a_long_traceback_is_kept_to_its_last_line(tmp_path: Path, database: Database) -> None:
    frames = b'  File "/data/run7/model.py", line 8, in forward\n    return self.inner(value)\n' * 300
    content = (
        QUIET * 30_000 + b"Traceback (most recent call last):\n" + frames + b"OddError\n" + QUIET * 30_000
    )
    scan = scan_bytes(tmp_path, content, database)
    at = content.index(b"OddError")
    assert inside(scan, content.index(b"Traceback"), at + len(b"OddError"))


def test_a_quiet_log_gives_its_last_lines(tmp_path: Path, database: Database) -> None:
    content = QUIET * 50_000
    scan = scan_bytes(tmp_path, content, database)
    assert [piece.content.count(b"\n") for piece in scan.pieces] == [200]
    assert scan.pieces[0].end == scan.end == len(content)
    check_parts(scan, content)


def test_an_empty_log_has_no_pieces(tmp_path: Path, database: Database) -> None:
    scan = scan_bytes(tmp_path, b"", database)
    assert (scan.pieces, scan.gaps, scan.notes, scan.end) == ((), (), (), 0)


def test_where_hits_are_without_end_the_first_and_the_last_are_kept(
    tmp_path: Path, database: Database
) -> None:
    content = b"".join(b"worker %d: %s\n" % (number, HIT) for number in range(300_000))
    scan = scan_bytes(tmp_path, content, database)
    assert sum(len(piece.content) for piece in scan.pieces) <= EARLY_LIMIT + LATE_LIMIT + (1 << 20)
    assert scan.dropped > 0
    assert scan.pieces[0].start == 0
    assert scan.pieces[-1].end == len(content)
    check_parts(scan, content)


def test_a_first_hit_of_its_kind_outlives_a_flood_of_others(tmp_path: Path, database: Database) -> None:
    flood = b"".join(b"worker %d: %s\n" % (number, HIT) for number in range(150_000))
    content = flood + QUIET * 3000 + b"loader three died\n" + QUIET * 3000 + flood
    scan = scan_bytes(tmp_path, content, database)
    assert any(b"loader three died" in piece.content for piece in scan.pieces)
    check_parts(scan, content)


def test_progress_in_a_gap_after_a_hit_is_told(tmp_path: Path, database: Database) -> None:
    def gap_after(lines: bytes) -> bool:
        content = QUIET * 9000 + HIT + b"\n" + lines + HIT + b"\n"
        scan = scan_bytes(tmp_path, content, database)
        (gap,) = [one for one in scan.gaps if one.start > content.index(HIT)]
        return gap.went_on

    assert gap_after(QUIET * 6000 + b"progress 18\n" + QUIET * 6000) is True
    assert gap_after(QUIET * 6000 + b"no progress\n" + QUIET * 6000) is False


# --- parts of files, streams, compression ----------------------------------------------------------------------


def test_only_the_asked_bytes_are_scanned(tmp_path: Path, database: Database) -> None:
    content = (HIT + b" 1\n" + QUIET * 20_000) * 3
    marks = [found.start() for found in re.finditer(HIT, content)]
    scan = scan_bytes(tmp_path, content, database, start=marks[0] + 5, end=marks[2])
    assert (scan.start, scan.end, scan.size) == (marks[0] + 5, marks[2], len(content))
    assert scan.hits == 1
    check_parts(scan, content)
    scan = scan_bytes(tmp_path, content, database, start=len(content) + 50)
    assert (scan.start, scan.end, scan.pieces) == (len(content), len(content), ())


def test_a_stream_gives_what_a_file_gives(tmp_path: Path, database: Database) -> None:
    content = QUIET * 30_000 + b"\r".join([b"bar"] * 900) + HIT + b"\n" + QUIET * 30_000 + b"peer a lost"
    scan = scan_bytes(tmp_path, content, database)
    stream = scan_stream(io.BytesIO(content), "-", database, is_progress=shows_progress)
    assert stream.pieces == scan.pieces
    assert stream.gaps == scan.gaps


def zst(content: bytes) -> bytes:
    zstandard = pytest.importorskip("zstandard")
    packed: bytes = zstandard.ZstdCompressor(write_checksum=True).compress(content)
    return packed


PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zst}


@pytest.mark.parametrize("kind", PACKERS)
def test_a_compressed_log_is_read_as_its_text(tmp_path: Path, database: Database, kind: str) -> None:
    content = QUIET * 30_000 + HIT + b"\n" + QUIET * 30_000
    packed = PACKERS[kind](content)
    for whole in (packed, PACKERS[kind](content[:500_003]) + PACKERS[kind](content[500_003:])):
        scan = scan_bytes(tmp_path, whole, database)
        assert (scan.hits, scan.end, scan.notes, scan.compressed) == (1, len(content), (), True)
        check_parts(scan, content)
        part = scan_bytes(
            tmp_path, whole, database, start=content.index(HIT) - 7, end=content.index(HIT) + 40
        )
        check_parts(part, content)
        assert part.hits == 1


@pytest.mark.parametrize("kind", PACKERS)
def test_a_compressed_log_cut_short_is_answered_with_a_note(
    tmp_path: Path, database: Database, kind: str
) -> None:
    noise = random.Random(4).randbytes(3_000_000).hex().encode()
    content = HIT + b"\n" + b"\n".join(noise[at : at + 99] for at in range(0, len(noise), 99))
    packed = PACKERS[kind](content)
    scan = scan_bytes(tmp_path, packed[: len(packed) * 2 // 3], database)
    assert scan.hits == 1
    assert 0 < scan.end < len(content)
    assert "damaged or cut short" in scan.notes[0]
    check_parts(scan, content)


@pytest.mark.parametrize("kind", PACKERS)
def test_a_corrupt_compressed_log_is_answered_with_a_note(
    tmp_path: Path, database: Database, kind: str
) -> None:
    packed = bytearray(PACKERS[kind](random.Random(5).randbytes(900_000)))
    packed[len(packed) // 2 : len(packed) // 2 + 400] = b"\xa5" * 400
    scan = scan_bytes(tmp_path, bytes(packed), database)
    assert len(scan.notes) == 1
    scan = scan_bytes(tmp_path, bytes(packed[:9]), database)
    assert len(scan.notes) == 1 or scan.end == 0


# --- hostile files ---------------------------------------------------------------------------------------------


def change_while_read(file: Path, database: Database, change: Callable[[], None]) -> Scan:
    """Scan, and have the file changed when its first block has been read."""
    pending = [change]

    def advance(_count: int) -> None:
        if pending:
            pending.pop()()

    return scan_file(file, database, progress=advance)


@pytest.fixture(params=[0, 2], ids=["no threads", "two threads"])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "threads_for", lambda _size: request.param)


@pytest.mark.usefixtures("threads")
def test_a_log_that_shrinks_while_read_is_answered_with_a_note(tmp_path: Path, database: Database) -> None:
    file = tmp_path / "run.log"
    content = HIT + b"\n" + QUIET * 60_000
    file.write_bytes(content)
    scan = change_while_read(file, database, lambda: os.truncate(file, 1_000_000))
    assert scan.hits == 1
    assert scan.end == 1_000_000
    assert "shorter" in scan.notes[0]


@pytest.mark.usefixtures("threads")
def test_a_log_that_grows_while_read_is_read_to_where_it_ended(tmp_path: Path, database: Database) -> None:
    file = tmp_path / "run.log"
    file.write_bytes(QUIET * 60_000)

    def grow() -> None:
        with file.open("ab") as stream:
            stream.write(HIT)

    scan = change_while_read(file, database, grow)
    assert (scan.hits, scan.end, scan.notes) == (0, len(QUIET) * 60_000, ())


@pytest.mark.usefixtures("threads")
def test_a_log_that_vanishes_while_read_is_read_on(tmp_path: Path, database: Database) -> None:
    file = tmp_path / "run.log"
    file.write_bytes(QUIET * 60_000 + HIT)
    scan = change_while_read(file, database, file.unlink)
    assert (scan.hits, scan.notes) == (1, ())
    assert number_lines(scan, file) == scan


def test_what_is_no_log_is_refused_with_a_sentence(tmp_path: Path, database: Database) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
    for file, sentence in (
        (tmp_path / "fifo", "a FIFO"),
        (tmp_path, "a folder"),
        (Path("/dev/null"), "a device"),
        (tmp_path / "socket", "o such device"),
        (tmp_path / "none", "No such file"),
    ):
        with pytest.raises(OSError, match=sentence) as raised:
            scan_file(file, database)
        assert raised.value.strerror


def test_nul_bytes_and_invalid_text_hide_nothing(tmp_path: Path, database: Database) -> None:
    content = b"\0" * 400_000 + b"\xff\xfe\xc3(\n" + HIT + b"\0\n" + bytes(range(256)) * 2000
    scan = scan_bytes(tmp_path, content, database)
    at = content.index(HIT)
    assert scan.hits == 1
    assert inside(scan, at, at + len(HIT))
    check_parts(scan, content)


MEASURED = """
import re, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from trainguard.scanner import open_database, scan_file
from trainguard.signatures import Role, Signature
row = Signature("memory", "device ran out of memory", Role.ROOT, "s", "s", "n", "unknown")
scan = scan_file(Path(sys.argv[2]), open_database([row]))
peak = re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]
print(scan.hits, sum(len(piece.content) for piece in scan.pieces), peak)
"""


def test_a_line_of_100_mb_is_scanned_in_little_memory(tmp_path: Path) -> None:
    file = tmp_path / "run.log"
    with file.open("wb") as stream:
        for part in (b"a" * 10_000_000,) * 5 + (HIT,) + (b"b" * 10_000_000,) * 5:
            stream.write(part)
    words = [sys.executable, "-c", MEASURED, str(ROOT), str(file)]
    told = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout
    hits, kept, peak = map(int, told.split())
    assert hits >= 1
    assert kept < 1 << 20
    assert peak < 60_000


@pytest.mark.usefixtures("threads")
def test_a_log_of_more_than_4_gib_keeps_its_offsets(tmp_path: Path, database: Database) -> None:
    file = tmp_path / "run.log"
    with file.open("wb") as stream:
        stream.write(b"one\ntwo\n")
        stream.truncate((1 << 32) + 12_345)
        stream.seek(0, os.SEEK_END)
        stream.write(b"\n" + HIT + b"\n")
    scan = number_lines(scan_file(file, database), file)
    assert scan.hits == 1
    assert scan.end == (1 << 32) + 12_345 + len(HIT) + 2
    last = scan.pieces[-1]
    at = last.content.index(HIT)
    assert last.start + at == (1 << 32) + 12_345 + 1
    assert last.line is not None
    assert last.line + last.content.count(b"\n", 0, at) == 4


# --- threads ---------------------------------------------------------------------------------------------------


@pytest.fixture
def large_log(tmp_path: Path) -> Path:
    file = tmp_path / "run.log"
    part = QUIET * (LARGE // len(QUIET) // 2)
    file.write_bytes(part + HIT + b"\n" + part + QUIET * 9)
    return file


@pytest.fixture
def two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})


def test_only_a_large_log_on_several_processors_has_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    for processors, size, expected in ((1, LARGE, 0), (2, LARGE - 1, 0), (2, LARGE, 2), (64, LARGE, THREADS)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid, count=processors: set(range(count)))
        assert threads_for(size) == expected


@pytest.mark.usefixtures("two_processors")
def test_threads_scan_a_large_log_and_end_with_it(large_log: Path, database: Database) -> None:
    before = threading.active_count()
    told_in, running, read = set(), set(), 0

    def tell(count: int) -> None:
        nonlocal read
        read += count
        told_in.add(threading.current_thread())
        running.add(threading.active_count() - before)

    scan = scan_file(large_log, database, progress=tell)
    assert (scan.hits, scan.notes, read) == (1, (), large_log.stat().st_size)
    assert (told_in, running) == ({threading.current_thread()}, {2})
    assert threading.active_count() == before


@pytest.mark.usefixtures("two_processors")
def test_where_no_thread_can_be_started_the_log_is_scanned_all_the_same(
    large_log: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = scan_file(large_log, database)

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert scan_file(large_log, database) == expected


@pytest.mark.usefixtures("two_processors")
def test_what_goes_wrong_in_a_thread_is_raised_by_the_scan(
    large_log: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_block: object) -> None:
        raise MemoryError("no room to scan")

    before = threading.active_count()
    monkeypatch.setattr(finders_room, "find_hits", fail)
    with pytest.raises(MemoryError, match="no room to scan"):
        scan_file(large_log, database)
    assert threading.active_count() == before


@pytest.mark.usefixtures("two_processors")
def test_an_interruption_ends_the_scan_and_its_threads(
    large_log: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, blocks = threading.active_count(), []

    def interrupt(*_block: object) -> list[tuple[int, int]]:
        blocks.append(None)
        if len(blocks) == 3:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        return []

    monkeypatch.setattr(finders_room, "find_hits", interrupt)
    monkeypatch.setattr(scanning, "BLOCK", 4096)
    with pytest.raises(KeyboardInterrupt):
        scan_file(large_log, database)
    assert threading.active_count() == before
    assert len(blocks) < LARGE // 4096


# --- the cache -------------------------------------------------------------------------------------------------


def test_the_database_is_saved_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_database(SIGNATURES, tmp_path)
    monkeypatch.setattr(database_room, "_compile", lambda rows: pytest.fail("compiled anew"))
    assert scan_bytes(tmp_path, HIT, open_database(SIGNATURES, tmp_path)).hits == 1


@pytest.mark.parametrize("damage", [b"", b"junk", None])
def test_a_corrupt_database_is_made_anew(tmp_path: Path, damage: bytes | None) -> None:
    open_database(SIGNATURES, tmp_path)
    file = tmp_path / DATABASE_FILE
    good = file.read_bytes()
    if damage is None:
        damage = good[:-900] + bytes(byte ^ 255 for byte in good[-900:])
    file.write_bytes(damage)
    database = open_database(SIGNATURES, tmp_path)
    assert scan_bytes(tmp_path, HIT, database).hits == 1
    assert database.notes == ()
    assert file.read_bytes() == good


def test_a_database_of_other_patterns_or_flags_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_database([row("other", "other words")], tmp_path)
    before = (tmp_path / DATABASE_FILE).read_bytes()
    assert scan_bytes(tmp_path, HIT, open_database(SIGNATURES, tmp_path)).hits == 1
    between = (tmp_path / DATABASE_FILE).read_bytes()
    monkeypatch.setattr(
        database_room, "_FLAGS", database_room._FLAGS | database_room.hyperscan.HS_FLAG_DOTALL
    )
    open_database(SIGNATURES, tmp_path)
    assert before != between != (tmp_path / DATABASE_FILE).read_bytes()


def test_a_folder_that_cannot_be_written_is_a_note(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    database = open_database(SIGNATURES, tmp_path / "file")
    assert "cannot be written" in database.notes[0]
    assert scan_bytes(tmp_path, HIT, database).hits == 1
    signatures, notes = open_signatures(None, tmp_path / "file")
    assert signatures == load_signatures()
    assert "cannot be written" in notes[0]


def test_a_cache_that_may_only_be_read_is_not_written(tmp_path: Path) -> None:
    signatures, _ = open_signatures(None, tmp_path, writable=False)
    open_database(signatures, tmp_path, writable=False)
    assert list(tmp_path.iterdir()) == []


def test_saved_rows_are_those_of_the_files(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    form = "- {{name: mine, pattern: {0}, role: root, source: m, sample: {0}, near_miss: n, cause: preemption}}\n"
    for word in ("first", "second"):
        mine.write_text(form.format(word + " words"))
        expected = load_signatures(mine)
        assert any(one.pattern == word + " words" for one in expected)
        assert open_signatures(mine, tmp_path) == (expected, ())
        assert open_signatures(mine, tmp_path) == (expected, ())
    (tmp_path / SIGNATURES_FILE).write_bytes(b"junk")
    assert open_signatures(mine, tmp_path) == (expected, ())


def test_a_pattern_that_cannot_be_scanned_for_is_named() -> None:
    with pytest.raises(SignatureError, match="everything"):
        open_database([row("everything", "x*")])


# --- laws ------------------------------------------------------------------------------------------------------

LINES = st.one_of(
    st.sampled_from(
        [
            HIT,
            b"Killed",
            b"worker 7 Killed ",
            b"the loader x died",
            b"peer n gone",
            b"\x1b[31mpeer\x1b[0m 3 was lost",
            b"unexpected end",
            b"Traceback (most recent call last):",
            b'  File "a.py", line 2',
            b"",
        ]
    ),
    st.binary(max_size=200),
    st.integers(0, 60_000).map(lambda size: b"q" * size),
    st.integers(1, 4000).map(lambda count: (QUIET * count)[:-1]),
    st.integers(1, 4000).map(lambda count: b"\r bar" * count),
)
ENDED = st.lists(st.tuples(LINES, st.sampled_from([b"\n", b"\n", b"\r", b"\r\n"])), max_size=40)
EXPRESSIONS = [re.compile(pattern.encode()) for pattern in ROWS.values()]
SEQUENCE = re.compile(rb"\x1b\[[0-9;]*m")


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=ENDED)
def test_every_line_that_matches_is_inside_a_piece(
    database: Database, lines: list[tuple[bytes, bytes]]
) -> None:
    content = b"".join(line + ending for line, ending in lines)
    with tempfile.TemporaryDirectory() as folder:
        scan = scan_bytes(Path(folder), content, database)
    check_parts(scan, content)
    assert scan.dropped == 0
    for segment in re.finditer(rb"[^\r\n]+", content):
        line = SEQUENCE.sub(b"", segment[0])
        if any(expression.search(line) for expression in EXPRESSIONS):
            assert inside(scan, segment.start(), segment.end()), segment[0][:90]


FLOODS = st.integers(1, 3 * HITS_PER_BLOCK).map(lambda count: (b"peer 5 gone\n" + QUIET * 20) * count)


@pytest.mark.parametrize("count", [1, 2, 4])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(st.tuples(LINES | FLOODS, st.sampled_from([b"\n", b"\r"])), max_size=60),
    block=st.sampled_from([4096, 40_000, BLOCK]),
)
def test_a_scan_in_threads_gives_what_one_without_gives(
    database: Database, count: int, lines: list[tuple[bytes, bytes]], block: int
) -> None:
    content = b"".join(line + ending for line, ending in lines)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(scanning, "BLOCK", block)
        patch.setattr(scanning, "_BUFFER", scanning._HISTORY + 3 * block)
        patch.setattr(scanning, "threads_for", lambda _size: 0)
        alone = scan_bytes(Path(folder), content, database)
        patch.setattr(scanning, "threads_for", lambda _size: count)
        assert scan_bytes(Path(folder), content, database) == alone
    check_parts(alone, content)


@settings(max_examples=150, deadline=None)
@given(text=st.binary(max_size=3000))
def test_any_bytes_have_an_answer(database: Database, text: bytes) -> None:
    scan = scan_stream(io.BytesIO(text), "-", database)
    assert scan.notes or scan.end == len(text) or scan.compressed


@pytest.mark.parametrize(
    ("pattern", "line"),
    [(r"^Killed$", b"[rank3]: Killed"), (r"^Killed$", b"bar\rKilled\r"), (r"\w+ gone", "ß gone".encode())],
)
def test_a_blocks_pattern_matches_no_less_than_the_rows(pattern: str, line: bytes) -> None:
    assert for_blocks(pattern)
    assert open_database([row("one", pattern)]).find(line)
