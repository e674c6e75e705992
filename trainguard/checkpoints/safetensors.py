"""Safetensors: the header, the sizes that it tells, and samples of the numbers.

The format: eight bytes of header length, little-endian; a JSON object of name to dtype, shape and data offsets;
then the data, without gaps (safetensors README, "Format").
"""

import os
from math import prod

import msgspec

from trainguard.checkpoints.effort import Effort
from trainguard.checkpoints.samples import Region, judge_end, judge_numbers, judge_zeros
from trainguard.checkpoints.verdicts import incomplete, suspect

# The library's own limit is 100 MB; a quarter of it describes 200,000 tensors.
HEADER_LIMIT = 25_000_000
BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32,
    "U16": 16, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "C64": 64,
}  # fmt: skip


class _Tensor(msgspec.Struct):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


_HEADER = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TENSOR = msgspec.json.Decoder(_Tensor)


def verify_safetensors(descriptor: int, size: int, effort: Effort) -> None:
    """Raises FaultError for what is not a whole safetensors file, OSError where it cannot be read."""
    regions = read_regions(descriptor, size, effort)
    judge_end(descriptor, regions)
    judge_zeros(descriptor, regions)
    judge_numbers(descriptor, regions)


def read_regions(descriptor: int, size: int, effort: Effort) -> list[Region]:
    """Where the tensors lie, in the order of the file. Raises FaultError and OSError like `verify_safetensors`."""
    start = os.pread(descriptor, 8, 0)
    if len(start) < 8:
        raise incomplete(f"is cut off: {size} bytes, and its header alone has more")
    length = int.from_bytes(start, "little")
    if length > HEADER_LIMIT:
        raise suspect(f"claims a header of {length} bytes")
    if 8 + length > size:
        raise incomplete(f"is cut off in its header: {size} of at least {8 + length} bytes")
    try:
        rows = _HEADER.decode(effort.read(descriptor, length, 8))
        rows.pop("__metadata__", None)
        tensors = [(name, _TENSOR.decode(row)) for name, row in rows.items()]
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise suspect("has a header that is no JSON of tensors") from error
    tensors.sort(key=lambda pair: pair[1].data_offsets)
    regions = []
    end = 0
    for name, tensor in tensors:
        first, last = tensor.data_offsets
        if first != end or last < first or any(width < 0 for width in tensor.shape) or len(tensor.shape) > 64:
            raise suspect(f"has a header with impossible offsets of {name[:80]!r}")
        bits = BITS.get(tensor.dtype)
        if bits is not None and prod(tensor.shape) * bits != 8 * (last - first):
            raise suspect(f"has a header whose shape and offsets of {name[:80]!r} disagree")
        row = (last - first) // tensor.shape[0] if len(tensor.shape) > 1 and tensor.shape[0] else last - first
        if len(tensor.shape) > 1 and tensor.shape[-1]:
            row = tensor.shape[-1] * (bits or 8) // 8 or row
        regions.append(Region(name, tensor.dtype, 8 + length + first, last - first, max(row, 1)))
        end = last
    whole = 8 + length + end
    if size < whole:
        raise incomplete(f"is cut off: {size} of {whole} bytes")
    if size > whole:
        raise suspect(f"is longer than its header tells: {size} instead of {whole} bytes")
    return regions
