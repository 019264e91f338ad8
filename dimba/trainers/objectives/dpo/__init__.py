"""DPO: pairs of answers, and the reference that they are compared under."""

from collections import Counter
from collections.abc import Iterator, Sequence

from dimba.common.errors import Location
from dimba.dataset.samples import Sample
from dimba.dataset.token_report import DataReport
from dimba.objectives.dpo import DpoOptions
from dimba.trainers.data.loading import held_out_sources
from dimba.trainers.objectives.dpo.pairs import PairRows, load_pairs
from dimba.trainers.objectives.registry import HeldOutRows
from dimba.trainers.progress import Progress, ignored

TokenRows = Sequence[Sequence[int]]


def report(options: DpoOptions, progress: Progress) -> DataReport:
    """The pairs as training would read them; raises BadInput."""
    return load_pairs(options, progress).report


def held_out_rows(options: DpoOptions, progress: Progress) -> HeldOutRows:
    """The pairs that are held out, both sides of each; raises BadInput."""
    return HeldOutRows(_held_out(options, progress))


def _held_out(options: DpoOptions, progress: Progress) -> Iterator[tuple[Location, tuple[Sample, ...]]]:
    pairs = load_pairs(options, progress).validation
    left = Counter(pairs.store.where(2 * int(pair)) for pair in pairs.numbers)
    for source in held_out_sources(options):
        for where, both in PairRows(source).samples()[1]:
            if left[str(where)] and isinstance(both, tuple):
                left[str(where)] -= 1
                yield where, both


def token_rows(options: DpoOptions, count: int) -> tuple[TokenRows, TokenRows]:
    """The tokens of the first `count` chosen sides held out, and of those trained; raises BadInput."""
    data = load_pairs(options, ignored)
    held_out, trained = (
        [part.sides(int(pair))[0].input_ids for pair in part.numbers[:count]] for part in (data.validation, data.train)
    )
    return held_out, trained
