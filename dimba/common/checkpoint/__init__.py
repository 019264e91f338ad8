"""A checkpoint's folder, examined without loading it: the launcher and the trainers read it the same way."""

from dimba.common.checkpoint.adapter import adapter_refusal
from dimba.common.checkpoint.check import check_base, check_tokenizer, refusal_for_method, refusal_of
from dimba.common.checkpoint.files import Checkpoint, Unreadable, incomplete_refusal, read_checkpoint
from dimba.common.checkpoint.kind import Kind, kind_of
from dimba.common.checkpoint.positions import Positions, context_length, positions_of
from dimba.common.checkpoint.quantization import Quantization, quantization_of
from dimba.common.checkpoint.refusal import Refusal
from dimba.common.checkpoint.tokenizer import tokenizer_needs, tokenizer_refusal, vocabulary_refusal
from dimba.common.checkpoint.tokens import TokenCounts, absent_tokens, count_tokens
from dimba.common.checkpoint.weights import weights_refusal

__all__ = [
    "Checkpoint",
    "Kind",
    "Positions",
    "Quantization",
    "Refusal",
    "TokenCounts",
    "Unreadable",
    "absent_tokens",
    "adapter_refusal",
    "check_base",
    "check_tokenizer",
    "context_length",
    "count_tokens",
    "incomplete_refusal",
    "kind_of",
    "positions_of",
    "quantization_of",
    "read_checkpoint",
    "refusal_for_method",
    "refusal_of",
    "tokenizer_needs",
    "tokenizer_refusal",
    "vocabulary_refusal",
    "weights_refusal",
]
