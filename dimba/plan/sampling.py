"""What GRPO's sampling holds beside weights and moments: the cache, and what reading and writing take at once. Pure.

Cached are two vectors a layer and token (Pope et al., Efficiently Scaling Transformer Inference, arXiv:2211.05102). The
worst is either reading all prompts at once, or the last token, when the whole cache is there. A trained base samples
under one autocast, which keeps its copies of weights; one with an adapter in its own type, the adapter in float32.
`scripts/bench/memory.py` holds the numbers against traces.
"""

from dataclasses import replace

from dimba.host.facts import ModelShape
from dimba.objectives.vllm_memory import Sampled
from dimba.plan import activations, mixers
from dimba.plan.activations import FLOAT32, HALF, Batch, Precision


def sampling(shape: ModelShape, batch: Batch, precision: Precision, *, prompt: int) -> tuple[int, int]:
    """(the cache, the rest at its worst) while `batch` is sampled from prompts of so many tokens."""
    cache = shape.layers * _vectors(shape, precision)
    asked = replace(batch, length=prompt)
    first = cache * asked.tokens, _reading(shape, asked, precision)
    last = cache * batch.tokens, _last_token(shape, batch, precision)
    return max(first, last, key=sum)


def reading_rows(shape: ModelShape, batch: Batch, precision: Precision, *, logits: int) -> int:
    """Without a cache: a layer over all tokens of the rows, or their logits, as computed and so often in float32."""
    if shape.mixers:
        layer = mixers.saved(shape, shape.mixers, batch.rows, batch.length, precision.compute)
    else:
        layer = _reading(shape, batch, precision)
    return max(layer, batch.tokens * shape.vocabulary * (precision.compute + logits * FLOAT32))


def sampled_by_vllm(shape: ModelShape, parameters: int, batch: Batch) -> Sampled:
    """`batch`, all completions of a process and step, for the memory that vLLM needs to sample them."""
    experts = shape.active_experts * shape.expert_intermediate
    return Sampled(
        parameters=parameters,
        layers=shape.layers,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        hidden=shape.hidden,
        intermediate=max(shape.intermediate, experts),
        vocabulary=shape.vocabulary,
        rows=batch.rows,
        length=batch.length,
    )


def _vectors(shape: ModelShape, precision: Precision) -> int:
    """A key and a value, in the type that keys have behind the rotation."""
    return 2 * shape.kv_heads * shape.head_dim * (FLOAT32 if precision.trains_base else HALF)


def _reading(shape: ModelShape, batch: Batch, precision: Precision) -> int:
    stream = FLOAT32 if precision.trains_base else HALF
    mask = batch.pairs * (1 + precision.compute)
    at_attention = batch.tokens * (3 * shape.hidden * stream + _attention(shape, precision, stream)) + mask
    # The embedding, two residuals and what is normalised of them; an adapter has the latter in float32 too.
    states = shape.hidden * (4 * stream + (0 if precision.trains_base else FLOAT32))
    joined = 0 if precision.trains_base else shape.expert_parameters * HALF  # experts with what adapters make of them
    return max(at_attention, batch.tokens * (states + _mlp(shape, precision)) + batch.pairs + joined)


def _attention(shape: ModelShape, precision: Precision, stream: int) -> int:
    """Queries, keys and values for every head, the same in the type computed in, and what comes of them."""
    repeated = 2 if shape.heads > shape.kv_heads else 0
    cast = 3 if stream > precision.compute else 0
    query = shape.heads * shape.head_dim
    return query * ((1 + repeated) * stream + (cast + 1) * precision.compute) + shape.heads * FLOAT32


def _mlp(shape: ModelShape, precision: Precision) -> int:
    """gate, up and their product; where an adapter adds to one of them, what it adds and that scaled in float32."""
    if shape.experts:
        hidden, wide = shape.hidden, shape.expert_intermediate
        return max(1, shape.active_experts) * max(4 * hidden, hidden + 4 * wide) * precision.compute
    if precision.trains_base:
        return (2 if shape.plain else 3) * shape.intermediate * precision.compute
    if shape.joined:
        return 2 * shape.intermediate * (HALF + 2 * FLOAT32)
    return shape.intermediate * ((1 if shape.plain else 2) * HALF + 2 * FLOAT32)


def _last_token(shape: ModelShape, batch: Batch, precision: Precision) -> int:
    """Bytes beside the cache and the copies of the layers' weights, which stay, for the last token."""
    words = batch.rows * shape.vocabulary
    copy = shape.vocabulary * shape.hidden * precision.compute if precision.copies else 0
    head = copy + words * precision.compute if copy else 0
    drawn = copy + 4 * words * FLOAT32  # scores, tempered, as probabilities, draws
    grown = _vectors(shape, precision) * batch.tokens // 2  # keys or values of a layer, longer by a token
    return max(head, drawn, grown, activations.unpacked(shape, precision))
