"""Batch arithmetic of the answers: processes, and groups that GRPO can compare."""

import math

from dimba.batching import group_unit, whole_groups
from dimba.wizard.machine import gpu_facts
from dimba.wizard.state import State


def processes(state: State) -> int:
    """How many GPUs, and so processes, the answers come to on this machine."""
    value, here = state.value("gpus"), len(gpu_facts(state).gpus)
    count = {"all": here, "none": 0}.get(value) if isinstance(value, str) else None
    count = count if count is not None else value if isinstance(value, int) else len(value)
    return max(1, count)


def accumulation(state: State) -> int:
    """Of one process; raised until each of them has as much, for GRPO in whole groups."""
    asked: int = state.value("grad_accumulation_steps")
    step = processes(state)
    if state.value("mode") == "grpo":
        asked, generations = _groups(state, state.value("num_generations"))
        step = math.lcm(step, group_unit(generations, state.value("batch_size")))
    return math.ceil(asked / step) * step


def fitting_generations(state: State) -> int:
    """Completions a prompt, so that the groups of a step are whole as they are."""
    return _groups(state, None)[1]


def _groups(state: State, generations: int | None) -> tuple[int, int]:
    return whole_groups(
        state.value("grad_accumulation_steps"),
        batch_size=state.value("batch_size"),
        processes=1,
        generations=generations,
    )
