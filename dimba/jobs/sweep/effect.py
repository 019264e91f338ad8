"""Which swept keys have an effect on the job."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from dimba.common.errors import BadInput
from dimba.jobs.sweep.grid import Axis
from dimba.jobs.sweep.planned import PlannedRun
from dimba.plan.model import LaunchPlan


def ineffective(axes: Sequence[Axis], runs: Sequence[PlannedRun]) -> Iterator[BadInput]:
    """An error for each swept key that the trainer does not honour, or that changes nothing of the job."""
    plans = [run.plan for run in runs]
    omitted = {each.key for plan in plans for each in plan.omitted}
    for place, axis in enumerate(axes):
        if axis.key in omitted:
            hint = "leave it out, or take a trainer that has the flag; `dimba plan` lists what a trainer does not take"
            yield BadInput(f"--sweep {axis.key}: the trainer has no flag for it, so every run would be the same", hint)
        elif not _matters(place, runs, [_job(plan) for plan in plans]):
            hint = "leave it out: its runs would train the same model again"
            yield BadInput(f"--sweep {axis.key}: its values change nothing of the job", hint)


def equal_runs(runs: Sequence[PlannedRun]) -> Iterator[BadInput]:
    """An error for each run that would train the same as an earlier one, as a key has no effect beside some values."""
    jobs: list[Any] = []
    for run in runs:
        job = _job(run.plan)
        if job in jobs:
            alike = f"{runs[jobs.index(job)].combination.label} and {run.combination.label}"
            hint = "launch two sweeps: one without the key that has no effect beside the others"
            yield BadInput(f"--sweep: {alike} would train the same model", hint)
        jobs.append(job)


def _matters(place: int, runs: Sequence[PlannedRun], jobs: Sequence[Any]) -> bool:
    """Whether two jobs that differ in one axis only are different; True where no two runs can show it."""
    both = list(zip((run.combination.values for run in runs), jobs, strict=True))
    others = sorted(both, key=lambda each: (each[0][:place], each[0][place + 1 :]))
    groups = [list(group) for _, group in groupby(others, key=lambda each: (each[0][:place], each[0][place + 1 :]))]
    shown = [group for group in groups if len(group) > 1]
    return not shown or any(one[1] != group[0][1] for group in shown for one in group[1:])


def _job(plan: LaunchPlan) -> Any:
    """What a plan trains, without its name and its own folders."""
    own = str(plan.output_dir)
    argv = tuple(word.replace(own, "OUT") for word in plan.argv)
    environment = {name: value.replace(own, "OUT") for name, value in plan.environment.items()}
    image = plan.image.reference if plan.image else None
    place = (plan.gpu_ids, plan.nodes, plan.shm_bytes, plan.memory_bytes, plan.network, image, plan.strategy)
    mounts = tuple(mount for mount in plan.mounts if not mount.source.startswith(own))
    return argv, environment, plan.host_environment, mounts, place, plan.slurm
