"""Attention of rows that are divided among ranks: each has a part of the tokens, and computes a part of the heads.

Before attention the ranks exchange their tokens' heads, so that each has all tokens of its heads; afterwards they
exchange back (DeepSpeed Ulysses, arXiv:2309.14509). Any exact attention can be computed in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from dimba.trainers.kernels.documents import attend, no_mask

if TYPE_CHECKING:
    from torch.autograd.function import FunctionCtx
    from torch.distributed import ProcessGroup

NAME = "dimba_sequence"


@dataclass(frozen=True)
class SequenceGroup:
    """The ranks that share a row: their number, this one's place among them, and their connection."""

    size: int
    rank: int
    handle: ProcessGroup


@dataclass(frozen=True)
class CompleteRows:
    """The rows of which this rank has a part: the tokens of their documents, and the ranks that share them."""

    lengths: list[int]
    group: SequenceGroup


def attend_divided(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    complete_rows: CompleteRows | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """An attention function of transformers over parts of rows: (rows, heads, part, size) → (rows, part, heads, size).

    The model is called with `complete_rows=…`, which it passes on; without it, the rows are complete.

    Raises:
        ValueError: the heads cannot be divided, or the model needs more than causal attention in documents.
    """
    if complete_rows is None:
        return attend(module, query, key, value, attention_mask, **others)
    group = complete_rows.group
    key, value = (_repeated(each, group.size) for each in (key, value))
    query, key, value = exchange_for_tokens((query, key, value), group)
    attended, _ = attend(module, query, key, value, attention_mask, lengths=complete_rows.lengths, **others)
    return exchange_for_heads(attended, group), None


def _repeated(states: torch.Tensor, ranks: int) -> torch.Tensor:
    """Keys or values with a head for each rank: fewer than ranks are repeated, for the query heads that share them."""
    heads = states.shape[1]
    if heads % ranks == 0:
        return states
    if ranks % heads:
        raise ValueError(f"{heads} key and value heads cannot be shared by {ranks} ranks")
    return states.repeat_interleave(ranks // heads, dim=1)


class _Exchange(torch.autograd.Function):
    """Sends the n-th of `parts` [ranks, …] to the n-th rank; returns those received, in the order of the ranks."""

    @staticmethod
    def forward(ctx: FunctionCtx, parts: torch.Tensor, handle: ProcessGroup) -> torch.Tensor:
        ctx.handle = handle
        return _exchanged(parts, handle)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _exchanged(gradient, ctx.handle), None


def _exchanged(parts: torch.Tensor, handle: ProcessGroup) -> torch.Tensor:
    parts = parts.contiguous()
    received = torch.empty_like(parts)
    torch.distributed.all_to_all_single(received, parts, group=handle)
    return received


def exchange_for_tokens(states: Sequence[torch.Tensor], group: SequenceGroup) -> list[torch.Tensor]:
    """Each of (rows, heads, part, size) with all tokens of this rank's heads: (rows, heads / ranks, length, size)."""
    parts = [each.unflatten(1, (group.size, -1)).movedim(1, 0) for each in states]
    # One exchange for all: as many exchanges as tensors would have to begin in the same order on every rank.
    received = _Exchange.apply(torch.cat([each.flatten(1) for each in parts], dim=1), group.handle)
    pieces = received.split([each[0].numel() for each in parts], dim=1)
    shaped = (piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True))
    return [each.permute(1, 2, 0, 3, 4).flatten(2, 3) for each in shaped]


def exchange_for_heads(attended: torch.Tensor, group: SequenceGroup) -> torch.Tensor:
    """(rows, length, heads / ranks, size) with all heads of this rank's tokens: (rows, part, heads, size)."""
    parts = attended.unflatten(1, (group.size, -1)).movedim(1, 0)
    return _Exchange.apply(parts, group.handle).permute(1, 2, 0, 3, 4).flatten(2, 3)


AttentionInterface.register(NAME, attend_divided)
AttentionMaskInterface.register(NAME, no_mask)
