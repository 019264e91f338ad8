"""A run that is killed many times at random moments, also while it saves: does it end as if it had not been?

PYTHONPATH=. python scripts/soak/kills.py [KILLS [SEED]]
"""

import json
import sys
import tempfile
from pathlib import Path

from dimba.trainers.models.tiny import make_checkpoint
from tests.kills import dimba, kill_often, record, weights, write_job

KILLS, STEPS_A_KILL = 50, 30


def main() -> int:
    """Prints what came of it; the status is 1 where something was lost."""
    kills, seed = [*map(int, sys.argv[1:]), *(KILLS, 0)[len(sys.argv) - 1 :]][:2]
    with tempfile.TemporaryDirectory() as name:
        base = Path(name, "base")
        make_checkpoint(base, [f"Count to {n}" for n in range(60)])
        quiet, killed = (write_job(Path(name, each), base, steps=kills * STEPS_A_KILL) for each in ("quiet", "killed"))
        whole = dimba(quiet, "launch", "job.yaml")
        hit = kill_often(killed, kills, seed, quiet)
        same = whole.returncode == 0 and record(killed)["status"] == "succeeded" and weights(quiet) == weights(killed)
    print(json.dumps({"kills": hit, "lost": 0 if same else 1, "same weights": same}))
    return int(not same)


if __name__ == "__main__":
    sys.exit(main())
