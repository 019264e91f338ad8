"""Norms and rotary positions in fewer passes over memory: apart from its matrices, most of a layer's time on a CPU.

Autograd keeps every intermediate of a norm, and writes the halves of a rotation's gradient into zeros of their own.
The functions here keep their inputs only. They replace the model's own functions in float32 if both give equal values
and gradients in a numerical test on the model at hand.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch.autograd.function import FunctionCtx
    from transformers import PreTrainedModel

_ROTATION = "apply_rotary_pos_emb"  # the name in most families; the test below rejects functions of another kind
_CLOSE = {"rtol": 1e-5, "atol": 1e-5}
_TOKENS, _HEAD_SIZE = 7, 8  # of the numerical test


class _Norm(torch.autograd.Function):
    """Zhang & Sennrich, Root Mean Square Layer Normalization (arXiv:1910.07467), over the last dimension."""

    @staticmethod
    def forward(ctx: FunctionCtx, states: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        rows = states.reshape(-1, states.shape[-1])
        norm = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
        scale = norm.square_().div_(rows.shape[1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(rows, weight, scale)
        return (rows * scale).mul_(weight).view(states.shape)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        rows, weight, scale = ctx.saved_tensors
        shape, gradient = gradient.shape, gradient.reshape(rows.shape)
        product = gradient * rows
        of_weight = (scale.t() @ product).squeeze(0) if ctx.needs_input_grad[1] else None
        along = (product @ weight[:, None]).mul_(scale.pow(3)).div_(rows.shape[1])
        of_states = torch.mul(gradient, weight, out=product).mul_(scale).addcmul_(rows, along, value=-1)
        return of_states.view(shape), of_weight, None


class _Rotation(torch.autograd.Function):
    """Rotary positions (Su et al., RoFormer, arXiv:2104.09864), over the two halves of each head."""

    @staticmethod
    def forward(ctx: FunctionCtx, states: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cosine, sine)
        first, second = sine.chunk(2, dim=-1)
        return _rotate_halves(states, cosine, -first, second)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        cosine, sine = ctx.saved_tensors
        first, second = sine.chunk(2, dim=-1)
        return _rotate_halves(gradient, cosine, second, -first), None, None


def _rotate_halves(
    states: torch.Tensor, cosine: torch.Tensor, to_first: torch.Tensor, to_second: torch.Tensor
) -> torch.Tensor:
    rotated = states * cosine
    (first, second), (new_first, new_second) = states.chunk(2, dim=-1), rotated.chunk(2, dim=-1)
    new_first.addcmul_(second, to_first)
    new_second.addcmul_(first, to_second)
    return rotated


def _rotate(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, unsqueeze_dim: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return _rotate_states(q, cos, sin), _rotate_states(k, cos, sin)


def _rotate_states(states: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    rotated: torch.Tensor = _Rotation.apply(states[..., : cosine.shape[-1]], cosine, sine)
    rest = states[..., cosine.shape[-1] :]  # some families rotate the first part of a head only
    return torch.cat((rotated, rest), dim=-1) if rest.shape[-1] else rotated


def replace_elementwise(model: PreTrainedModel) -> None:
    """Replaces the model's norms and rotations where that is exact; for a model that trains in float32 on a CPU."""
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm") and _is_this_norm(module):
            module.forward = partial(_norm, module)
    for name in {type(module).__module__ for module in model.modules()}:
        if _is_this_rotation(getattr(sys.modules[name], _ROTATION, None)):
            setattr(sys.modules[name], _ROTATION, _rotate)


def _norm(module: torch.nn.Module, states: torch.Tensor) -> torch.Tensor:
    epsilon = module.variance_epsilon if hasattr(module, "variance_epsilon") else module.eps
    normed: torch.Tensor = _Norm.apply(states, module.weight, epsilon)
    return normed


def _is_this_norm(module: torch.nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.dtype != torch.float32 or weight.dim() != 1:
        return False
    has_one_input = len(signature(module.forward).parameters) == 1
    return has_one_input and _agree(module.forward, partial(_norm, module), _random(2, _TOKENS, len(weight)))


def _is_this_rotation(theirs: Callable[..., Any] | None) -> bool:
    if theirs is None or list(signature(theirs).parameters) != list(signature(_rotate).parameters):
        return False
    states = _random(1, 4, _TOKENS, _HEAD_SIZE), _random(1, 2, _TOKENS, _HEAD_SIZE)
    full, part = (_with_angles(theirs, width) for width in (_HEAD_SIZE, _HEAD_SIZE // 2))
    return _agree(*full, *states) and (not _values_and_gradients(part[0], *states) or _agree(*part, *states))


def _with_angles(theirs: Callable[..., Any], width: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    angles = _random(1, _TOKENS, width // 2).repeat(1, 1, 2)
    one, other = (partial(rotate, cos=angles.cos(), sin=angles.sin()) for rotate in (theirs, _rotate))
    return one, other


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def _agree(theirs: Callable[..., Any], ours: Callable[..., Any], *inputs: torch.Tensor) -> bool:
    one, other = (_values_and_gradients(function, *inputs) for function in (theirs, ours))
    return bool(one and other) and all(torch.allclose(*pair, **_CLOSE) for pair in zip(one, other, strict=True))


def _values_and_gradients(function: Callable[..., Any], *inputs: torch.Tensor) -> list[torch.Tensor]:
    """The function's outputs and the gradients to its inputs; empty if it does not accept such inputs."""
    leaves = [each.clone().requires_grad_() for each in inputs]
    try:
        result = function(*leaves)
        outputs = list(result) if isinstance(result, tuple) else [result]
        return outputs + list(torch.autograd.grad(sum(each.square().sum() for each in outputs), leaves))
    except Exception:  # a function of another kind may raise anything
        return []
