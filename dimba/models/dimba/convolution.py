"""The short causal convolution of a mixer and its SiLU, for both directions at once.

It is a few shifted products. Written with autograd's own operations, each shift would make a gradient of the full size;
here they are added in place, and only what came in is kept for the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class CausalConvolution(torch.autograd.Function):
    """(2, batch, length, channels), each channel over its last tokens, then SiLU; the same shape."""

    @staticmethod
    def forward(ctx: Any, channels: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
        """`kernel` is (2, channels, width), `bias` (2, channels)."""
        ctx.save_for_backward(channels, kernel, bias)
        return F.silu(_convolved(channels, kernel, bias))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of the three inputs."""
        channels, kernel, bias = ctx.saved_tensors
        of_sum = torch.ops.aten.silu_backward(gradients[0], _convolved(channels, kernel, bias))
        of_channels, of_kernel = of_sum * _weight(kernel, 0), torch.zeros_like(kernel)
        of_kernel[..., -1] = (of_sum * channels).sum((1, 2))
        for back in range(1, min(kernel.shape[-1], channels.shape[2])):
            later, earlier = of_sum[:, :, back:], channels[:, :, :-back]
            of_channels[:, :, :-back].addcmul_(later, _weight(kernel, back))
            of_kernel[..., -1 - back] = (later * earlier).sum((1, 2))
        return of_channels, of_kernel, of_sum.sum((1, 2))


def _convolved(channels: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    total = torch.addcmul(bias[:, None, None], channels, _weight(kernel, 0))
    for back in range(1, min(kernel.shape[-1], channels.shape[2])):
        total[:, :, back:].addcmul_(channels[:, :, :-back], _weight(kernel, back))
    return total


def _weight(kernel: Tensor, back: int) -> Tensor:
    """Of the token so many places before: (2, 1, 1, channels)."""
    return kernel[:, None, None, :, -1 - back]
