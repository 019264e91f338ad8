"""The likeliest answers of a masked-diffusion model, to compare it with itself before and after training."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

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
