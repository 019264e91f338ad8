"""Kills a run many times at random moments, also while it saves: it must end with the weights of an undisturbed run.

PYTHONPATH=. python scripts/soak/kills.py [KILLS [SEED]]
"""

import json
import sys
import tempfile
from pathlib import Path

from dimba.trainers.tiny import make_checkpoint
from tests.kills import dimba, kill_often, record, weights, write_job

KILLS, STEPS_PER_KILL = 50, 30


def main() -> int:
    """Print the result; returns 1 if the weights differ."""
    kills, seed = [*map(int, sys.argv[1:]), *(KILLS, 0)[len(sys.argv) - 1 :]][:2]
    with tempfile.TemporaryDirectory() as name:
        base = Path(name, "base")
        make_checkpoint(base, [f"Count to {n}" for n in range(60)])
        steps = kills * STEPS_PER_KILL
        undisturbed, killed = (write_job(Path(name, each), base, steps=steps) for each in ("undisturbed", "killed"))
        launch = dimba(undisturbed, "launch", "job.yaml")
        hit = kill_often(killed, kills, seed, undisturbed)
        succeeded = launch.returncode == 0 and record(killed)["status"] == "succeeded"
        same = succeeded and weights(undisturbed) == weights(killed)
    print(json.dumps({"kills": hit, "lost": 0 if same else 1, "same weights": same}))
    return int(not same)


if __name__ == "__main__":
    sys.exit(main())
