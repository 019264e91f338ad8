"""The state-space scan of Mamba-2 in plain PyTorch, chunk by chunk (Dao and Gu, 2024, "Transformers are SSMs").

Inside a chunk it is a product of matrices, as attention with decays; between chunks one state per head is carried.
transformers' own fallback repeats B and C for every head; with one group they are shared here.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 64


def scan(x: Tensor, steps: Tensor, rates: Tensor, inputs: Tensor, outputs: Tensor, chunk: int = CHUNK) -> Tensor:
    """y of h' = exp(rates * steps) h + steps * inputs x, y = outputs h, for each head.

    Args:
        x: (rows, length, heads, headdim), float32.
        steps: (rows, length, heads), positive: dt.
        rates: (rows or 1, 1, heads), negative: A.
        inputs: (rows, length, states): B, of all heads.
        outputs: (rows, length, states): C, of all heads.
        chunk: tokens that are computed as one product of matrices.

    Returns:
        (rows, length, heads, headdim), without the skip connection D.
    """
    length = x.shape[1]
    chunk = min(chunk, length)
    values, decays, inputs, outputs = (
        _in_chunks(each, chunk) for each in (x * steps.unsqueeze(-1), rates * steps, inputs, outputs)
    )
    summed = decays.cumsum(2)  # (rows, chunks, chunk, heads)
    y = _within(values, summed, inputs, outputs)
    if values.shape[1] > 1:
        y = y + _between(values, summed, inputs, outputs)
    return y.flatten(1, 2)[:, :length]


def _in_chunks(tensor: Tensor, chunk: int) -> Tensor:
    """(rows, length, ...) to (rows, chunks, chunk, ...), padded with zeros, which change no earlier token."""
    missing = -tensor.shape[1] % chunk
    if missing:
        tensor = F.pad(tensor, (0, 0) * (tensor.dim() - 2) + (0, missing))
    return tensor.unflatten(1, (-1, chunk))


def _within(values: Tensor, summed: Tensor, inputs: Tensor, outputs: Tensor) -> Tensor:
    """What the tokens of a chunk add to later ones of the same chunk."""
    by_head = summed.transpose(2, 3)  # (rows, chunks, heads, chunk)
    later = torch.ones(summed.shape[2], summed.shape[2], dtype=torch.bool, device=summed.device).triu(1)
    decay = (by_head.unsqueeze(-1) - by_head.unsqueeze(-2)).masked_fill(later, float("-inf")).exp()
    scores = (outputs @ inputs.transpose(2, 3)).unsqueeze(2) * decay
    return (scores @ values.transpose(2, 3)).transpose(2, 3)


def _between(values: Tensor, summed: Tensor, inputs: Tensor, outputs: Tensor) -> Tensor:
    """What the tokens of earlier chunks add, through one state per head and chunk."""
    heads, size = values.shape[3:]
    left = (summed[:, :, -1:] - summed).exp()  # from a token to the end of its chunk
    added = inputs.transpose(2, 3) @ (values * left.unsqueeze(-1)).flatten(3)  # (rows, chunks, states, heads * size)
    kept = summed[:, :, -1].exp()[:, :, None, :, None]  # over a complete chunk
    added = added.unflatten(-1, (heads, size))
    states = [torch.zeros_like(added[:, 0])]
    for number in range(added.shape[1] - 1):
        states.append(states[-1] * kept[:, number] + added[:, number])
    before = torch.stack(states, dim=1).flatten(3)
    return (outputs @ before).unflatten(-1, (heads, size)) * summed.exp().unsqueeze(-1)
