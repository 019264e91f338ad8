"""Which models can be trained on parts of rows: those that mix tokens in their attention alone, and by order alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dimba.common.errors import BadInput
from dimba.options.speed_table import SEQUENCE_PARALLEL
from dimba.options.trainer import TrainerOptions
from dimba.trainers.kernels.sequence import NAME
from dimba.trainers.ranks import world_size

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Rotations that depend on the longest position of the input, which no part of a row has but the last.
_BY_LENGTH = ("dynamic", "longrope")
WITHOUT = "leave out `accelerate.sequence_parallel` (--sequence-parallel), and lower `training.max_length` instead"


def use_divided_attention(model: PreTrainedModel, options: TrainerOptions) -> None:
    """Switches the model to the attention of divided rows; raises BadInput if it cannot be that of this model."""
    ranks, key = options.ranks_per_row, SEQUENCE_PARALLEL.flag
    if world_size() % ranks:
        hint = "give a divisor of their number"
        raise BadInput(f"{world_size()} processes are no multiple of {ranks} ranks per row", hint, key=key)
    for problem in _problems(model, ranks):
        raise BadInput(f"rows cannot be divided among {ranks} ranks: {problem}", WITHOUT, key=key)
    model.set_attn_implementation(NAME)


def _problems(model: PreTrainedModel, ranks: int) -> Iterator[str]:
    config, attention = model.config.get_text_config(), model.config._attn_implementation
    if attention != "sdpa" or not model._can_set_attn_implementation():
        yield f"the model's attention is {attention}, or its own"
    heads = getattr(config, "num_attention_heads", None) or 0
    keys = getattr(config, "num_key_value_heads", None) or heads
    if heads % ranks or (keys % ranks and ranks % keys):
        yield f"it has {heads} heads, and {keys} of keys and values"
    if found := _rotations(getattr(config, "rope_parameters", None)) & set(_BY_LENGTH):
        yield f"its rotations ({', '.join(sorted(found))}) depend on the length of a row"


def _rotations(parameters: Mapping[str, Any] | None) -> set[str]:
    """The kinds of rotary embeddings; some models have parameters for each kind of layer."""
    if not parameters:
        return set()
    kinds = [parameters, *(each for each in parameters.values() if isinstance(each, Mapping))]
    return {str(each["rope_type"]) for each in kinds if each.get("rope_type")}
