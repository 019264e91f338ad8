"""The report of tokenised data: counts, a histogram of lengths, and decoded examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dimba.dataset.token_report import Bar, DataReport, Part, Shown, UnusableRowReport
from dimba.trainers.data.encoding import Example
from dimba.trainers.data.selection import Selected, Selection
from dimba.trainers.data.token_store import TokenStore

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BARS = 8  # up to max_length; longer rows have a bar of their own
_SHOWN = 1500  # tokens of a shown example, from its start and from its end
_CHARACTER_BYTES = 4  # at most


def report_on(
    store: TokenStore, selection: Selection, tokenizer: PreTrainedTokenizerBase, *, max_length: int, on_long: str | None
) -> DataReport:
    """The report of the rows in `store` and of the examples selected from them."""
    shown = tuple(
        _shown(store, selection.shown[at], tokenizer, title)
        for title, at in typical_examples(selection.shown[:, 2] - selection.shown[:, 1])
    )
    return count(store, store.lengths, selection, shown, max_length=max_length, on_long=on_long)


def count(
    store: TokenStore,
    lengths: np.ndarray,
    selection: Selected[Any],
    shown: tuple[Shown, ...],
    *,
    max_length: int,
    on_long: str | None,
) -> DataReport:
    """The report with these examples shown; `lengths` are those that `max_length` limits, in tokens [rows]."""
    note = store.note
    return DataReport(
        format=note["format"],
        columns=note["columns"],
        rows=note["rows"],
        unusable=note["unusable"],
        bad=tuple(UnusableRowReport(**each) for each in note["bad"]),
        tokens=int(store.lengths.sum()),
        trained_tokens=int(store.trained_counts.sum()),
        max_length=max_length,
        on_long=on_long,
        long_rows=selection.long_rows,
        cut_tokens=selection.cut_tokens,
        cut_trained_tokens=selection.cut_trained_tokens,
        left_out=selection.dropped_rows,
        examples=len(selection.train),
        validation=len(selection.validation),
        median=int(np.median(lengths)) if len(lengths) else 0,
        longest=int(lengths.max(initial=0)),
        lengths=histogram(lengths, max_length),
        shown=shown,
        shown_time=note.get("shown_time", ""),
    )


def histogram(lengths: np.ndarray, max_length: int) -> tuple[Bar, ...]:
    """Rows by length in equal steps up to `max_length`, and the rows beyond it."""
    edges = sorted({max_length * n // _BARS for n in range(1, _BARS + 1)})
    edges[-1] = max_length + 1  # a row of max_length tokens is not cut
    counts = np.bincount(np.searchsorted(edges, lengths, side="right"), minlength=len(edges) + 1)
    return tuple(Bar(below=below, rows=int(rows)) for below, rows in zip([*edges, None], counts, strict=True))


def typical_examples(lengths: np.ndarray) -> list[tuple[str, int]]:
    """(title, index) of the first example, one of the usual length and the longest; fewer if there are fewer."""
    others = np.argsort(lengths[1:], kind="stable") + 1
    chosen = [("the first", 0)] if len(lengths) else []
    if len(others) > 1:
        chosen.append(("one of the usual length", int(others[(len(others) - 1) // 2])))
    if len(others):
        last = int(others[-1])
        chosen.append(("the longest" if lengths[last] >= lengths[0] else "the longest but the first", last))
    return chosen


def _shown(store: TokenStore, piece: np.ndarray, tokenizer: PreTrainedTokenizerBase, title: str) -> Shown:
    """A piece of a row as the model gets it, with the number of the row's tokens before and behind it."""
    index, start, end = (int(each) for each in piece)
    row = store.row(index)
    parts = (
        *_gap(start, "before are not seen"),
        *shortened(_slice(row, slice(start, end)), tokenizer),
        *_gap(len(row.input_ids) - end, "are not in this example"),
    )
    return Shown(where=store.where(index), tokens=end - start, parts=parts, title=title)


def shortened(example: Example, tokenizer: PreTrainedTokenizerBase) -> tuple[Part, ...]:
    """The example decoded, without the middle of a long one."""
    size = len(example.input_ids)
    if size <= 2 * _SHOWN:
        return decode(example, tokenizer)
    start, end = (_slice(example, part) for part in (slice(_SHOWN), slice(-_SHOWN, None)))
    return (*decode(start, tokenizer), *_gap(size - 2 * _SHOWN, "not shown"), *decode(end, tokenizer))


def _gap(count: int, note: str) -> tuple[Part, ...]:
    return (Part(text=f" … {count:,} tokens {note} … ", trained=False),) if count else ()


def _slice(example: Example, part: slice) -> Example:
    return Example(example.input_ids[part], example.trained[part])


def decode(example: Example, tokenizer: PreTrainedTokenizerBase) -> tuple[Part, ...]:
    """The text of an example's tokens, in runs that carry loss and runs that do not."""
    ids, trained = example.input_ids.tolist(), example.trained.tolist()
    parts, start = list[Part](), 0
    for edge in [*(np.flatnonzero(np.diff(example.trained)) + 1).tolist(), len(ids)]:
        end = _character_end(ids, start, edge, tokenizer)
        if end > start:
            parts.append(Part(text=tokenizer.decode(ids[start:end]), trained=trained[edge - 1]))
        start = max(start, end)
    return tuple(parts)


def _character_end(ids: list[int], start: int, edge: int, tokenizer: PreTrainedTokenizerBase) -> int:
    """`edge`, or the end of the character across it: the bytes of one character may be several tokens."""
    first = max(start, edge - _CHARACTER_BYTES)
    text = tokenizer.decode(ids[first:edge])
    if not text.endswith("\ufffd"):
        return edge
    longer = ((end, tokenizer.decode(ids[first:end])) for end in range(edge + 1, edge + _CHARACTER_BYTES))
    return next((end for end, more in longer if end <= len(ids) and not more.startswith(text)), edge)
