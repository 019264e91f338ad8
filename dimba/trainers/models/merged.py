"""The weights of a model as another engine takes them: each under the base's name, with its adapter merged in."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import nn

Weights = Iterator[tuple[str, torch.Tensor]]
_WRAPPERS = ("_checkpoint_wrapped_module", "_orig_mod")  # of activation checkpointing and of torch.compile


@torch.no_grad()
def merged_weights(model: nn.Module) -> Weights:
    """Names and values of all parameters and saved buffers; of a shared one the first name alone.

    A matrix with an adapter comes as a copy that the adapter is merged into, one at a time. The model itself does not
    change, not even by the rounding of merging and unmerging in half precision.
    """
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    yield from _weights(base, "", set())


def _weights(module: nn.Module, name: str, seen: set[int]) -> Weights:
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


def _own(module: nn.Module, name: str, seen: set[int]) -> Weights:
    saved = {key for key, _ in module.named_buffers(recurse=False)} - module._non_persistent_buffers_set
    buffers = [(key, value) for key, value in module.named_buffers(recurse=False) if key in saved]
    for key, value in (*module.named_parameters(recurse=False), *buffers):
        if id(value) not in seen:
            seen.add(id(value))
            yield _joined(name, key), value.data


def _merged(outermost: BaseTunerLayer, name: str, seen: set[int]) -> Weights:
    layers: list[BaseTunerLayer] = []  # several where parameters of one module have an adapter each
    module: nn.Module = outermost
    while isinstance(module, BaseTunerLayer):
        layers.append(module)
        module = module.base_layer
    kept = {key: value.data.clone() for key, value in module.named_parameters(recurse=False)}
    for layer in reversed(layers):
        layer.merge()
    merged = [(key, value.data.clone(), id(value)) for key, value in module.named_parameters(recurse=False)]
    for layer in layers:
        layer.unmerge()
    for key, value in module.named_parameters(recurse=False):
        value.data.copy_(kept[key])
    for key, value, number in merged:
        if number not in seen:
            seen.add(number)
            yield _joined(name, key), value


def _joined(*parts: str) -> str:
    return ".".join(filter(None, parts))
