"""Supervised fine-tuning: packed rows, and the loss of their trained tokens."""

from dimba.dataset.token_report import DataReport
from dimba.objectives.sft import SftOptions
from dimba.trainers.data.loading import load_data
from dimba.trainers.progress import Progress


def report(options: SftOptions, progress: Progress) -> DataReport:
    """The data as training would read them; raises BadInput."""
    return load_data(options, progress).report
