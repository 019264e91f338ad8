"""Weights in nf4 for `scripts/bench/tracing.py`: bitsandbytes' own layers, on fake tensors."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from bitsandbytes import functional
from bitsandbytes.nn import Linear4bit

_BLOCK = 64  # weights of a scale


def quantise(model: Any) -> None:
    """The model's linear layers as transformers makes them for Q-LoRA; it is on the meta device and stays there."""
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear
    from transformers.quantizers.base import get_keys_to_not_convert

    from dimba.trainers.models.loading import _nf4

    kept = get_keys_to_not_convert(model)
    replace_with_bnb_linear(model, modules_to_not_convert=kept, quantization_config=_nf4(torch.bfloat16))
    model.is_loaded_in_4bit = True


def is_quantised(module: torch.nn.Module, name: str) -> bool:
    """Whether that parameter is in nf4."""
    return isinstance(module, Linear4bit) and name == "weight"


def parameter(old: torch.nn.Parameter) -> torch.nn.Parameter:
    """The packed weights and their scales, in whatever mode tensors are made in."""
    whole = torch.empty(old.shape, dtype=torch.bfloat16)
    packed, state = functional.quantize_4bit(whole, compress_statistics=True, quant_type="nf4")
    new: Any = torch.nn.Parameter(packed, requires_grad=False)
    new.quant_state = state
    made: torch.nn.Parameter = new
    return made


@contextmanager
def as_on_cuda() -> Iterator[None]:
    """Weights unpacked for each product, as CUDA does for more than a few rows: the fake kernel leaves them out."""
    with torch._C._DisableTorchDispatch():
        functional.name2qmap.setdefault("dynamic", functional.create_dynamic_map())
    with mock.patch.object(torch.ops.bitsandbytes.gemm_4bit, "default", _product):
        yield


def _product(inputs: Any, _: Any, shape: Any, *__: Any, bias: Any = None, **nested: Any) -> Any:
    scales = torch.empty(shape.numel() // _BLOCK, dtype=torch.float32)
    moved = scales + 1.0
    weights = torch.empty(shape, dtype=inputs.dtype)
    assert moved is not scales, "both are there while the product is made"
    return torch.nn.functional.linear(inputs, weights, bias)
