"""DPO: pairs of answers, and the reference that they are compared under."""

from dimba.dataset.token_report import DataReport
from dimba.objectives.dpo import DpoOptions
from dimba.trainers.objectives.dpo.pairs import load_pairs
from dimba.trainers.progress import Progress


def report(options: DpoOptions, progress: Progress) -> DataReport:
    """The pairs as training would read them; raises BadInput."""
    return load_pairs(options, progress).report
