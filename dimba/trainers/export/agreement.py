"""How far two models agree on tokens, at the same positions of the same rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from dimba.trainers.models.families import half_of
from dimba.trainers.models.saved_model import evaluating

Ids = Sequence[int]
Logits = list[torch.Tensor]  # per row [tokens, vocabulary], float32 on the CPU
Progress = Callable[[str, int, int], None]  # (what is being done, steps done, steps in all)


@dataclass(frozen=True)
class Agreement:
    """The agreement of distributions of a token; KL divergences are of the reference from the other model, in nats."""

    rows: int
    positions: int
    agreement: float  # share of the positions at which both have the same likeliest token
    kl_mean: float
    kl_max: float
    logits_max_difference: float
    logits_scale: float  # the largest logit of the reference

    def as_json(self) -> dict[str, Any]:
        """The numbers, rounded to what they tell."""
        return {name: float(f"{each:.4g}") if isinstance(each, float) else each for name, each in asdict(self).items()}


def logits_of_rows(model: Any, rows: Sequence[Ids], progress: Progress, what: str) -> Logits:
    """The logits of every token of the rows, one row at a time."""
    device = next(model.parameters()).device
    found = []
    with evaluating(model):
        for number, row in enumerate(rows):
            progress(what, number, len(rows))
            ids = torch.tensor([list(row)], device=device)
            found.append(half_of(model).logits(model, ids)[0].float().cpu())
    progress(what, len(rows), len(rows))
    return found


def compare(reference: Logits, other: Logits) -> Agreement:
    """Compare row by row; of different vocabularies the shared beginning is compared."""
    same = positions = 0
    total = worst = difference = scale = 0.0
    for ours, theirs in zip(reference, other, strict=True):
        width = min(ours.shape[1], theirs.shape[1])
        one, two = ours[:, :width].double(), theirs[:, :width].double()
        kl = (one.log_softmax(-1).exp() * (one.log_softmax(-1) - two.log_softmax(-1))).sum(-1).clamp(min=0)
        kl = kl.nan_to_num(nan=torch.inf)
        same += int((one.argmax(-1) == two.argmax(-1)).sum())
        positions += len(one)
        total, worst = total + float(kl.sum()), max(worst, float(kl.max()))
        difference = max(difference, float((one - two).abs().nan_to_num(nan=torch.inf).max()))
        scale = max(scale, float(one.abs().max()))
    count = max(positions, 1)
    return Agreement(len(reference), positions, same / count, total / count, worst, difference, scale)
