"""A base's generation config, repaired where the library would refuse to load it or to save it with the model."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import GenerationConfig
from transformers.utils import GENERATION_CONFIG_NAME, cached_file

from dimba.common.contract import is_path, read_json_object

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Values = dict[str, Any]

# The values with which a sampling flag changes nothing; any other one is meant for sampling.
_NEUTRAL = {
    "temperature": 1.0,
    "top_p": 1.0,
    "min_p": None,
    "top_h": None,
    "typical_p": 1.0,
    "top_k": 50,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}
_FIRST = ("do_sample", "num_beams", "use_cache", "return_dict_in_generate")  # others are valid only beside these
_METADATA = ("transformers_version", "_from_model_config", "_commit_hash")


def repaired_generation_config(checkpoint: str) -> tuple[GenerationConfig | None, list[str]]:
    """(the checkpoint's generation config, what was changed in it); (None, []) for one that the library accepts.

    Its values come from generation_config.json, or from config.json of an older checkpoint without that file.
    """
    checkpoint = os.path.expanduser(checkpoint)  # a Path would drop the `./` that marks a folder
    file = _file(checkpoint, GENERATION_CONFIG_NAME)
    own = read_json_object(file) if file else {}
    values = own or _generation_values(checkpoint)
    is_unusable = file is not None and not own and file.read_bytes().strip() != b"{}"
    if is_valid(values) and not is_unusable:
        return None, []
    repaired, notes = repair(values)
    return GenerationConfig(**repaired), notes + [f"{GENERATION_CONFIG_NAME} holds no JSON object"] * is_unusable


def repair(values: Mapping[str, Any]) -> tuple[Values, list[str]]:
    """(the values without those that the library refuses, a note for each change).

    Sampling flags without `do_sample` are meant: it is set to true. Beside `do_sample: false`, or with a temperature
    of 0, which means the same, they are dropped.
    """
    given, notes = {name: _as_number(name, value) for name, value in values.items()}, list[str]()
    sampling = [name for name in _NEUTRAL if name in given and given[name] not in (None, _NEUTRAL[name])]
    is_greedy = given.get("temperature") == 0 or given.get("do_sample") is not None
    if sampling and not is_greedy:
        given["do_sample"] = True
        notes.append(f"`do_sample` is set to true, as {_named(given, sampling)} needs it")
    kept: Values = {}
    for name in sorted(given, key=lambda each: each not in _FIRST):
        if is_valid({**kept, name: given[name]}):
            kept[name] = given[name]
    dropped = [name for name in given if name not in kept]
    if dropped:
        notes.append(f"{_named(given, dropped)} is dropped: the library does not save it")
    return kept, notes


def is_valid(values: Mapping[str, Any]) -> bool:
    """Whether the library loads and saves a generation config with these values."""
    try:
        config = GenerationConfig(**{name: value for name, value in values.items() if name not in _METADATA})
        config.validate(strict=True)
        json.dumps(config.to_dict())
    except Exception:  # the values are a user's, and may be of any type
        return False
    are_ids = all(_are_ids(value) for name, value in values.items() if name.endswith("_token_id"))
    return are_ids and all(_is_number(values[name]) for name in _NEUTRAL if values.get(name) is not None)


def repair_model(model: PreTrainedModel) -> list[str]:
    """Make the generation config of a loaded model, and keys of it in config.json, fit to be saved; returns notes."""
    config = getattr(model, "generation_config", None)
    if config is None:
        return []
    notes = [*_move_keys(model, config)]
    values = {name: value for name, value in config.to_dict().items() if value is not None}
    if is_valid(values):
        return notes
    repaired, more = repair(values)
    model.generation_config = GenerationConfig(**repaired)
    return [*notes, *more]


def _move_keys(model: PreTrainedModel, config: GenerationConfig) -> Iterable[str]:
    """Moves keys of generation that the library left in the model's configuration, and refuses to save there."""
    keys = model.config._get_generation_parameters()
    for name, value in keys.items():
        if getattr(config, name, None) is None:
            setattr(config, name, value)
        setattr(model.config, name, None)
    if keys:
        yield f"{_named(keys, list(keys))} is moved from config.json to {GENERATION_CONFIG_NAME}"


def _file(checkpoint: str, name: str) -> Path | None:
    """A file of the checkpoint, from its folder or the Hub's cache; None if it has none of this name."""
    if is_path(checkpoint):  # the Hub would be asked for a folder that does not exist
        return file if (file := Path(checkpoint, name)).is_file() else None
    try:
        found = cached_file(
            checkpoint,
            name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
        )
    except OSError:
        return None
    return Path(found) if found else None


def _generation_values(checkpoint: str) -> Values:
    """The generation keys of config.json, where older checkpoints keep them."""
    file = _file(checkpoint, "config.json")
    config = read_json_object(file) if file else {}
    names = (*GenerationConfig._get_default_generation_params(), "bos_token_id", "eos_token_id", "pad_token_id")
    return {name: config[name] for name in names if config.get(name) is not None}


def _as_number(name: str, value: Any) -> Any:
    """A sampling flag written as text, as a number."""
    try:
        return float(value) if name in _NEUTRAL and isinstance(value, str) else value
    except ValueError:
        return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _are_ids(value: Any) -> bool:
    """Whether the value is a token's id, or a list of them, or None."""
    return value is None or all(type(each) is int for each in (value if isinstance(value, list) else [value]))


def _named(values: Mapping[str, Any], names: list[str]) -> str:
    return ", ".join(f"`{name}: {json.dumps(values[name], default=str)[:60]}`" for name in names)
