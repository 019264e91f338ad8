"""From tokenised rows to training examples: rows held out for validation, and pieces of rows that are too long."""

from collections.abc import Sized
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from dimba.trainers.data.token_store import TokenStore

_MOST_CUT = 0.1  # of the trained tokens, as long as --on-long is not given


Chosen = TypeVar("Chosen", bound=Sized)


@dataclass(frozen=True, kw_only=True)
class Selected(Generic[Chosen]):
    """What to train on and to validate on, and counts of what that leaves out."""

    train: Chosen
    validation: Chosen
    long_rows: int
    cut_tokens: int
    cut_trained_tokens: int
    dropped_rows: int

    @property
    def shown(self) -> Chosen:
        """What to train on; what to validate on if there is nothing else."""
        return self.train if len(self.train) else self.validation


@dataclass(frozen=True, kw_only=True)
class Selection(Selected[np.ndarray]):
    """Pieces of rows, int32 [examples, 3]: row, first token, end token."""

    held_out_rows: int


def select(store: TokenStore, max_length: int, on_long: str | None, wanted: float = 0, seed: int = 0) -> Selection:
    """Pieces of at most `max_length` tokens, each with a token that carries loss.

    `wanted` rows (a share below 1, else a number) of those with a piece are held out, with all their pieces.
    """
    long_rows = np.flatnonzero(store.lengths > max_length)
    pieces, dropped_rows = _pieces(store, max_length, on_long or "truncate", long_rows)
    held_out = hold_out(np.unique(pieces[:, 0]), wanted, seed)
    is_held_out = np.isin(pieces[:, 0], held_out)
    return Selection(
        train=pieces[~is_held_out],
        validation=pieces[is_held_out],
        long_rows=len(long_rows),
        cut_tokens=int(store.lengths.sum()) - _tokens_in(pieces),
        cut_trained_tokens=0 if on_long == "split" else _cut_trained(store, max_length, on_long, long_rows),
        dropped_rows=dropped_rows,
        held_out_rows=len(held_out),
    )


def hold_out(rows: np.ndarray | range, wanted: float, seed: int) -> np.ndarray:
    """The rows to validate on, equal for equal seeds: a share of `rows` for `wanted` below 1, else a number."""
    count = round(len(rows) * wanted) if wanted < 1 else int(wanted)
    return np.sort(np.random.default_rng(seed).permutation(rows)[:count])


def cuts_too_much(store: TokenStore, selection: Selected[Any], on_long: str | None) -> bool:
    """Whether more than _MOST_CUT of the trained tokens would be lost without --on-long."""
    return on_long is None and selection.cut_trained_tokens > _MOST_CUT * int(store.trained_counts.sum())


def _pieces(store: TokenStore, max_length: int, on_long: str, long_rows: np.ndarray) -> tuple[np.ndarray, int]:
    """(pieces in row order, number of rows without a piece)."""
    # int32 and few copies: there may be ten million rows.
    full = np.zeros((len(store), 3), dtype=np.int32)
    full[:, 0], full[:, 2] = np.arange(len(store)), store.lengths
    if not len(long_rows):
        return full, 0
    cut = [
        (int(row), *piece)
        for row in long_rows
        for piece in pieces_of_long_row(store.row(int(row)).trained, max_length, on_long)
    ]
    dropped_rows = len(long_rows) - len({row for row, _, _ in cut})
    pieces = np.concatenate([np.delete(full, long_rows, axis=0), np.array(cut, dtype=np.int32).reshape(-1, 3)])
    return pieces[np.argsort(pieces[:, 0], kind="stable")], dropped_rows


def _tokens_in(pieces: np.ndarray) -> int:
    # Two pieces of a row share a token, which counts once.
    follows = pieces[1:, 0] == pieces[:-1, 0]
    shared = np.maximum(pieces[:-1, 2] - pieces[1:, 1], 0)[follows]
    return int((pieces[:, 2] - pieces[:, 1]).sum(dtype=np.int64) - shared.sum(dtype=np.int64))


def pieces_of_long_row(trained: np.ndarray, max_length: int, on_long: str) -> list[tuple[int, int]]:
    """(first token, end token) of the pieces of a row that is longer than `max_length` tokens."""
    if on_long == "drop":
        return []
    # A piece starts with the last token of the one before, so that every token is predicted once.
    starts = range(0, len(trained) - 1, max_length - 1) if on_long == "split" else [0]
    pieces = [(start, min(start + max_length, len(trained))) for start in starts]
    return [(start, end) for start, end in pieces if trained[start + 1 : end].any()]


def _cut_trained(store: TokenStore, max_length: int, on_long: str | None, long_rows: np.ndarray) -> int:
    start = 0 if on_long == "drop" else max_length
    return sum(int(store.row(int(row)).trained[start:].sum()) for row in long_rows)
