"""Matching: each row's own expression has the last word, within a time."""

import time

from trainguard.crash_types import CAUSES
from trainguard.scanner import Matcher, open_database
from trainguard.signatures import Role, Signature


def row(name: str, pattern: str) -> Signature:
    return Signature(name, pattern, Role.ROOT, "ours", "", "", cause=next(iter(CAUSES)))


def matcher(*rows: Signature) -> Matcher:
    return Matcher(open_database(rows), rows)


# The database takes a look-ahead as met, so that the row is asked.
SLOW = row("slow", r"shard marks (?:x|xx)+(?=y)")
SOUND = row("sound", r"shard marks (?P<marks>x+)z")
LINE = f"shard marks {'x' * 300}z"


def test_the_rows_of_a_line_come_in_their_order() -> None:
    match = matcher(SLOW, SOUND)
    assert [one.name for one in match("shard marks xxy and shard marks xz")] == ["slow", "sound"]
    assert match("shard marks") == [] and match.notes == []


def test_a_row_that_takes_too_long_is_named_once_and_not_asked_again() -> None:
    match = matcher(SLOW, SOUND)
    began = time.process_time()
    for _ in range(1000):
        assert [one.name for one in match(LINE)] == ["sound"]
    assert time.process_time() - began < 5
    assert match.notes == ["signature slow: its pattern takes too long to search; it is left out"]


def test_many_slow_searches_are_as_bad_as_one_without_an_end() -> None:
    match = Matcher(open_database([SLOW]), [SLOW], patience=0.5)
    began = time.process_time()
    # Each takes some hundredths of a second, so that none reaches the limit by itself.
    for _ in range(1000):
        match(f"shard marks {'x' * 29}z")
    assert time.process_time() - began < 5
    assert len(match.notes) == 1


def test_a_row_that_matches_gives_what_its_groups_hold() -> None:
    assert SOUND.facts_in("shard marks xxz") == {"marks": "xx"}
    assert SOUND.facts_in("no marks") == {} and SLOW.facts_in(LINE) == {}
