"""The training half of an objective, by its name: `dimba.trainers.objectives.<name>.train`."""

from importlib import import_module
from typing import Any, Protocol, cast

from dimba.dataset.token_report import DataReport
from dimba.trainers.command import Progress


class TrainingHalf(Protocol):
    """What a module `train` of an objective provides; `options` are of the objective's own type."""

    def train(self, options: Any) -> int:
        """Train and save; returns the exit status: 0, or EXIT_STOPPED for a run that was stopped and saved."""

    def report(self, options: Any, progress: Progress) -> DataReport:
        """Read and tokenise the data as training would; raises BadInput."""


def training_half(name: str) -> TrainingHalf:
    """The module that trains the objective `name`; imports torch."""
    return cast(TrainingHalf, import_module(f"dimba.trainers.objectives.{name}.train"))
