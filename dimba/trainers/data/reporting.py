"""What tokenised data look like: counts, a histogram of lengths, and examples decoded."""

from typing import Any

import numpy as np

from dimba.common.errors import printable
from dimba.dataset.token_report import BadRowReport, Bar, DataReport, Part, Shown
from dimba.trainers.data.chat import Example
from dimba.trainers.data.selection import Selection
from dimba.trainers.data.token_store import TokenStore

_BARS = 8  # up to max_length; what is longer has one of its own
_SHOWN = 1500  # tokens of a shown example, from its start and from its end
_BYTES = 4  # of a character, at most


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
        lengths=histogram(lengths, max_length),
        shown=tuple(
            _shown(store, chosen.shown[at], tokenizer, title)
            for title, at in telling(chosen.shown[:, 2] - chosen.shown[:, 1])
        ),
    )


def histogram(lengths: Any, max_length: int) -> tuple[Bar, ...]:
    """How many rows have how many tokens, in equal steps up to `max_length`, and what is beyond."""
    edges = sorted({max_length * n // _BARS for n in range(1, _BARS + 1)})
    edges[-1] = max_length + 1  # what is as long as max_length is not cut
    counts = np.bincount(np.searchsorted(edges, lengths, side="right"), minlength=len(edges) + 1)
    return tuple(Bar(below=below, rows=int(rows)) for below, rows in zip([*edges, None], counts, strict=True))


def telling(lengths: Any) -> list[tuple[str, int]]:
    """(which, where) of the first example, one of the usual length, and the longest; three where there are three."""
    others = np.argsort(lengths[1:], kind="stable") + 1
    chosen = [("the first", 0)] if len(lengths) else []
    if len(others) > 1:
        chosen.append(("one of the usual length", int(others[(len(others) - 1) // 2])))
    if len(others):
        last = int(others[-1])
        chosen.append(("the longest" if lengths[last] >= lengths[0] else "the longest but the first", last))
    return chosen


def _shown(store: TokenStore, piece: Any, tokenizer: Any, title: str) -> Shown:
    """A piece of a row as the model is given it, and how much of the row lies before and behind it."""
    row, start, end = (int(each) for each in piece)
    whole = store.row(row)
    parts = (
        *_told(start, "before are not seen"),
        *clipped(_slice(whole, slice(start, end)), tokenizer),
        *_told(len(whole.input_ids) - end, "are not in this example"),
    )
    return Shown(where=f"{store.note['where']}{store.numbers[row]}", tokens=end - start, parts=parts, title=title)


def clipped(example: Example, tokenizer: Any) -> tuple[Part, ...]:
    """`decoded`, without the middle of a long example."""
    size = len(example.input_ids)
    if size <= 2 * _SHOWN:
        return decoded(example, tokenizer)
    ends = [_slice(example, part) for part in (slice(_SHOWN), slice(-_SHOWN, None))]
    return (*decoded(ends[0], tokenizer), *_told(size - 2 * _SHOWN, "not shown"), *decoded(ends[1], tokenizer))


def _told(count: int, what: str) -> tuple[Part, ...]:
    return (Part(text=f" … {count:,} tokens {what} … ", trained=False),) if count else ()


def _slice(example: Example, part: slice) -> Example:
    return Example(example.input_ids[part], example.trained[part])


def decoded(example: Example, tokenizer: Any) -> tuple[Part, ...]:
    """The text of an example's tokens, in stretches that carry loss and stretches that do not."""
    ids, trained = example.input_ids.tolist(), example.trained.tolist()
    parts, start = list[Part](), 0
    for edge in [*(np.flatnonzero(np.diff(example.trained)) + 1).tolist(), len(ids)]:
        end = _whole_character(ids, start, edge, tokenizer)
        if end > start:
            parts.append(Part(text=tokenizer.decode(ids[start:end]), trained=trained[edge - 1]))
        start = max(start, end)
    return tuple(parts)


def _whole_character(ids: list[int], start: int, edge: int, tokenizer: Any) -> int:
    """The end of a stretch, or behind the character that begins in it: its bytes may be several tokens."""
    text = tokenizer.decode(ids[max(start, edge - _BYTES) : edge])
    if not text.endswith("\ufffd"):
        return edge
    longer = ((end, tokenizer.decode(ids[max(start, edge - _BYTES) : end])) for end in range(edge + 1, edge + _BYTES))
    return next((end for end, more in longer if end <= len(ids) and not more.startswith(text)), edge)


def introduce(report: DataReport) -> None:
    """The tokens that carry loss, before the first step."""
    for line in report.lines():
        print(f"data: {printable(line)}", flush=True)
    first = report.shown[0]
    opened, closed = first.brackets()
    print(f"data: {printable(first.where)}, with what is trained in {opened} {closed}:", flush=True)
    text = "".join(f"{opened}{part.text}{closed}" if part.trained else part.text for part in first.parts)
    text = text if len(text) <= 600 else f"{text[:280]} … {text[-280:]}"
    print("\n".join(f"  | {printable(line.expandtabs(4))}" for line in text.splitlines()), flush=True)
