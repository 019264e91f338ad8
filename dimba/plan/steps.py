"""The effective batch, shared among the processes, and the number of steps."""

import math
from collections.abc import Iterator
from dataclasses import replace

from dimba.common.errors import BadInput
from dimba.common.units import quantity
from dimba.host.facts import HostFacts
from dimba.objectives.batches import total_steps
from dimba.plan.job import ResolvedJob
from dimba.plan.model import StepPlan
from dimba.spec import JobSpec

_KEY = "training.grad_accumulation_steps"


def share_out(job: ResolvedJob, processes: int) -> ResolvedJob:
    """The job of one process, so that the effective batch is the same for any number of processes.

    That is less gradient accumulation; where there are more processes than that, smaller batches too.

    Raises:
        BadInput: it does not divide; with the nearest that do.
    """
    if processes == 1:
        return job
    batch_size, accumulation = of_each(job, processes)
    if not accumulation:
        raise _indivisible(job, processes)
    return job.with_batch(batch_size, accumulation)


def of_each(job: ResolvedJob, processes: int) -> tuple[int, int]:
    """(batch size, accumulation) of a process; accumulation 0 if the effective batch cannot be shared."""
    batch, (total, _generations) = job.rows, _groups(job)
    if total % processes == 0:
        return batch, total // processes
    if total < processes and total * batch % processes == 0:
        return total * batch // processes, 1
    return batch, 0


def _indivisible(job: ResolvedJob, processes: int) -> BadInput:
    batch, (total, _generations) = job.rows, _groups(job)
    unit = math.lcm(processes, job.objective.batches.least_accumulation(job.rows, job.trainer_args))
    near = [each for each in (total // unit * unit, (total // unit + 1) * unit) if each]
    hint = f"set `{_KEY}` to {' or '.join(f'{each} ({each * batch} per step)' for each in near)}"
    return BadInput(f"{total} × batch size {batch} cannot be shared evenly by {processes} processes", hint, key=_KEY)


def plan_steps(job: ResolvedJob, facts: HostFacts, processes: int) -> StepPlan:
    """Batch arithmetic of the job, before its processes share a step."""
    training, report = job.spec.training, facts.data.report
    total, completions = _groups(job)
    effective = job.rows * total
    batch_size, accumulation = of_each(job, processes)
    steps = StepPlan(
        processes=processes,
        batch_size=batch_size,
        effective_batch=effective,
        accumulation=accumulation,
        completions=completions,
        per_epoch=None,
        total=training.max_steps,
    )
    rows = report.examples if report and not report.streamed else facts.data.rows_per_epoch
    if rows is None:
        return steps
    per_epoch = job.objective.batches.steps_per_epoch(
        rows, batch_size=job.rows, accumulation=total, completions=completions
    )
    assert training.epochs is not None, "a JobSpec is complete"
    planned = total_steps(per_epoch, epochs=training.epochs, max_steps=training.max_steps)
    return replace(steps, per_epoch=per_epoch, total=planned)


def warmup_notes(spec: JobSpec, steps: StepPlan) -> Iterator[str]:
    """A line for a warmup as long as the training."""
    asked, total = spec.training.warmup, steps.total
    if asked is None:
        asked = spec.objective.params["warmup"].default
    if not asked or not total:
        return
    warmup = math.ceil(asked * total) if asked < 1 else int(asked)
    if warmup >= total:
        of = f"{warmup} of {quantity(total, 'step')}"
        yield f"training.warmup: {of}, so that the full learning rate is never reached; 0 leaves it out"


def _groups(job: ResolvedJob) -> tuple[int, int | None]:
    """(accumulation of the job, completions per prompt, None where nothing is sampled)."""
    asked = job.accumulation
    return job.objective.batches.complete(asked, batch_size=job.rows, args=job.trainer_args)


def generations_of(job: ResolvedJob) -> int | None:
    """Completions per prompt, where the spec sets them."""
    return job.objective.batches.generations(job.trainer_args)
