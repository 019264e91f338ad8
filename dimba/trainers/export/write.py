"""The folder of a merged model: weights in shards of the base's size, configuration, tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.utils import cached_file

from dimba.common.contract import is_path, read_json_object
from dimba.trainers.export.complete import complete_model, completed
from dimba.trainers.export.merge import export_precision, merged_state, plain, require_mergeable
from dimba.trainers.models.generation import repair_model
from dimba.trainers.models.precision import Precision
from dimba.trainers.models.saving import apply_umask, name_type

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from dimba.common.trained import TrainedModel
    from dimba.trainers.export.agreement import Progress
    from dimba.trainers.export.merge import State
    from dimba.trainers.models.trained import Loaded

_INDEX = "model.safetensors.index.json"
# What a model that also sees or hears needs beside its tokenizer.
_PROCESSORS = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")


def write_merged(
    loaded: Loaded, base: str, folder: Path, dtype: str, progress: Progress, *, code: bool = False
) -> Precision:
    """Write the merged model with everything that transformers needs to load it; returns its precision.

    Raises:
        BadInput: a value is beyond the range of `dtype`.
    """
    require_mergeable(loaded.model)
    precision = export_precision(dtype, base)
    model = plain(loaded.model)
    named: Any = getattr(model, "generation_config", None) or model.config  # there is none without `generate`
    named.eos_token_id = list(loaded.ends) if len(loaded.ends) > 1 else loaded.ends[0]
    repair_model(model)
    state = merged_state(loaded.model, precision, progress)
    whole = complete_model(model, base, code=code)
    if whole is not None:
        state = completed(whole, model, state, precision)
        whole.generation_config = model.generation_config
    progress("writing", 0, 1)
    _write(whole or model, state, folder, _shard_bytes(base))
    name_type(folder / "config.json", precision)
    loaded.tokenizer.save_pretrained(folder)
    for name in _PROCESSORS:
        _copy(base, name, folder)
    apply_umask(folder)
    progress("writing", 1, 1)
    return precision


def needed_files(trained: TrainedModel, folder: Path) -> None:
    """Copy the configuration and what the base's tokenizer has beside tokenizer.json."""
    base = trained.base or trained.folder
    for name in ("config.json", "tokenizer.model", *_PROCESSORS):
        _copy(base, name, folder)


def _write(model: PreTrainedModel, state: State, folder: Path, shard_bytes: int | None) -> None:
    parameters = sum(each.numel() for each in state.values())
    size = {"max_shard_size": shard_bytes} if shard_bytes else {}
    model.save_pretrained(folder, state_dict=state, **size)
    index = folder / _INDEX
    if index.is_file():  # the library counts the adapter too
        value = read_json_object(index)
        value.setdefault("metadata", {})["total_parameters"] = parameters
        index.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _shard_bytes(base: str) -> int | None:
    """The size of the base's largest shard; None if it has one file, or its files are not known here."""
    index = _file(base, _INDEX)
    if not index:
        return None
    names = set(read_json_object(index).get("weight_map", {}).values())
    sizes = [file.stat().st_size for name in names if (file := index.with_name(str(name))).is_file()]
    return max(sizes, default=0) or None


def _copy(base: str, name: str, folder: Path) -> None:
    if (file := _file(base, name)) and not (folder / name).exists():
        shutil.copyfile(file, folder / name)


def _file(base: str, name: str) -> Path | None:
    """A file of the base, from its folder or the Hub's cache; None if it has none of this name."""
    if is_path(base):
        found = Path(base).expanduser() / name
        return found if found.is_file() else None
    cached = cached_file(
        base,
        name,
        local_files_only=True,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return Path(cached) if cached else None
