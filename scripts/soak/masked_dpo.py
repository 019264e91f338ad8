"""Does DPO of a masked-diffusion base learn with every seed, and what do shared masks save?

PYTHONPATH=. python scripts/soak/masked_dpo.py [SEED …]

A toy in the layout of LLaDA is tuned on answers of which one in five is polite, then on pairs whose chosen answer is.
Two lines per seed, after 16 and 32 steps: held-out pairs that are ordered rightly, their margin in nats, and the
variance of a margin's estimate from 8 masks, with masks that the model and its reference share and with masks apart.
"""

import contextlib
import io
import json
import random
import sys
import tempfile
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from dimba.objectives.dpo import DPO, DpoOptions
from dimba.objectives.sft import SFT
from dimba.trainers.data.encoding import IGNORED
from dimba.trainers.data.packing import Batch
from dimba.trainers.models.families import auto_class, family_at
from dimba.trainers.models.masked_diffusion.answers import Rows
from dimba.trainers.models.masked_diffusion.estimates import PairDraws, estimated
from dimba.trainers.models.masked_diffusion.scoring import add_scoring
from dimba.trainers.objectives.dpo.batches import as_dataset, collate_pairs
from dimba.trainers.objectives.dpo.pairs import load_pairs
from dimba.trainers.objectives.dpo.train import train as train_on_pairs
from dimba.trainers.objectives.sft.train import train as train_on_answers
from tests.conftest import write_rows
from tests.trainers.masked.bases import make_masked

SEEDS = [0, 1, 2]
THINGS = [*("grass", "snow", "coal", "cat", "bird", "cow", "dog", "sky"), *("green", "white", "cold", "black")]
HELD_OUT, REPEATS, DRAWS, STEPS, BETA = 40, 25, 8, (16, 32), 0.1


def main() -> int:
    """Print lines per seed; returns 1 if one did not learn."""
    failed = 0
    print(
        f"{'seed':>4}  {'step':>4}  {'ordered rightly':>15}  {'margin':>6}  {'shared':>6}  {'apart':>6}  {'ratio':>5}"
    )
    for seed in [int(text) for text in sys.argv[1:]] or SEEDS:
        with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
            found = list(measured(Path(name), seed))
        for step, right, margin, shared, apart in found:
            numbers = f"{right:15.2f}  {margin:6.2f}  {shared:6.2f}  {apart:6.2f}  {apart / shared:5.1f}"
            print(f"{seed:>4}  {step:>4}  {numbers}", flush=True)
        failed += found[-1][1] < 0.9
    print(json.dumps({"failed": failed}))
    return int(failed > 0)


def measured(folder: Path, seed: int) -> Iterator[tuple[int, float, float, float, float]]:
    """(step, share of held-out pairs ordered rightly, margin in nats, variance with shared masks, with masks apart)."""
    options = trained(folder, seed)
    data = load_pairs(options, lambda _rows: None)
    batch = collate_pairs(list(as_dataset(data.validation)), pad_id=data.tokenizer.pad_token_id)
    batch["labels"] = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, IGNORED)
    out, base = Path(options.output_dir), _loaded(folder / "policy")
    logs = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    evaluated = {line["step"]: line for line in logs if "eval_margin" in line}
    for step in STEPS:
        model = _loaded(folder / "policy")
        model.load_state_dict(load_file(out / f"checkpoint-{step}" / "model.safetensors"))
        with torch.no_grad():
            variances = [variance(model, base, batch, apart=apart) for apart in (False, True)]
        yield step, evaluated[step]["eval_accuracy"], evaluated[step]["eval_margin"] / BETA, *variances


def trained(folder: Path, seed: int) -> DpoOptions:
    """The options of a run of DPO that has been made, from a base that was tuned on answers."""
    rng = random.Random(seed)
    facts = [(f"{a} and {b}?", f"{a} or {b}") for a, b in permutations(THINGS, 2)]
    rng.shuffle(facts)
    answers = [{"question": ask, "answer": fact + (", thanks" if rng.random() < 0.2 else ".")} for ask, fact in facts]
    pairs = [{"prompt": ask, "chosen": f"{fact}, thanks", "rejected": f"{fact}."} for ask, fact in facts]
    policy, base = folder / "policy", make_masked(folder / "base", "llada", seed=seed)
    given = _given(base, policy, write_rows(folder / "answers.jsonl", answers), seed, size=16)
    assert train_on_answers(SFT.parse([*given, "--max-steps", "400", "--learning-rate", "3e-3"])) == 0
    given = _given(policy, folder / "tuned", write_rows(folder / "pairs.jsonl", pairs), seed, size=8)
    given += ["--max-steps", str(STEPS[-1]), "--save-steps", str(STEPS[0]), "--eval-steps", str(STEPS[0])]
    options = DPO.parse([*given, "--learning-rate", "1e-4", "--validation-split", str(HELD_OUT)])
    assert train_on_pairs(options) == 0
    return options


def _given(base: Path, out: Path, rows: Path, seed: int, *, size: int) -> list[str]:
    named = {"base-checkpoint": base, "dataset": rows, "output-dir": out, "seed": seed, "device": "cpu"}
    named |= {"batch-size": size, "grad-accumulation-steps": 1, "max-length": 64}
    return [*(text for name, value in named.items() for text in (f"--{name}", str(value))), "--trust-remote-code"]


def _loaded(folder: Path) -> Any:
    model = auto_class(family_at(str(folder))).from_pretrained(folder, trust_remote_code=True).eval()
    add_scoring(model)
    return model


def variance(model: Any, base: Any, batch: Batch, *, apart: bool) -> float:
    """The variance of a margin's estimate, in nats², as a mean over the pairs.

    `apart`: the model and its reference have masks of their own.
    """
    found = []
    for seed in range(REPEATS):
        changes = _estimates(model, batch, seed) - _estimates(base, batch, seed + REPEATS * apart)
        chosen, rejected = changes.chunk(2)
        found.append(chosen - rejected)
    return float(torch.stack(found).var(dim=0).mean())


def _estimates(model: Any, batch: Batch, seed: int) -> torch.Tensor:
    pairs = len(batch["input_ids"]) // 2
    drawn = PairDraws(seed=seed, step=0, places=range(pairs), pairs=pairs, draws=DRAWS)
    rows = Rows(*(batch[name].repeat(DRAWS, 1) for name in ("input_ids", "attention_mask", "labels")))
    answers = rows.cut(drawn.numbers(rows.counts))
    return estimated(model, model, answers, drawn.masks(answers.trained, rows.counts), DRAWS)


if __name__ == "__main__":
    sys.exit(main())
