"""A numerical test of another attention for packed rows: after the losses, the gradients, and a pass as in training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dimba.trainers.data.packing import Feature, pack_rows
from dimba.trainers.data.packing_probe import (
    LENGTHS,
    LIMITS,
    SHARE,
    ProbeResult,
    documents_for,
    in_mode,
    in_words,
    one_document,
    probe_packing,
    rounds_finely,
    token_losses,
)
from dimba.trainers.kernels.attending import attending, narrowed_windows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ROUNDING = 1e-3  # of the largest gradient, in float32
_SINKS = 0.25  # of a sink's gradient, in 16 bits: the sum over all tokens of a head

Gradients = tuple[torch.Tensor, list[torch.Tensor]]  # to the embedded tokens [tokens, size], and to sinks


def probe_attention(model: PreTrainedModel, attention: str) -> ProbeResult:
    """Compares losses and gradients of documents apart, under the model's attention, and packed under this one.

    Gradients are compared where tokens are embedded, behind all layers, and at sinks if these are trained.
    """
    probe = probe_packing(model, attention)
    if not probe.is_exact:
        return probe
    try:
        with in_mode(model, training=False), narrowed_windows(model):
            problem = _problem(model, documents_for(model), attention)
        _train_once(model, attention)
    except Exception as error:  # a kernel without gradients, or without dropout
        problem = f"the model does not train ({in_words(error)})"
    return ProbeResult(False, probe.difference, problem) if problem else probe


def _problem(model: PreTrainedModel, documents: list[Feature], attention: str) -> str:
    apart = [_gradients(model, [document]) for document in documents]
    leaked = None if rounds_finely(model) else _gradients(model, [one_document(documents)])[0]
    with attending(model, attention):
        packed = [_gradients(model, documents, limit) for limit in LIMITS]
    for limit, (found, found_sinks) in zip(LIMITS, packed, strict=True):
        expected = torch.cat([apart[document][0] for row in pack_rows(LENGTHS, limit) for document in row])
        sinks = [sum(each) for each in zip(*(sinks for _, sinks in apart), strict=True)]
        is_equal = _is_near(_without_padding(found, limit), expected, leaked)
        pairs = zip(found_sinks, sinks, strict=True)
        if not (is_equal and all(_is_sum(*pair, exact=leaked is None) for pair in pairs)):
            return "packed rows have other gradients than separate ones"
    return ""


def _gradients(model: PreTrainedModel, documents: list[Feature], limit: int = 0) -> Gradients:
    embedded: list[torch.Tensor] = []

    def keep(_: torch.nn.Module, __: object, output: torch.Tensor) -> torch.Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[-1]

    hook = model.get_input_embeddings().register_forward_hook(keep)
    try:
        with torch.enable_grad():
            loss = token_losses(model, documents, limit).sum()
    finally:
        hook.remove()
    sinks = [each for name, each in model.named_parameters() if name.endswith("sinks") and each.requires_grad]
    of_embedded, *of_sinks = torch.autograd.grad(loss, [embedded[0], *sinks])
    return of_embedded.flatten(0, 1).float(), [each.float() for each in of_sinks]


def _without_padding(gradients: torch.Tensor, limit: int) -> torch.Tensor:
    rows = pack_rows(LENGTHS, limit)
    of_rows = zip(rows, gradients.unflatten(0, (len(rows), -1)), strict=True)
    return torch.cat([of_row[: sum(LENGTHS[document] for document in row)] for row, of_row in of_rows])


def _is_near(found: torch.Tensor, expected: torch.Tensor, leaked: torch.Tensor | None) -> bool:
    """Whether two gradients differ by rounding only: in 16 bits by a share of what differs if documents leak."""
    error = (found - expected).abs()
    if leaked is None:
        return bool(error.max() <= _ROUNDING * expected.abs().max())
    return bool(error.mean() <= SHARE * (leaked - expected).abs().mean())


def _is_sum(found: torch.Tensor, expected: torch.Tensor, *, exact: bool) -> bool:
    return bool((found - expected).abs().sum() <= (_ROUNDING if exact else _SINKS) * expected.abs().sum())


def _train_once(model: PreTrainedModel, attention: str) -> None:
    """One pass with dropout, where the model has it."""
    device = model.get_input_embeddings().weight.device
    random = torch.random.fork_rng([device] if device.type == "cuda" else [])
    with random, in_mode(model, training=True), attending(model, attention):
        _gradients(model, documents_for(model), LIMITS[0])
