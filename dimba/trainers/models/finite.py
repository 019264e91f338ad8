"""Weights that are NaN, infinite or all zero: looked for once, before the first step."""

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
    """The refusal of a model with weights that are not finite, or only zeros; packed weights are integers and pass."""
    return _refusal((name, weight.detach()) for name, weight in model.named_parameters())


def files_refusal(folder: Path) -> Refusal | None:
    """As `weights_refusal`, of safetensors files: quantising a NaN makes an ordinary number of it."""
    return _refusal(_stored(folder))


def zeros_note(model: PreTrainedModel) -> str:
    """One line on matrices of zeros, as layers that were added to a model have them on purpose; empty without any."""
    zeros = [name for name, weight in model.named_parameters() if _is_zero(weight.detach())]
    others = f" and {quantity(len(zeros) - 1, 'other')}" if len(zeros) > 1 else ""
    return f"matrices with only zeros in the base: `{zeros[0]}`{others}" if zeros else ""


def _refusal(weights: Iterator[tuple[str, torch.Tensor]]) -> Refusal | None:
    bad, zeros, matrices = list[tuple[str, int]](), list[str](), 0
    for name, weight in weights:
        matrices += weight.dim() > 1
        if count := _count(weight):
            bad.append((name, count))
        elif _is_zero(weight):
            zeros.append(name)
    if bad:
        name, count = bad[0]
        others = f", and in {quantity(len(bad) - 1, 'other tensor')}" if len(bad) > 1 else ""
        return Refusal(f"has NaN or infinite values: {count:,} in `{name}`{others}", _HINT)
    if 2 * len(zeros) > matrices:
        return Refusal(f"has only zeros in {len(zeros):,} of its {matrices:,} matrices, as in `{zeros[0]}`", _HINT)
    return None


def _count(weight: torch.Tensor) -> int:
    """Values that are not finite; a sum, which is one pass without a copy, shows that there are none."""
    if not _has_values(weight) or weight.sum(dtype=torch.float32).isfinite():
        return 0
    return int((~weight.isfinite()).sum())


def _is_zero(weight: torch.Tensor) -> bool:
    """Whether a matrix has only zeros; one value that is none settles it."""
    if weight.dim() < 2 or not weight.numel() or not _has_values(weight):
        return False
    return not weight[(0,) * weight.dim()] and not weight.any()


def _has_values(weight: torch.Tensor) -> bool:
    return weight.is_floating_point() and not weight.is_meta and weight.dtype.itemsize > 1


def _stored(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    for file in weight_files(folder):
        try:
            with safe_open(file, "pt") as weights:
                for name in weights.keys():  # noqa: SIM118  # it is no mapping
                    yield name, weights.get_tensor(name)
        except (OSError, SafetensorError):
            return  # loading reports a broken file
