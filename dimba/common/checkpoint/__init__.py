"""A checkpoint's folder, examined without loading it: the launcher and the trainers read it the same way."""

from dimba.common.checkpoint.adapter import adapter_refusal
from dimba.common.checkpoint.check import check_base, refusal_for_method, refusal_of
from dimba.common.checkpoint.files import Checkpoint, read_checkpoint
from dimba.common.checkpoint.kind import Kind, kind_of
from dimba.common.checkpoint.positions import Positions, context_length, positions_of
from dimba.common.checkpoint.quantization import Quantization, quantization_of
from dimba.common.checkpoint.refusal import Refusal
from dimba.common.checkpoint.tokens import TokenCounts, count_tokens

__all__ = [
    "Checkpoint",
    "Kind",
    "Positions",
    "Quantization",
    "Refusal",
    "TokenCounts",
    "adapter_refusal",
    "check_base",
    "context_length",
    "count_tokens",
    "kind_of",
    "positions_of",
    "quantization_of",
    "read_checkpoint",
    "refusal_for_method",
    "refusal_of",
]
