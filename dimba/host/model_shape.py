"""The shape of a model, read from config.json and checked against the headers of its weights."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from dimba.common.checkpoint.adapted import EXPERT
from dimba.host.facts import MixerShape, ModelShape

Tensors = Sequence[tuple[str, Sequence[int]]]

_NAMES = {
    "hidden": ("hidden_size", "n_embd", "d_model", "dim"),
    "layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "heads": ("num_attention_heads", "n_head", "num_heads", "n_heads"),
    "kv_heads": ("num_key_value_heads", "n_head_kv", "num_kv_heads"),
    "head_dim": ("head_dim",),
    "intermediate": ("intermediate_size", "n_inner", "ffn_dim", "d_ff", "ffn_hidden_size"),
    "experts": ("num_local_experts", "num_experts", "n_routed_experts"),
    "active_experts": ("num_experts_per_tok", "moe_top_k", "num_experts_per_token"),
    "expert_intermediate": ("moe_intermediate_size", "intermediate_size"),
}
_EMBEDDING = re.compile(r"(embed_tokens|wte|embed_in|word_embeddings|tok_embeddings)\.weight$")
_HEAD = re.compile(r"(lm_head|embed_out|output)\.weight$")
_NORM = re.compile(r"(norm|ln)\w*\.weight$")
_NORM_BIAS = re.compile(r"(norm|ln)\w*\.bias$")
_HEAD_NORM = re.compile(r"\b([qk]_norm|query_norm|key_norm)\.weight$")
_ONE_KERNEL = ("gelu", "gelu_pytorch_tanh", "relu", "silu")  # others, as `gelu_new`, are several and keep more
_MIXER = "mixer_forward."  # of blocks with mixers of two directions in place of attention
_LAYER = re.compile(r"(?:layers|h|blocks|block)\.(\d+)\.")


def model_shape(config: Mapping[str, Any], tensors: Tensors) -> ModelShape | None:
    """The shape; None if a number is missing, absurd, or contradicts the tensors (name and shape each)."""
    if any(_MIXER in name for name, _ in tensors):
        return _mixer_shape(config, tensors)
    text = config.get("text_config")
    values = {**config, **text} if isinstance(text, Mapping) else config
    found = {name: _number(values, keys) for name, keys in _NAMES.items()}
    hidden, layers, heads = found["hidden"], found["layers"], found["heads"]
    embedding = next((shape for name, shape in tensors if _EMBEDDING.search(name) and len(shape) == 2), None)
    if not (hidden and layers and heads and embedding):
        return None
    intermediate = found["intermediate"] or 4 * hidden
    shape = ModelShape(
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=found["kv_heads"] or (1 if values.get("multi_query") is True else heads),
        head_dim=found["head_dim"] or max(1, hidden // heads),
        intermediate=intermediate,
        plain=values.get("hidden_act") in _ONE_KERNEL and _between(tensors, {hidden, intermediate}) == 2 * layers,
        joined=_between(tensors, {hidden, 2 * intermediate}) == layers,
        vocabulary=embedding[0],
        tied=values.get("tie_word_embeddings") is True or not any(_HEAD.search(name) for name, _ in tensors),
        experts=found["experts"] or 0,
        active_experts=found["active_experts"] or 0,
        expert_intermediate=(found["expert_intermediate"] or 0) if found["experts"] else 0,
        head_norms=any(_HEAD_NORM.search(name) for name, _ in tensors),
        block_parameters=_in_blocks(tensors) // layers,
        expert_parameters=_in_blocks([each for each in tensors if EXPERT in each[0]]) // layers,
        norms=_norms(tensors, hidden) // layers,
        layer_norms=any(_NORM_BIAS.search(name) for name, _ in tensors),
    )
    return shape if _agrees(shape, embedding, tensors) else None


def _mixer_shape(config: Mapping[str, Any], tensors: Tensors) -> ModelShape | None:
    """The shape of blocks with mixers; None if a tensor that determines it is missing, or a number is."""
    shapes = {re.sub(r".*layers\.0\.", "", name): sides for name, sides in tensors}
    names = ("in_proj.weight", "out_proj.weight", "conv1d.weight", "dt_bias")
    found = [shapes.get(f"{_MIXER}{name}") for name in names]
    embedding, wide = shapes.get("model.embed_tokens.weight"), shapes.get("mlp.up_proj.weight")
    layers = _number(config, _NAMES["layers"])
    if None in found or embedding is None or wide is None or layers is None:
        return None
    (projected, hidden), (_, inner), (channels, *_), (heads,) = (each or () for each in found)
    mixers = MixerShape(
        inner=inner, states=(channels - inner) // 2, heads=heads, projected=projected, channels=channels
    )
    return ModelShape(
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=heads,
        head_dim=inner // heads,
        intermediate=wide[0],
        vocabulary=embedding[0],
        tied=config.get("tie_word_embeddings") is not False,
        block_parameters=_in_blocks(tensors) // layers,
        mixers=mixers,
    )


def _number(config: Mapping[str, Any], keys: Sequence[str]) -> int | None:
    values = (config.get(key) for key in keys)
    return next((value for value in values if type(value) is int and 0 < value < 1 << 24), None)


def _in_blocks(tensors: Tensors) -> int:
    return sum(math.prod(shape) for name, shape in tensors if _LAYER.search(name))


def _norms(tensors: Tensors, hidden: int) -> int:
    found = [name for name, shape in tensors if list(shape) == [hidden] and _NORM.search(name) and _LAYER.search(name)]
    return sum(1 for name in found if not _HEAD_NORM.search(name))


def _between(tensors: Tensors, sizes: set[int]) -> int:
    """The number of matrices in all layers between two sizes: 2 or, with a gate, 3 per layer, or 1 if it is fused."""
    return sum(1 for name, shape in tensors if len(shape) == 2 and set(shape) == sizes and _LAYER.search(name))


def _agrees(shape: ModelShape, embedding: Sequence[int], tensors: Tensors) -> bool:
    """Whether the weights fit the shape: memory estimates decide about refusals, and config.json may be wrong."""
    numbers = {int(match[1]) for name, _ in tensors if (match := _LAYER.search(name))}
    sides = {side for name, sizes in tensors if _LAYER.search(name) for side in sizes}
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    attention = {query, key, query + 2 * key} & sides
    wide = shape.expert_intermediate or shape.intermediate
    return (
        embedding[1] == shape.hidden
        and len(numbers) == shape.layers
        and bool(attention)
        and shape.kv_heads <= shape.heads
        and bool({wide, 2 * wide} & sides)
    )
