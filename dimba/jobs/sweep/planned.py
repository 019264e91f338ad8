"""A sweep as it is asked for, and as it is planned."""

from dataclasses import dataclass, field
from pathlib import Path

from dimba.jobs.context import JobContext
from dimba.jobs.lifecycle import Options
from dimba.jobs.sweep.grid import Axis, Combination
from dimba.objectives.metrics import Metric, metric_of
from dimba.plan.model import LaunchPlan
from dimba.runners.protocol import Runner
from dimba.spec import JobSpec


@dataclass(frozen=True, kw_only=True)
class Request:
    """A sweep as the command line asks for it."""

    spec: Path
    axes: tuple[Axis, ...]
    overrides: tuple[str, ...] = ()  # of all runs
    at_most: int | None = None
    seed: int | None = None  # of the draw; None: the spec's
    at_once: int | None = None
    stop_worst: bool = False
    options: Options = field(default_factory=Options)
    trust: bool = False


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """A run of the sweep: its values, and the job that they make."""

    id: str
    combination: Combination
    context: JobContext

    @property
    def plan(self) -> LaunchPlan:
        """Its plan; before its image is built, with every flag of the trainer."""
        return self.context.assuming_flags().plan()

    @property
    def first_attempt(self) -> LaunchPlan:
        """Its plan in the folder of its first attempt."""
        return self.plan.for_attempt(self.id, self.context.facts.runs / self.id / "attempts" / "1")


@dataclass(frozen=True, kw_only=True)
class PlannedSweep:
    """A sweep that may be launched."""

    id: str
    runs: tuple[PlannedRun, ...]
    combinations: int  # of the whole grid
    draw_seed: int | None  # None if every combination runs
    at_once: int
    ahead: int

    @property
    def spec(self) -> JobSpec:
        """The spec of its first run."""
        return self.runs[0].context.spec

    @property
    def runner(self) -> Runner:
        """The runner of all its runs."""
        return self.runs[0].context.runner

    @property
    def metric(self) -> Metric:
        """The metric that its runs are compared in."""
        return metric_of(self.spec.objective, self.spec.trainer_args)
