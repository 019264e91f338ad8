"""DPO: pairs of answers, and the reference that they are compared under."""

from collections.abc import Sequence

from dimba.dataset.token_report import DataReport
from dimba.objectives.dpo import DpoOptions
from dimba.trainers.objectives.dpo.pairs import load_pairs
from dimba.trainers.progress import Progress, ignored

TokenRows = Sequence[Sequence[int]]


def report(options: DpoOptions, progress: Progress) -> DataReport:
    """The pairs as training would read them; raises BadInput."""
    return load_pairs(options, progress).report


def token_rows(options: DpoOptions, count: int) -> tuple[TokenRows, TokenRows]:
    """The tokens of the first `count` chosen sides held out, and of those trained; raises BadInput."""
    data = load_pairs(options, ignored)
    held_out, trained = (
        [part.sides(int(pair))[0].input_ids for pair in part.numbers[:count]] for part in (data.validation, data.train)
    )
    return held_out, trained
