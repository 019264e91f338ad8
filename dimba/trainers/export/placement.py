"""Where the models of a proof are loaded, and in which precision: float32 wherever both of them have room."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from huggingface_hub import HfApi

from dimba.common.contract import absolute, is_path
from dimba.trainers.data.rows import available_memory
from dimba.trainers.models.precision import base_precision
from dimba.trainers.models.trained import Loading

if TYPE_CHECKING:
    from dimba.common.trained import TrainedModel

_ROOM = 1.2  # activations, logits, one matrix that is merged
_LOGITS = 1 << 30


def choose_loading(trained: TrainedModel, parameters: int) -> Loading:
    """The first place and precision with room for the trained model and its export, side by side."""
    needed = 2 * 4 * parameters * _ROOM + _LOGITS
    free = _free_on_gpu()
    if free >= needed:
        return Loading(torch.float32, {"": 0})
    if not (memory := available_memory()) or memory >= needed + _written(parameters):
        return Loading(torch.float32)
    return Loading("auto", {"": 0}) if free >= needed / 2 else Loading("auto")


def _written(parameters: int) -> int:
    return 2 * parameters  # the merged weights in half precision, before they are in files


def _free_on_gpu() -> int:
    return int(torch.cuda.mem_get_info(0)[0]) if torch.cuda.is_available() else 0


def parameter_count(trained: TrainedModel) -> int:
    """The parameters of the complete model: by the size of its files, or as the Hub has counted them; 0 if unknown."""
    place = trained.base or trained.folder
    if is_path(place):
        stored = sum(file.stat().st_size for file in Path(absolute(place)).glob("*.safetensors"))
        return stored // max(1, base_precision(place).usual.itemsize)
    try:
        return sum(HfApi().get_safetensors_metadata(place).parameter_count.values())
    except Exception:  # offline, or a repository without such files
        return 0
