"""JSON in a checkpoint: whether it is whole, the trainer's state, and the index of shards."""

import re
from collections.abc import Collection
from typing import TypeVar

import msgspec

from trainguard.checkpoints.effort import Effort
from trainguard.checkpoints.layouts import STEP_LIMIT
from trainguard.checkpoints.verdicts import incomplete, suspect

# Tokenizers and the history in trainer_state.json can have tens of megabytes; of these the two ends tell.
WHOLE_LIMIT = 4 << 20
EDGE = 64 << 10
WEIGHTS = (".safetensors", ".bin", ".pt")
# Python's json.dump writes these, JSON has no such words.
_NOT_A_NUMBER = re.compile(rb"(?<=[:\[,\s])(-?Infinity|NaN)(?=[,\]}\s])")
_GLOBAL_STEP = re.compile(rb'"global_step":\s*([0-9]{1,16})\b')
_BEST = re.compile(rb'"best_model_checkpoint":\s*("(?:[^"\\\x00-\x1f]|\\.){1,4096}")')


class TrainerState(msgspec.Struct):
    """The fields of trainer_state.json that are looked at (transformers trainer_callback.py, TrainerState)."""

    global_step: int | None = None
    best_model_checkpoint: str | None = None


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


_T = TypeVar("_T")
_ANY = msgspec.json.Decoder(msgspec.Raw)
_STATE = msgspec.json.Decoder(TrainerState)
_INDEX = msgspec.json.Decoder(_Index)


def verify_json(descriptor: int, size: int, effort: Effort) -> None:
    """Raises FaultError for what is no whole JSON object or list, OSError where it cannot be read."""
    head, tail = _ends(descriptor, size, effort)
    if size > WHOLE_LIMIT:
        _judge_ends(head, tail, size)
        return
    _decode(_ANY, head, size)


def verify_trainer_state(descriptor: int, size: int, effort: Effort) -> TrainerState:
    """The trainer's state. Raises FaultError for what is not whole or tells no step, and OSError."""
    head, tail = _ends(descriptor, size, effort)
    if size > WHOLE_LIMIT:
        _judge_ends(head, tail, size)
        # Sorted by name, these two stand before the history, and other steps in it.
        step = _GLOBAL_STEP.search(head)
        state = TrainerState(int(step[1]) if step else None, _best_in(head))
    else:
        state = _decode(_STATE, head, size)
    if state.global_step is None or not 0 <= state.global_step < STEP_LIMIT:
        raise suspect("tells no global_step")
    return state


def verify_index(descriptor: int, size: int, effort: Effort, beside: Collection[str]) -> None:
    """Raises FaultError for an index of shards that are not all `beside` it, or that lie elsewhere; OSError."""
    if size > 8 * WHOLE_LIMIT:
        raise suspect(f"has {size} bytes, too many for an index")
    index = _decode(_INDEX, effort.read(descriptor, size, 0), size)
    shards = sorted(set(index.weight_map.values()))
    for shard in shards:
        if "/" in shard or "\\" in shard or "\0" in shard or shard in ("", ".", ".."):
            raise suspect(f"names a file outside its folder: {shard[:80]!r}")
        if not shard.endswith(WEIGHTS):
            raise suspect(f"names a file that holds no weights: {shard[:80]!r}")
    for shard in shards:
        if shard not in beside:
            raise incomplete(f"names {shard[:120]}, which is missing")
    if not shards:
        raise suspect("names no shard")


def _ends(descriptor: int, size: int, effort: Effort) -> tuple[bytes, bytes]:
    """All of a small file, or the first and the last part of a large one."""
    if size == 0:
        raise incomplete("is empty")
    if size <= WHOLE_LIMIT:
        content = effort.read(descriptor, size, 0)
        return content, content
    return effort.read(descriptor, EDGE, 0), effort.read(descriptor, EDGE, size - EDGE)


def _decode(decoder: "msgspec.json.Decoder[_T]", content: bytes, size: int) -> _T:
    try:
        try:
            return decoder.decode(content)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            return decoder.decode(_NOT_A_NUMBER.sub(rb"null", content))
    except msgspec.ValidationError as error:
        raise suspect(f"is not what it should be: {str(error)[:120]}") from error
    except RecursionError as error:
        raise suspect("is nested too deeply") from error
    except (msgspec.DecodeError, ValueError) as error:
        if b"\0" in content:
            raise suspect("holds zero bytes") from error
        raise incomplete(f"is no whole JSON, at {size} bytes") from error


def _judge_ends(head: bytes, tail: bytes, size: int) -> None:
    start, end = head.lstrip()[:1], tail.rstrip()
    if b"\0" in head or b"\0" in tail:
        raise suspect("holds zero bytes")
    # Written with indents, the last bracket stands in a line of its own, at its beginning.
    if head[:2] in (b"{\n", b"[\n"):
        is_whole = end[-2:] in (b"\n}", b"\n]")
    else:
        is_whole = (start, end[-1:]) in ((b"{", b"}"), (b"[", b"]"))
    if not is_whole:
        raise incomplete(f"ends in the middle, at {size} bytes")


def _best_in(head: bytes) -> str | None:
    found = _BEST.search(head)
    try:
        return msgspec.json.decode(found[1], type=str) if found else None
    except (msgspec.DecodeError, ValueError):
        return None
