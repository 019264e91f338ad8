"""Bytes that vLLM takes beside training, for the plan's estimate and for the share that the trainer gives it.

Standard library only. Not measured on a GPU: the shape of the formula is vLLM's own profile (weights, a forward pass
of the most tokens at once, logits of the most sequences, and what is left for keys and values).
"""

from dataclasses import dataclass

_HALF, _FLOAT32 = 2, 4
_GIB = 1 << 30
BATCHED_TOKENS = 4096  # read at once
_FULL_LENGTH = 64  # sequences of full length that the cache has room for: most completions end earlier
MOST_SEQUENCES = 256  # at once: more wait, and no longer make it quicker
_ENGINE = _GIB // 2  # workspaces of its kernels
ASLEEP = _GIB  # CUDA graphs and workspaces, which stay while it sleeps


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """The model and the batch that vLLM samples."""

    parameters: int
    layers: int
    kv_heads: int
    head_dim: int
    hidden: int
    intermediate: int
    vocabulary: int
    rows: int  # completions of a process and an optimiser step
    length: int  # tokens of the longest prompt and completion

    @property
    def sequences(self) -> int:
        """Completions that are sampled at once at most."""
        return min(self.rows, MOST_SEQUENCES)


@dataclass(frozen=True, kw_only=True)
class VllmMemory:
    """Bytes on one GPU while vLLM samples."""

    weights: int
    cache: int
    work: int

    @property
    def total(self) -> int:
        """The sum: what vLLM is given of a GPU."""
        return self.weights + self.cache + self.work


def vllm_memory(sampled: Sampled) -> VllmMemory:
    """The memory of vLLM on a GPU that it shares with training."""
    token = 2 * sampled.layers * sampled.kv_heads * sampled.head_dim * _HALF
    read = BATCHED_TOKENS * (4 * sampled.hidden + 3 * sampled.intermediate) * _HALF
    logits = 3 * sampled.sequences * sampled.vocabulary * _FLOAT32  # logits, probabilities, their logarithms
    return VllmMemory(
        weights=sampled.parameters * _HALF,
        cache=token * min(sampled.rows, _FULL_LENGTH) * sampled.length,
        work=max(read, logits) + _ENGINE,
    )
