"""Attention of documents that lie end to end, by torch's own FlashAttention kernel: nothing to install, no mask.

The cost grows with the sum of the documents' squared lengths. The kernel computes in bf16 or fp16 on CUDA, with
windows, grouped heads and any scale. Sinks are added from its sums of scores; it has no soft caps.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import pad
from transformers import AttentionInterface, AttentionMaskInterface

from dimba.trainers.data.packing import document_borders

try:  # torch 2.10 and later; windows and scales since 2.11, `enable_gqa` since 2.12
    from torch.nn.attention.varlen import varlen_attn
except ImportError:
    varlen_attn = None

if TYPE_CHECKING:
    from torch.autograd.function import FunctionCtx

NAME = "dimba_varlen"
_PARAMETERS = frozenset(signature(varlen_attn).parameters if varlen_attn else ())
_UNSUPPORTED = ("softcap", "position_bias")  # options that change the scores
_MULTIPLE = 8  # sizes of heads that the kernel has


@dataclass(frozen=True)
class Window:
    """In place of a mask: the number of tokens that a layer sees, itself included."""

    size: int


def is_available() -> bool:
    """Whether this torch has the kernel, with windows and scales."""
    return {"window_size", "scale"} <= _PARAMETERS


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Window | torch.Tensor | None,
    *,
    position_ids: torch.Tensor | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    s_aux: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """An attention function of transformers: (rows, heads, length, size) → (rows, length, heads, size).

    The rows' tokens are documents end to end, from `cu_seq_lens_q` (int32 [documents + 1]) with the longest of
    `max_length_q` tokens; without these from the positions 0 of `position_ids`, once per forward pass.

    Raises:
        ValueError: the model needs what the kernel does not compute; `probe_packing` reports it.
    """
    is_bidirectional = False in (others.get("is_causal"), getattr(module, "is_causal", True))
    if dropout or is_bidirectional or any(others.get(name) is not None for name in _UNSUPPORTED):
        raise ValueError(f"{type(module).__name__} computes its scores differently")
    window_of_mask = attention_mask.size if isinstance(attention_mask, Window) else None
    if isinstance(attention_mask, torch.Tensor) or window_of_mask != sliding_window:
        raise ValueError(f"the mask of {type(module).__name__} is not that of its window")
    rows, heads, length, size = query.shape
    if cu_seq_lens_q is None or max_length_q is None:
        cu_seq_lens_q, max_length_q = _borders.of(position_ids, rows * length)
    states, width = _as_kernel_takes(query, key, value), value.shape[-1]
    window = (-1 if sliding_window is None else sliding_window - 1, 0)
    scale = size**-0.5 if scaling is None else scaling
    layout = _Layout(cu_seq_lens_q, max_length_q, scale, window)
    attended: torch.Tensor = _plain(*states, layout) if s_aux is None else _WithSinks.apply(*states, s_aux, layout)
    return attended[..., :width].reshape(rows, length, heads, width), None


@dataclass(frozen=True)
class _Layout:
    """The borders of the documents, the longest in tokens, the scale of scores, and the tokens seen (back, ahead)."""

    borders: torch.Tensor
    longest: int
    scale: float
    window: tuple[int, int]


def _as_kernel_takes(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The states as (tokens, heads, size), of one type and size."""
    device = query.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else value.dtype
    size = max(query.shape[-1], value.shape[-1])
    size += -size % _MULTIPLE
    # Zeros behind a query and a key add nothing to their product, and those behind a value are cut off again.
    padded = (pad(each, (0, size - each.shape[-1])) if each.shape[-1] < size else each for each in (query, key, value))
    flat = [each.transpose(1, 2).flatten(0, 1).to(dtype) for each in padded]
    return flat[0], flat[1], flat[2]


def _plain(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: _Layout) -> torch.Tensor:
    limits = (layout.borders, layout.borders, layout.longest, layout.longest)
    grouped = {"enable_gqa": True} if "enable_gqa" in _PARAMETERS and query.shape[1] != key.shape[1] else {}
    attended: torch.Tensor = varlen_attn(
        query, key, value, *limits, scale=layout.scale, window_size=layout.window, **grouped
    )
    return attended


class _WithSinks(torch.autograd.Function):
    """Attention with a sink per head (Xiao et al., arXiv:2309.17453): a score that takes its share and has no value.

    The kernel's own backward pass computes the gradients, from the result and the sums of scores with the sinks in
    both: its formula (Dao, FlashAttention-2, arXiv:2307.08691) holds for any sum that the shares were divided by.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, *inputs: Any) -> torch.Tensor:
        query, key, value, sinks, layout = inputs
        ctx.limits = (layout.borders, layout.borders, layout.longest, layout.longest, layout.window == (-1, 0))
        ctx.scale, ctx.window = layout.scale, list(layout.window)
        without, sums, random = torch.ops.torch_attn._varlen_attn(
            query, key, value, *ctx.limits, scale=ctx.scale, window_size=ctx.window
        )
        if sums.shape != (query.shape[1], query.shape[0]):
            raise ValueError(f"the kernel's sums of scores have the shape {tuple(sums.shape)}")
        joint = torch.logaddexp(sums, sinks.float()[:, None])
        attended: torch.Tensor = (without * (sums - joint).exp().t()[..., None]).to(without.dtype)
        ctx.save_for_backward(query, key, value, sinks, attended, joint, random)
        return attended

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, sinks, attended, joint, random = ctx.saved_tensors
        gradient = gradient.contiguous()
        of_states = torch.ops.torch_attn._varlen_attn_backward(
            gradient, query, key, value, attended, joint, *ctx.limits, random, ctx.scale, ctx.window
        )
        along = (gradient.float() * attended.float()).sum(dim=-1)  # tokens, heads
        of_sinks = -((sinks.float()[:, None] - joint).exp().t() * along).sum(dim=0)
        return (*of_states, of_sinks.to(sinks.dtype), None)


class _Borders:
    """The documents of the latest positions: all layers of a forward pass get one tensor, and only the first waits."""

    def __init__(self) -> None:
        self._latest: tuple[weakref.ref[torch.Tensor], int, tuple[torch.Tensor, int]] | None = None

    def of(self, position_ids: torch.Tensor | None, tokens: int) -> tuple[torch.Tensor, int]:
        """As `document_borders`; raises ValueError for positions of other tokens."""
        if position_ids is None or position_ids.numel() != tokens:
            raise ValueError("the model's attention gets no positions to find documents by")
        latest = self._latest
        version = position_ids._version
        if latest and latest[0]() is position_ids and latest[1] == version:
            return latest[2]
        found = document_borders(position_ids)
        self._latest = (weakref.ref(position_ids), version, found)
        return found


_borders = _Borders()


def window_alone(
    *, local_size: int | None = None, use_vmap: bool = False, attention_mask: torch.Tensor | None = None, **_: Any
) -> Window | None:
    """A mask function of transformers that makes no mask; raises ValueError if the model or padded rows need one."""
    if use_vmap or attention_mask is not None:
        raise ValueError("rows are padded" if attention_mask is not None else "the model has a mask of its own")
    return None if local_size is None else Window(local_size)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, window_alone)
