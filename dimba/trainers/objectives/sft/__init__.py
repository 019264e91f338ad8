"""Supervised fine-tuning: packed rows, and the loss of their trained tokens."""

from collections.abc import Sequence

from dimba.dataset.token_report import DataReport
from dimba.objectives.sft import SftOptions
from dimba.trainers.data.loading import load_data
from dimba.trainers.progress import Progress, ignored

TokenRows = Sequence[Sequence[int]]


def report(options: SftOptions, progress: Progress) -> DataReport:
    """The data as training would read them; raises BadInput."""
    return load_data(options, progress).report


def token_rows(options: SftOptions, count: int) -> tuple[TokenRows, TokenRows]:
    """The tokens of the first `count` rows that were held out, and of those that were trained; raises BadInput."""
    data = load_data(options, ignored)
    held_out, trained = (
        [part.example(number).input_ids for number in range(min(count, len(part)))]
        for part in (data.validation, data.train)
    )
    return held_out, trained
