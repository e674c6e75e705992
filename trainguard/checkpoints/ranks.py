"""Ranks: whether every process of a distributed run wrote its files."""

import re
from collections import defaultdict
from collections.abc import Iterable
from itertools import product
from math import prod

# rng_state_3.pth, random_states_3.pkl, zero_pp_rank_3_mp_rank_00_..., mp_rank_00_001/, rank_3.pt, ..._rank3.bin,
# layer_1_expert_3_mp_rank_00_...: the number behind the word is a rank, and those behind it are ranks too.
_RANK = re.compile(r"(?<=rank)_?([0-9]+)((?:_[0-9]+)*)|(?<=(?:_states|g_state|_expert)_)([0-9]+)()(?=[._])")
_WORLD = re.compile(r"world_size_([0-9]+)")
_SHARD = re.compile(r"(.*)-([0-9]{1,6})-of-([0-9]{1,6})(\.[a-z]+)")
SHARD_LIMIT = 10_000


def groups_of(names: Iterable[str]) -> dict[str, dict[tuple[int, ...], str]]:
    """The files that differ by rank only: pattern to ranks to name."""
    groups: dict[str, dict[tuple[int, ...], str]] = defaultdict(dict)
    for name in names:
        ranks: list[int] = []

        def replace(match: re.Match[str], ranks: list[int] = ranks) -> str:
            digits = [match[1] or match[3], *(match[2] or "").split("_")]
            ranks.extend(int(digit[:9]) for digit in digits if digit)
            return "#" * len([digit for digit in digits if digit])

        pattern = _RANK.sub(replace, name)
        if ranks:
            groups[pattern][tuple(ranks)] = name
    return dict(groups)


def judge_ranks(names: Iterable[str], siblings: Iterable[str], world: int | None) -> str | None:
    """What is missing of the ranks' files, as one clause; None where nothing is.

    Ranks count from zero without a gap in each dimension. Against a sibling: fewer, but more than half, were
    lost; half or less is another number of processes, unless a model is split over them. `world` is the number
    of data-parallel ranks.
    """
    before = groups_of(siblings)
    for pattern, group in sorted(groups_of(names).items()):
        if before.get(pattern, {}).keys() == group.keys():
            # So it is in this run: a disk that holds one node's ranks, or DeepSpeed's MiCS, which saves one group.
            continue
        extents = [max(ranks[place] for ranks in group) + 1 for place in range(len(min(group)))]
        example = group[min(group)]
        if prod(extents) > len(group):
            if prod(extents) > SHARD_LIMIT:
                return f"{pattern} lacks ranks below {max(extents) - 1}"
            missing = next(ranks for ranks in product(*map(range, extents)) if ranks not in group)
            return f"{_name(example, missing)} is missing, of {prod(extents)} ranks"
        told = _WORLD.search(pattern)
        wanted = int(told[1][:9]) if told else world if "zero_pp_rank" in pattern else None
        if wanted is not None and extents[0] < wanted:
            return f"{_name(example, (extents[0], *(0,) * (len(extents) - 1)))} is missing, of {wanted} ranks"
        if pattern.startswith("rng_state_") and len(group) == 1:
            # transformers trainer.py, _save_rng_state: a single process writes rng_state.pth
            return "rng_state_1.pth is missing, of 2 ranks or more"
        count = len(before.get(pattern, ()))
        if count > len(group) and (len(group) > count / 2 or len(group) == count - 1 or "mp_rank" in pattern):
            return (
                f"{pattern.replace('#', 'N')} has {len(group)} ranks where an earlier checkpoint has {count}"
            )
    return None


def judge_shards(names: Iterable[str]) -> str | None:
    """What is missing of the shards that count themselves (`model-00001-of-00006`), as one clause."""
    sets: dict[tuple[str, str, str], set[int]] = defaultdict(set)
    for name in names:
        if match := _SHARD.fullmatch(name):
            sets[match[1], match[3], match[4]].add(int(match[2]))
    for (stem, count, suffix), found in sorted(sets.items()):
        # torchtune has counted from zero too.
        if len(found) < int(count) and int(count) <= SHARD_LIMIT:
            number = next(number for number in range(1, int(count) + 2) if number not in found)
            return f"{stem}-{number:0{len(count)}d}-of-{count}{suffix} is missing"
    return None


def _name(example: str, ranks: tuple[int, ...]) -> str:
    """The file of other ranks, named like an example."""
    numbers = iter(ranks)

    def replace(match: re.Match[str]) -> str:
        return re.sub("[0-9]+", lambda digits: f"{next(numbers, 0):0{len(digits[0])}d}", match[0])

    return _RANK.sub(replace, example)
