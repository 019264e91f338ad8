"""Packing: the rows of one batch laid end to end, so that no time goes into padding and nothing else changes.

Each row stays a document of its own: its positions begin at 0, and without an attention mask the model finds the
documents by their positions. A batch keeps its rows, so steps, loss and gradients are those without packing, and
sorting the data by length would gain nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

import torch

from dimba.trainers.data.encoding import IGNORED

Feature = Mapping[str, Sequence[int]]  # `input_ids` and `labels` of one row
Batch = dict[str, Any]  # tensors, and numbers that kernels take as such
Collator = Callable[[Sequence[Feature]], Batch]


def collate_padded(features: Sequence[Feature], *, pad_id: int) -> Batch:
    """`input_ids`, `attention_mask` and `labels` of shape (rows, longest row), padded on the right.

    `tokens` is their number without padding, for `dimba.trainers.objectives.sft.causal_trainer`.
    """
    shape = (len(features), max(len(feature["input_ids"]) for feature in features))
    batch = {"input_ids": torch.full(shape, pad_id), "labels": torch.full(shape, IGNORED)}
    batch["attention_mask"] = torch.zeros(shape, dtype=torch.long)
    for row, feature in enumerate(features):
        length = len(feature["input_ids"])
        _copy(feature, batch, row, 0)
        batch["attention_mask"][row, :length] = 1
    return {**batch, "tokens": _token_count(features)}


def collate_packed(features: Sequence[Feature], *, max_length: int, pad_id: int, borders: bool = False) -> Batch:
    """`input_ids`, `position_ids` and `labels` of shape (packed rows, longest packed row), one document per feature.

    There are as few packed rows as hold the documents, none longer than `max_length` or the longest document.
    `tokens` is the number of tokens without padding, for `dimba.trainers.objectives.sft.causal_trainer`. With `borders`
    there are transformers' keywords for kernels that take documents in place of a mask.
    """
    lengths = [len(feature["input_ids"]) for feature in features]
    rows = pack_rows(lengths, max(max_length, *lengths))
    shape = (len(rows), max(sum(lengths[document] for document in row) for row in rows))
    batch = {"input_ids": torch.full(shape, pad_id), "labels": torch.full(shape, IGNORED)}
    batch["position_ids"] = torch.empty(shape, dtype=torch.long)
    for row, documents in enumerate(rows):
        start = 0
        for document in documents:
            _copy(features[document], batch, row, start)
            batch["position_ids"][row, start : start + lengths[document]] = torch.arange(lengths[document])
            start += lengths[document]
        # The padding is a document of its own: no other document sees it.
        batch["position_ids"][row, start:] = torch.arange(shape[1] - start)
    return {**batch, "tokens": _token_count(features), **(_flash_keywords(batch["position_ids"]) if borders else {})}


def _flash_keywords(position_ids: torch.Tensor) -> Batch:
    # Here and not in the model, where every layer would wait for the device.
    ends, longest = document_borders(position_ids)
    return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}


def document_borders(position_ids: torch.Tensor) -> tuple[torch.Tensor, int]:
    """(the first token of each document and the number of tokens, int32 [documents + 1]; the longest in tokens).

    Rows count end to end. Each begins with a document, which has no other position 0.
    """
    starts = (position_ids.flatten() == 0).nonzero().flatten()
    borders = torch.cat((starts, starts.new_tensor([position_ids.numel()]))).int()
    return borders, int(borders.diff().max())


def _token_count(features: Sequence[Feature]) -> torch.Tensor:
    # A row of one token only fills a step (`as_dataset`).
    lengths = (len(feature["input_ids"]) for feature in features)
    return torch.tensor(sum(length for length in lengths if length > 1))


def _copy(feature: Feature, batch: Batch, row: int, start: int) -> None:
    there = slice(start, start + len(feature["input_ids"]))
    for name in ("input_ids", "labels"):
        batch[name][row, there] = torch.tensor(feature[name])  # a copy: the rows are read-only arrays
    batch["labels"][row, start] = IGNORED  # nothing predicts a document's first token


def pack_rows(lengths: Sequence[int], limit: int) -> list[list[int]]:
    """The documents of each packed row: as few rows of at most `limit` tokens as hold them, about equally long."""
    for rows in count(-(-sum(lengths) // limit)):
        packed = _balanced(lengths, rows)
        if max(sum(lengths[document] for document in row) for row in packed) <= limit:
            return packed
    raise AssertionError("one row per document always holds them")


def _balanced(lengths: Sequence[int], rows: int) -> list[list[int]]:
    # Longest document first, onto the emptiest row: two rows then differ by at most one document, so that the padding
    # needs no position beyond the longest document.
    packed: list[list[int]] = [[] for _ in range(rows)]
    filled = [0] * rows
    for document in sorted(range(len(lengths)), key=lambda each: -lengths[each]):
        emptiest = filled.index(min(filled))
        packed[emptiest].append(document)
        filled[emptiest] += lengths[document]
    return packed
