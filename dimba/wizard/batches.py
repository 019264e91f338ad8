"""Batch arithmetic of the answers: processes, and groups that GRPO can compare."""

import math
from typing import TYPE_CHECKING

from dimba.host.facts import CheckpointFacts, Gpu
from dimba.objectives.batches import group_unit, whole_groups
from dimba.wizard.looks import base_facts
from dimba.wizard.machine import gpu_facts
from dimba.wizard.state import State

if TYPE_CHECKING:
    from dimba.plan.fitting import Fit
    from dimba.plan.job import ResolvedJob

AUTO = "auto"


def processes(state: State) -> int:
    """How many GPUs, and so processes, the answers come to on this machine."""
    value, here = state.value("gpus"), len(gpu_facts(state).gpus)
    count = {"all": here, "none": 0}.get(value) if isinstance(value, str) else None
    count = count if count is not None else value if isinstance(value, int) else len(value)
    return max(1, count)


def is_auto(state: State) -> bool:
    """Whether the plan is to choose the batch size."""
    return bool(state.value("batch_size") == AUTO)


def batch_size(state: State) -> int:
    """The answer, or the number that `auto` comes to on this machine."""
    asked = state.value("batch_size")
    return resolved_batch(state).rows if asked == AUTO else int(asked)


def resolved_batch(state: State) -> "ResolvedJob":
    """The job with what the plan will make of `auto`, as far as the answers tell."""
    return _fit(state)[0]


def why_auto(state: State) -> str:
    """Why it is that number."""
    return _fit(state)[1]


def fitting_batch(state: State) -> int | None:
    """What `auto` comes to; None where it is the table's number again, as what fits cannot be told."""
    from dimba.plan.fitting import is_known, settle_batch

    job = _job(state)
    return int(settle_batch(job)[0].job.rows) if is_known(job) else None


def is_too_much(state: State, batch: int, steps: int) -> bool:
    """Whether so many rows at once are known not to fit the cards."""
    from dimba.plan.fitting import memory_problems

    return bool(memory_problems(_job(state, batch_size=batch, grad_accumulation_steps=steps)))


def _fit(state: State) -> "tuple[ResolvedJob, str]":
    from dimba.plan.fitting import settle_batch

    found, why = settle_batch(_job(state))
    return found.job, why


def _job(state: State, **training: int) -> "Fit":
    """The answers as a job, its batch size to be settled unless it is given."""
    from dimba.plan.fitting import Fit
    from dimba.plan.job import resolved
    from dimba.plan.strategy import choose_strategy
    from dimba.spec import JobSpec

    gpus = chosen_cards(state)
    rank, vram = state.value("lora_r") or 8, state.value("vram")
    generations = state.answers.get("num_generations")
    values = {
        "version": 1,
        "mode": state.value("mode"),
        "base_checkpoint": "base",
        "dataset": {"name": "any/data"},
        "method": state.value("method"),
        "lora": {"r": rank, "alpha": rank},
        "training": {"batch_size": AUTO, "max_length": state.value("max_length"), **training},
        "trainer_args": {"num-generations": generations} if generations else {},
        "resources": {"vram_gb": vram} if vram else {},
    }
    base = base_facts(state) or CheckpointFacts(reference="base", local=False)
    spec = JobSpec.model_validate(values)
    fit = Fit(job=resolved(spec), checkpoint=base, gpus=gpus, processes=processes(state), longest=None, ours=True)
    return fit.shared_by(choose_strategy(fit).shards(fit.processes))


def chosen_cards(state: State) -> tuple[Gpu, ...]:
    """The cards that the answers come to."""
    value, here = state.value("gpus"), gpu_facts(state).gpus
    if isinstance(value, str):
        return here if value == "all" else ()
    if isinstance(value, int):
        return here[:value]
    return tuple(gpu for gpu in here if gpu.index in value or gpu.id in value)


def accumulation(state: State) -> int:
    """Of one process; raised until each of them has as much, for GRPO in whole groups."""
    if is_auto(state):
        return resolved_batch(state).accumulation
    asked: int = state.value("grad_accumulation_steps")
    step = processes(state)
    if group := state.value("num_generations"):
        asked, generations = _groups(state, group)
        step = math.lcm(step, group_unit(generations, batch_size(state)))
    return math.ceil(asked / step) * step


def fitting_generations(state: State) -> int:
    """Completions a prompt, so that the groups of a step are whole as they are."""
    return _groups(state, None)[1]


def _groups(state: State, generations: int | None) -> tuple[int, int]:
    return whole_groups(
        accumulation(state) if is_auto(state) else state.value("grad_accumulation_steps"),
        batch_size=batch_size(state),
        processes=1,
        generations=generations,
    )
