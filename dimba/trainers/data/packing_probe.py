"""A numerical test of packing on the model at hand: random documents, each in a row of its own and packed.

No list of model families stays true: some models silently ignore the starts of documents.
"""

from __future__ import annotations

import math
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from accelerate.utils import send_to_device

from dimba.trainers.data.encoding import IGNORED
from dimba.trainers.data.packing import Feature, collate_packed, pack_rows
from dimba.trainers.kernels.attending import BY_BORDERS, attending, attention_of, narrowed_windows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PretrainedConfig, PreTrainedModel

LENGTHS = (13, 5, 9, 7, 11)  # tokens of the documents
LIMITS = (sum(LENGTHS), 25)  # all in one row; in two rows, the second with padding
_REPLACED = (0, 2)  # documents with others behind them, in both layouts
# Nats per token. Separate and packed rows have tensors of other shapes and so round differently, in 16 bits by more
# than any fixed bound: there the error may be a share of the one if everything leaked. With other neighbours in a row
# of the same shape nothing rounds differently, in any precision.
_WORDS = 120  # characters of an error: torch lists all of its backends in one line
_ROUNDING, SHARE, _UNCHANGED = 1e-4, 0.1, 1e-5


@dataclass(frozen=True)
class ProbeResult:
    """Whether packed rows train like separate ones; the largest difference of a token's loss, in nats; the reason."""

    is_exact: bool
    difference: float
    reason: str


def probe_packing(model: PreTrainedModel, attention: str | None = None) -> ProbeResult:
    """Compares the losses of separate and packed documents, on the model's device and in its precision.

    With `attention` packed documents get this one and separate ones the model's own, in windows of few tokens;
    `dimba.trainers.data.gradient_probe` then compares gradients.
    """
    with in_mode(model, training=False):
        try:
            with torch.no_grad(), narrowed_windows(model) if attention else nullcontext():
                return _compare(model, documents_for(model), attention)
        except Exception as error:  # the model would raise the same at the first step
            return ProbeResult(False, math.inf, f"the model does not accept packed rows ({in_words(error)})")


def in_words(error: Exception) -> str:
    """The kind and the first line of an error, or its beginning."""
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')[:_WORDS]}"


@contextmanager
def in_mode(model: PreTrainedModel, *, training: bool) -> Iterator[None]:
    """Surrounds passes with the modules in training mode or out of it, as dropout asks."""
    modes = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _compare(model: PreTrainedModel, documents: list[Feature], attention: str | None) -> ProbeResult:
    separate = [token_losses(model, [document]) for document in documents]
    with attending(model, attention):
        changes = [_changes_by_neighbours(model, documents, limit) for limit in LIMITS]
        errors = [(token_losses(model, documents, limit) - _in_rows(separate, limit)).abs() for limit in LIMITS]
    changed, difference = torch.cat(changes).max().item(), torch.cat([*changes, *errors]).max().item()
    # Both conditions are false for NaN.
    if not changed <= _UNCHANGED:
        return ProbeResult(False, difference, f"a token sees other documents of its row (up to {changed:.2g} nats)")
    if not _is_rounding(model, documents, separate, errors):
        reason = f"a document has other losses in a packed row (by up to {difference:.2g} nats)"
        return ProbeResult(False, difference, reason)
    return ProbeResult(True, difference, f"packed rows have the losses of separate ones (within {difference:.2g} nats)")


def _is_rounding(
    model: PreTrainedModel, documents: list[Feature], separate: list[torch.Tensor], errors: list[torch.Tensor]
) -> bool:
    if rounds_finely(model):
        return all(error.max().item() <= _ROUNDING for error in errors)
    leaked = (token_losses(model, [one_document(documents)]) - _in_rows(separate, LIMITS[0])).abs()
    return all(error.mean().item() <= SHARE * leaked.mean().item() for error in errors)


def rounds_finely(model: PreTrainedModel) -> bool:
    """Whether the model computes in float32."""
    device = model.get_input_embeddings().weight.device.type
    is_autocast = torch.is_autocast_enabled(device)
    return not is_autocast and {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def _changes_by_neighbours(model: PreTrainedModel, documents: list[Feature], limit: int) -> torch.Tensor:
    """The change of each token's loss when other documents of its row are replaced by documents of equal length."""
    before, after = (token_losses(model, _with_replaced(documents, by), limit) for by in (0, 1))
    return (before - after).abs()


def _with_replaced(documents: list[Feature], by: int) -> list[Feature]:
    """The documents, some of them without labels and with their tokens rotated by `by` places."""
    return [
        {"input_ids": [*ids[by:], *ids[:by]], "labels": [IGNORED] * len(ids)} if n in _REPLACED else document
        for n, document in enumerate(documents)
        for ids in (document["input_ids"],)
    ]


def documents_for(model: PreTrainedModel) -> list[Feature]:
    """Documents of random tokens that are not special, all of them trained."""
    config = model.config.get_text_config()
    size = min(config.vocab_size, model.get_input_embeddings().weight.shape[0])
    ordinary = torch.tensor(sorted(set(range(size)) - _special_ids(config)))
    choice = torch.randint(len(ordinary), (sum(LENGTHS),), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": ids.tolist(), "labels": ids.tolist()} for ids in ordinary[choice].split(LENGTHS)]


def _special_ids(config: PretrainedConfig) -> set[int]:
    special: set[int] = set()
    for name, value in config.to_dict().items():
        if name.endswith(("_token_id", "_token_index")):
            special.update(value if isinstance(value, list) else [value])
    return special


def _in_rows(separate: list[torch.Tensor], limit: int) -> torch.Tensor:
    """Losses by document, in the order of the documents in packed rows."""
    return torch.cat([separate[document] for row in pack_rows(LENGTHS, limit) for document in row])


def one_document(documents: list[Feature]) -> Feature:
    """The packed row as a single document, in which everything leaks and nothing else is wrong."""
    row = [documents[document] for document in pack_rows(LENGTHS, LIMITS[0])[0]]
    ids = [token for document in row for token in document["input_ids"]]
    labels = [token for document in row for token in (IGNORED, *document["labels"][1:])]
    return {"input_ids": ids, "labels": labels}


def token_losses(model: PreTrainedModel, documents: list[Feature], limit: int = 0) -> torch.Tensor:
    """Losses in nats of the trained tokens [tokens], row by row, on the CPU."""
    borders = attention_of(model) in BY_BORDERS
    batch = collate_packed(documents, max_length=limit, pad_id=documents[0]["input_ids"][0], borders=borders)
    given = {name: value for name, value in batch.items() if name not in ("labels", "tokens")}
    inputs = send_to_device(given, model.get_input_embeddings().weight.device)
    logits = model(**inputs, use_cache=False).logits[:, :-1].float().cpu()
    labels = batch["labels"][:, 1:]
    trained = labels != IGNORED
    return torch.nn.functional.cross_entropy(logits[trained], labels[trained], reduction="none")
