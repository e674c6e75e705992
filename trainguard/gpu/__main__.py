"""Print what the GPUs tell, as JSON; the argument is how many seconds there are for it."""

import os
import sys

import msgspec

from trainguard.gpu.asking import DEFAULT_SECONDS, read_gpus


def main() -> int:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_SECONDS
    sys.stdout.buffer.write(msgspec.json.encode(read_gpus(seconds)))
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main())
