"""Attention within documents that lie end to end, each on its own: on a CPU their mask would cost what it hides.

What it costs grows with the sum of the documents' squares, and not with the square of their sum.
"""

import math
from itertools import pairwise
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from dimba.trainers.data.packing import Packing, packing_error
from dimba.trainers.models.sharding import agreed

NAME = "dimba_documents"
_UNKNOWN = ("softcap", "s_aux", "position_bias")  # what changes the scores otherwise


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    position_ids: torch.Tensor | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """One of transformers' attention functions; documents begin where positions begin at 0.

    Raises:
        ValueError: the model asks for more than that. `packing_error` runs into it before anything is trained.
    """
    both_ways = False in (others.get("is_causal"), getattr(module, "is_causal", True))
    if both_ways or any(others.get(name) is not None for name in _UNKNOWN):
        raise ValueError(f"{type(module).__name__} scores in a way of its own")
    rows, _, length, _ = query.shape
    if attention_mask is not None or position_ids is None or position_ids.shape != (rows, length):
        raise ValueError(f"{type(module).__name__} is not told where documents begin")
    lengths = _lengths(position_ids)
    parts = zip(*(_end_to_end(each).split(lengths, dim=2) for each in (query, key, value)), strict=True)
    grouped = query.shape[1] != key.shape[1]
    attended = [
        scaled_dot_product_attention(*part, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=grouped)
        for part in parts
    ]
    return torch.cat(attended, dim=2).transpose(1, 2).reshape(rows, length, query.shape[1], -1), None


def _lengths(position_ids: torch.Tensor) -> list[int]:
    starts = (position_ids.flatten() == 0).nonzero().flatten().tolist()
    return [end - start for start, end in pairwise([*starts, position_ids.numel()])]


def _end_to_end(states: torch.Tensor) -> torch.Tensor:
    """(rows, heads, length, size) as one row; each row begins with a document's first token."""
    return states if len(states) == 1 else states.transpose(0, 1).flatten(1, 2)[None]


def no_mask(*, local_size: int | None = None, use_vmap: bool = False, **_: Any) -> None:
    """No mask, and no window or other rule either, which would have to be in it."""
    if local_size is not None or use_vmap:
        raise ValueError("attention is not to all that came before")


def within_documents(model: Any) -> Packing:
    """Has the model attend so, where that is exact, found out as for packing; else it is left as it was."""
    before = model.config._attn_implementation
    if before != "sdpa" or not model._can_set_attn_implementation():
        return Packing(False, math.inf, f"its attention is {before}, or its own")
    model.set_attn_implementation(NAME)
    probe = agreed(packing_error(model))
    if not probe.exact:
        model.set_attn_implementation(before)
    return probe


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, no_mask)
