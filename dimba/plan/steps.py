"""The batch of a step, shared by however many processes there are, and how many steps that makes."""

import math
from dataclasses import replace

from dimba.common.errors import BadInput
from dimba.host.facts import HostFacts
from dimba.objectives.batching import group_steps_per_epoch, group_unit, steps_per_epoch, total_steps, whole_groups
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
    unit = math.lcm(processes, _smallest(spec))
    near = [each for each in (total // unit * unit, (total // unit + 1) * unit) if each]
    hint = f"set `{_KEY}` to {' or '.join(f'{each} ({each * batch} a step)' for each in near)}"
    return BadInput(f"{_KEY}: {total} × batch size {batch} cannot be shared evenly by {processes} processes", hint)


def _smallest(spec: JobSpec) -> int:
    """The gradient accumulation below which GRPO's groups would not be whole."""
    generations = generations_of(spec)
    return group_unit(generations, spec.training.rows) if generations else 1


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
    if completions:
        per_epoch = group_steps_per_epoch(rows, prompts_a_step=effective // completions)
    else:
        per_epoch = steps_per_epoch(rows, batch_size=training.rows, accumulation=total)
    assert training.epochs is not None, "a JobSpec is complete"
    planned = total_steps(per_epoch, epochs=training.epochs, max_steps=training.max_steps)
    return replace(steps, per_epoch=per_epoch, total=planned)


def _groups(spec: JobSpec) -> tuple[int, int | None]:
    """(accumulation on one process, completions a prompt): GRPO's batches count completions, a group each prompt."""
    asked = spec.training.grad_accumulation_steps
    if spec.mode != "grpo":
        return asked, None
    return whole_groups(asked, batch_size=spec.training.rows, processes=1, generations=generations_of(spec))


def generations_of(spec: JobSpec) -> int | None:
    """Completions a prompt, where a spec of GRPO's asks for a number of them."""
    asked = str(spec.trainer_args.get("num-generations", "")) if spec.mode == "grpo" else ""
    return int(asked) if asked.isdecimal() and int(asked) > 1 else None
