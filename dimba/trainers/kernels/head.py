"""The head over the tokens that carry loss, and no others: most of what it costs where answers are short.

TRL's head does that with Triton kernels alone, and without them scores every position, padding and all.
"""

import functools
import types
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from trl.trainer.utils import FusedCausalLMOutput, add_fused_lm_head

from dimba.trainers.data.chat import IGNORED
from dimba.trainers.models.sharding import agreed

_AT_ONCE = 1 << 26  # logits: 256 MiB in float32; what is more is computed again for the gradients
_IN_CACHE = 1 << 18  # logits that are gone over twice before the next ones
_ROUNDING = 1e-4  # nats a token
_PROBE = (3, 11)  # rows and tokens that are tried


def add_head(model: Any, *, on_cpu: bool) -> None:
    """`model(…, labels=…, fused_lm_head=True)` gives `log_probs` of labels instead of logits; `model` is no adapter.

    Ours on the CPU, where it gives what the model's own logits do; otherwise TRL's, which knows of scaled and capped
    logits and of routers.
    """
    if on_cpu and not _routes(model) and agreed(_is_exact(model)):
        _add_scoring(model)
    else:
        add_fused_lm_head(model, outputs=("log_probs",))


def _routes(model: Any) -> bool:
    config = model.config.get_text_config()
    return bool(getattr(config, "output_router_logits", False))


def _add_scoring(model: Any) -> None:
    original = model.forward

    @functools.wraps(type(model).forward)  # `generate` looks at its parameters
    def forward(self: Any, *args: Any, fused_lm_head: bool = False, **named: Any) -> Any:
        return _scored(self, *args, **named) if fused_lm_head else original(*args, **named)

    model.forward = types.MethodType(forward, model)


def _scored(model: Any, *args: Any, labels: torch.Tensor, **named: Any) -> FusedCausalLMOutput:
    hidden = model.base_model(*args, **{**named, "use_cache": False}).last_hidden_state[:, :-1]
    targets = labels[:, 1:]
    mask = targets != IGNORED
    return FusedCausalLMOutput(log_probs=-_losses(model, hidden[mask], targets[mask]), label_mask=mask)


class _LogProbs(torch.autograd.Function):
    """Log probabilities of targets, in the memory of the logits, and their gradients there as well."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(torch.log_softmax(logits, -1, out=logits), targets)
        return logits.gather(-1, targets[:, None]).squeeze(-1)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        logits, targets = ctx.saved_tensors
        rows = max(1, _IN_CACHE // logits.shape[1])
        for part, weight in zip(logits.split(rows), gradient[:, None].split(rows), strict=True):
            part.exp_().mul_(-weight)
        return logits.scatter_add_(-1, targets[:, None], gradient[:, None]), None


def _losses(model: Any, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Nats of each token."""
    head = model.get_output_embeddings()
    rows = max(1, _AT_ONCE // head.weight.shape[0])
    if len(targets) <= rows:
        return _part(head, hidden, targets)
    parts = zip(hidden.split(rows), targets.split(rows), strict=True)
    return torch.cat([checkpoint(_part, head, *part, use_reentrant=False) for part in parts])


def _part(head: Any, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return -_LogProbs.apply(head(hidden).float(), targets)


def _is_exact(model: Any) -> bool:
    """Whether the head on what the backbone gives is all that stands between that and the losses."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            return _difference(model) <= _ROUNDING
    except Exception:  # a backbone of another kind; what cannot train at all says so at the first step
        return False
    finally:
        for module, mode in modes:
            module.training = mode


def _difference(model: Any) -> float:
    size = min(model.config.get_text_config().vocab_size, model.get_output_embeddings().weight.shape[0])
    ids = torch.randint(size, _PROBE, generator=torch.Generator().manual_seed(0))
    places = torch.arange(_PROBE[1]).expand(_PROBE)
    labels = ids.masked_fill(places < _PROBE[1] // 2, IGNORED)
    named = {"input_ids": ids, "position_ids": places}
    logits = model(**named, use_cache=False).logits[:, :-1].float()
    mask = labels[:, 1:] != IGNORED
    expected = cross_entropy(logits[mask], ids[:, 1:][mask], reduction="none")
    # Written so that a loss that is no number is not exact.
    return (expected + _scored(model, **named, labels=labels).log_probs).abs().max().item()
