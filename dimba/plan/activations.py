"""Bytes of the activations of a training step, by the shape of the model. Pure.

Counted are the tensors that are alive at the moments at which most of them are, for the trainers' own step: what every
layer keeps for its backward pass, or its input alone, and one recomputed layer at a time (Chen et al., Training
Deep Nets with Sublinear Memory Cost, arXiv:1604.06174), attention that
keeps no scores (Dao et al., FlashAttention, arXiv:2205.14135), a head that projects in tiles of 4,096 tokens by 32,768
words (TRL's `add_fused_lm_head`), and autocast, which keeps a stream of the weights' own type between layers. A token
is counted as by Korthikanti et al. (Reducing Activation Recomputation in Large Transformer Models, arXiv:2205.05198),
for blocks with a gated MLP and norms in float32; `scripts/bench/memory.py` holds the numbers against traces.
"""

from dataclasses import dataclass

from dimba.host.facts import ModelShape
from dimba.plan import mixers

FLOAT32, HALF = 4, 2
_TILE_TOKENS, _TILE_WORDS = 4096, 32768
_LOGITS = 1 << 26  # of a head without tiles at once, as in `dimba.trainers.kernels.head`


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One forward pass: so many rows of so many tokens."""

    rows: int
    length: int
    scored: int  # tokens that go through the head
    masked: bool  # rows are padded, or hold several documents: a mask over all pairs of positions is made
    tiled: bool = True  # the head projects in tiles

    @property
    def tokens(self) -> int:
        """All of them, padding too."""
        return self.rows * self.length

    @property
    def pairs(self) -> int:
        """Positions that a mask has."""
        return self.rows * self.length**2 if self.masked else 0


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Bytes of a number where weights meet (`compute`) and between layers (`stream`)."""

    compute: int
    stream: int
    trains_base: bool
    packed: bool = False  # matrices are in nf4, and unpacked one at a time for what they are multiplied with
    wide: bool = False  # what comes of a matrix is float32 all the same
    trains_head: bool = False  # in float32, beside a frozen base too
    trains_embedding: bool = False

    @property
    def copies(self) -> bool:
        """Whether autocast makes copies of weights in another type, and keeps them until the forward pass ends."""
        return self.trains_base and self.compute < FLOAT32


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """What the adapters of a layer keep; by default, of all its matrices."""

    rank: int
    matrices: int = 7
    inputs: float = 1.0  # the share of the matrices' inputs that an adapter keeps
    down: bool = True  # the MLP's last matrix has one
    dropped: int = 0  # numbers of a token that are dropped out: all inputs
    outputs: int = 0  # numbers of a token that DoRA keeps twice
    norms: int = 0  # bytes of the largest matrix, whose norm DoRA computes


def kept_inputs(shape: ModelShape, batch: Batch, precision: Precision) -> int:
    """The input of each layer, which is kept until its backward pass."""
    return shape.layers * batch.tokens * shape.hidden * precision.stream


def saved(shape: ModelShape, batch: Batch, precision: Precision, adapter: Adapter) -> int:
    """Bytes that one layer saves for its backward pass without activation checkpointing.

    The mask is among them: every layer converts it to numbers.
    """
    if shape.mixers:
        return mixers.saved(shape, shape.mixers, batch.rows, batch.length, precision.compute)
    half, hidden, norms = precision.compute, shape.hidden, _norms(shape)
    wide = 2 if shape.plain else 4  # gate, up, act(gate) and their product, or up and act(up)
    if precision.trains_base:
        # Inputs of five matrices cast apart, or two normalised ones for all; residuals and what is normalised of them.
        apart = 5 if precision.copies else 2
        token = wide * _through(shape) * half + hidden * (apart * half + 2 * norms * FLOAT32)
    else:
        # Frozen matrices keep no input: their adapters do, each a copy of its own, but for those of matrices in nf4.
        inputs = 2 * hidden if precision.packed else int(adapter.inputs * (5 * hidden + shape.heads * shape.head_dim))
        wide -= not adapter.down  # what goes into the last matrix
        token = half * (wide * _through(shape) + inputs + adapter.matrices * adapter.rank) + hidden * norms * FLOAT32
        token += _of_options(adapter, precision)
        if precision.wide:  # beside the copy that the last of them, or an MLP without a gate, has in the other type
            token += (1 if shape.plain else wide + 1) * shape.intermediate * (FLOAT32 - half)
    return _attention(shape, batch, precision) + batch.tokens * token


def _of_options(adapter: Adapter, precision: Precision) -> int:
    """Bytes of a token: a byte of each number that is dropped out; DoRA keeps what each matrix and its adapter give."""
    return adapter.dropped + 2 * adapter.outputs * precision.compute


def mask(shape: ModelShape, batch: Batch) -> int:
    """One byte a pair of positions, where there is attention."""
    return 0 if shape.mixers else batch.pairs


def weight_copies(shape: ModelShape, precision: Precision) -> int:
    """Autocast's cache (torch.amp: `cache_enabled`): every matrix of every layer, where weights are float32."""
    return shape.layers * shape.block_parameters * precision.compute if precision.copies else 0


def largest_layer(
    shape: ModelShape, batch: Batch, precision: Precision, adapter: Adapter, *, new_gradients: bool
) -> int:
    """Bytes of one recomputed layer and its backward pass; `new_gradients`: beside those of earlier batches."""
    if shape.mixers:
        weights, matrix = _weights_at_hand(shape, precision), unpacked(shape, precision)
        size = batch.rows, batch.length, precision.compute
        return mixers.largest_layer(shape, shape.mixers, *size, weights=weights, unpacked=matrix)
    attention = _attention(shape, batch, precision)
    at_mlp = _mlp(shape, batch, precision) + attention + _weights_at_hand(shape, precision)
    at_norm = _norm(shape, batch, precision) + attention
    at_weight = 0
    if precision.trains_base:
        wide = 3 * _wide(shape) * shape.hidden if shape.experts else shape.intermediate * shape.hidden
        at_weight = at_mlp - batch.tokens * shape.intermediate * precision.compute * (not shape.experts)
        at_weight += wide * (precision.compute + (FLOAT32 if new_gradients else 0))
    elif precision.packed:
        at_weight = at_mlp - batch.tokens * shape.intermediate * precision.compute + unpacked(shape, precision)
    drawn = shape.intermediate * FLOAT32 if adapter.dropped else 0  # what is left of the widest input
    return max(at_mlp, at_norm, at_weight) + batch.tokens * (_of_options(adapter, precision) + drawn) + adapter.norms


def _attention(shape: ModelShape, batch: Batch, precision: Precision) -> int:
    """Queries, keys, values, what comes of them and its logarithms; the mask as numbers, in which it is added."""
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    # With a mask, transformers repeats keys and values for every head (`use_gqa_in_sdpa`).
    numbers = 4 * query if batch.masked else 2 * query + 2 * key
    normed = (query + key) * (FLOAT32 + (HALF if precision.trains_base else 0)) if shape.head_norms else 0
    token = numbers * precision.compute + shape.heads * FLOAT32 + normed
    return batch.tokens * token + batch.pairs * precision.compute


def _mlp(shape: ModelShape, batch: Batch, precision: Precision) -> int:
    half, hidden, query = precision.compute, shape.hidden, shape.heads * shape.head_dim
    norms = hidden * _norms(shape) * FLOAT32
    if precision.trains_base:
        # gate, up, act(gate), their product, and two gradients; inputs of five matrices cast apart; two residuals and
        # two normalised inputs in float32.
        return batch.tokens * (6 * _through(shape) * half + hidden * (5 * half + (2 + _norms(shape)) * FLOAT32))
    if precision.packed and not shape.experts:
        # gate, up, act(gate), and three gradients; two normalised inputs and a gradient, both norms' inputs in float32.
        wide = (4 if shape.plain else 6) * shape.intermediate * (FLOAT32 if precision.wide else half)
        return batch.tokens * (wide + half * 3 * hidden + norms)
    # The same forward, where each adapter casts its input to float32 and back; both norms' inputs in float32. Experts
    # have their inputs gathered, their outputs weighed, and their weights joined with what the adapters make of them.
    visits = 5 * hidden + 4 * shape.expert_intermediate
    wide = max(1, shape.active_experts) * visits if shape.experts else (5 if shape.plain else 7) * shape.intermediate
    joined = shape.expert_parameters * half
    return batch.tokens * (half * (wide + 10 * hidden + query) + norms) + joined


def unpacked(shape: ModelShape, precision: Precision) -> int:
    """The largest matrix that is in nf4, and the scales of its blocks of 64 in float32."""
    weights = (2 if shape.joined else 1) * shape.intermediate * shape.hidden if precision.packed else 0
    return weights * precision.compute + weights // 64 * FLOAT32


def _norm(shape: ModelShape, batch: Batch, precision: Precision) -> int:
    """The backward pass of a norm, in float32."""
    casts = 3 if precision.trains_base else 5
    return batch.tokens * shape.hidden * (casts * precision.compute + 7 * FLOAT32)


def _norms(shape: ModelShape) -> int:
    return max(2, shape.norms)


def _wide(shape: ModelShape) -> int:
    return shape.expert_intermediate if shape.experts else shape.intermediate


def _through(shape: ModelShape) -> int:
    """Numbers of a token between the matrices of its MLP: of each expert that it visits, with its copy of the input."""
    if not shape.experts:
        return shape.intermediate
    return max(1, shape.active_experts) * (shape.expert_intermediate + shape.hidden)


def _weights_at_hand(shape: ModelShape, precision: Precision) -> int:
    """Copies of a layer's weights that its backward pass has yet to use."""
    return shape.block_parameters * precision.compute if precision.copies else 0


def head(shape: ModelShape, batch: Batch, precision: Precision) -> int:
    """The head, forward: last states, normalised and gathered, and a tile or part of the logits; never all of them."""
    states = 4 if precision.trains_base else 6  # numbers of the stream, the norm's float32 among them
    last = batch.tokens * shape.hidden * precision.stream * states
    if not batch.tiled:
        return last + batch.scored * shape.hidden * precision.compute + _part(shape, batch, precision)
    tile = min(batch.scored, _TILE_TOKENS)
    tiles = tile * _TILE_WORDS + tile * shape.hidden
    tiles += min(shape.vocabulary, _TILE_WORDS) * shape.hidden if _casts_head(precision) else 0
    return last + tiles * precision.compute


def _part(shape: ModelShape, batch: Batch, precision: Precision) -> int:
    """Logits that are there at once, as the head gives them and in float32, and the copy of the head's weights."""
    logits = min(batch.scored, max(1, _LOGITS // shape.vocabulary)) * shape.vocabulary
    given = precision.compute if precision.compute < FLOAT32 else 0
    copy = shape.vocabulary * shape.hidden * precision.compute if _casts_head(precision) else 0
    return logits * (FLOAT32 + given) + copy


def _casts_head(precision: Precision) -> bool:
    """Whether the head's weights are multiplied in another type than their own."""
    return precision.copies or (precision.trains_head and precision.compute < FLOAT32)


def head_backward(shape: ModelShape, batch: Batch, precision: Precision) -> int:
    """The same, with the gradients of its input and of its weights in float32."""
    weights = shape.vocabulary * shape.hidden * FLOAT32 if precision.trains_head else 0
    states = batch.scored * shape.hidden * (FLOAT32 + (0 if precision.trains_base else HALF))
    return head(shape, batch, precision) + states + weights


def embedding_backward(shape: ModelShape, *, kept: bool) -> int:
    """Gradients over the whole vocabulary: the embedding's own, and where the head is tied to it that one and the sum.

    One of them becomes the gradient itself, unless there is one `kept` from a batch before.
    """
    made = 3 if shape.tied else 1
    return (made if kept else made - 1) * shape.vocabulary * shape.hidden * FLOAT32


def exchanged(shape: ModelShape, batch: Batch, precision: Precision, ranks: int) -> int:
    """What ranks that share rows exchange around the attention of a layer: what they send, and what they receive.

    Queries, keys and values before it, or their gradients on the way back; at least a head of keys for each rank.
    """
    if ranks == 1:
        return 0
    heads = shape.heads + 2 * max(shape.kv_heads, ranks)
    return 2 * batch.tokens * heads * shape.head_dim * precision.compute
