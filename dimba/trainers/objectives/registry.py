"""The training half of an objective, by its name."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from dimba.dataset.token_report import DataReport
from dimba.options.trainer import TrainerOptions
from dimba.trainers.progress import Progress


@dataclass(frozen=True)
class TrainingHalf:
    """The modules `train` and `report` of `dimba.trainers.objectives.<name>`.

    Each is imported when it is called: a report of the data takes place without trl and peft, which cost seconds.
    """

    name: str

    def train(self, options: TrainerOptions) -> int:
        """Train and save; returns the exit status: 0, or EXIT_STOPPED for a run that was stopped and saved."""
        status: int = self._module("train").train(options)
        return status

    def report(self, options: TrainerOptions, progress: Progress) -> DataReport:
        """Read and tokenise the data as training would; raises BadInput."""
        report: DataReport = self._module("report").report(options, progress)
        return report

    def _module(self, module: str) -> Any:
        return import_module(f"dimba.trainers.objectives.{self.name}.{module}")


def training_half(name: str) -> TrainingHalf:
    """The half of the objective `name` that imports torch."""
    return TrainingHalf(name)
