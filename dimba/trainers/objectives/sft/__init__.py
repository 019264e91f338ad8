"""Supervised fine-tuning: packed rows, and the loss of their trained tokens."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from dimba.common.errors import Location
from dimba.dataset.samples import Sample
from dimba.dataset.token_report import DataReport
from dimba.objectives.sft import SftOptions
from dimba.trainers.data.loading import held_out_sources, load_data
from dimba.trainers.objectives.registry import HeldOutRows
from dimba.trainers.progress import Progress, ignored

TokenRows = Sequence[Sequence[int]]


def report(options: SftOptions, progress: Progress) -> DataReport:
    """The data as training would read them; raises BadInput."""
    return load_data(options, progress).report


def held_out_rows(options: SftOptions, progress: Progress) -> HeldOutRows:
    """The rows that are held out, in their order; raises BadInput."""
    return HeldOutRows(_held_out(options, progress))


def _held_out(options: SftOptions, progress: Progress) -> Iterator[tuple[Location, tuple[Sample]]]:
    pieces = load_data(options, progress).validation
    rows = np.unique(pieces.index[:, 0])
    left, count = Counter(pieces.store.where(int(row)) for row in rows), len(rows)
    for source in held_out_sources(options):
        for where, sample in source.samples()[1] if count else ():
            if left[str(where)] and isinstance(sample, Sample):
                left[str(where)] -= 1
                count -= 1
                yield where, (sample,)
            if not count:
                break


def token_rows(options: SftOptions, count: int) -> tuple[TokenRows, TokenRows]:
    """The tokens of the first `count` rows that were held out, and of those that were trained; raises BadInput."""
    data = load_data(options, ignored)
    held_out, trained = (
        [part.example(number).input_ids for number in range(min(count, len(part)))]
        for part in (data.validation, data.train)
    )
    return held_out, trained
