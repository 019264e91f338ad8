"""Several data sets as one: their weights applied to the training examples, and their counts one by one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from dimba.dataset.mixture import no_row, passes
from dimba.dataset.token_report import SourceReport
from dimba.trainers.data.rows import Source
from dimba.trainers.data.token_store import TokenStore
from dimba.trainers.data.tokenization import Problem


def sources_of(store: TokenStore, rows: np.ndarray) -> np.ndarray:
    """The number of the source that each row of the store comes from."""
    return np.searchsorted([each["end"] for each in store.note["sources"]], rows, side="right")


def weighted(rows: np.ndarray, numbers: np.ndarray, weights: Sequence[float], seed: int) -> np.ndarray:
    """The indices of the examples of an epoch: examples of a row appear as often as its source's weight says.

    `rows` and `numbers` hold the row and the source of each example. Of a fraction, equal seeds choose equal rows.
    """
    times = np.zeros(len(rows), dtype=np.int64)
    for number, weight in enumerate(weights):
        ours = numbers == number
        different = np.unique(rows[ours])
        whole, more = passes(weight, len(different))
        again = np.random.default_rng([seed, number]).permutation(different)[:more]
        times[ours] = whole + np.isin(rows[ours], again)
    # All rows once, then again those that appear twice: the first examples are of different rows.
    return np.concatenate([np.flatnonzero(times > n) for n in range(max(times.max(initial=0), 1))])


def report_sources(sources: Sequence[Source], store: TokenStore, numbers: np.ndarray) -> tuple[SourceReport, ...]:
    """The counts of each source; `numbers` holds the source of each training example."""
    ends = np.array([0, *(each["end"] for each in store.note["sources"])])
    tokens, trained = (
        [int(counts[start:end].sum()) for start, end in pairwise(ends)]
        for counts in (store.lengths, store.trained_counts)
    )
    return tuple(
        report_source(source, store.note["sources"][n], tokens[n], trained[n], int((numbers == n).sum()))
        for n, source in enumerate(sources)
    )


def report_source(source: Source, note: dict[str, Any], tokens: int, trained: int, examples: int) -> SourceReport:
    """The counts of one source."""
    return SourceReport(
        name=source.dataset,
        format=note["format"],
        rows=note["rows"],
        unusable=note["unusable"],
        tokens=tokens,
        trained_tokens=trained,
        weight=source.weight,
        examples=examples,
    )


def source_problem(sources: Sequence[SourceReport]) -> Problem | None:
    """The problem of a source of which an epoch has no row."""
    for number, each in enumerate(sources):
        if not each.examples:
            cause = f"dataset[{number}] ({each.name}): {no_row(each.rows, each.weight)}"
            return cause, "raise its weight, hold out fewer rows, or remove it"
    return None
