"""What tokenised data look like: counts, a histogram of lengths, and examples decoded."""

from itertools import groupby
from typing import Any

import numpy as np

from dimba.report import BadRowReport, Bar, DataReport, Part, Shown
from dimba.trainers.chat import Example
from dimba.trainers.selection import Selection
from dimba.trainers.store import TokenStore

_BARS = 8  # up to max_length; what is longer has one of its own
_SHOWN = 1500  # tokens of a shown example, from its start and from its end


def report_on(
    store: TokenStore, chosen: Selection, tokenizer: Any, *, max_length: int, on_long: str | None
) -> DataReport:
    """Everything that can be counted."""
    note, lengths = store.note, store.lengths
    return DataReport(
        format=note["format"],
        columns=note["columns"],
        rows=note["rows"],
        unusable=note["unusable"],
        bad=tuple(BadRowReport(**each) for each in note["bad"]),
        tokens=int(lengths.sum()),
        trained_tokens=int(store.trained_counts.sum()),
        max_length=max_length,
        on_long=on_long,
        long_rows=chosen.long_rows,
        cut_tokens=chosen.cut_tokens,
        cut_trained_tokens=chosen.cut_trained_tokens,
        left_out=chosen.left_out,
        examples=len(chosen.train),
        validation=len(chosen.validation),
        median=int(np.median(lengths)) if len(lengths) else 0,
        longest=int(lengths.max(initial=0)),
        lengths=_histogram(lengths, max_length),
        shown=tuple(_shown(store, row, tokenizer) for row in _telling(lengths)),
    )


def _histogram(lengths: Any, max_length: int) -> tuple[Bar, ...]:
    edges = sorted({max_length * n // _BARS for n in range(1, _BARS + 1)})
    edges[-1] = max_length + 1  # what is as long as max_length is not cut
    counts = np.bincount(np.searchsorted(edges, lengths, side="right"), minlength=len(edges) + 1)
    return tuple(Bar(below=below, rows=int(rows)) for below, rows in zip([*edges, None], counts, strict=True))


def _telling(lengths: Any) -> list[int]:
    """The first row, one of the usual length, and the longest."""
    if not len(lengths):
        return []
    order = np.argsort(lengths, kind="stable")
    return list(dict.fromkeys([0, int(order[len(order) // 2]), int(order[-1])]))


def _shown(store: TokenStore, row: int, tokenizer: Any) -> Shown:
    example, parts = store.row(row), tuple[Part, ...]()
    size = len(example.input_ids)
    if size > 2 * _SHOWN:
        left_out = Part(text=f" … {size - 2 * _SHOWN:,} tokens … ", trained=False)
        parts = (*decoded(_slice(example, slice(_SHOWN)), tokenizer), left_out)
        example = _slice(example, slice(-_SHOWN, None))
    where = f"{store.note['where']}{store.numbers[row]}"
    return Shown(where=where, tokens=size, parts=(*parts, *decoded(example, tokenizer)))


def _slice(example: Example, part: slice) -> Example:
    return Example(example.input_ids[part], example.trained[part])


def decoded(example: Example, tokenizer: Any) -> tuple[Part, ...]:
    """The text of an example's tokens, in stretches that carry loss and stretches that do not."""
    runs = groupby(zip(example.input_ids.tolist(), example.trained.tolist(), strict=True), key=lambda each: each[1])
    return tuple(Part(text=tokenizer.decode([token for token, _ in run]), trained=trained) for trained, run in runs)
