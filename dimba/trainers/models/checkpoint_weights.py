"""The weights of a checkpoint back in the model, also where the files name them otherwise than the model does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open

from dimba.common.errors import BadInput
from dimba.options.table import RESUME

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def has_other_names(model: torch.nn.Module, folder: Path) -> bool:
    """Whether the files have other tensors than the model: transformers joins experts, and renames, while loading.

    The library's `Trainer` would skip such tensors in silence.
    """
    stored = {name for file in folder.glob("*.safetensors") for name in _names(file)}
    weights = model.state_dict()
    places = {weights[name].data_ptr() for name in stored & weights.keys()}  # a tied tensor is stored once
    missing = {name for name in weights.keys() - stored if weights[name].data_ptr() not in places}
    return bool(stored) and bool(missing or stored - weights.keys())


def _names(file: Path) -> list[str]:
    with safe_open(file, "pt") as weights:
        return list(weights.keys())


def load_renamed(model: PreTrainedModel, folder: Path) -> None:
    """Loads the checkpoint as a model of its own, and copies its weights.

    Raises:
        BadInput: a tensor is missing, left over or of another shape.
    """
    other, info = type(model).from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    kinds = ("missing_keys", "unexpected_keys", "mismatched_keys")
    for kind in kinds:
        if names := sorted(map(str, info.get(kind) or ())):
            problem = f"{folder} does not hold the model's weights: {kind.replace('_', ' ')}: {', '.join(names[:3])}"
            raise BadInput(problem, "name another checkpoint, or start over", key=RESUME.flag)
    model.load_state_dict(other.state_dict())
