"""The forward pass of a masked-diffusion model, and its logits by the position that they are of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import pad

from dimba.trainers.models.families import family_of_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def mask_id(model: PreTrainedModel) -> int:
    """The id of the token that stands for a masked one."""
    return int(model.config.mask_token_id)


def inputs_of(
    model: PreTrainedModel, ids: torch.Tensor, attended: torch.Tensor | None, share: torch.Tensor
) -> dict[str, Any]:
    """The arguments of `forward` for ids [rows, tokens], as the model's family takes them.

    `attended` [rows, tokens] is 0 for padding, None without any; `share` [rows] is of the tokens that are masked.
    """
    family = family_of_model(model)
    inputs: dict[str, Any] = {"input_ids": ids}
    if attended is not None and family.masks_pairs:
        # Of keys alone: a row of pairs in which nothing is attended has no softmax.
        inputs["attention_mask"] = attended.bool()[:, None, None, :].expand(-1, 1, attended.shape[1], -1)
    elif attended is not None:
        inputs["attention_mask"] = attended
    return inputs | ({"t": share} if family.takes_time else {})


def heads_of(model: PreTrainedModel, positions: torch.Tensor) -> torch.Tensor:
    """Of marked positions [rows, tokens], the ones whose head predicts them; the first has none before it."""
    return pad(positions[:, 1:], (0, 1)) if family_of_model(model).predicts_next else positions


def logits_of(
    model: PreTrainedModel, ids: torch.Tensor, attended: torch.Tensor | None, share: torch.Tensor
) -> torch.Tensor:
    """Logits [rows, tokens, vocabulary] of the token at each position."""
    found: torch.Tensor = model(**inputs_of(model, ids, attended, share)).logits
    return torch.cat([found[:, :1], found[:, :-1]], dim=1) if family_of_model(model).predicts_next else found


def half_masked(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """Logits [rows, tokens, vocabulary] of rows of which every other token is masked."""
    noised = ids.clone()
    noised[:, 1::2] = mask_id(model)
    return logits_of(model, noised, None, ids.new_full((len(ids),), 0.5, dtype=torch.float32))
