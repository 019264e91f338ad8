"""Does GRPO of masked-diffusion bases learn, with every seed and either loss? A table of gains.

PYTHONPATH=. python scripts/soak/masked_grpo.py [SEED …]
"""

import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path

from tests.trainers.masked.learning import larger_of_two, learnt
from tests.trainers.test_grpo import CHANCE

SEEDS = [0, 1, 2]
LEAST = 0.15  # of the held-out rows that are right


def main() -> int:
    """Print a line per seed; returns 1 if one did not learn, or learned from a random reward."""
    failed = 0
    print(f"{'seed':>4}  {'diffu-GRPO':>10}  {'wd1':>7}  {'by chance':>9}")
    for seed in [int(text) for text in sys.argv[1:]] or SEEDS:
        with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
            ratios, weights, chance = measure(Path(name), seed)
        failed += not (min(ratios, weights) >= LEAST > chance)
        print(f"{seed:>4}  {ratios:+10.3f}  {weights:+7.3f}  {chance:+9.3f}", flush=True)
    print(json.dumps({"failed": failed}))
    return int(failed > 0)


def measure(folder: Path, seed: int) -> tuple[float, ...]:
    """(gain of diffu-GRPO, of wd1, of diffu-GRPO from a random reward) on held-out rows, in the layout of LLaDA."""
    world = larger_of_two(folder, "llada", seed)
    (folder / "chance.py").write_text(CHANCE, encoding="utf-8")
    ways = {"ratios": (), "weights": ("--loss-type", "wd1"), "chance": ("--reward", f"{folder}/chance.py:chance")}
    return tuple(learnt(world, folder / name, "--seed", str(seed), *flags) for name, flags in ways.items())


if __name__ == "__main__":
    sys.exit(main())
