"""Standstills: what the processes of a run that hangs show, gathered by a child before they are stopped.

`python -m trainguard.standstills` is that child. Each line of its output is the whole standstill as far as it is
known by then, so that it may end at any time.
"""

from pathlib import Path

import msgspec

from trainguard import files

# The child's own limit, and that of whoever waits for it.
SECONDS = 8.0
PATIENCE = 10.0
STACKS = "stacks.txt"
_LIMIT = 16 << 20


def read_standstill(file: Path) -> dict[str, object] | None:
    """The last whole line of what the child said: `kind`, `sentence`, `processes`, and more; None if none is."""
    try:
        lines = files.read_small(file, _LIMIT).splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            return msgspec.json.decode(line, type=dict[str, object])
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
    return None
