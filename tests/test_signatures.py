"""The rows of signatures: each is shown by its own sample and near miss, and none hides another."""

import re
from pathlib import Path
from re import _parser  # type: ignore[attr-defined]

import hyperscan
import msgspec
import pytest
import yaml

from trainguard.crash_types import CAUSES, EXCEPTIONS, TYPES
from trainguard.signatures import Role, Signature, SignatureError, load_signatures, read_rows

ROWS = load_signatures()
EXPRESSIONS = [(row.name, re.compile(row.pattern)) for row in ROWS]

# Causes that no line of a log shows by itself, and what shows them instead.
SHOWN_OTHERWISE = {
    "hang_gpu_busy": "the watchdog's clock",
    "hang_cpu_busy": "the watchdog's clock",
    "hang_all_idle": "the watchdog's clock",
    "hang_uninterruptible": "the watchdog's clock and /proc",
    "host_clock": "two clocks compared",
    "cuda_oom_fragmentation": "the numbers of a cuda_oom",
    "nccl_late_watchdog": "the numbers of an nccl_timeout",
}
TYPES_SHOWN_OTHERWISE = {
    "hang": "the watchdog's clock",
    "unknown": "no evidence at all",
    "python_exception": "the class of the exception",
    **dict.fromkeys(EXCEPTIONS.values(), "the class of the exception"),
}

each_row = pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])


@each_row
def test_a_row_matches_its_sample_and_not_its_near_miss(row: Signature) -> None:
    assert re.search(row.pattern, row.sample)
    assert not re.search(row.pattern, row.near_miss)
    assert row.near_miss.strip()


@each_row
def test_a_row_is_searched_as_python_searches(row: Signature) -> None:
    for text in (row.sample, row.near_miss, f"[rank3]: {row.sample} {row.sample}"):
        found, expected = row.search(text), re.search(row.pattern, text)
        assert (found is None) is (expected is None)
        if found is not None and expected is not None:
            assert (found.span(), found.groupdict()) == (expected.span(), expected.groupdict())


@each_row
def test_a_row_matches_behind_a_rank_prefix(row: Signature) -> None:
    assert re.search(row.pattern, f"[rank3]: {row.sample}")


# A bare word such as MemoryError is told from its mention by standing alone, so those rows are anchored.
@pytest.mark.parametrize("row", [row for row in ROWS if "^" not in row.pattern.replace("[^", "")])
def test_a_row_matches_behind_a_progress_bar(row: Signature) -> None:
    assert re.search(row.pattern, f" 41%|####      | 410/1000 [01:02<01:29,  6.5it/s]{row.sample}")


@each_row
def test_a_row_is_the_first_to_match_its_own_sample(row: Signature) -> None:
    assert next(name for name, expression in EXPRESSIONS if expression.search(row.sample)) == row.name


@each_row
def test_hyperscan_finds_what_python_finds(row: Signature) -> None:
    database = hyperscan.Database()
    database.compile(
        expressions=[row.pattern.encode()], ids=[0], elements=1, flags=[hyperscan.HS_FLAG_MULTILINE]
    )
    for text, expected in ((row.sample, True), (row.near_miss, False)):
        for surrounded in (text, f"a line before\n{text}\na line after\n"):
            found: list[int] = []
            database.scan(
                surrounded.encode(),
                match_event_handler=lambda number, *_, found=found: found.append(number),
            )
            assert bool(found) is expected


@each_row
def test_a_row_holds_enough_fixed_text(row: Signature) -> None:
    assert fixed_characters(_parser.parse(row.pattern)) >= 6, "weak words alone would match"


@each_row
def test_a_row_says_where_its_text_comes_from(row: Signature) -> None:
    assert len(row.source.strip()) >= 3


@each_row
def test_a_row_that_may_be_a_crash_has_a_type_or_looks_earlier(row: Signature) -> None:
    if row.role is Role.ROOT:
        assert row.crash_type in TYPES


def test_names_are_unique() -> None:
    names = [row.name for row in ROWS]
    assert sorted(names) == sorted(set(names))


def test_every_cause_of_a_crash_has_a_row() -> None:
    shown = {row.cause for row in ROWS}
    assert SHOWN_OTHERWISE.keys() <= CAUSES.keys()
    assert [
        name
        for name, cause in CAUSES.items()
        if cause.type is not None and name not in shown and name not in SHOWN_OTHERWISE
    ] == []


def test_every_type_has_a_row() -> None:
    shown = {row.crash_type for row in ROWS if row.role in (Role.ROOT, Role.CASCADE)}
    assert TYPES_SHOWN_OTHERWISE.keys() <= TYPES.keys()
    assert [name for name in TYPES if name not in shown and name not in TYPES_SHOWN_OTHERWISE] == []


def test_every_xid_that_the_catalogue_names_has_a_row_of_its_own() -> None:
    general = next(row for row in ROWS if row.name == "xid_other")
    named = (8, 13, 31, 32, 43, 45, 46, 48, 61, 62, 63, 64, 69, 74, 79, 92, 94, 95, 109, 119, 120, 121, 137)
    for number in (*named, 140, 143, 149, 154):
        line = f"NVRM: Xid (PCI:0000:5e:00): {number}, pid=40127, name=python3, text"
        first = next(name for name, expression in EXPRESSIONS if expression.search(line))
        assert first != general.name and first.startswith("xid_")


# A step may name what a pattern captured; a name that no row of the cause captures would never be shown.
def test_every_number_that_an_advice_names_is_captured_by_a_row() -> None:
    for name, cause in CAUSES.items():
        wanted = {field for step in cause.steps for field in re.findall(r"\{(\w+)\}", step)}
        rows = [row for row in ROWS if row.crash_type == cause.type or row.cause == name]
        captured = {group for row in rows for group in re.compile(row.pattern).groupindex}
        # A package's name is made from its module's.
        assert wanted <= captured | ({"package"} if "module" in captured else set()), name


ROW = {
    "name": "our_loader_gave_up",
    "pattern": "our loader gave up on shard (?P<shard>\\d+)",
    "role": "root",
    "type": "data_error",
    "source": "our own loader",
    "sample": "our loader gave up on shard 12",
    "near_miss": "our loader opened shard 12",
}


def test_the_users_rows_are_read_and_stand_first(tmp_path: Path) -> None:
    file = tmp_path / "signatures.yaml"
    file.write_text(yaml.safe_dump([ROW]))
    rows = load_signatures(file)
    assert rows[0] == msgspec.convert(ROW, Signature)
    assert rows[1:] == ROWS


def test_an_empty_list_of_rows_is_accepted(tmp_path: Path) -> None:
    file = tmp_path / "signatures.yaml"
    file.write_text("[]\n")
    assert load_signatures(file) == ROWS


def without(field: str) -> dict[str, object]:
    return {name: value for name, value in ROW.items() if name != field}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("- name: [unclosed", "not YAML"),
        ("\x00\x01", "not YAML"),
        ("name: alone", "a list of rows is expected"),
        ("", "a list of rows is expected"),
        ([ROW | {"patern": "x"}], "patern"),
        ([without("near_miss")], "near_miss"),
        ([ROW | {"role": "rooot"}], "rooot"),
        ([ROW | {"fatal": "perhaps"}], "fatal"),
        ([ROW | {"pattern": "shard (unclosed"}], "pattern: "),
        ([without("type") | {"cause": "gremlins"}], "there is no cause gremlins"),
        ([ROW | {"type": "gremlins"}], "there is no crash type gremlins"),
        ([without("type")], "a type or a cause is missing"),
        ([ROW | {"sample": "another line"}], "its sample does not match"),
        ([ROW | {"near_miss": ROW["sample"]}], "its near miss matches"),
        ([ROW | {"pattern": "(x|xx)+y", "sample": "x" * 200}], "takes too long to search"),
        ([ROW | {"pattern": ".", "near_miss": ""}], "it matches next to nothing"),
        ([ROW | {"pattern": "(?:our loader)?"}], "it matches next to nothing"),
        ([ROW | {"pattern": r"\w"}], "it matches next to nothing"),
        ([ROW, ROW], "row 1 (our_loader_gave_up): two rows have this name; "),
        ([ROW | {"name": ROWS[0].name}], "two rows have this name"),
        ("#" * (1 << 20) + "\n[]", "larger than"),
    ],
)
def test_a_file_of_rows_that_cannot_be_used_is_refused_in_one_sentence(
    tmp_path: Path, content: str | list[object], told: str
) -> None:
    file = tmp_path / "signatures.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    with pytest.raises(SignatureError) as refused:
        load_signatures(file)
    sentence = str(refused.value)
    assert told in sentence
    assert "\n" not in sentence and len(sentence) < 400
    assert str(file) in sentence


def test_the_row_that_is_refused_is_named(tmp_path: Path) -> None:
    file = tmp_path / "signatures.yaml"
    file.write_text(yaml.safe_dump([ROW, ROW | {"name": "second_row", "sample": "another line"}]))
    with pytest.raises(SignatureError, match=r"row 2 \(second_row\)"):
        read_rows(file)


def test_a_file_of_rows_that_is_missing_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_signatures(tmp_path / "absent.yaml")


def fixed_characters(parsed: _parser.SubPattern) -> int:
    """How many fixed characters every text that matches holds at least."""
    count = 0
    for kind, argument in parsed:
        if kind is _parser.LITERAL:
            count += 1
        elif kind is _parser.BRANCH:
            count += min(fixed_characters(branch) for branch in argument[1])
        elif kind is _parser.SUBPATTERN:
            count += fixed_characters(argument[3])
        elif kind in (_parser.MAX_REPEAT, _parser.MIN_REPEAT):
            count += argument[0] * fixed_characters(argument[2])
    return count
