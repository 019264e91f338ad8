"""Attention within documents that lie end to end, one document at a time: on a CPU a mask would cost what it hides.

The cost grows with the sum of the documents' squared lengths, not with the square of their sum.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from dimba.trainers.data.packing_probe import ProbeResult, probe_packing
from dimba.trainers.models.sharding import from_first_rank

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "dimba_documents"
_UNSUPPORTED = ("softcap", "s_aux", "position_bias")  # options that change the scores


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    position_ids: torch.Tensor | None = None,
    lengths: list[int] | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """An attention function of transformers: (rows, heads, length, size) → (rows, length, heads, size).

    A document begins at each position 0 of `position_ids` [rows, length]; or `lengths` are the documents' tokens.

    Raises:
        ValueError: the model needs more than causal attention in documents; `probe_packing` reports it.
    """
    is_bidirectional = False in (others.get("is_causal"), getattr(module, "is_causal", True))
    if is_bidirectional or any(others.get(name) is not None for name in _UNSUPPORTED):
        raise ValueError(f"{type(module).__name__} computes its scores differently")
    rows, _, length, _ = query.shape
    if lengths is None and position_ids is not None and position_ids.shape == (rows, length):
        lengths = document_lengths(position_ids)
    if attention_mask is not None or lengths is None:
        raise ValueError(f"{type(module).__name__} gets no positions to find documents by")
    parts = zip(*(_as_one_row(each).split(lengths, dim=2) for each in (query, key, value)), strict=True)
    grouped = query.shape[1] != key.shape[1]
    attended = [
        scaled_dot_product_attention(*part, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=grouped)
        for part in parts
    ]
    return torch.cat(attended, dim=2).transpose(1, 2).reshape(rows, length, query.shape[1], -1), None


def document_lengths(position_ids: torch.Tensor) -> list[int]:
    """The tokens of each document; waits for the device."""
    starts = (position_ids.flatten() == 0).nonzero().flatten().tolist()
    return [end - start for start, end in pairwise([*starts, position_ids.numel()])]


def _as_one_row(states: torch.Tensor) -> torch.Tensor:
    # (rows, heads, length, size) → (1, heads, rows × length, size); each row begins with a document's first token.
    return states if len(states) == 1 else states.transpose(0, 1).flatten(1, 2)[None]


def no_mask(*, local_size: int | None = None, use_vmap: bool = False, **_: Any) -> None:
    """A mask function of transformers that makes no mask; raises ValueError if the model needs a window in it."""
    if local_size is not None or use_vmap:
        raise ValueError("the model attends to a window, not to all tokens before")


def use_document_attention(model: PreTrainedModel) -> ProbeResult:
    """Switches the model to this attention if the packing probe finds it exact; else leaves the model unchanged."""
    before = model.config._attn_implementation
    if before != "sdpa" or not model._can_set_attn_implementation():
        return ProbeResult(False, math.inf, f"the model's attention is {before}, or its own")
    model.set_attn_implementation(NAME)
    probe = from_first_rank(probe_packing(model))
    if not probe.is_exact:
        model.set_attn_implementation(before)
    return probe


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, no_mask)
