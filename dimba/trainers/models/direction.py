"""Whether tokens attend to later ones, held to numbers: a change at the right, and the logits at the left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from dimba.trainers.models.saved_model import evaluating
from dimba.trainers.models.sharding import from_first_rank, is_sharded
from dimba.trainers.ranks import is_main_process

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TOKENS = 13  # odd: of rows of which every other token is masked, the last one is not

Logits = Callable[[torch.Tensor], torch.Tensor]  # of ids [rows, tokens], [rows, tokens, vocabulary]


@dataclass(frozen=True)
class Influence:
    """By how much other tokens change a token's logits, as a share of their size."""

    of_later: float
    of_earlier: float

    def __str__(self) -> str:
        """The figure of later tokens."""
        return f"a change of the last token changes the logits of those before it by {self.of_later:.1%}"


def influence(model: PreTrainedModel, logits: Logits) -> Influence | None:
    """Changes the last token, then the first, and compares the logits of the others.

    None on the ranks and in the jobs that have no weights to compute with. All ranks must call it together.
    """
    found = _influence(model, logits) if is_main_process() or not is_sharded() else None
    return from_first_rank(found)


def _influence(model: PreTrainedModel, logits: Logits) -> Influence:
    ids = probe_ids(model)
    at_end, at_start = ids.clone(), ids.clone()
    at_end[:, -1] = ids[:, 0]
    at_start[:, 0] = ids[:, -1]
    with evaluating(model):
        before, later, earlier = (logits(each).float() for each in (ids, at_end, at_start))
    return Influence(
        of_later=difference(before[:, :-1], later[:, :-1]),
        of_earlier=difference(before[:, 1:], earlier[:, 1:]),
    )


def probe_ids(model: PreTrainedModel, tokens: int = _TOKENS) -> torch.Tensor:
    """Random ids [1, tokens], no two of them equal where the vocabulary has as many."""
    embedding = model.get_input_embeddings().weight
    rows = len(embedding)
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(0))
    return order.repeat(-(-tokens // rows))[:tokens][None].to(embedding.device)


def difference(before: torch.Tensor, after: torch.Tensor) -> float:
    """The difference of two tensors as a share of the first one's size."""
    return float((after - before).norm() / before.norm().clamp(min=1e-12))
