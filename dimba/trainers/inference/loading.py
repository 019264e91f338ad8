"""The models of a conversation: one, or two side by side."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any

import torch

from dimba.common.contract import ENV_ALLOW_CPU
from dimba.common.errors import HostCannot
from dimba.common.trained import TrainedModel
from dimba.objectives.family import Family
from dimba.trainers.inference.speaker import Speaker
from dimba.trainers.models.families import family_of_model
from dimba.trainers.models.saving import quiet_transformers
from dimba.trainers.models.trained import Loading, load_trained


def load_speakers(request: Mapping[str, Any], note: Callable[[str], None]) -> list[Speaker]:
    """The models that a `load` request names, on as many GPUs as it names; raises BadInput, HostCannot."""
    quiet_transformers()
    first, *others = (TrainedModel.from_json(each) for each in request["models"])
    loading = _loading(int(request.get("gpus", 0)), note)
    speakers = [_speaker(first, loading)]
    for other in others:
        is_base = first.is_adapter and other.folder == first.base and not other.is_adapter
        shares = is_base and not first.gguf and not _has_added_rows(speakers[0])
        speakers.append(replace(speakers[0], as_base=True) if shares else _speaker(other, loading))
    return speakers


def _speaker(trained: TrainedModel, loading: Loading) -> Speaker:
    if not trained.gguf:
        loaded = load_trained(trained, loading)
        found: Speaker = answering(family_of_model(loaded.model)).make_speaker(loaded)
        return found
    from dimba.trainers.inference.gguf_speaker import GgufSpeaker

    return GgufSpeaker.of(trained)


def answering(family: Family) -> Any:
    """The module here for a family's models: `make_speaker`, and `losses` of a batch."""
    return import_module(f"{__package__}.{family.half}")


def _loading(gpus: int, note: Callable[[str], None]) -> Loading:
    works = torch.cuda.is_available() and torch.cuda.device_count() >= gpus
    if gpus and not works and not os.environ.get(ENV_ALLOW_CPU):
        raise HostCannot(f"{gpus} GPU(s) requested, and CUDA does not work here", "`dimba doctor` tests the GPUs")
    if gpus and not works:
        note("on the CPU: the GPUs do not work (--allow-cpu)")
    if not gpus or not works:
        return Loading(dtype=torch.float32)
    dtype = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return Loading(dtype=dtype, device_map="auto" if gpus > 1 else {"": 0})


def _has_added_rows(speaker: Speaker) -> bool:
    """Whether training added tokens, without which the base's template may render otherwise."""
    config = next(iter(speaker.loaded.model.peft_config.values()))
    return bool(config.trainable_token_indices or config.modules_to_save)
