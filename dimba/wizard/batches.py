"""Batch arithmetic of the answers: processes, and groups that GRPO can compare."""

import math

from dimba.wizard.machine import gpu_facts
from dimba.wizard.state import State


def processes(state: State) -> int:
    """How many GPUs, and so processes, the answers come to on this machine."""
    value, here = state.value("gpus"), len(gpu_facts(state).gpus)
    count = {"all": here, "none": 0}.get(value) if isinstance(value, str) else None
    count = count if count is not None else value if isinstance(value, int) else len(value)
    return max(1, count)


def accumulation(state: State) -> int:
    """Gradient accumulation, raised for GRPO until the completions of a step fill whole groups."""
    return solved(
        state.value("grad_accumulation_steps"),
        batch=state.value("batch_size"),
        processes=processes(state),
        generations=state.value("num_generations") if state.value("mode") == "grpo" else 1,
    )


def solved(asked: int, *, batch: int, processes: int, generations: int) -> int:
    """The smallest accumulation from `asked` on that fills whole groups, on one process too where it has to grow."""
    if asked * batch * processes % generations == 0:
        return asked
    step = generations // math.gcd(generations, batch)
    return math.ceil(asked / step) * step
