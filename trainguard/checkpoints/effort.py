"""Effort: what may be spent on verifying one checkpoint."""

import os

from trainguard.checkpoints.verdicts import suspect

# Of pickles: an optimizer with 10,000 tensors takes 250,000 of them; 2,000,000 take about a second and 150 MB.
OPERATION_LIMIT = 2_000_000
# Of headers, directories, pickles and JSON; the samples of tensors are bounded by themselves.
READ_LIMIT = 1 << 30


class Effort:
    """What may still be spent on one checkpoint, so that ten thousand large files cannot hold up a restart."""

    def __init__(self, operations: int = OPERATION_LIMIT, reading: int = READ_LIMIT) -> None:
        self.operations = operations
        self.reading = reading

    def read(self, descriptor: int, size: int, start: int) -> bytes:
        """Bytes of a file. Raises FaultError where too much was read already, and OSError."""
        self.reading -= size
        if self.reading < 0:
            raise suspect("is one of too many large files to verify")
        return os.pread(descriptor, size, start)
