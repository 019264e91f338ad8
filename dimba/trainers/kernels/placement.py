"""A model on the device where attention is tried, before a trainer puts it there."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

from dimba.trainers.models.sharding import is_sharded

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def on_device(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """The model, moved to the device where training would move it; of a sharded job a shallow copy of random weights.

    A shard is on its device only once the trainer exists, and one device may not hold all of them.
    """
    if is_sharded():
        return shallow_copy(model, device)
    if device.type != "cpu" and next(model.parameters()).device.type == "cpu":
        model.to(device)
    return model


def shallow_copy(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """A model of the same configuration and attention with random weights, and one layer of each kind at least."""
    config = copy.deepcopy(model.config)
    text = config.get_text_config()
    text.num_hidden_layers = _enough_layers(text)
    for name, value in vars(text).items():  # lists by layer: their kinds, their MLPs
        if name.endswith("layer_types") and isinstance(value, list):
            setattr(text, name, value[: text.num_hidden_layers])
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.device(device):
        copied: PreTrainedModel = type(model)._from_config(
            config, attn_implementation=model.config._attn_implementation, dtype=model.dtype
        )
    return copied.eval()


def _enough_layers(text: Any) -> int:
    kinds = getattr(text, "layer_types", None) or []
    first = [kinds.index(kind) + 1 for kind in set(kinds)]
    return min(int(text.num_hidden_layers), max([2, *first]))
