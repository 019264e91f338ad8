"""The training half of an objective, by its name."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

from dimba.common.errors import BadInput, Location
from dimba.dataset.prompt_examples import PromptExample
from dimba.dataset.samples import Sample
from dimba.dataset.token_report import DataReport
from dimba.objectives.family import Family
from dimba.objectives.objective import Objective
from dimba.options.trainer import TrainerOptions
from dimba.trainers.progress import Progress

TokenRows = Sequence[Sequence[int]]
Row = tuple[Sample, ...] | PromptExample


@dataclass(frozen=True)
class HeldOutRows:
    """Held-out rows with their places: a sample, both sides of a pair, or a prompt, whose answers `rewards` score."""

    rows: Iterable[tuple[Location, Row]]
    rewards: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrainingHalf:
    """The package `dimba.trainers.objectives.<name>`: its function `report`, and `train` of its module `train`.

    Each is imported when it is called: a report of the data takes place without trl and peft, which cost seconds.
    """

    name: str

    def train(self, options: TrainerOptions) -> int:
        """Train and save; returns the exit status: 0, or EXIT_STOPPED for a run that was stopped and saved."""
        status: int = import_module(f"{__package__}.{self.name}.train").train(options)
        return status

    def report(self, options: TrainerOptions, progress: Progress) -> DataReport:
        """Read and tokenise the data as training would; raises BadInput."""
        report: DataReport = import_module(f"{__package__}.{self.name}").report(options, progress)
        return report

    def held_out_rows(self, options: TrainerOptions, progress: Progress) -> HeldOutRows:
        """The rows that are not trained on but evaluated; raises BadInput."""
        package = import_module(f"{__package__}.{self.name}")
        if not hasattr(package, "held_out_rows"):
            problem = f"the rows that `mode: {self.name}` holds out cannot be found again"
            raise BadInput(problem, "give rows with answers: `--file ROWS`")
        rows: HeldOutRows = package.held_out_rows(options, progress)
        return rows

    def token_rows(self, options: TrainerOptions, count: int) -> tuple[TokenRows, TokenRows]:
        """The tokens of the first `count` rows that are held out, and of those that are trained; raises BadInput."""
        rows: tuple[TokenRows, TokenRows] = import_module(f"{__package__}.{self.name}").token_rows(options, count)
        return rows


def family_half(objective: Objective[Any], family: Family) -> ModuleType:
    """The module `dimba.trainers.objectives.<objective>.<half of the family>`."""
    return import_module(f"{__package__}.{objective.name}.{family.half}")


def training_half(name: str) -> TrainingHalf:
    """The half of the objective `name` that imports torch."""
    return TrainingHalf(name)
