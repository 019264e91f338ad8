"""Batch arithmetic of the answers: processes, batch size, accumulation and complete groups."""

import math
from typing import TYPE_CHECKING

from dimba.host.facts import CheckpointFacts, Gpu
from dimba.objectives.batches import complete_groups, group_unit
from dimba.options.grpo_table import NUM_GENERATIONS
from dimba.options.table import LORA_R
from dimba.wizard.facts import base_facts
from dimba.wizard.machine import gpu_facts
from dimba.wizard.state import State

if TYPE_CHECKING:
    from dimba.plan.fitting import Fit
    from dimba.plan.job import ResolvedJob

AUTO = "auto"


def processes(state: State) -> int:
    """The number of processes on this machine: one per chosen GPU, at least one."""
    value, here = state.value("gpus"), len(gpu_facts(state).gpus)
    count = {"all": here, "none": 0}.get(value) if isinstance(value, str) else None
    count = count if count is not None else value if isinstance(value, int) else len(value)
    return max(1, count)


def is_auto(state: State) -> bool:
    """Whether the plan chooses the batch size."""
    return bool(state.value("batch_size") == AUTO)


def batch_size(state: State) -> int:
    """The answer, or the number that `auto` resolves to on this machine."""
    asked = state.value("batch_size")
    return resolved_batch(state).rows if asked == AUTO else int(asked)


def resolved_batch(state: State) -> "ResolvedJob":
    """The job with `auto` resolved as the plan will do it, by the answers so far."""
    return _fit(state)[0]


def why_auto(state: State) -> str:
    """The reason for the number that `auto` resolves to."""
    return _fit(state)[1]


def fitting_batch(state: State) -> int | None:
    """The number that `auto` resolves to; None if the memory is unknown, so that `auto` takes the table's."""
    from dimba.plan.fitting import is_known, resolve_batch

    job = _job(state)
    return int(resolve_batch(job)[0].job.rows) if is_known(job) else None


def exceeds_memory(state: State, batch: int, steps: int) -> bool:
    """Whether the estimate for this batch size exceeds the GPUs' memory."""
    from dimba.plan.ways import memory_problems

    return bool(memory_problems(_job(state, batch_size=batch, grad_accumulation_steps=steps)))


def _fit(state: State) -> "tuple[ResolvedJob, str]":
    from dimba.plan.fitting import resolve_batch

    found, why = resolve_batch(_job(state))
    return found.job, why


def _job(state: State, **training: int) -> "Fit":
    """The answers as a job, with batch size `auto` unless `training` sets it."""
    from dimba.plan.fitting import Fit
    from dimba.plan.job import resolved
    from dimba.plan.strategy import choose_strategy
    from dimba.spec import JobSpec

    gpus = chosen_gpus(state)
    rank, vram = state.value("lora_r") or LORA_R.default, state.value("vram")
    generations = state.answers.get("num_generations")
    values = {
        "version": 1,
        "mode": state.value("mode"),
        "base_checkpoint": "base",
        "dataset": {"name": "any/data"},
        "method": state.value("method"),
        "lora": {"r": rank, "alpha": rank},
        "training": {"batch_size": AUTO, "max_length": state.value("max_length"), **training},
        "trainer_args": {NUM_GENERATIONS.name: generations} if generations else {},
        "resources": {"vram_gb": vram} if vram else {},
    }
    base = base_facts(state) or CheckpointFacts(reference="base", local=False)
    spec = JobSpec.model_validate(values)
    fit = Fit(job=resolved(spec), checkpoint=base, gpus=gpus, processes=processes(state), longest=None, ours=True)
    return fit.shared_by(choose_strategy(fit).shards(fit.processes))


def chosen_gpus(state: State) -> tuple[Gpu, ...]:
    """The GPUs of this machine that the answers choose."""
    value, here = state.value("gpus"), gpu_facts(state).gpus
    if isinstance(value, str):
        return here if value == "all" else ()
    if isinstance(value, int):
        return here[:value]
    return tuple(gpu for gpu in here if gpu.index in value or gpu.id in value)


def accumulation(state: State) -> int:
    """Batches per optimiser step, a multiple of the processes; for GRPO, with complete groups in each."""
    if is_auto(state):
        return resolved_batch(state).accumulation
    wanted: int = state.value("grad_accumulation_steps")
    unit = processes(state)
    if group := state.value("num_generations"):
        wanted, generations = _complete_groups(state, group)
        unit = math.lcm(unit, group_unit(generations, batch_size(state)))
    return math.ceil(wanted / unit) * unit


def fitting_generations(state: State) -> int:
    """Completions per prompt with which every step has complete groups."""
    return _complete_groups(state, None)[1]


def _complete_groups(state: State, generations: int | None) -> tuple[int, int]:
    return complete_groups(
        accumulation(state) if is_auto(state) else state.value("grad_accumulation_steps"),
        batch_size=batch_size(state),
        processes=1,
        generations=generations,
    )
