"""The weights of a model as another engine takes them: each under the base's name, with its adapter merged in."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import nn

Weights = Iterator[tuple[str, torch.Tensor]]
_WRAPPERS = ("_checkpoint_wrapped_module", "_orig_mod")  # of activation checkpointing and of torch.compile


class _Seen(set[int]):
    """The ids of the parameters that were given out; `exact` as `merged_weights` has it."""

    def __init__(self, *, exact: bool) -> None:
        super().__init__()
        self.exact = exact


@torch.no_grad()
def merged_weights(model: nn.Module, *, exact: bool = False) -> Weights:
    """Names and values of all parameters and saved buffers; of a shared one the first name alone.

    A matrix with an adapter comes as a copy that the adapter is merged into, one at a time. The model itself does not
    change, not even by the rounding of merging and unmerging in half precision.

    With `exact` a matrix with an adapter is merged in float32 and not rounded, and comes under each of its names, as
    an adapter on one of them makes two matrices of it.
    """
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    yield from _weights(base, "", _Seen(exact=exact))


def _weights(module: nn.Module, name: str, seen: _Seen) -> Weights:
    if isinstance(module, ModulesToSaveWrapper):
        for adapter in module.active_adapters:
            yield from _weights(module.modules_to_save[adapter], name, seen)
    elif isinstance(module, AuxiliaryTrainingWrapper):  # of an embedding or a head some rows are trained
        yield from _weights(module.token_adapter, name, seen)
    elif isinstance(module, BaseTunerLayer):
        yield from _merged(module, name, seen)
    else:
        yield from _own(module, name, seen)
        for child, each in module.named_children():
            yield from _weights(each, name if child in _WRAPPERS else _joined(name, child), seen)


def _own(module: nn.Module, name: str, seen: _Seen) -> Weights:
    saved = {key for key, _ in module.named_buffers(recurse=False)} - module._non_persistent_buffers_set
    buffers = [(key, value) for key, value in module.named_buffers(recurse=False) if key in saved]
    for key, value in (*module.named_parameters(recurse=False), *buffers):
        if id(value) not in seen:
            seen.add(id(value))
            yield _joined(name, key), value.data


def _merged(outermost: BaseTunerLayer, name: str, seen: _Seen) -> Weights:
    layers: list[BaseTunerLayer] = []  # several where parameters of one module have an adapter each
    module: nn.Module = outermost
    while isinstance(module, BaseTunerLayer):
        layers.append(module)
        module = module.base_layer
    kept = {key: value.data for key, value in module.named_parameters(recurse=False)}
    for value in module.parameters(recurse=False):
        value.data = value.data.to(torch.float32 if seen.exact else value.dtype, copy=True)
    for layer in reversed(layers):
        layer.merge()
    merged = [(key, value.data.clone(), id(value)) for key, value in module.named_parameters(recurse=False)]
    for layer in layers:
        layer.unmerge()
    for key, value in module.named_parameters(recurse=False):
        value.data = kept[key]
    for key, value, number in merged:
        if seen.exact or number not in seen:
            seen.update(() if seen.exact else (number,))
            yield _joined(name, key), value


def _joined(*parts: str) -> str:
    return ".".join(filter(None, parts))
