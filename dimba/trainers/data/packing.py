"""Packing: the rows of one batch laid end to end, so that no time goes into padding and nothing else changes.

Each row stays a document of its own: its positions begin at 0, and without an attention mask the model finds the
documents by that. A batch keeps its rows, so the steps, the loss and the gradients are those without packing, and
there is no reason to sort the data by length.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch

from dimba.trainers.data.chat import IGNORED

Feature = Mapping[str, Sequence[int]]


def collate_padded(features: Sequence[Feature], *, pad_id: int) -> dict[str, torch.Tensor]:
    """`input_ids`, `attention_mask` and `labels` of shape (rows, longest row), padded on the right.

    `tokens` counts them without padding, for `dimba.trainers.objectives.sft.causal_trainer`.
    """
    shape = (len(features), max(len(feature["input_ids"]) for feature in features))
    batch = {"input_ids": torch.full(shape, pad_id), "labels": torch.full(shape, IGNORED)}
    batch["attention_mask"] = torch.zeros(shape, dtype=torch.long)
    for row, feature in enumerate(features):
        length = len(feature["input_ids"])
        _lay(batch, row, 0, feature)
        batch["attention_mask"][row, :length] = 1
    return {**batch, "tokens": _counted(features)}


def collate_packed(features: Sequence[Feature], *, max_length: int, pad_id: int) -> dict[str, torch.Tensor]:
    """`input_ids`, `position_ids` and `labels` of shape (packed rows, longest of them), all documents in them.

    There are as few packed rows as hold the documents, none longer than `max_length` or the longest document.
    `tokens` counts them without padding, for `dimba.trainers.objectives.sft.causal_trainer`.
    """
    lengths = [len(feature["input_ids"]) for feature in features]
    rows = fewest_rows(lengths, max(max_length, *lengths))
    shape = (len(rows), max(sum(lengths[document] for document in row) for row in rows))
    batch = {"input_ids": torch.full(shape, pad_id), "labels": torch.full(shape, IGNORED)}
    batch["position_ids"] = torch.empty(shape, dtype=torch.long)
    for row, documents in enumerate(rows):
        start = 0
        for document in documents:
            _lay(batch, row, start, features[document])
            batch["position_ids"][row, start : start + lengths[document]] = torch.arange(lengths[document])
            start += lengths[document]
        # The padding is one more document, so it neither sees nor is seen.
        batch["position_ids"][row, start:] = torch.arange(shape[1] - start)
    return {**batch, "tokens": _counted(features)}


def _counted(features: Sequence[Feature]) -> torch.Tensor:
    """The tokens of rows; a row of one token is none, but fills a step."""
    lengths = (len(feature["input_ids"]) for feature in features)
    return torch.tensor(sum(length for length in lengths if length > 1))


def _lay(batch: dict[str, torch.Tensor], row: int, start: int, feature: Feature) -> None:
    there = slice(start, start + len(feature["input_ids"]))
    for name in ("input_ids", "labels"):
        batch[name][row, there] = torch.as_tensor(feature[name])
    # Nothing before it foretells a document's first token.
    batch["labels"][row, start] = IGNORED


def fewest_rows(lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Which documents go in which row: as few rows of at most `limit` tokens as hold them, about equally long."""
    for rows in count(-(-sum(lengths) // limit)):
        found = _balanced(lengths, rows)
        if max(sum(lengths[document] for document in row) for row in found) <= limit:
            return found
    raise AssertionError("a row for each document always holds them")


def _balanced(lengths: Sequence[int], rows: int) -> list[list[int]]:
    # Longest first onto the least filled: no row is then shorter than another by more than one document,
    # so the padding needs no position that no document has.
    found: list[list[int]] = [[] for _ in range(rows)]
    filled = [0] * rows
    for document in sorted(range(len(lengths)), key=lambda each: -lengths[each]):
        least = filled.index(min(filled))
        found[least].append(document)
        filled[least] += lengths[document]
    return found


_LENGTHS = (13, 5, 9, 7, 11)  # tokens of the documents that are tried
_LIMITS = (sum(_LENGTHS), 25)  # all in one row; and in two rows, the second with padding
_SWAPPED = (0, 2)  # documents with others behind them, in both layouts
# Nats a token. Apart and packed, tensors have other shapes and so round otherwise, in 16 bits more than any fixed
# bound: there it may be a share of what leaking everything would change. With other neighbours nothing rounds
# otherwise, in any precision.
_ROUNDING, _SHARE, _UNCHANGED = 1e-4, 0.1, 1e-5


@dataclass(frozen=True)
class Packing:
    """Whether packed rows train as they do apart; the largest difference of a token's loss, in nats; and why."""

    exact: bool
    difference: float
    why: str


def packing_error(model: Any) -> Packing:
    """Runs random documents apart and packed, on the model's own device and in its precision, and compares them.

    No list of model families stays true: some ignore where a document begins, in silence.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            return _compared(model, _documents(model))
    except Exception as error:  # whatever it is that a model raises, it would raise it at the first step too
        said = next(iter(str(error).strip().splitlines()), "")
        return Packing(False, math.inf, f"the model does not take packed rows ({type(error).__name__}: {said})")
    finally:
        for module, mode in modes:
            module.training = mode


def _compared(model: Any, documents: list[Feature]) -> Packing:
    changes = [_changes_by_neighbours(model, documents, limit) for limit in _LIMITS]
    apart = [_token_losses(model, [document]) for document in documents]
    errors = [(_token_losses(model, documents, limit) - _in_rows(apart, limit)).abs() for limit in _LIMITS]
    changed, difference = torch.cat(changes).max().item(), torch.cat([*changes, *errors]).max().item()
    # Both are written so that a loss that is no number fails.
    if not changed <= _UNCHANGED:
        return Packing(False, difference, f"a token sees other documents of its row (up to {changed:.2g} nats)")
    if not _is_rounding(model, documents, apart, errors):
        why = f"a document's losses are others in a packed row (up to {difference:.2g} nats)"
        return Packing(False, difference, why)
    return Packing(True, difference, f"packed rows have the losses of separate ones (within {difference:.2g} nats)")


def _is_rounding(model: Any, documents: list[Feature], apart: list[torch.Tensor], errors: list[torch.Tensor]) -> bool:
    if {parameter.dtype for parameter in model.parameters()} == {torch.float32}:
        return all(error.max().item() <= _ROUNDING for error in errors)
    leaked = (_token_losses(model, [_one_document(documents)]) - _in_rows(apart, _LIMITS[0])).abs()
    return all(error.mean().item() <= _SHARE * leaked.mean().item() for error in errors)


def _changes_by_neighbours(model: Any, documents: list[Feature], limit: int) -> torch.Tensor:
    """By how much documents' losses change when others in their row are exchanged for as long ones."""
    before, after = (_token_losses(model, _swapped(documents, by), limit) for by in (0, 1))
    return (before - after).abs()


def _swapped(documents: list[Feature], by: int) -> list[Feature]:
    """The documents, some of them without labels and with their tokens turned round by `by` places."""
    return [
        {"input_ids": [*ids[by:], *ids[:by]], "labels": [IGNORED] * len(ids)} if n in _SWAPPED else document
        for n, document in enumerate(documents)
        for ids in (document["input_ids"],)
    ]


def _documents(model: Any) -> list[Feature]:
    """Documents of random ordinary tokens, all of them trained."""
    config = model.config.get_text_config()
    size = min(config.vocab_size, model.get_input_embeddings().weight.shape[0])
    ordinary = torch.tensor(sorted(set(range(size)) - _special_ids(config)))
    choice = torch.randint(len(ordinary), (sum(_LENGTHS),), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": ids.tolist(), "labels": ids.tolist()} for ids in ordinary[choice].split(_LENGTHS)]


def _special_ids(config: Any) -> set[int]:
    found: set[int] = set()
    for name, value in config.to_dict().items():
        if name.endswith(("_token_id", "_token_index")):
            found.update(value if isinstance(value, list) else [value])
    return found


def _in_rows(apart: list[torch.Tensor], limit: int) -> torch.Tensor:
    """Losses by document in the order in which the packed rows hold the documents."""
    return torch.cat([apart[document] for row in fewest_rows(_LENGTHS, limit) for document in row])


def _one_document(documents: list[Feature]) -> Feature:
    """The whole packed row as if it were one document: everything leaks, and only that is wrong with it."""
    row = [documents[document] for document in fewest_rows(_LENGTHS, _LIMITS[0])[0]]
    ids = [token for document in row for token in document["input_ids"]]
    labels = [token for document in row for token in (IGNORED, *document["labels"][1:])]
    return {"input_ids": ids, "labels": labels}


def _token_losses(model: Any, documents: list[Feature], limit: int = 0) -> torch.Tensor:
    """Losses in nats of every trained token, row by row, on the CPU."""
    batch = collate_packed(documents, max_length=limit, pad_id=documents[0]["input_ids"][0])
    device = model.get_input_embeddings().weight.device
    inputs = {name: batch[name].to(device) for name in ("input_ids", "position_ids")}
    logits = model(**inputs, use_cache=False).logits[:, :-1].float().cpu()
    labels = batch["labels"][:, 1:]
    trained = labels != IGNORED
    return torch.nn.functional.cross_entropy(logits[trained], labels[trained], reduction="none")
