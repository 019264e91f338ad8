"""Two Mamba-2 mixers over one sequence, one from each side, and their sum.

The weights are those of transformers' `Mamba2Mixer`. Its fused training path reads `out_proj.weight` without calling
the layer, so an adapter there would change nothing: both projections are called here on every path.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.mamba2 import modeling_mamba2

from dimba.models.dimba.convolution import CausalConvolution
from dimba.models.dimba.gated_norm import gated_norm
from dimba.models.dimba.scan import scan

if TYPE_CHECKING:
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

FUSED, PYTORCH = "mamba_ssm", "PyTorch"
_PACKAGES = ("mamba_ssm", "causal_conv1d")


def active_scan(device: torch.device | str) -> str:
    """What computes the scans on a device: `mamba_ssm` (fused kernels, on CUDA where installed) or `PyTorch`."""
    is_cuda = torch.device(device).type == "cuda"
    return FUSED if is_cuda and all(find_spec(each) for each in _PACKAGES) else PYTORCH


def mix(forward: Mamba2Mixer, backward: Mamba2Mixer, hidden: Tensor, mask: Tensor | None) -> Tensor:
    """The sum of `forward` from the left and `backward` from the right.

    Args:
        forward: The mixer of the usual direction.
        backward: The mixer that gets the tokens in reverse.
        hidden: (batch, length, d_model).
        mask: (batch, length), 0 at padding; None without padding. Masked tokens leave state and convolution as zeros
            before the row would, so padding on either side changes nothing.

    Returns:
        (batch, length, d_model).
    """
    if mask is not None:
        hidden = hidden * mask.unsqueeze(-1).to(hidden.dtype)
    projected = torch.stack([forward.in_proj(hidden), backward.in_proj(hidden.flip(1))])
    masks = None if mask is None else torch.stack([mask, mask.flip(1)])
    if active_scan(hidden.device) == FUSED:
        mixed = torch.stack([_fused(each, *of) for each, *of in _pairs(forward, backward, projected, masks)])
    else:
        mixed = _batched(forward, backward, projected, masks)
    mixed = mixed.to(hidden.dtype)
    return forward.out_proj(mixed[0]) + backward.out_proj(mixed[1]).flip(1)


def _pairs(
    forward: Mamba2Mixer, backward: Mamba2Mixer, projected: Tensor, masks: Tensor | None
) -> list[tuple[Mamba2Mixer, Tensor, Tensor | None]]:
    each = masks if masks is not None else (None, None)
    return [(forward, projected[0], each[0]), (backward, projected[1], each[1])]


def _batched(forward: Mamba2Mixer, backward: Mamba2Mixer, projected: Tensor, masks: Tensor | None) -> Tensor:
    """Both directions as one batch, from in_proj's output to the input of out_proj: (2, batch, length, inner)."""
    gate, convolved, steps = _split(forward, projected)
    kernel, bias = (_both(forward, backward, f"conv1d.{name}").to(convolved.dtype) for name in ("weight", "bias"))
    convolved = CausalConvolution.apply(convolved, kernel.squeeze(2), bias)
    if masks is not None:
        convolved = convolved * masks.unsqueeze(-1).to(convolved.dtype)
    sizes = [forward.intermediate_size, forward.ssm_state_size, forward.ssm_state_size]
    x, inputs, outputs = convolved.float().flatten(0, 1).split(sizes, dim=-1)
    x = x.unflatten(-1, (forward.num_heads, forward.head_dim))
    steps = F.softplus(steps.float() + _both(forward, backward, "dt_bias").float()[:, None, None])
    rates = -_both(forward, backward, "A_log").float().exp()
    rates, skip = (
        each.repeat_interleave(projected.shape[1], 0) for each in (rates, _both(forward, backward, "D").float())
    )
    y = scan(x, steps.flatten(0, 1), rates, skip, inputs, outputs).flatten(2).unflatten(0, (2, -1))
    return gated_norm(y, gate, _both(forward, backward, "norm.weight"), forward.norm.variance_epsilon)


def _both(forward: Mamba2Mixer, backward: Mamba2Mixer, name: str) -> Tensor:
    return torch.stack([each.get_parameter(name) for each in (forward, backward)])


def _split(mixer: Mamba2Mixer, projected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    gate, convolved, steps = projected.split([mixer.intermediate_size, mixer.conv_dim, mixer.num_heads], dim=-1)
    return gate, convolved, steps


def _fused(mixer: Mamba2Mixer, projected: Tensor, mask: Tensor | None) -> Tensor:
    """One direction by the kernels that transformers finds, from in_proj's output to the input of out_proj."""
    gate, convolved, steps = _split(mixer, projected)
    weight, bias = mixer.conv1d.weight.squeeze(1), mixer.conv1d.bias
    convolved = modeling_mamba2.causal_conv1d_fn(convolved.transpose(1, 2), weight, bias, activation=mixer.activation)
    convolved = convolved.transpose(1, 2)
    if mask is not None:
        convolved = convolved * mask.unsqueeze(-1).to(convolved.dtype)
    sizes = [mixer.intermediate_size, mixer.ssm_state_size, mixer.ssm_state_size]
    x, inputs, outputs = convolved.split(sizes, dim=-1)
    y = modeling_mamba2.mamba2_chunk_scan(
        x.unflatten(-1, (mixer.num_heads, mixer.head_dim)),
        steps,
        -mixer.A_log.float().exp(),
        inputs.unsqueeze(2),
        outputs.unsqueeze(2),
        chunk_size=mixer.chunk_size,
        D=mixer.D,
        dt_bias=mixer.dt_bias,
        dt_softplus=True,
    )
    return mixer.norm(y.flatten(2), gate)
