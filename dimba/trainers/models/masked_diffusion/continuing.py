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
    """The likeliest token in each place of `tokens`, filled in with those, by blocks, the surest one first.

    The last block is complete, as it was: the model's own choice is behind the `tokens`.
    """
    filled, found = dict[int, int](), dict[int, int]()
    for start in range(0, len(tokens), _BLOCK):
        for _ in range(_BLOCK):
            place, found_token = _surest(model, prompt, filled, start)
            found[place] = found_token
            filled[place] = tokens[place] if place < len(tokens) else found_token
    return [found[place] for place in range(len(tokens))]


def _surest(model: PreTrainedModel, prompt: Ids, filled: dict[int, int], start: int) -> tuple[int, int]:
    """(the place in the block from `start` on whose likeliest token is the surest, that token)."""
    mask, device = mask_id(model), next(model.parameters()).device
    places = range(start + _BLOCK)
    ids = torch.tensor([[*prompt, *(filled.get(place, mask) for place in places)]], device=device)
    share = torch.tensor([(len(places) - len(filled)) / len(places)], device=device)
    logits = logits_of(model, ids, torch.ones_like(ids), share)[0, len(prompt) :].double()
    logits[:, mask] = -torch.inf
    sureness, likeliest = logits.softmax(-1).max(-1)
    best = max((place for place in places if place not in filled), key=sureness.tolist().__getitem__)
    return best, int(likeliest[best])
