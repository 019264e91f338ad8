"""The likeliest answers of a masked-diffusion model, to compare it with itself before and after training."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from dimba.trainers.models.masked_diffusion.forward import logits_of, mask_id
from dimba.trainers.models.masked_diffusion.sampler import Ids, Unmasking, sample

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


_BLOCK = 8  # tokens


def likeliest(
    model: PreTrainedModel,
    prompts: Sequence[Ids],
    tokenizer: PreTrainedTokenizerBase,
    *,
    new_tokens: int,
    seconds: float | None,
) -> tuple[list[Ids], torch.Tensor]:
    """By blocks, a token a step: the surest one of a block first."""
    until = None if seconds is None else time.monotonic() + seconds
    found = sample(
        model,
        prompts,
        Unmasking(new_tokens=new_tokens, block=_BLOCK, steps=_BLOCK),
        pad_id=tokenizer.pad_token_id,
        is_stopped=lambda: until is not None and time.monotonic() > until,
    )
    return found.tokens, found.first_logits


def retraced(model: PreTrainedModel, prompt: Ids, tokens: Ids) -> Ids:
    """The likeliest tokens of complete blocks, the surest one first, each with the earlier ones of `tokens`."""
    length, found = len(tokens) - len(tokens) % _BLOCK, dict[int, int]()
    mask, device = mask_id(model), next(model.parameters()).device
    for start in range(0, length, _BLOCK):
        for step in range(_BLOCK):
            row = [tokens[place] if place in found else mask for place in range(start + _BLOCK)]
            ids = torch.tensor([[*prompt, *row]], device=device)
            share = torch.tensor([(_BLOCK - step) / len(row)], device=device)
            logits = logits_of(model, ids, torch.ones_like(ids), share)[0, len(prompt) + start :].double()
            logits[:, mask] = -torch.inf
            sureness, likeliest = logits.softmax(-1).max(-1)
            still_open = [each for each in range(_BLOCK) if start + each not in found]
            place = max(still_open, key=sureness.tolist().__getitem__)
            found[start + place] = int(likeliest[place])
    return [found[place] for place in range(length)]
