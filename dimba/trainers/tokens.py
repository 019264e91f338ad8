"""Rendered rows to token ids and a mask, many at a time: one call of the tokenizer, then arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from dimba.trainers.render import Unmaskable

IGNORED = -100

_STRADDLES = "a token reaches from the words that open the assistant's turn into what it says"
_OVERRUNS = "a token reaches from the end of the assistant's turn into what follows"


@dataclass(frozen=True, eq=False)
class Example:
    """One row: `input_ids` (int32) and, for each, whether it is `trained` (bool), that is carries loss."""

    input_ids: np.ndarray
    trained: np.ndarray

    def labels(self) -> np.ndarray:
        """The ids (int32), with IGNORED where no loss goes."""
        return np.where(self.trained, self.input_ids, np.int32(IGNORED))


@dataclass(frozen=True)
class Rendered:
    """One row as text, and the (start, end) in it that carry loss; without any (None) it is plain text, all trained.

    `altered` counts the trained turns that the template shows only a part of, as where it drops earlier reasoning.
    """

    where: str
    text: str
    spans: tuple[tuple[int, int], ...] | None = None
    altered: int = 0


@dataclass(frozen=True)
class _Batch:
    """Ids and character offsets of all rows in one line: row n has tokens `bounds[n]` to `bounds[n + 1]`."""

    rows: Sequence[Rendered]
    ids: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    bounds: np.ndarray
    shifts: np.ndarray  # where each row's text begins, were all texts one


def encode_chats(backend: Any, rows: Sequence[Rendered]) -> list[Example | Unmaskable]:
    """Each chat's tokens, or why they cannot be told apart; the text has its special tokens, so none are added."""
    if not rows:
        return []
    batch = _tokenised(backend, rows)
    trained, refused = _trained(batch)
    trained[batch.bounds[:-1][batch.bounds[:-1] < len(trained)]] = False  # nothing predicts a first token
    return [
        refused.get(row) or Example(batch.ids[first:last], trained[first:last])
        for row, (first, last) in enumerate(zip(batch.bounds, batch.bounds[1:], strict=False))
    ]


def encode_texts(tokenizer: Any, rows: Sequence[Rendered]) -> list[Example]:
    """Each plain text's tokens, begun as the tokenizer begins a text and ended with its end-of-sequence token."""
    encodings = tokenizer.backend_tokenizer.encode_batch([row.text for row in rows], add_special_tokens=True)
    return [_text_example(encoding.ids, tokenizer.bos_token_id, tokenizer.eos_token_id) for encoding in encodings]


def _text_example(ids: list[int], bos: int | None, eos: int) -> Example:
    if len(ids) > 1 and ids[0] == ids[1] == bos:
        ids = ids[1:]
    if not ids or ids[-1] != eos:
        ids = [*ids, eos]
    trained = np.ones(len(ids), dtype=bool)
    trained[0] = False
    return Example(np.array(ids, dtype=np.int32), trained)


def _tokenised(backend: Any, rows: Sequence[Rendered]) -> _Batch:
    encodings = backend.encode_batch([row.text for row in rows], add_special_tokens=False)
    lengths = np.array([len(encoding) for encoding in encodings])
    bounds = np.concatenate(([0], np.cumsum(lengths)))
    # One more than each length, so that a row's last token and the next row's first lie apart.
    shifts = np.concatenate(([0], np.cumsum([len(row.text) + 1 for row in rows])))[:-1]
    ids = np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), np.int32, bounds[-1])
    pairs = chain.from_iterable(chain.from_iterable(encoding.offsets for encoding in encodings))
    offsets = np.fromiter(pairs, np.int64, 2 * bounds[-1]).reshape(-1, 2) + np.repeat(shifts, lengths)[:, None]
    return _Batch(rows, ids, offsets[:, 0], offsets[:, 1], bounds, shifts)


def _trained(batch: _Batch) -> tuple[np.ndarray, dict[int, Unmaskable]]:
    """Which tokens carry loss, and what is refused: a token that is both asked with and said has no right side."""
    trained = np.zeros(len(batch.ids), dtype=bool)
    refused: dict[int, Unmaskable] = {}
    spans = [(row, *span) for row, each in enumerate(batch.rows) for span in each.spans or ()]
    if not spans:
        return trained, refused
    table = np.array(spans)
    firsts, lasts = table[:, 1] + batch.shifts[table[:, 0]], table[:, 2] + batch.shifts[table[:, 0]]
    lows = np.searchsorted(batch.ends, firsts, side="right")
    highs = np.searchsorted(batch.starts, lasts, side="left")
    for (row, start, end), low, high in zip(spans, lows.tolist(), highs.tolist(), strict=True):
        text, shift = batch.rows[row].text, int(batch.shifts[row])
        skipped = _skipped(text, int(batch.starts[low]) - shift, start, int(batch.ends[low]) - shift)
        if skipped is None or text[end : int(batch.ends[high - 1]) - shift].strip():
            refused[row] = Unmaskable(batch.rows[row].where, _STRADDLES if skipped is None else _OVERRUNS)
            continue
        trained[low + skipped : high] = True
    return trained, refused


def _skipped(text: str, token_start: int, start: int, token_end: int) -> int | None:
    """How many tokens (0 or 1) at the border are left out; None where the one there has words of both sides.

    A token that brings but white space from before is what the model says (` word` behind `[/INST] `); one that
    brings but white space from behind is what it is asked with (a special token that takes in a line's end).
    """
    if not text[token_start:start].strip():
        return 0
    return None if text[start:token_end].strip() else 1
