"""The norm at the end of a mixer, of what the scan gives times SiLU of a gate."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def gated_norm(y: Tensor, gate: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """weight * the root-mean-square norm of y * SiLU(gate), of both directions.

    `y` (2, batch, length, channels) is float32, `gate` of the same shape in the dtype of the result, `weight`
    (2, channels).
    """
    normed: Tensor = _GatedNorm.apply(y, gate, weight[:, None, None], epsilon)
    return normed


class _GatedNorm(torch.autograd.Function):
    """Keeps what came in alone, and makes the products once more."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, gate: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        gated = F.silu(gate.to(y.dtype)).mul_(y)
        scale = torch.linalg.vecdot(gated, gated).div_(y.shape[-1]).add_(epsilon).rsqrt_().unsqueeze(-1)
        ctx.save_for_backward(y, gate, weight, scale)
        return gated.mul_(scale).mul_(weight).to(gate.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        y, gate, weight, scale = ctx.saved_tensors
        of_normed, wide = gradients[0].to(y.dtype), gate.to(y.dtype)
        opened = F.silu(wide)
        normed = (opened * y).mul_(scale)
        of_weight = (of_normed * normed).sum((1, 2), keepdim=True)
        of_gated = of_normed * weight
        along = torch.linalg.vecdot(of_gated, normed).div_(y.shape[-1]).unsqueeze(-1)
        of_gated.addcmul_(normed, along, value=-1).mul_(scale)
        of_gate = torch.ops.aten.silu_backward(of_gated * y, wide).to(gate.dtype)
        return opened.mul_(of_gated), of_gate, of_weight.to(weight.dtype), None
