"""The operators of torch.nn.attention.varlen on a CPU, in plain mathematics: CUDA alone has kernels for them.

Torch's own function with its signature, checks and autograd formula runs as it is; what is replaced is the kernel.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch.nn.attention import varlen

Tensor = torch.Tensor


def _scores(query: Tensor, key: Tensor, scale: float | None, window: list[int]) -> Tensor:
    """Scores [heads, length, length] of one document, minus infinity where a token does not look."""
    scores = torch.einsum("qhd,khd->hqk", query, key) * (scale or query.shape[-1] ** -0.5)
    distance = torch.arange(len(query))[:, None] - torch.arange(len(key))
    seen = (distance >= -window[1] if window[1] >= 0 else True) & (distance <= window[0] if window[0] >= 0 else True)
    return scores.masked_fill(~torch.as_tensor(seen).expand(scores.shape), -torch.inf)


def _grouped(states: Tensor, heads: int) -> Tensor:
    return states.float().repeat_interleave(heads // states.shape[1], dim=1)


def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    is_causal: bool = False,
    scale: float | None = None,
    window_size: list[int] | None = None,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    borders = _checked(query, cu_seq_q, max_q)
    window = window_size or ([-1, 0] if is_causal else [-1, -1])
    out, sums = torch.empty_like(query), torch.empty(query.shape[1], len(query))
    for start, end in pairwise(borders):
        parts = [_grouped(each[start:end], query.shape[1]) for each in (query, key, value)]
        scores = _scores(parts[0], parts[1], scale, window)
        sums[:, start:end] = scores.logsumexp(-1)
        out[start:end] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), parts[2]).to(query.dtype)
    return out, sums, torch.zeros(2, dtype=torch.uint64)


def _backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    is_causal: bool,
    rng_state: Tensor,
    scale: float | None = None,
    window_size: list[int] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """FlashAttention-2's backward pass (arXiv:2307.08691, section 3.1.2), which takes `out` and `lse` as given."""
    window = window_size or ([-1, 0] if is_causal else [-1, -1])
    heads, factor = query.shape[1], scale or query.shape[-1] ** -0.5
    grads = [torch.empty_like(each) for each in (query, key, value)]
    for start, end in pairwise(_checked(query, cu_seq_q, max_q)):
        q, k, v = (_grouped(each[start:end], heads) for each in (query, key, value))
        shares = (_scores(q, k, scale, window) - lse[:, start:end, None]).exp()
        gradient = grad_out[start:end].float()
        along = (gradient * out[start:end].float()).sum(-1).t()[..., None]
        of_scores = shares * (torch.einsum("qhd,khd->hqk", gradient, v) - along) * factor
        found = (
            torch.einsum("hqk,khd->qhd", of_scores, k),
            torch.einsum("hqk,qhd->khd", of_scores, q),
            torch.einsum("hqk,qhd->khd", shares, gradient),
        )
        for into, each in zip(grads, found, strict=True):
            own = into.shape[1]
            into[start:end] = each.unflatten(1, (own, heads // own)).sum(2).to(into.dtype)
    return grads[0], grads[1], grads[2]


def _checked(query: Tensor, borders: Tensor, longest: int) -> list[int]:
    assert borders.dtype == torch.int32 and borders[0] == 0 and borders[-1] == len(query)
    assert longest >= borders.diff().max(), "the kernel would leave out the end of the longest document"
    assert query.shape[-1] % 8 == 0, "the kernel has no other sizes of heads"
    return [int(each) for each in borders]


@contextmanager
def on_cpu() -> Iterator[None]:
    """Surrounds what uses the operators on a CPU."""
    with ExitStack() as stack:
        for operator, kernel in ((varlen._varlen_attn, _forward), (varlen._varlen_attn_backward, _backward)):
            if "cpu" not in operator._backend_fns:
                operator.register_kernel("cpu")(kernel)
                operator._disabled_kernel.add("cpu")
            stack.enter_context(operator.set_kernel_enabled("cpu", enabled=True))
        yield
