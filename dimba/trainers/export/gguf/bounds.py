"""How far a GGUF of each type may be from the model it was made of, on the rows of a proof.

`docs/gguf.md` has what was measured (`scripts/bench/gguf.py`), and llama.cpp's own numbers of an 8 B model, which are
further apart than those of small ones: the bounds leave room for both, and none for a layer that is missing.
"""

from typing import NamedTuple


class Bound(NamedTuple):
    """The lowest share of equal likeliest tokens, and the highest mean KL divergence in nats."""

    agreement: float
    kl_mean: float


BOUNDS = {
    "f32": Bound(0.99, 1e-3),
    "bf16": Bound(0.97, 5e-3),
    "f16": Bound(0.99, 2e-3),
    "q8_0": Bound(0.95, 0.01),
    "q6_k": Bound(0.91, 0.03),
    "q5_k_m": Bound(0.85, 0.06),
    "q5_k_s": Bound(0.84, 0.08),
    "q5_1": Bound(0.84, 0.08),
    "q5_0": Bound(0.84, 0.08),
    "q4_k_m": Bound(0.75, 0.15),
    "q4_k_s": Bound(0.73, 0.2),
    "q4_1": Bound(0.70, 0.3),
    "q4_0": Bound(0.70, 0.3),
    "q3_k_m": Bound(0.60, 0.5),
}
