"""The state-space scan of Mamba-2 in plain PyTorch, chunk by chunk (Dao and Gu, 2024, "Transformers are SSMs").

Inside a chunk it is a product of matrices, as attention with decays; between chunks one state per head is carried.
transformers' own fallback repeats B and C for every head; with one group they are shared here. Its time goes into
reading and writing memory, so the backward pass is written by hand: autograd's own would keep and add up many copies.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 64  # tokens at most


def scan(x: Tensor, steps: Tensor, rates: Tensor, skip: Tensor, inputs: Tensor, outputs: Tensor) -> Tensor:
    """y of h' = exp(rates * steps) h + steps * inputs x, y = outputs h + skip * x, for each head.

    Args:
        x: (rows, length, heads, size), float32.
        steps: (rows, length, heads), positive: dt.
        rates: (rows, heads), negative: A.
        skip: (rows, heads): D.
        inputs: (rows, length, states): B, of all heads.
        outputs: (rows, length, states): C, of all heads.

    Returns:
        (rows, length, heads, size). Under autocast matrices are multiplied in its precision.
    """
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    y: Tensor = _Scan.apply(dtype, x, steps, rates, skip, inputs, outputs)
    return y


class _Chunks(NamedTuple):
    """The tokens by chunks, (rows, chunks, chunk, ...), and what decays between them, (rows, chunks, chunk, heads)."""

    x: Tensor
    steps: Tensor
    inputs: Tensor
    outputs: Tensor
    begun: Tensor  # the sum of rates * steps since the chunk's beginning
    since: Tensor  # exp of it
    left: Tensor  # exp of the sum to the end of the chunk

    @property
    def kept(self) -> Tensor:
        """What is left of a state after a complete chunk: (rows, chunks, heads, 1, 1)."""
        return self.since[:, :, -1, :, None, None]


def _chunks(dtype: torch.dtype, x: Tensor, steps: Tensor, rates: Tensor, inputs: Tensor, outputs: Tensor) -> _Chunks:
    x, steps, inputs, outputs = (_in_chunks(each) for each in (x, steps, inputs, outputs))
    begun = (steps * rates[:, None, None]).cumsum(2)
    left = (begun[:, :, -1:] - begun).exp_()
    return _Chunks(x, steps, inputs.to(dtype), outputs.to(dtype), begun, begun.exp(), left)


def _in_chunks(tensor: Tensor) -> Tensor:
    """(rows, length, ...) to (rows, chunks, chunk, ...), padded with zeros, which change no earlier token."""
    length = tensor.shape[1]
    count = -(-length // CHUNK)
    chunk = -(-length // count)
    if missing := count * chunk - length:
        tensor = F.pad(tensor, (0, 0) * (tensor.dim() - 2) + (0, missing))
    return tensor.unflatten(1, (count, chunk))


class _Scan(torch.autograd.Function):
    """With S the scores inside a chunk, h the state before it, e the decay since its beginning and l to its end:

    v = steps x, y = S v + e (C h) + skip x, and the next chunk's h is the last e times h, plus (l v)' B.
    """

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *given: Tensor) -> Tensor:
        """The precision of products, and the arguments of `scan`."""
        x, steps, rates, skip, inputs, outputs = given
        with torch.autocast(x.device.type, enabled=False):
            of = _chunks(dtype, x, steps, rates, inputs, outputs)
            decays, values = _decays(of), _by_head(of.x * of.steps.unsqueeze(-1), dtype)
            y = (_scores(of, decays) @ values).transpose(2, 3).to(x.dtype).contiguous()
            states = _states(of)
            carried = _read(of.outputs[:, 1:], states, of).mul_(of.since[:, 1:, ..., None])
            y[:, 1:] += carried
        ctx.dtype = dtype
        ctx.save_for_backward(*given, decays, values, states, carried)
        return torch.addcmul(y.flatten(1, 2)[:, : x.shape[1]], x, skip[:, None, :, None])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the inputs."""
        *given, decays, values, states, carried = ctx.saved_tensors
        x, steps, rates, skip, inputs, outputs = given
        of, of_y = _chunks(ctx.dtype, x, steps, rates, inputs, outputs), _in_chunks(gradients[0])
        inside, between = _inside(of, of_y, decays, values), _between(of, of_y, states, carried)
        of_values, of_inputs, of_outputs, of_begun = inside
        of_values[:, :-1] += between.values
        of_inputs[:, :-1] += between.inputs
        of_outputs[:, 1:] += between.outputs
        of_begun += between.begun
        of_sum = of_begun.flip(2).cumsum(2).flip(2)
        of_steps = _dot(of.x, of_values).add_(of_sum * rates[:, None, None])
        of_x = of_values.mul_(of.steps.unsqueeze(-1)).addcmul_(of_y, skip[:, None, None, :, None])
        tokens = (of_x, of_steps, of_inputs, of_outputs)
        of_x, of_steps, of_inputs, of_outputs = (each.flatten(1, 2)[:, : x.shape[1]] for each in tokens)
        of_rates, of_skip = (each.sum((1, 2)) for each in (of_sum * of.steps, _dot(of.x, of_y)))
        return None, of_x, of_steps, of_rates, of_skip, of_inputs, of_outputs


class _Gradients(NamedTuple):
    """Of steps * x, of B and C, and of the sums of decays since the beginnings of chunks."""

    values: Tensor
    inputs: Tensor
    outputs: Tensor
    begun: Tensor


def _inside(of: _Chunks, of_y: Tensor, decays: Tensor, values: Tensor) -> _Gradients:
    """Of all chunks, through what a token adds to later ones of its chunk."""
    of_y = _by_head(of_y, values.dtype)
    of_values = (_scores(of, decays).mT @ of_y).transpose(2, 3).to(of.x.dtype)
    of_scores = (of_y @ values.mT).to(decays.dtype).mul_(decays)
    summed = of_scores.sum(2).to(of.inputs.dtype)
    of_decays = of_scores.mul_((of.outputs @ of.inputs.mT).unsqueeze(2)).tril_(-1)
    of_begun = (of_decays.sum(-1) - of_decays.sum(-2)).transpose(2, 3)
    return _Gradients(of_values, summed.mT @ of.outputs, summed @ of.inputs, of_begun)


def _between(of: _Chunks, of_y: Tensor, states: Tensor, carried: Tensor) -> _Gradients:
    """Through the states: of what goes in of all chunks but the last, and of what comes out of all but the first."""
    dtype, left, since = of.inputs.dtype, of.left[:, :-1], of.since[:, 1:]
    weighted = _weighted(of_y[:, 1:], since, dtype)
    of_states = _state_gradients(of, weighted)
    of_values = _read(of.inputs[:, :-1], of_states, of).mul_(left.unsqueeze(-1))
    of_inputs = _weighted(of.x[:, :-1], left * of.steps[:, :-1], dtype) @ of_states.flatten(2, 3).to(dtype)
    of_begun = torch.zeros_like(of.begun)
    of_begun[:, 1:] = _dot(of_y[:, 1:], carried)
    of_begun[:, :-1] -= _dot(of.x[:, :-1], of_values) * of.steps[:, :-1]
    of_begun[:, :-1, -1] += _dot(of_states.flatten(3), states.flatten(3))
    return _Gradients(of_values, of_inputs, weighted @ states.flatten(2, 3).to(dtype), of_begun)


def _dot(one: Tensor, other: Tensor) -> Tensor:
    return torch.linalg.vecdot(one, other)


def _by_head(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """(rows, chunks, chunk, heads, size) to (rows, chunks, heads, chunk, size)."""
    return tensor.transpose(2, 3).to(dtype).contiguous()


def _decays(of: _Chunks) -> Tensor:
    """From a token to a later one of the same chunk, else 0: (rows, chunks, heads, later, earlier)."""
    begun = of.begun.transpose(2, 3).contiguous()
    return (begun.unsqueeze(-1) - begun.unsqueeze(-2)).exp_().tril_()


def _scores(of: _Chunks, decays: Tensor) -> Tensor:
    """What an earlier token adds to a later one: (rows, chunks, heads, later, earlier)."""
    scores = (of.outputs @ of.inputs.mT).unsqueeze(2).to(decays.dtype) * decays
    return scores.to(of.inputs.dtype)


def _states(of: _Chunks) -> Tensor:
    """The states before all chunks but the first: (rows, chunks - 1, heads, size, states)."""
    weighted = _weighted(of.x[:, :-1], (of.left * of.steps)[:, :-1], of.inputs.dtype)
    states = (weighted.mT @ of.inputs[:, :-1]).to(of.x.dtype).unflatten(2, of.x.shape[3:])
    for number in range(1, states.shape[1]):
        states[:, number].addcmul_(states[:, number - 1], of.kept[:, number])
    return states


def _state_gradients(of: _Chunks, weighted: Tensor) -> Tensor:
    """The gradients of `_states`; `weighted` are those of y, times their decays since the chunk's beginning."""
    of_states = (weighted.mT @ of.outputs[:, 1:]).to(of.x.dtype).unflatten(2, of.x.shape[3:])
    for number in reversed(range(1, of_states.shape[1])):
        of_states[:, number - 1].addcmul_(of_states[:, number], of.kept[:, number])
    return of_states


def _weighted(tensor: Tensor, weights: Tensor, dtype: torch.dtype) -> Tensor:
    """(rows, chunks, chunk, heads * size), each head with its weight."""
    return (tensor * weights.unsqueeze(-1)).flatten(3).to(dtype)


def _read(vectors: Tensor, states: Tensor, of: _Chunks) -> Tensor:
    """The states along vectors (rows, chunks, chunk, states): (rows, chunks, chunk, heads, size)."""
    found = vectors @ states.flatten(2, 3).mT.to(vectors.dtype)
    return found.unflatten(-1, of.x.shape[3:]).to(of.x.dtype)
