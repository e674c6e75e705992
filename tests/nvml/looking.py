"""Runs the checks of GPUs once for each line of JSON that it is given, and prints what they told as JSON.

It is a process of its own, since the loader reads LD_LIBRARY_PATH when a process starts.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from trainguard.checks.gpus import CHECKS
from trainguard.checks.running import limits_of, run_checks
from trainguard.config import DaemonSettings, HealthSettings, LogSettings, Settings
from trainguard.gpu import asking
from trainguard.vitals import Past


def main() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        asking.DRIVER = Path(asked["driver"])
        settings = Settings(
            path=Path("/absent/config.yaml"),
            daemon=DaemonSettings(command=("python", "train.py"), name="stand-in"),
            health=HealthSettings(**asked["health"]),
            logs=LogSettings(directory=Path(asked["logs"])),
        )
        results = run_checks(CHECKS, settings, limits_of(settings, CHECKS), Past())
        told = {
            one.check.id: {
                "status": one.status.name,
                "text": "\n".join(map(str, one.findings)),
                "absent": one.absent,
                "undecided": one.undecided,
                "measures": {f"{each.name}@{each.subject}": each.value for each in one.measures},
            }
            for one in results
        }
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
