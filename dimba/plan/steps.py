"""The batch of a step, shared by however many processes there are, and how many steps that makes."""

import math
from dataclasses import replace

from dimba.common.errors import BadInput
from dimba.host.facts import HostFacts
from dimba.objectives.batches import total_steps
from dimba.plan.model import Steps
from dimba.spec import JobSpec

_KEY = "training.grad_accumulation_steps"


def share_out(spec: JobSpec, processes: int) -> JobSpec:
    """The spec with what each process does of a step, so that the step is the same however many there are.

    That is less gradient accumulation; where there are more processes than that, smaller batches too.

    Raises:
        BadInput: it does not divide; with the nearest that do.
    """
    if processes == 1:
        return spec
    batch_size, accumulation = of_each(spec, processes)
    if not accumulation:
        raise _indivisible(spec, processes)
    each = {"batch_size": batch_size, "grad_accumulation_steps": accumulation}
    return spec.model_copy(update={"training": spec.training.model_copy(update=each)})


def of_each(spec: JobSpec, processes: int) -> tuple[int, int]:
    """(batch size, accumulation) of a process; no accumulation where a step cannot be shared."""
    batch, (total, _generations) = spec.training.rows, _groups(spec)
    if total % processes == 0:
        return batch, total // processes
    if total < processes and total * batch % processes == 0:
        return total * batch // processes, 1
    return batch, 0


def _indivisible(spec: JobSpec, processes: int) -> BadInput:
    batch, (total, _generations) = spec.training.rows, _groups(spec)
    unit = math.lcm(processes, spec.objective.batches.least_accumulation(spec.training.rows, spec.trainer_args))
    near = [each for each in (total // unit * unit, (total // unit + 1) * unit) if each]
    hint = f"set `{_KEY}` to {' or '.join(f'{each} ({each * batch} a step)' for each in near)}"
    return BadInput(f"{_KEY}: {total} × batch size {batch} cannot be shared evenly by {processes} processes", hint)


def plan_steps(spec: JobSpec, facts: HostFacts, processes: int) -> Steps:
    """Batch arithmetic of the whole job, from the spec as it was written."""
    training, report, summary = spec.training, facts.data.report, facts.data.summary
    total, completions = _groups(spec)
    effective = training.rows * total
    batch_size, accumulation = of_each(spec, processes)
    steps = Steps(
        processes=processes,
        batch_size=batch_size,
        effective_batch=effective,
        accumulation=accumulation,
        completions=completions,
        per_epoch=None,
        total=training.max_steps,
    )
    rows = report.examples if report else summary.usable if summary else None
    if rows is None:
        return steps
    per_epoch = spec.objective.batches.steps_per_epoch(
        rows, batch_size=training.rows, accumulation=total, completions=completions
    )
    assert training.epochs is not None, "a JobSpec is complete"
    planned = total_steps(per_epoch, epochs=training.epochs, max_steps=training.max_steps)
    return replace(steps, per_epoch=per_epoch, total=planned)


def _groups(spec: JobSpec) -> tuple[int, int | None]:
    """(accumulation of the job, completions per prompt, None where nothing is sampled)."""
    asked = spec.training.grad_accumulation_steps
    return spec.objective.batches.complete(asked, batch_size=spec.training.rows, args=spec.trainer_args)


def generations_of(spec: JobSpec) -> int | None:
    """Completions per prompt, where the spec sets them."""
    return spec.objective.batches.generations(spec.trainer_args)
