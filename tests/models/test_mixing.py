"""The mixers of DIMBA: equal to transformers', on the pure path and beside kernels, and open to adapters."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from transformers.models.mamba2 import modeling_mamba2
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

from dimba.models.dimba import active_scan, convolution, mixing
from dimba.models.dimba.mixing import mix
from dimba.models.dimba.scan import scan
from tests.models.tiny import tiny_dimba


def mixers(**changes: object) -> tuple[Mamba2Mixer, Mamba2Mixer]:
    block = tiny_dimba(**changes).model.layers[0]
    for each in (block.mixer_forward, block.mixer_backward):
        torch.nn.init.normal_(each.conv1d.bias, std=0.3)
        torch.nn.init.uniform_(each.norm.weight, 0.5, 1.5)
        torch.nn.init.normal_(each.dt_bias, std=1.0)
    return block.mixer_forward, block.mixer_backward


def naive(forward: Mamba2Mixer, backward: Mamba2Mixer, hidden: torch.Tensor) -> torch.Tensor:
    return forward(hidden) + backward(hidden.flip(1)).flip(1)


def distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference, as a share of the largest value."""
    return float((found - wanted).detach().abs().max() / wanted.detach().abs().max())


@pytest.mark.parametrize("length", [1, 3, 64, 65, 200])
def test_the_mix_and_its_gradients_are_those_of_two_mixers_of_transformers(length: int):
    pair = mixers()
    hidden = torch.randn(3, length, 64, requires_grad=True)
    weights = [hidden, *(each for mixer in pair for each in mixer.parameters())]
    found = [mix(*pair, hidden, None), naive(*pair, hidden)]
    gradients = [torch.autograd.grad((each * each.detach().cos()).sum(), weights) for each in found]
    assert distance(*found) < 1e-5
    assert max(distance(*each) for each in zip(*gradients, strict=True)) < 1e-4


@pytest.mark.parametrize("length", [1, 4, 11])
def test_the_gradients_of_the_scan_are_its_differences(length: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("dimba.models.dimba.scan.CHUNK", 4)
    draw = partial(torch.rand, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x, steps = draw(2, length, 3, 2) - 0.5, draw(2, length, 3) + 0.1
    given = (x, steps, -draw(2, 3) - 0.2, draw(2, 3), draw(2, length, 4) - 0.5, draw(2, length, 4) - 0.5)
    assert torch.autograd.gradcheck(scan, [each.requires_grad_() for each in given])


def test_the_convolution_of_other_devices_is_that_of_the_cpu():
    given = torch.randn(2, 9, 6), torch.randn(6, 4), torch.randn(6)
    for onwards in (False, True):
        shifted = convolution._by_shifts(*given, onwards=onwards)
        assert torch.allclose(convolution._convolved(*given, onwards=onwards), shifted, atol=1e-6)


def test_fast_decays_over_a_long_row_stay_finite_with_their_gradients():
    pair = mixers()
    for each in pair:
        torch.nn.init.constant_(each.dt_bias, 6.0)
    hidden = torch.randn(1, 300, 64, requires_grad=True)
    mixed = mix(*pair, hidden, None)
    mixed.square().sum().backward()
    assert torch.allclose(mixed, naive(*pair, hidden), atol=1e-4)
    assert hidden.grad.isfinite().all()
    assert all(each.grad.isfinite().all() for mixer in pair for each in mixer.parameters())


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Pretended kernels: transformers' own fallbacks behind the hooks that kernels would be called through."""
    called: list[str] = []

    def watched(name: str) -> Callable[..., object]:
        plain = getattr(modeling_mamba2, name)
        return lambda *given, **named: (called.append(name), plain(*given, **named))[1]

    monkeypatch.setattr(mixing, "active_scan", lambda device: mixing.FUSED)
    for name in ("causal_conv1d_fn", "mamba2_chunk_scan"):
        monkeypatch.setattr(modeling_mamba2, name, watched(name))
    return called


def test_kernels_get_what_the_pure_path_computes(kernels: list[str], monkeypatch: pytest.MonkeyPatch):
    pair, hidden = mixers(), torch.randn(2, 90, 64)
    mask = torch.ones(2, 90)
    mask[0, 70:], mask[1, :40] = 0, 0
    projected = mix(*pair, hidden, mask)
    assert kernels == ["causal_conv1d_fn", "mamba2_chunk_scan"] * 2
    monkeypatch.setattr(mixing, "active_scan", lambda device: mixing.PYTORCH)
    assert torch.allclose(mix(*pair, hidden, mask), projected, atol=2e-6)


def test_without_kernels_pytorch_scans_on_every_device():
    assert [active_scan(device) for device in ("cpu", "cuda")] == ["PyTorch", "PyTorch"]


def test_kernels_are_used_on_a_gpu_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mixing, "find_spec", lambda name: object())
    assert [active_scan(device) for device in ("cpu", "cuda:1")] == ["PyTorch", "mamba_ssm"]
