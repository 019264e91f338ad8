"""Norms and rotations in fewer passes over memory: beside its matrices, most of what a layer's time on a CPU goes into.

Autograd keeps every intermediate of a norm, and writes a rotation's halves into zeros of their own. What is here keeps
the inputs alone. It is used in float32 where it gives what the model's own functions do, gradients too, found out with
numbers on the model at hand.
"""

import sys
from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any

import torch

_ROTATION = "apply_rotary_pos_emb"  # so named in most families; what is shaped otherwise is found out below
_CLOSE = {"rtol": 1e-5, "atol": 1e-5}
_TOKENS, _HEAD = 7, 8


class _Norm(torch.autograd.Function):
    """Zhang & Sennrich, Root Mean Square Layer Normalization (arXiv:1910.07467), over the last dimension."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        rows = states.reshape(-1, states.shape[-1])
        norm = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
        scale = norm.square_().div_(rows.shape[1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(rows, weight, scale)
        return (rows * scale).mul_(weight).view(states.shape)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        rows, weight, scale = ctx.saved_tensors
        shape, gradient = gradient.shape, gradient.reshape(rows.shape)
        product = gradient * rows
        of_weight = (scale.t() @ product).squeeze(0) if ctx.needs_input_grad[1] else None
        along = (product @ weight[:, None]).mul_(scale.pow(3)).div_(rows.shape[1])
        of_states = torch.mul(gradient, weight, out=product).mul_(scale).addcmul_(rows, along, value=-1)
        return of_states.view(shape), of_weight, None


class _Rotation(torch.autograd.Function):
    """Rotary positions (Su et al., RoFormer, arXiv:2104.09864), the halves of a head turned against each other."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cosine, sine)
        first, second = sine.chunk(2, dim=-1)
        return _turned(states, cosine, -first, second)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        cosine, sine = ctx.saved_tensors
        first, second = sine.chunk(2, dim=-1)
        return _turned(gradient, cosine, second, -first), None, None


def _turned(
    states: torch.Tensor, cosine: torch.Tensor, to_first: torch.Tensor, to_second: torch.Tensor
) -> torch.Tensor:
    turned = states * cosine
    (first, second), (new_first, new_second) = states.chunk(2, dim=-1), turned.chunk(2, dim=-1)
    new_first.addcmul_(second, to_first)
    new_second.addcmul_(first, to_second)
    return turned


def _rotate(q: Any, k: Any, cos: Any, sin: Any, unsqueeze_dim: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return _rotated(q, cos, sin), _rotated(k, cos, sin)


def _rotated(states: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """Some families turn the first part of a head only."""
    turned: torch.Tensor = _Rotation.apply(states[..., : cosine.shape[-1]], cosine, sine)
    rest = states[..., cosine.shape[-1] :]
    return torch.cat((turned, rest), dim=-1) if rest.shape[-1] else turned


def quicken(model: Any) -> None:
    """Has the model's norms and rotations computed so, each where that is exact; it trains in float32, on a CPU."""
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm") and _is_this_norm(module):
            module.forward = partial(_normed, module)
    for room in {type(module).__module__ for module in model.modules()}:
        if _is_this_rotation(getattr(sys.modules[room], _ROTATION, None)):
            setattr(sys.modules[room], _ROTATION, _rotate)


def _normed(module: Any, states: torch.Tensor) -> torch.Tensor:
    epsilon = module.variance_epsilon if hasattr(module, "variance_epsilon") else module.eps
    normed: torch.Tensor = _Norm.apply(states, module.weight, epsilon)
    return normed


def _is_this_norm(module: Any) -> bool:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.dtype != torch.float32 or weight.dim() != 1:
        return False
    takes_one = len(signature(module.forward).parameters) == 1
    return takes_one and _agree(module.forward, partial(_normed, module), _random(2, _TOKENS, len(weight)))


def _is_this_rotation(theirs: Callable[..., Any] | None) -> bool:
    if theirs is None or list(signature(theirs).parameters) != list(signature(_rotate).parameters):
        return False
    states = _random(1, 4, _TOKENS, _HEAD), _random(1, 2, _TOKENS, _HEAD)
    whole, part = (_rotating(theirs, width) for width in (_HEAD, _HEAD // 2))
    return _agree(*whole, *states) and (not _given(part[0], *states) or _agree(*part, *states))


def _rotating(theirs: Callable[..., Any], width: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    angles = _random(1, _TOKENS, width // 2).repeat(1, 1, 2)
    one, other = (partial(rotate, cos=angles.cos(), sin=angles.sin()) for rotate in (theirs, _rotate))
    return one, other


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def _agree(theirs: Callable[..., Any], ours: Callable[..., Any], *inputs: torch.Tensor) -> bool:
    one, other = (_given(function, *inputs) for function in (theirs, ours))
    return bool(one and other) and all(torch.allclose(*pair, **_CLOSE) for pair in zip(one, other, strict=True))


def _given(function: Callable[..., Any], *inputs: torch.Tensor) -> list[torch.Tensor]:
    """What it gives, and the gradients to its inputs; nothing where it does not take them."""
    leaves = [each.clone().requires_grad_() for each in inputs]
    try:
        found = function(*leaves)
        outputs = list(found) if isinstance(found, tuple) else [found]
        return outputs + list(torch.autograd.grad(sum(each.square().sum() for each in outputs), leaves))
    except Exception:  # whatever a function of another kind raises
        return []
