"""Does a toy DIMBA learn eight answers with every seed, and what do fewer sampling steps cost it?

    PYTHONPATH=. OMP_NUM_THREADS=1 python scripts/soak/masked_toy.py [SEED …]

Prints for each seed the CPU seconds of its training and, for each number of steps per block of 32, how many of the
eight answers are right. Returns 1 if a seed has not all of them at one token per step.
"""

import contextlib
import io
import sys
import tempfile
import time
from pathlib import Path

from tests.trainers.masked.toy import right, trained

SEEDS = [0, 1, 2, 3, 4]
STEPS = [32, 16, 8, 4, 2, 1]


def main() -> int:
    """Print a line per seed, and one of their sums."""
    rows = []
    print(" seed  seconds  " + "  ".join(f"{steps:>2} steps" for steps in STEPS))
    for seed in [int(text) for text in sys.argv[1:]] or SEEDS:
        seconds, found = measure(seed)
        rows.append(found)
        print(f"{seed:>5}  {seconds:>7.1f}  " + "  ".join(f"{each:>8}" for each in found), flush=True)
    print(f"{'sum':>5}  {'':>7}  " + "  ".join(f"{sum(each):>8}" for each in zip(*rows, strict=True)))
    return int(any(found[0] < 8 for found in rows))


def measure(seed: int) -> tuple[float, list[int]]:
    """(CPU seconds of the training, the right answers for each number of STEPS)."""
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
        began = time.process_time()
        assert trained(Path(name), "dimba", seed) == 0
        return time.process_time() - began, [right(Path(name), steps) for steps in STEPS]


if __name__ == "__main__":
    sys.exit(main())
