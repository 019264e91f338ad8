"""Weights that are NaN or infinite: looked for once, before the first step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open

from dimba.common.checkpoint.files import weight_files
from dimba.common.checkpoint.refusal import Refusal
from dimba.common.units import quantity

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_HINT = "copy the checkpoint again, or give another base: this one was broken when it was saved"


def weights_refusal(model: PreTrainedModel) -> Refusal | None:
    """The refusal of a model with weights that are not finite; packed weights are integers and pass."""
    return _refusal((name, weight.detach()) for name, weight in model.named_parameters())


def files_refusal(folder: Path) -> Refusal | None:
    """As `weights_refusal`, of safetensors files: quantising a NaN makes an ordinary number of it."""
    return _refusal(_stored(folder))


def _refusal(weights: Iterator[tuple[str, torch.Tensor]]) -> Refusal | None:
    bad = [(name, count) for name, weight in weights if (count := _count(weight))]
    if not bad:
        return None
    name, count = bad[0]
    others = f", and in {quantity(len(bad) - 1, 'other tensor')}" if len(bad) > 1 else ""
    return Refusal(f"has NaN or infinite values: {count:,} in `{name}`{others}", _HINT)


def _count(weight: torch.Tensor) -> int:
    """Values that are not finite; a sum, which is one pass without a copy, shows that there are none."""
    if not weight.is_floating_point() or weight.is_meta or weight.dtype.itemsize < 2:
        return 0
    if weight.sum(dtype=torch.float32).isfinite():
        return 0
    return int((~weight.isfinite()).sum())


def _stored(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    for file in weight_files(folder):
        try:
            with safe_open(file, "pt") as weights:
                for name in weights.keys():  # noqa: SIM118  # it is no mapping
                    yield name, weights.get_tensor(name)
        except (OSError, SafetensorError):
            return  # loading reports a broken file
