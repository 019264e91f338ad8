"""The output head over the tokens that carry loss only: most of its cost where answers are short.

TRL's fused head does so with Triton kernels; without them it computes logits for every position, padding included.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy, pad
from torch.utils.checkpoint import checkpoint
from trl.trainer.utils import FusedCausalLMOutput, add_fused_lm_head

from dimba.trainers.data.encoding import IGNORED
from dimba.trainers.kernels.last_mlp import LastMlp
from dimba.trainers.models.sharding import from_first_rank

if TYPE_CHECKING:
    from torch.autograd.function import FunctionCtx
    from transformers import PreTrainedModel

_AT_ONCE = 1 << 26  # logits, 256 MiB in float32; parts beyond it are checkpointed and recomputed for the gradients
_IN_CACHE = 1 << 18  # logits that fit in a CPU's cache for two passes
_ROUNDING = 1e-4  # nats per token
_PROBE = (3, 11)  # rows and tokens of the numerical test


def add_head(model: PreTrainedModel, *, on_cpu: bool) -> str:
    """Adds `model(…, labels=…, fused_lm_head=True)`, which returns `log_probs` of the labels in place of logits.

    Returns what computes them, in words. `shift_labels=…` are labels of the next token already, as a part of a row has
    them.

    `model` is a base, not an adapter. On a CPU the head is dimba's own if it equals the model's logits numerically;
    otherwise TRL's, which supports scaled and capped logits and routers.
    """
    if on_cpu and not _has_router(model) and (scoring := _exact_scoring(model)):
        _add_scoring(model, scoring)
        limited = "the last MLP and the head" if scoring.last_mlp.module is not None else "the head"
        return f"{limited} over tokens with loss only"
    add_fused_lm_head(model, outputs=("log_probs",))
    return "TRL's fused head"


def _has_router(model: PreTrainedModel) -> bool:
    config = model.config.get_text_config()
    return bool(getattr(config, "output_router_logits", False))


def _exact_scoring(model: PreTrainedModel) -> _Scoring | None:
    """The way to score that saves most, of those that give the model's losses; None if none does."""
    scoring = _Scoring(model, LastMlp(model))
    if from_first_rank(scoring.is_exact()):
        return scoring
    scoring.last_mlp.remove()
    return scoring if from_first_rank(scoring.is_exact()) else None


def _add_scoring(model: PreTrainedModel, scoring: _Scoring) -> None:
    original = model.forward

    @functools.wraps(type(model).forward)  # `generate` reads its parameters
    def forward(self: PreTrainedModel, *args: Any, fused_lm_head: bool = False, **named: Any) -> Any:
        return scoring.score(*args, **named) if fused_lm_head else original(*args, **named)

    model.forward = types.MethodType(forward, model)


@dataclass(frozen=True)
class _Scoring:
    """Scores the labels of a batch from the hidden states and the output embeddings alone."""

    model: PreTrainedModel
    last_mlp: LastMlp

    def score(
        self,
        *args: Any,
        labels: torch.Tensor | None = None,
        shift_labels: torch.Tensor | None = None,
        **named: Any,
    ) -> FusedCausalLMOutput:
        targets = shift_labels
        if targets is None:
            assert labels is not None
            targets = pad(labels[:, 1:], (0, 1), value=IGNORED)
        mask = targets != IGNORED
        with self._limited(mask):
            hidden = self.model.base_model(*args, **{**named, "use_cache": False}).last_hidden_state
        return FusedCausalLMOutput(log_probs=-token_losses(self.model, hidden[mask], targets[mask]), label_mask=mask)

    def _limited(self, wanted: torch.Tensor) -> AbstractContextManager[None]:
        # Checkpointed layers are computed again after the forward pass, and would then have no limit.
        is_recomputed = any(getattr(each, "gradient_checkpointing", False) for each in self.model.modules())
        return nullcontext() if is_recomputed else self.last_mlp.only(wanted)

    def is_exact(self) -> bool:
        """Whether the scores equal the losses of the model's logits in a numerical test."""
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            with torch.no_grad():
                return _difference(self) <= _ROUNDING
        except Exception:  # a backbone with another interface; a model that cannot train raises at the first step
            return False
        finally:
            for module, mode in modes:
                module.training = mode


class _LogProbs(torch.autograd.Function):
    """Log probabilities [tokens] of `targets` [tokens], computed in the memory of `logits` [tokens, vocabulary].

    The backward pass writes the gradients into the same memory.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(torch.log_softmax(logits, -1, out=logits), targets)
        return logits.gather(-1, targets[:, None]).squeeze(-1)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        logits, targets = ctx.saved_tensors
        rows = max(1, _IN_CACHE // logits.shape[1]) if logits.device.type == "cpu" else len(logits)
        for part, weight in zip(logits.split(rows), gradient[:, None].split(rows), strict=True):
            part.exp_().mul_(-weight)
        return logits.scatter_add_(-1, targets[:, None], gradient[:, None]), None


def token_losses(model: PreTrainedModel, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Losses in nats [tokens] for hidden states [tokens, size]."""
    return _in_parts(_part_losses, model, hidden, targets)


def token_scores(
    model: PreTrainedModel, hidden: torch.Tensor, targets: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Log-probabilities of the targets and entropies [tokens, 2] in nats at a temperature, for hidden states.

    The entropies have no gradient.
    """
    return _in_parts(functools.partial(_part_scores, temperature=temperature), model, hidden, targets)


def _in_parts(
    score: Callable[..., torch.Tensor], model: PreTrainedModel, hidden: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    head = model.get_output_embeddings()
    rows = max(1, _AT_ONCE // head.weight.shape[0])
    if len(targets) <= rows:
        return score(head, hidden, targets)
    parts = zip(hidden.split(rows), targets.split(rows), strict=True)
    return torch.cat([checkpoint(score, head, *part, use_reentrant=False) for part in parts])


def _part_losses(head: torch.nn.Module, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return -_LogProbs.apply(head(hidden).float(), targets)


def _part_scores(
    head: torch.nn.Module, hidden: torch.Tensor, targets: torch.Tensor, *, temperature: float
) -> torch.Tensor:
    return logit_scores(head(hidden), targets, temperature)


def logit_scores(logits: torch.Tensor, targets: torch.Tensor, temperature: float) -> torch.Tensor:
    """As `token_scores`, for logits [tokens, vocabulary]."""
    tempered = logits.float() if temperature == 1 else logits.float() / temperature
    chosen = _LogProbs.apply(tempered, targets)  # whose memory has all log-probabilities then
    rows = max(1, (_IN_CACHE if logits.device.type == "cpu" else _AT_ONCE // 8) // logits.shape[1])
    with torch.no_grad():
        entropies = [-(part.exp() * part).sum(dim=-1) for part in tempered.detach().split(rows)]
    return torch.stack([chosen, torch.cat(entropies)], dim=-1)


def _difference(scoring: _Scoring) -> float:
    """The largest difference of a token's loss, in nats; NaN, which no bound accepts, if a loss is NaN."""
    model = scoring.model
    size = min(model.config.get_text_config().vocab_size, model.get_output_embeddings().weight.shape[0])
    ids = torch.randint(size, _PROBE, generator=torch.Generator().manual_seed(0))
    positions = torch.arange(_PROBE[1]).expand(_PROBE)
    labels = ids.masked_fill(positions < _PROBE[1] // 2, IGNORED)
    inputs = {"input_ids": ids, "position_ids": positions}
    logits = model(**inputs, use_cache=False).logits[:, :-1].float()
    mask = labels[:, 1:] != IGNORED
    expected = cross_entropy(logits[mask], ids[:, 1:][mask], reduction="none")
    return (expected + scoring.score(**inputs, labels=labels).log_probs).abs().max().item()
