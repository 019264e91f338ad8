"""The configuration of an export against that of the trained model, value by value."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

# What may differ: the type of the weights, what transformers notes of itself, and what the weights and end tokens show.
_FREE = {
    "dtype", "torch_dtype", "transformers_version", "architectures", "use_cache", "tie_word_embeddings", "vocab_size",
    "return_dict", "output_attentions", "output_hidden_states", "quantization_config",
}  # fmt: skip


def config_problem(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """The first value of a configuration that differs; empty if none does. Keys of one side alone are not compared."""
    return next(_differences(ours, theirs, ""), "")


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], path: str) -> Iterator[str]:
    for name in sorted((ours.keys() & theirs.keys()) - _FREE, key=str):
        one, two = ours[name], theirs[name]
        if str(name).startswith("_") or str(name).endswith("_token_id"):
            continue
        if isinstance(one, Mapping) and isinstance(two, Mapping):
            yield from _differences(one, two, f"{path}{name}.")
        elif one != two:
            yield f"config.json has `{path}{name}` {json.dumps(two, default=str)}, not {json.dumps(one, default=str)}"
