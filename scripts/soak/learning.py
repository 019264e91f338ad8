"""Do GRPO and DPO learn, with every seed? Long proofs, a table of their results.

PYTHONPATH=. python scripts/soak/learning.py [SEED …]
"""

import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path

from tests.trainers.learning import endings, sums
from tests.trainers.test_dpo import learnt_order
from tests.trainers.test_grpo import CHANCE, learnt, learnt_manners

SEEDS = [0, 1, 2]


def main() -> int:
    """Print a line per seed; returns 1 if one did not learn."""
    failed = 0
    heads = f"{'seed':>4}  {'sums':>7}  {'by chance':>9}  {'pairs right':>11}  {'politeness':>10}"
    print(f"{heads}  {'DPO held out':>12}  {'by likelihood':>13}")
    for seed in [int(text) for text in sys.argv[1:]] or SEEDS:
        with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
            gains = measure(Path(name), seed)
        good = gains[0] >= 0.15 and gains[1] < 0.15 and gains[2] >= 0.95 and gains[3] >= 0.3 and min(gains[4:]) >= 0.2
        failed += not good
        grpo = f"{gains[0]:+7.3f}  {gains[1]:+9.3f}  {gains[2]:11.3f}  {gains[3]:+10.3f}"
        print(f"{seed:>4}  {grpo}  {gains[4]:+12.3f}  {gains[5]:+13.3f}", flush=True)
    print(json.dumps({"failed": failed}))
    return int(failed > 0)


def measure(folder: Path, seed: int) -> tuple[float, ...]:
    """The gains of GRPO and DPO.

    (gain in right sums, gain from a random reward, pairs the reward model gets right, gain in politeness, and with DPO
    of held-out pairs that are ordered rightly, by margin and by the likelihood of their answers).
    """
    world = sums(folder / "sums", seed)
    (folder / "chance.py").write_text(CHANCE, encoding="utf-8")
    flags = ("--seed", str(seed))
    by_numbers = learnt(world, folder / "by-numbers", *flags)
    by_chance = learnt(world, folder / "by-chance", "--reward", f"{folder}/chance.py:chance", *flags)
    polite = endings(folder / "endings", seed)
    manners = learnt_manners(polite, folder / "manners", *flags)[:2]
    return by_numbers, by_chance, *manners, *learnt_order(polite, folder / "order", *flags)


if __name__ == "__main__":
    sys.exit(main())
