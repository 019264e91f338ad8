"""The losses of masked tokens: the head projects these alone, of all others no logits are computed."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy

from dimba.trainers.kernels.head import logit_scores, token_losses, token_scores
from dimba.trainers.models.direction import probe_ids
from dimba.trainers.models.masked_diffusion.answers import Answers
from dimba.trainers.models.masked_diffusion.forward import heads_of, inputs_of, logits_of, mask_id
from dimba.trainers.models.masked_diffusion.noise import Noise, evaluated
from dimba.trainers.models.saved_model import evaluating
from dimba.trainers.models.sharding import from_first_rank, is_sharded
from dimba.trainers.ranks import is_main_process

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ROUNDING, _ROUNDING_HALF = 1e-3, 0.05  # nats, in float32 and in 16 bits, where other shapes round differently
_PROBED = 11  # tokens


def add_scoring(model: PreTrainedModel) -> str:
    """Adds `model(…, scored=…, targets=…)`, which returns losses in nats [tokens] in place of its output.

    `scored` [rows, tokens] marks the heads that predict `targets` [tokens]. With `temperature=…` it returns what
    `token_scores` does in place of losses. Returns what computes them, in words. `model` is a base, not an adapter.
    """
    original = model.forward
    limits = from_first_rank(_is_exact(model) if is_main_process() or not is_sharded() else True)

    @functools.wraps(type(model).forward)
    def forward(
        self: PreTrainedModel,
        *args: Any,
        scored: torch.Tensor | None = None,
        targets: torch.Tensor | None = None,
        temperature: float | None = None,
        **named: Any,
    ) -> Any:
        if scored is None or targets is None:
            return original(*args, **named)
        if limits:
            return _limited(self, original, scored, targets, named, temperature=temperature)
        return _scores(original(**named).logits[scored], targets, temperature)

    model.forward = types.MethodType(forward, model)
    return "the head over masked tokens only" if limits else "the logits of all tokens"


def _scores(logits: torch.Tensor, targets: torch.Tensor, temperature: float | None) -> torch.Tensor:
    if temperature is None:
        return cross_entropy(logits.float(), targets, reduction="none")
    return logit_scores(logits, targets, temperature)


def _limited(
    model: PreTrainedModel,
    forward: Any,
    scored: torch.Tensor,
    targets: torch.Tensor,
    named: dict[str, Any],
    *,
    temperature: float | None = None,
) -> torch.Tensor:
    states: list[torch.Tensor] = []

    def limit(_head: torch.nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        states.append(given[0][scored])
        # The weights of a sharded head are there for one call alone; else the head gets its input in parts, below.
        return (states[0][None] if is_sharded() else given[0][:, :0], *given[1:])

    with _before_head(model, limit):
        logits = forward(**named).logits
    [hidden] = states
    if is_sharded():
        return _scores(logits[0], targets, temperature)
    if temperature is None:
        return token_losses(model, hidden, targets)
    return token_scores(model, hidden, targets, temperature)


@contextmanager
def _before_head(model: PreTrainedModel, hook: Callable[..., tuple[Any, ...]]) -> Iterator[None]:
    """Surrounds a forward pass whose head gets what `hook` makes of its input: all of the model's own code runs."""
    handle = model.get_output_embeddings().register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _is_exact(model: PreTrainedModel) -> bool:
    """Whether the limited losses equal those of the model's logits in a numerical test."""
    try:
        with evaluating(model):
            is_wide = next(model.parameters()).dtype == torch.float32
            return _difference(model) <= (_ROUNDING if is_wide else _ROUNDING_HALF)
    except Exception:  # a head that is not called as a module, or a model that changes its logits
        return False


def _difference(model: PreTrainedModel) -> float:
    """The largest difference of a token's loss, in nats."""
    ids = probe_ids(model, _PROBED)
    masked = torch.zeros_like(ids, dtype=torch.bool)
    masked[:, 3:9:2] = True
    noise = Noise(masked, torch.full((1,), 0.5, device=ids.device))
    noised, targets = ids.masked_fill(masked, mask_id(model)), ids[masked]
    expected = cross_entropy(logits_of(model, noised, None, noise.share)[masked].float(), targets, reduction="none")
    named = inputs_of(model, noised, None, noise.share)
    return float((expected - _limited(model, model.forward, heads_of(model, masked), targets, named)).abs().max())


def losses(
    wrapped: torch.nn.Module, model: PreTrainedModel, ids: torch.Tensor, attended: torch.Tensor, noise: Noise
) -> torch.Tensor:
    """Losses in nats [rows, tokens] of the masked tokens, 0 elsewhere; `wrapped` is the model as a trainer calls it."""
    noised = ids.masked_fill(noise.masked, mask_id(model))
    inputs = inputs_of(model, noised, attended, noise.share)
    found = wrapped(**inputs, scored=heads_of(model, noise.masked), targets=ids[noise.masked])
    return found.new_zeros(ids.shape).masked_scatter(noise.masked, found)


def bounds(wrapped: torch.nn.Module, model: PreTrainedModel, answers: Answers) -> torch.Tensor:
    """Upper bounds [rows] on the negative log-likelihoods of answers in nats, from the fixed masks of each row."""
    total = torch.zeros(len(answers.ids), dtype=torch.float64, device=answers.ids.device)
    for level in evaluated(answers.ids, answers.trained):
        found = losses(wrapped, model, answers.ids, answers.attended, level.noise)
        total += found.sum(dim=1).double() * level.weight
    return total
