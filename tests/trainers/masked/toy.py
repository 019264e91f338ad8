"""Toy models of two layers, 128 wide, that learn the answers of EIGHT by heart: trained as users do, then asked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dimba.objectives.sft import SFT
from dimba.trainers.command import run_trainer
from dimba.trainers.models.families import auto_class, family_at
from dimba.trainers.models.masked_diffusion.sampler import Unmasking, sample
from dimba.trainers.objectives.sft.train import train
from tests.conftest import write_rows
from tests.trainers.masked.bases import CHATS, EIGHT, make_masked


@dataclass(frozen=True)
class Recipe:
    """Steps of the trainer, rows per step, the rate, and values of the configuration."""

    steps: int
    rows: int
    rate: float
    values: dict[str, Any]


_BY_CODE = Recipe(150, 32, 3e-3, {})
# DIMBA's head is its embedding: with the default scale and small values it takes long to tell tokens apart.
_SCALED = {"embedding_scale": 11.3, "initializer_range": 0.088}
RECIPES = {"dimba": Recipe(250, 8, 2e-3, _SCALED), "llada": _BY_CODE, "Dream": _BY_CODE}


def trained(folder: Path, kind: str, seed: int = 0, *, held_out: int = 0) -> int:
    """The status of a training in `folder`, with `base` and `out` in it; held-out rows are among the trained ones."""
    recipe = RECIPES[kind]
    base = make_masked(folder / "base", kind, seed=seed, hidden_size=128, **recipe.values)
    data = write_rows(folder / "data.jsonl", CHATS * (5 if held_out else recipe.rows // len(CHATS)))
    named = ["--base-checkpoint", str(base), "--dataset", str(data), "--output-dir", str(folder / "out")]
    numbers = ["--max-steps", str(recipe.steps), "--batch-size", str(recipe.rows), "--learning-rate", str(recipe.rate)]
    others = ["--grad-accumulation-steps", "1", "--seed", str(seed), "--max-length", "128"]
    others += ["--validation-split", str(held_out)] if held_out else []
    options = SFT.parse([*named, *numbers, *others, "--device", "cpu", "--trust-remote-code"])
    return run_trainer(train, options)


def right(folder: Path, steps: int | None = None) -> int:
    """How many of EIGHT the model answers to the letter, in blocks of 32 with this many steps each, or one a token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "base", trust_remote_code=True)
    model = auto_class(family_at(str(folder / "out"))).from_pretrained(folder / "out", trust_remote_code=True).eval()
    asked = [tokenizer.apply_chat_template(each["messages"][:1], add_generation_prompt=True) for each in CHATS]
    how = Unmasking(new_tokens=32, block=32, steps=steps or 32)
    found = sample(model, [each["input_ids"] for each in asked], how, ends=[tokenizer.eos_token_id])
    answers = [tokenizer.decode(each[:-1]) for each in found.tokens]
    return sum(answer == wanted for answer, (_, wanted) in zip(answers, EIGHT, strict=True))
