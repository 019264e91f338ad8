"""Does DPO of a masked-diffusion base learn with every seed, and what do shared masks save?

PYTHONPATH=. python scripts/soak/masked_dpo.py [SEED …]

A toy in the layout of LLaDA is tuned on answers of which one in five is polite, then on pairs whose chosen answer is. A
line per seed: held-out pairs whose chosen answer has the higher bound, before and after, and the variances of their
margins' estimates, with masks that the model and its reference share and with masks of their own.
"""

import contextlib
import io
import json
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import torch

from dimba.objectives.dpo import DPO
from dimba.objectives.sft import SFT
from dimba.trainers.data.encoding import IGNORED
from dimba.trainers.data.packing import Batch
from dimba.trainers.models.families import auto_class, family_at
from dimba.trainers.models.masked_diffusion.answers import Rows
from dimba.trainers.models.masked_diffusion.estimates import PairDraws, estimated
from dimba.trainers.models.masked_diffusion.scoring import add_scoring, bounds
from dimba.trainers.objectives.dpo.batches import as_dataset, collate_pairs
from dimba.trainers.objectives.dpo.pairs import load_pairs
from dimba.trainers.objectives.dpo.train import train as train_on_pairs
from dimba.trainers.objectives.sft.train import train as train_on_answers
from tests.conftest import write_rows
from tests.trainers.masked.bases import make_masked

SEEDS = [0, 1, 2]
THINGS = [*("grass", "snow", "coal", "cat", "bird", "cow", "dog", "sky"), *("green", "white", "cold", "black")]
HELD_OUT, REPEATS, DRAWS = 40, 100, (1, 4, 8)


def main() -> int:
    """Print a line per seed; returns 1 if one did not learn."""
    failed = 0
    ratios = "  ".join(f"{f'variances at {draws}':>22}" for draws in DRAWS)
    print(f"{'seed':>4}  {'before':>6}  {'after':>6}  {ratios}  {'random t, 8':>11}  {'noise of a margin, 8':>20}")
    for seed in [int(text) for text in sys.argv[1:]] or SEEDS:
        with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
            base, tuned, batch = trained(Path(name), seed)
        with torch.no_grad():
            right = [share_right(model, batch) for model in (base, tuned)]
            found = [
                (variance(tuned, base, batch, draws), variance(tuned, base, batch, draws, apart=True))
                for draws in DRAWS
            ]
            unspread = variance(tuned, base, batch, 8, spread=False)
        failed += right[1] < right[0] + 0.2
        shown = "  ".join(f"{shared:8.3f} {apart:8.2f} {apart / shared:4.0f}" for shared, apart in found)
        noise = 0.1 * found[-1][0] ** 0.5  # of a reward, at the default beta
        print(f"{seed:>4}  {right[0]:6.2f}  {right[1]:6.2f}  {shown}  {unspread:11.3f}  {noise:20.3f}", flush=True)
    print(json.dumps({"failed": failed}))
    return int(failed > 0)


def trained(folder: Path, seed: int) -> tuple[Any, Any, Batch]:
    """(the tuned base, the model after DPO, its held-out pairs as a batch)."""
    rng = random.Random(seed)
    facts = [(f"{a} and {b}?", f"{a} or {b}") for a, b in permutations(THINGS, 2)]
    rng.shuffle(facts)
    answers = [{"question": ask, "answer": fact + (", thanks" if rng.random() < 0.2 else ".")} for ask, fact in facts]
    pairs = [{"prompt": ask, "chosen": f"{fact}, thanks", "rejected": f"{fact}."} for ask, fact in facts]
    policy = folder / "policy"
    base = make_masked(folder / "base", "llada", seed=seed)
    given = _given(base, policy, write_rows(folder / "answers.jsonl", answers), seed)
    assert train_on_answers(SFT.parse([*given, "--max-steps", "150", "--learning-rate", "3e-3"])) == 0
    given = _given(policy, folder / "tuned", write_rows(folder / "pairs.jsonl", pairs), seed)
    options = DPO.parse(
        [
            *given,
            "--max-steps",
            "40",
            "--learning-rate",
            "3e-4",
            "--batch-size",
            "8",
            "--validation-split",
            str(HELD_OUT),
        ]
    )
    assert train_on_pairs(options) == 0
    data = load_pairs(options, lambda _rows: None)
    batch = collate_pairs(list(as_dataset(data.validation)), pad_id=data.tokenizer.pad_token_id)
    batch["labels"] = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, IGNORED)
    return _loaded(policy), _loaded(folder / "tuned"), batch


def _given(base: Path, out: Path, rows: Path, seed: int) -> list[str]:
    named = {"base-checkpoint": base, "dataset": rows, "output-dir": out, "seed": seed, "device": "cpu"}
    named |= {"batch-size": 16, "grad-accumulation-steps": 1, "max-length": 64}
    return [*(text for name, value in named.items() for text in (f"--{name}", str(value))), "--trust-remote-code"]


def _loaded(folder: Path) -> Any:
    model = auto_class(family_at(str(folder))).from_pretrained(folder, trust_remote_code=True).eval()
    add_scoring(model)
    return model


def _rows(batch: Batch, times: int = 1) -> Rows:
    return Rows(*(batch[name].repeat(times, 1) for name in ("input_ids", "attention_mask", "labels")))


def share_right(model: Any, batch: Batch) -> float:
    """The share of pairs whose chosen answer has the higher bound."""
    [answers] = _rows(batch).all(1)
    chosen, rejected = bounds(model, model, answers).chunk(2)
    return float((chosen < rejected).float().mean())


def variance(model: Any, base: Any, batch: Batch, draws: int, *, apart: bool = False, spread: bool = True) -> float:
    """The variance of a margin's estimate, in nats², as a mean over the pairs.

    `apart`: the model and its reference have masks of their own. Without `spread`, each mask has a share of its own
    draw.
    """
    found = []
    for repeat in range(REPEATS):
        changes = [
            torch.stack([_estimates(each, batch, 1 if not spread else draws, seed) for seed in seeds]).mean(dim=0)
            for each, seeds in _seeds(model, base, repeat, draws, apart=apart, spread=spread)
        ]
        chosen, rejected = (changes[0] - changes[1]).chunk(2)
        found.append(chosen - rejected)
    return float(torch.stack(found).var(dim=0).mean())


def _seeds(
    model: Any, base: Any, repeat: int, draws: int, *, apart: bool, spread: bool
) -> Iterator[tuple[Any, Sequence[int]]]:
    for number, each in enumerate((model, base)):
        first = 2 * repeat + (number if apart else 0)
        yield each, [first] if spread else range(1000 * first, 1000 * first + draws)


def _estimates(model: Any, batch: Batch, draws: int, seed: int) -> torch.Tensor:
    pairs = len(batch["input_ids"]) // 2
    drawn = PairDraws(seed=seed, step=0, places=range(pairs), pairs=pairs, draws=draws)
    rows = _rows(batch, draws)
    answers = rows.cut(drawn.numbers(rows.counts))
    return estimated(model, model, answers, drawn.masks(answers.trained, rows.counts), draws)


if __name__ == "__main__":
    sys.exit(main())
