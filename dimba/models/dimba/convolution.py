"""The short causal convolution of a mixer and its SiLU, for both directions at once.

Only what came in is kept for the backward pass. On the CPU oneDNN convolves, one pass over the memory where a shifted
product for each token of the kernel takes several; its gradient of the kernel is slow, and is made of shifted products.
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
        activated = torch.empty_like(channels, memory_format=torch.contiguous_format)
        for *given, place in zip(channels, kernel, bias, activated, strict=True):
            torch.ops.aten.silu.out(_convolved(*given), out=place)
        return activated

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        """Gradients of the three inputs."""
        both = zip(gradients[0], *ctx.saved_tensors, strict=True)
        return tuple(torch.stack(each) for each in zip(*(_gradients(*of) for of in both), strict=True))


def _gradients(of_activated: Tensor, channels: Tensor, kernel: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of one direction: of what came in, of the kernel, and of the bias."""
    of_sum = torch.ops.aten.silu_backward(of_activated, _convolved(channels, kernel, bias))
    length, of_kernel = channels.shape[1], torch.zeros_like(kernel)
    for back in range(min(kernel.shape[-1], length)):
        of_kernel[:, -1 - back] = (of_sum[:, back:] * channels[:, : length - back]).sum((0, 1))
    return _convolved(of_sum, kernel, torch.zeros_like(bias), onwards=True), of_kernel, of_sum.sum((0, 1))


def _convolved(channels: Tensor, kernel: Tensor, bias: Tensor, *, onwards: bool = False) -> Tensor:
    """Each channel of (batch, length, channels) over its last tokens, or `onwards` over the next ones."""
    if channels.device.type != "cpu":
        return _by_shifts(channels, kernel, bias, onwards=onwards)
    length, width = channels.shape[1], kernel.shape[-1]
    image, kernel = channels.transpose(1, 2).unsqueeze(2), kernel.flip(-1) if onwards else kernel
    found = F.conv2d(image, kernel[:, None, None], bias, padding=(0, width - 1), groups=len(kernel))
    return found.narrow(3, width - 1 if onwards else 0, length).squeeze(2).transpose(1, 2)


def _by_shifts(channels: Tensor, kernel: Tensor, bias: Tensor, *, onwards: bool) -> Tensor:
    total = torch.addcmul(bias, channels, kernel[:, -1])
    for back in range(1, min(kernel.shape[-1], channels.shape[1])):
        later, earlier = slice(back, None), slice(None, -back)
        here, there = (earlier, later) if onwards else (later, earlier)
        total[:, here].addcmul_(channels[:, there], kernel[:, -1 - back])
    return total
