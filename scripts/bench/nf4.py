"""nf4 weights for `scripts/bench/tracing.py`: bitsandbytes' own layers on fake tensors."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from bitsandbytes import functional
from bitsandbytes.nn import Linear4bit

_BLOCK = 64  # weights per scale


def quantise(model: Any) -> None:
    """Replace the linear layers of a model on the meta device as transformers does for Q-LoRA."""
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear
    from transformers.quantizers.base import get_keys_to_not_convert

    from dimba.trainers.models.loading import nf4

    kept = get_keys_to_not_convert(model)
    replace_with_bnb_linear(model, modules_to_not_convert=kept, quantization_config=nf4(torch.bfloat16))
    model.is_loaded_in_4bit = True


def is_quantised(module: torch.nn.Module, name: str) -> bool:
    """Whether the module's parameter `name` is in nf4."""
    return isinstance(module, Linear4bit) and name == "weight"


def parameter(old: torch.nn.Parameter) -> torch.nn.Parameter:
    """The packed weights with their scales, created in the active tensor mode."""
    unpacked = torch.empty(old.shape, dtype=torch.bfloat16)
    packed, state = functional.quantize_4bit(unpacked, compress_statistics=True, quant_type="nf4")
    new: Any = torch.nn.Parameter(packed, requires_grad=False)
    new.quant_state = state
    quantised: torch.nn.Parameter = new
    return quantised


@contextmanager
def as_on_cuda() -> Iterator[None]:
    """Unpack the weights for each product, as CUDA does beyond a few rows; the fake kernel does not allocate them."""
    with torch._C._DisableTorchDispatch():
        functional.name2qmap.setdefault("dynamic", functional.create_dynamic_map())
    with mock.patch.object(torch.ops.bitsandbytes.gemm_4bit, "default", _product):
        yield


def _product(inputs: Any, _: Any, shape: Any, *__: Any, bias: Any = None, **nested: Any) -> Any:
    scales = torch.empty(shape.numel() // _BLOCK, dtype=torch.float32)
    moved = scales + 1.0
    weights = torch.empty(shape, dtype=inputs.dtype)
    assert moved is not scales, "both are alive during the product"
    return torch.nn.functional.linear(inputs, weights, bias)
