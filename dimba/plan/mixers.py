"""Bytes of the activations of a block with two Mamba-2 mixers, as `dimba.models.dimba` computes them. Pure.

Both directions are one batch, and every term is of one of them, twice. The scan goes by chunks, to which rows are
filled up; it multiplies in half precision under autocast, the rest is float32. `scripts/bench/dimba_model.py` holds the
numbers against traces.
"""

from dimba.host.facts import MixerShape, ModelShape

_FLOAT32 = 4
_CHUNK = 64  # as in `dimba.models.dimba.scan`
_WORK = 28  # bytes for each number of `inner` that the way back takes beside what is kept


def saved(shape: ModelShape, mixers: MixerShape, rows: int, length: int, half: int) -> int:
    """Bytes that one layer saves for its backward pass; `half` is those of a number where weights meet."""
    inner, hidden = mixers.inner, shape.hidden
    # The convolution's output and what the scan gives in float32; what in_proj gives, and out_proj gets.
    mixed = 2 * _FLOAT32 * (mixers.channels + inner) + 2 * half * (mixers.projected + inner)
    normed = 6 * hidden * (_FLOAT32 + half)
    return rows * (length * (mixed + normed + 4 * shape.intermediate * half) + _scan(mixers, length, half))


def _scan(mixers: MixerShape, length: int, half: int) -> int:
    """Bytes of a row: decays, states and what they give in float32, and the values that are multiplied."""
    chunks = -(-length // _CHUNK)
    chunk = -(-length // chunks)
    inside = chunks * chunk * (_FLOAT32 * mixers.heads * chunk + half * mixers.inner)
    carried = (chunks - 1) * _FLOAT32 * mixers.inner * (chunk + mixers.states)
    return 2 * (inside + carried)


def largest_layer(
    shape: ModelShape, mixers: MixerShape, rows: int, length: int, half: int, *, weights: int, unpacked: int
) -> int:
    """Bytes of one layer and its backward pass; `weights` of copies at hand, `unpacked` of a matrix in nf4."""
    return saved(shape, mixers, rows, length, half) + rows * length * _WORK * mixers.inner + weights + unpacked
