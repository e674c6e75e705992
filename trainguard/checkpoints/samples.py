"""Samples: whether a tensor's bytes look like numbers, from a few blocks of the largest ones."""

import os
from collections.abc import Sequence

import msgspec

from trainguard.checkpoints.verdicts import suspect

PAGE = 4096
SAMPLED_TENSORS = 3
BLOCKS = 16
# Below it, a run of zeros at the end of a file is what small biases look like.
SHORTEST_RUN = 64
LONGEST_RUN = 256 << 10
# Rows for words that never occur stay at zero in padded vocabularies.
EMBEDDINGS = ("embed", "head", "vocab", "wte", "word", "token", "shared")
# A tensor of such a name may be zero from the beginning, and stay so where nothing is learnt.
ZERO_AT_BIRTH = ("bias", "norm", "lora_B", "lora_embedding_A")


class Number(msgspec.Struct, frozen=True):
    """A floating-point format: bytes an element, and the bits of its upper 16 that are all set in NaN and Inf."""

    size: int
    exponent: int


NUMBERS = {
    "F64": Number(8, 0x7FF0),
    "F32": Number(4, 0x7F80),
    "F16": Number(2, 0x7C00),
    "BF16": Number(2, 0x7F80),
}


class Region(msgspec.Struct, frozen=True):
    """Where a tensor lies in a file, in bytes: `row` is one row of a matrix, all of anything flatter.

    The name is empty where it is not known.
    """

    name: str
    dtype: str
    start: int
    size: int
    row: int

    @property
    def end(self) -> int:
        return self.start + self.size


def judge_numbers(descriptor: int, regions: Sequence[Region]) -> None:
    """Look for NaN and infinity in the largest floating-point tensors. Raises FaultError (suspect), OSError."""
    for region in _largest(regions):
        number = NUMBERS[region.dtype]
        for start, length in _blocks(region, number.size):
            block = os.pread(descriptor, length, start)
            if _has_strange(block, number):
                raise suspect(f"holds NaN or infinity in {_shown(region)}")


def judge_zeros(descriptor: int, regions: Sequence[Region]) -> None:
    """Look for zeros at the end of the largest floating-point tensors, where a power cut left pages unwritten.

    Raises FaultError (suspect), OSError.
    """
    tails = [region for region in _largest(regions) if region.size >= PAGE]
    empty = [region for region in tails if _run(descriptor, region.end, region.start, PAGE) >= PAGE]
    strange = []
    for region in empty:
        run = _run(descriptor, region.end, region.start, LONGEST_RUN)
        if _is_embedding(region) and run % region.row == 0:
            continue
        if _is_zero_at_birth(region) and run >= min(region.size, LONGEST_RUN):
            continue
        if run < min(region.size, LONGEST_RUN):
            raise suspect(f"ends in zeros in {_shown(region)}")
        strange.append(region)
    if strange and len(empty) == len(tails):
        raise suspect(f"holds only zeros at the end of its largest tensors, {_shown(strange[0])} first")


def judge_end(descriptor: int, regions: Sequence[Region], may_be_zero: bool = False) -> None:
    """Look for zeros at the end of the last tensor, where a size was written and the bytes were not.

    `may_be_zero`: whole rows may, as in an optimizer for words that never occurred.

    Raises FaultError (suspect), OSError.
    """
    if not any(region.size for region in regions):
        return
    end = max(region.end for region in regions)
    run = _run(descriptor, end, min(region.start for region in regions), LONGEST_RUN)
    if not run:
        return
    start = end - run
    # In torch's old format a count lies before each tensor, with zeros in it.
    holder = min(
        (region for region in regions if region.end > start and region.size), key=lambda region: region.start
    )
    start = max(start, holder.start)
    if run < SHORTEST_RUN or holder.dtype not in NUMBERS:
        return
    into_row = (start - holder.start) % holder.row
    width = NUMBERS[holder.dtype].size
    # The last numbers before a row of zeros may be zero too, but never half a number.
    slack = min(8 * width, holder.row // 16)
    if into_row % width or (into_row and holder.row - into_row > slack):
        fits = False
    elif may_be_zero:
        fits = True
    elif start == holder.start:
        fits = run < PAGE or _is_zero_at_birth(holder)
    else:
        fits = run < PAGE and _is_embedding(holder)
    if not fits:
        raise suspect(f"ends in {run} zero bytes, from {_shown(holder)} on")


def _is_embedding(region: Region) -> bool:
    return not region.name or any(word in region.name for word in EMBEDDINGS)


def _is_zero_at_birth(region: Region) -> bool:
    return any(word in region.name for word in ZERO_AT_BIRTH)


def _shown(region: Region) -> str:
    return repr(region.name[:80]) if region.name else f"the tensor at byte {region.start}"


def _largest(regions: Sequence[Region]) -> list[Region]:
    floats = [region for region in regions if region.dtype in NUMBERS and region.size]
    return sorted(floats, key=lambda region: (-region.size, region.start))[:SAMPLED_TENSORS]


def _blocks(region: Region, step: int) -> list[tuple[int, int]]:
    if region.size <= BLOCKS * PAGE:
        return [(region.start, region.size)]
    apart = (region.size - PAGE) // (BLOCKS - 1) // step * step
    starts = [region.start + apart * index for index in range(BLOCKS - 1)]
    return [(start, PAGE) for start in (*starts, region.end - PAGE)]


def _has_strange(block: bytes, number: Number) -> bool:
    """Whether there is NaN or infinity, but for a mask: minus infinity and zero only."""
    size, exponent = number.size, number.exponent
    high = block[size - 1 :: size]
    low = block[size - 2 :: size]
    # Most blocks are cleared by this, at the speed of C.
    if not any(value in high for value in _HIGH[exponent]):
        return False
    upper = [one << 8 | other for one, other in zip(high, low, strict=False)]
    if not any(value & exponent == exponent for value in upper):
        return False
    return any(value & exponent != exponent and value & 0x7FFF for value in upper) or any(
        value & exponent == exponent and (value & 0x8000 == 0 or value & ~exponent & 0x7FFF)
        for value in upper
    )


_HIGH = {
    number.exponent: tuple(
        byte for byte in range(256) if byte << 8 & number.exponent == number.exponent & 0x7F00
    )
    for number in NUMBERS.values()
}


def _run(descriptor: int, end: int, start: int, limit: int) -> int:
    """How many zero bytes lie before `end`, counted back to `start` and up to a limit."""
    run = 0
    while run < limit and end - run > start:
        size = min(PAGE if run < PAGE else 16 * PAGE, end - run - start)
        block = os.pread(descriptor, size, end - run - size)
        zeros = len(block) - len(block.rstrip(b"\0"))
        run += zeros
        if zeros < size:
            break
    return run
