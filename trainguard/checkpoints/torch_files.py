"""What torch.save writes: a zip, in old versions pickles with the raw storages behind them; or a plain pickle."""

import os
from enum import Enum

import msgspec

from trainguard.checkpoints.effort import Effort
from trainguard.checkpoints.pickles import (
    PICKLE_LIMIT,
    ExhaustedError,
    Pickle,
    Thing,
    read_pickle,
    skim_pickle,
)
from trainguard.checkpoints.samples import Region, judge_end, judge_numbers, judge_zeros
from trainguard.checkpoints.verdicts import incomplete, suspect
from trainguard.checkpoints.zips import LOCAL, Entry, read_entries, start_of

# torch serialization.py: MAGIC_NUMBER, in the first pickle of the old format
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
# Storage class to the name that safetensors has for its numbers, and bytes an element.
STORAGES = {
    "DoubleStorage": ("F64", 8),
    "FloatStorage": ("F32", 4),
    "HalfStorage": ("F16", 2),
    "BFloat16Storage": ("BF16", 2),
    "LongStorage": ("I64", 8),
    "IntStorage": ("I32", 4),
    "ShortStorage": ("I16", 2),
    "CharStorage": ("I8", 1),
    "ByteStorage": ("U8", 1),
    "BoolStorage": ("BOOL", 1),
    "UntypedStorage": ("U8", 1),
    "ComplexFloatStorage": ("C64", 8),
    "ComplexDoubleStorage": ("C128", 16),
    "QInt8Storage": ("I8", 1),
    "QUInt8Storage": ("U8", 1),
    "QInt32Storage": ("I32", 4),
}
# Under these names a trainer, or the code of one, writes down its step: an integer of the saved dictionary.
STEP_KEYS = ("global_step", "global_steps", "iteration", "iter_num", "steps_run", "current_step")
REBUILD = "torch._utils._rebuild_tensor_v2"
WORLD_KEY = "dp_world_size"  # deepspeed runtime/engine.py, _save_checkpoint


class Use(Enum):
    """What the numbers of a file are for. Moments may rightly end in zeros, and anything else hold infinity."""

    WEIGHTS = "weights"
    MOMENTS = "moments"
    OTHER = "other"


class Saved(msgspec.Struct, frozen=True):
    """What a file tells beyond being whole: the whole numbers of the saved dictionary, and all of its keys."""

    numbers: dict[str, int]
    has_storages: bool
    keys: frozenset[str] = frozenset()


class _Storage(msgspec.Struct, frozen=True):
    key: str
    dtype: str | None
    count: int
    size: int | None


def verify_torch(
    descriptor: int,
    size: int,
    effort: Effort,
    use: Use = Use.MOMENTS,
    start: int = 0,
) -> Saved:
    """Verify what torch.save wrote into a file, from `start` on, `size` bytes.

    Raises FaultError for what is not whole, OSError where it cannot be read.
    """
    head = os.pread(descriptor, min(4, size), start)
    if size == 0:
        raise incomplete("is empty")
    if head == LOCAL:
        return _verify_zip(descriptor, start, start + size, effort, use)
    if head[:1] == b"\x80":
        return _verify_pickles(descriptor, start, start + size, effort, use)
    if size < 4 and LOCAL.startswith(head):
        raise incomplete(f"is cut off: {size} bytes")
    if not head.strip(b"\0"):
        raise suspect("begins with zeros")
    raise suspect("is neither a torch file nor a pickle")


def _verify_zip(descriptor: int, start: int, end: int, effort: Effort, use: Use) -> Saved:
    entries = {entry.name.partition("/")[2]: entry for entry in read_entries(descriptor, start, end, effort)}
    pickle_entry = entries.get("data.pkl") or entries.get("constants.pkl")
    if pickle_entry is None:
        raise suspect("is a zip without data.pkl, not a torch file")
    # A stream of zeros compresses a thousandfold; torch compresses nothing.
    if any(entry.method for entry in entries.values()):
        raise suspect("has compressed entries, which torch does not write")
    place = start_of(descriptor, pickle_entry)
    try:
        if pickle_entry.size > PICKLE_LIMIT:
            raise ExhaustedError
        pickle = read_pickle(effort.read(descriptor, pickle_entry.size, place), effort, wanted=REBUILD)
    except ExhaustedError:
        skim_pickle(descriptor, place, pickle_entry.size, effort)
        return Saved({}, any(name.startswith("data/") for name in entries))
    if pickle.end != pickle_entry.size:
        raise suspect("has more behind the end of its pickle")
    found = []
    is_little = True
    if (order := entries.get("byteorder")) is not None and order.size < 16:
        is_little = os.pread(descriptor, order.size, start_of(descriptor, order)) == b"little"
    for storage in _storages(pickle).values():
        entry = entries.get(f"data/{storage.key}")
        if entry is None:
            raise incomplete(f"lacks the storage data/{storage.key[:40]}")
        if storage.size is not None and entry.size != storage.size:
            raise suspect(f"has {entry.size} bytes in data/{storage.key[:40]} for {storage.size}")
        if storage.dtype and entry.size:
            found.append((entry, storage))
    if is_little:
        _judge_samples(descriptor, _regions(descriptor, found, _rows(pickle)), use)
    return _saved(pickle, bool(found))


def _regions(descriptor: int, found: list[tuple[Entry, _Storage]], rows: dict[str, int]) -> list[Region]:
    """The largest storages as regions; only their local headers are read."""
    found.sort(key=lambda pair: -pair[0].size)
    return [
        Region(
            "",
            storage.dtype or "",
            start_of(descriptor, entry),
            entry.size,
            rows.get(storage.key) or entry.size,
        )
        for entry, storage in found[:16]
    ]


def _judge_samples(descriptor: int, regions: list[Region], use: Use) -> None:
    if use is Use.WEIGHTS:
        judge_zeros(descriptor, regions)
    if use is not Use.OTHER:
        judge_numbers(descriptor, regions)


def _verify_pickles(descriptor: int, start: int, end: int, effort: Effort, use: Use) -> Saved:
    """A plain pickle, or the old format: magic, version, system, object and keys, each a pickle; then for each
    key the count in eight bytes and the numbers (torch serialization.py, `_legacy_save`)."""
    content = effort.read(descriptor, min(end - start, PICKLE_LIMIT), start)
    try:
        first = read_pickle(content, effort)
        if first.value != LEGACY_MAGIC:
            if first.end != end - start:
                raise suspect("has more behind the end of its pickle")
            if first.persistent:
                raise suspect("refers to storages that it does not hold")
            return _saved(first, False)
        version = read_pickle(content, effort, first.end)
        system = read_pickle(content, effort, version.end)
        saved = read_pickle(content, effort, system.end, wanted=REBUILD)
        keys = read_pickle(content, effort, saved.end)
    except ExhaustedError as error:
        raise suspect("holds too large a pickle to verify") from error
    storages = _storages(saved)
    listed = [key for key in keys.value if isinstance(key, str)] if isinstance(keys.value, list) else []
    if len(listed) != len(storages) or set(listed) != set(storages):
        raise suspect("lists other storages than it uses")
    rows = _rows(saved)
    regions = []
    at = start + keys.end
    for key in listed:
        storage = storages[key]
        if storage.size is None:
            raise suspect("has storages of an unknown kind, so its size proves nothing")
        if at + 8 + storage.size <= end and storage.dtype:
            count = int.from_bytes(os.pread(descriptor, 8, at), "little")
            if count != storage.count:
                raise suspect(f"has {count} numbers in storage {storage.key[:40]} for {storage.count}")
            regions.append(
                Region("", storage.dtype, at + 8, storage.size, rows.get(storage.key, storage.size) or 1)
            )
        at += 8 + storage.size
    if end < at:
        raise incomplete(f"is cut off: {end - start} of {at - start} bytes")
    if end > at:
        raise suspect(f"is longer than its storages: {end - start} instead of {at - start} bytes")
    judge_end(descriptor, regions, use is not Use.WEIGHTS)
    _judge_samples(descriptor, regions, use)
    return _saved(saved, bool(regions))


def _rows(pickle: Pickle) -> dict[str, int]:
    """Bytes of one row of each storage that holds one matrix."""
    rows: dict[str, int] = {}
    for thing in pickle.things:
        match thing.arguments:
            case [
                Thing(arguments=["storage", Thing(name=name), str(key), *_]),
                0,
                [int(), *_, int(width)],
                *_,
            ]:
                rows.setdefault(key, width * STORAGES.get(name.rpartition(".")[2], ("", 1))[1])
            case _:
                continue
    return rows


def _saved(pickle: Pickle, has_storages: bool) -> Saved:
    value = pickle.value
    if not isinstance(value, dict):
        return Saved({}, has_storages)
    numbers = {key: value[key] for key in (*STEP_KEYS, WORLD_KEY) if type(value.get(key)) is int}
    return Saved(numbers, has_storages, frozenset(value))


def _storages(pickle: Pickle) -> dict[str, _Storage]:
    """The storages that a pickle refers to: ("storage", class, key, location, count of numbers, ...)."""
    storages = {}
    for identity in pickle.persistent:
        match identity:
            case ["storage", Thing(name=name), str(key), str(), int(count), *_] if 0 <= count < 1 << 50:
                dtype, width = STORAGES.get(name.rpartition(".")[2], (None, None))
                storages[key] = _Storage(key, dtype, count, None if width is None else count * width)
            case _:
                raise suspect("refers to something that is no storage")
    return storages
