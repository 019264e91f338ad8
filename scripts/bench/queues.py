"""Idle time of a GPU between two queued jobs: four jobs with one GPU each on two pretend GPUs.

Measured from the end of a container to the start of the next one on that GPU, by the engine's clock.

PYTHONPATH=. python scripts/bench/queues.py [ROUNDS]
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path

from dimba.runners.docker.engine import Engine, connect
from tests.queueing import idle_seconds


def main() -> None:
    """Print the seconds of each round, the median and the worst."""
    engine, every = connect(), []
    if not isinstance(engine, Engine):
        raise SystemExit(engine.problem)
    for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 3):
        with tempfile.TemporaryDirectory() as name:
            idle = idle_seconds(engine, Path(name))
        print(json.dumps(idle))
        every += [seconds for gpu in idle.values() for seconds in gpu]
    print(json.dumps({"median": round(statistics.median(every), 2), "worst": max(every)}))


if __name__ == "__main__":
    main()
