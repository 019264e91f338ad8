"""Checks that GRPO learns with every seed, and prints a table of the gains.

PYTHONPATH=. python scripts/soak/learning.py [SEED …]
"""

import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path

from tests.trainers.learning import endings, sums
from tests.trainers.test_grpo import CHANCE, learnt, learnt_manners

SEEDS = [0, 1, 2]


def main() -> int:
    """Print a line per seed; returns 1 if training with one seed did not learn."""
    failed = 0
    print(f"{'seed':>4}  {'sums':>7}  {'by chance':>9}  {'pairs right':>11}  {'politeness':>10}")
    for seed in [int(text) for text in sys.argv[1:]] or SEEDS:
        with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
            gains = measure(Path(name), seed)
        good = gains[0] >= 0.15 and gains[1] < 0.15 and gains[2] >= 0.95 and gains[3] >= 0.3
        failed += not good
        print(f"{seed:>4}  {gains[0]:+7.3f}  {gains[1]:+9.3f}  {gains[2]:11.3f}  {gains[3]:+10.3f}", flush=True)
    print(json.dumps({"failed": failed}))
    return int(failed > 0)


def measure(folder: Path, seed: int) -> tuple[float, float, float, float]:
    """(gain in correct sums, the same with a random reward, correct pairs of the reward model, gain in politeness)."""
    world = sums(folder / "sums", seed)
    (folder / "chance.py").write_text(CHANCE, encoding="utf-8")
    flags = ("--seed", str(seed))
    by_numbers = learnt(world, folder / "by-numbers", *flags)
    by_chance = learnt(world, folder / "by-chance", "--reward", f"{folder}/chance.py:chance", *flags)
    return by_numbers, by_chance, *learnt_manners(endings(folder / "endings", seed), folder / "manners", *flags)[:2]


if __name__ == "__main__":
    sys.exit(main())
