"""DCP, torch's distributed checkpoint: `.metadata` names each shard and each tensor's place in it.

`.metadata` is written last and renamed into place (torch distributed/checkpoint/filesystem.py, `finish`).
"""

import os
from collections.abc import Mapping
from pathlib import Path

from trainguard.checkpoints.effort import Effort
from trainguard.checkpoints.pickles import (
    PICKLE_LIMIT,
    ExhaustedError,
    Thing,
    read_pickle,
    skim_pickle,
)
from trainguard.checkpoints.torch_files import verify_torch
from trainguard.checkpoints.verdicts import FaultError, incomplete, suspect
from trainguard.checkpoints.zips import LOCAL
from trainguard.files import opened

STORAGE_INFO = "torch.distributed.checkpoint.filesystem._StorageInfo"
# The largest pieces are where the weights are; the last one shows whether a shard was written to its end.
PIECES = 2


def verify_dcp(descriptor: int, size: int, folder: Path, sizes: Mapping[str, int], effort: Effort) -> None:
    """Verify `.metadata` and the shards that it names, which lie in `folder` with these sizes.

    Raises FaultError for what is not whole, OSError where it cannot be read.
    """
    if size == 0:
        raise incomplete("is empty")
    try:
        if size > PICKLE_LIMIT:
            raise ExhaustedError
        content = effort.read(descriptor, size, 0)
        if not content.strip(b"\0"):
            raise suspect("holds only zeros")
        metadata = read_pickle(content, effort, wanted=STORAGE_INFO)
    except ExhaustedError:
        for name in sorted(shard.decode() for shard in skim_pickle(descriptor, 0, size, effort)):
            if name not in sizes:
                raise incomplete(f"names {name}, which is missing") from None
        return
    if metadata.end != size:
        raise suspect("has more behind the end of its pickle")
    shards: dict[str, list[tuple[int, int]]] = {}
    for thing in metadata.things:
        match thing.state:
            case {"relative_path": str(name), "offset": int(offset), "length": int(length)}:
                if "/" in name or name in ("", ".", "..") or "\0" in name or offset < 0 or length < 0:
                    raise suspect(f"names a shard outside its folder: {name[:80]!r}")
                shards.setdefault(name, []).append((length, offset))
            case _:
                raise suspect("describes its shards in an unknown way")
    if not shards and not isinstance(metadata.value, Thing):
        raise suspect("is not the metadata of a checkpoint")
    for name, pieces in sorted(shards.items()):
        if name not in sizes:
            raise incomplete(f"names {name}, which is missing")
        whole = max(length + offset for length, offset in pieces)
        if sizes[name] < whole:
            raise incomplete(f"tells of {whole} bytes in {name}, which has {sizes[name]}")
        _verify_shard(folder / name, pieces, effort)


def _verify_shard(path: Path, pieces: list[tuple[int, int]], effort: Effort) -> None:
    last = max(pieces, key=lambda piece: piece[1])
    chosen = {*sorted(pieces, reverse=True)[:PIECES], last}
    with opened(path) as descriptor:
        for length, offset in sorted(chosen, key=lambda piece: piece[1]):
            if not length:
                continue
            try:
                # A piece that was compressed or encrypted on its way does not begin like a torch file.
                head = os.pread(descriptor, 4, offset)
                if head == LOCAL or not head.strip(b"\0"):
                    verify_torch(descriptor, length, effort, start=offset)
            except FaultError as fault:
                raise FaultError(fault.verdict, f"describes {path.name}, which {fault}") from fault
