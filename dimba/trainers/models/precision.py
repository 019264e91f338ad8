"""The precision of a saved model: that of the base's files, whatever precision it was trained in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from transformers.utils import cached_file

from dimba.common.contract import is_path, read_json_object

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_STORED = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}
_INDEX, _WEIGHTS = "model.safetensors.index.json", "model.safetensors"


@dataclass(frozen=True)
class Precision:
    """The type of the saved weights: `by_name` where the base's files differ from `usual`; float32 if unknown."""

    usual: torch.dtype = torch.float32
    by_name: Mapping[str, torch.dtype] = field(default_factory=dict)

    def of(self, name: str, tensor: torch.Tensor) -> torch.dtype:
        """The type to save a tensor in; integers stay what they are."""
        return self.by_name.get(name, self.usual) if tensor.is_floating_point() else tensor.dtype

    def bytes_of(self, model: PreTrainedModel) -> int:
        """The size of the model's weights once they are saved."""
        return sum(each.numel() * self.of(name, each).itemsize for name, each in model.named_parameters())

    def weights(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The weights in this precision, on the CPU; those that share memory still do."""
        cast = dict[tuple[Any, ...], torch.Tensor]()
        found = dict[str, torch.Tensor]()
        for name, each in weights.items():
            if not isinstance(each, torch.Tensor):
                found[name] = each
                continue
            key = (each.data_ptr(), each.shape, each.stride(), self.of(name, each))
            if key not in cast or not each.numel():
                cast[key] = each.detach().to("cpu", self.of(name, each))
            found[name] = cast[key]
        return found

    def holds(self, weights: Mapping[str, torch.Tensor]) -> bool:
        """Whether no weight is beyond the range of its type, as float16 ends at 65,504."""
        return all(
            float(each.detach().abs().max()) <= torch.finfo(torch.float16).max
            for name, each in weights.items()
            if each.numel() and self.of(name, each) == torch.float16
        )

    def __str__(self) -> str:
        return str(self.usual).removeprefix("torch.")


def base_precision(checkpoint: str) -> Precision:
    """The precision of a checkpoint's safetensors files, else the one that its config.json names."""
    stored = dict(_stored_types(checkpoint))
    if not stored:
        return Precision(_configured(checkpoint))
    sizes = Counter[torch.dtype]()
    for dtype, size in stored.values():
        sizes[dtype] += size
    usual = sizes.most_common(1)[0][0]
    return Precision(usual, {name: dtype for name, (dtype, _) in stored.items() if dtype != usual})


def _stored_types(checkpoint: str) -> Iterator[tuple[str, tuple[torch.dtype, int]]]:
    for file in _weight_files(checkpoint):
        try:
            with safe_open(file, "pt") as weights:
                for name in weights.keys():  # noqa: SIM118  # no mapping
                    part = weights.get_slice(name)
                    if part.get_dtype() in _STORED:
                        yield name, (_STORED[part.get_dtype()], _count(part.get_shape()))
        except (OSError, SafetensorError):
            return


def _count(shape: list[int]) -> int:
    return int(torch.Size(shape).numel())


def _weight_files(checkpoint: str) -> list[str]:
    index = None if _file(checkpoint, _WEIGHTS) else _file(checkpoint, _INDEX)
    names = sorted(set(read_json_object(Path(index)).get("weight_map", {}).values())) if index else [_WEIGHTS]
    files = (_file(checkpoint, name) for name in names)
    return [file for file in files if file]


def _configured(checkpoint: str) -> torch.dtype:
    file = _file(checkpoint, "config.json")
    config = read_json_object(Path(file)) if file else {}
    texts = [config, *(each for each in config.values() if isinstance(each, dict))]
    named = (str(each.get("dtype") or each.get("torch_dtype") or "").removeprefix("torch.") for each in texts)
    found = next((getattr(torch, name, None) for name in named if name), None)
    return found if found in _STORED.values() else torch.float32


def _file(checkpoint: str, name: str) -> str | None:
    """A file of the checkpoint, which has been loaded: from its folder or the Hub's cache."""
    folder = str(Path(checkpoint).expanduser()) if is_path(checkpoint) else checkpoint
    try:
        return cached_file(
            folder,
            name,
            local_files_only=True,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
        )
    except OSError:
        return None
