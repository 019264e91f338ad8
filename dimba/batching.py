"""How rows become optimiser steps, and how large a step is. Both the plan and the trainers count with it."""

import math

GENERATIONS = 8  # completions of one prompt that GRPO compares, unless told otherwise


def steps_per_epoch(rows: int, *, batch_size: int, accumulation: int) -> int:
    """Optimiser steps in one pass over `rows`, on however many processes; the last one may be short."""
    return max(1, math.ceil(rows / (batch_size * accumulation)))


def total_steps(per_epoch: int, *, epochs: float, max_steps: int | None) -> int:
    """Optimiser steps of the whole job: `max_steps` where given, else the epochs' worth."""
    return max_steps if max_steps is not None else max(1, math.ceil(per_epoch * epochs))


def group_unit(generations: int, batch_size: int) -> int:
    """The fewest batches that hold whole groups of so many completions."""
    return generations // math.gcd(generations, batch_size)


def whole_groups(asked: int, *, batch_size: int, processes: int, generations: int | None) -> tuple[int, int]:
    """(accumulation, completions a prompt), so that the completions of a step are whole groups.

    Where `generations` is given, accumulation grows from `asked` on until they are, on one process too; otherwise it
    is the largest number up to GENERATIONS that fits as it is.
    """
    completions = asked * batch_size * processes
    fitting = [each for each in range(GENERATIONS, 1, -1) if completions % each == 0]
    generations = generations or (fitting[0] if fitting else GENERATIONS)
    if completions % generations == 0:
        return asked, generations
    step = group_unit(generations, batch_size)
    return math.ceil(asked / step) * step, generations


def group_steps_per_epoch(prompts: int, *, prompts_a_step: int) -> int:
    """Optimiser steps in one pass of GRPO: prompts that do not fill a step are left to the next pass."""
    return max(1, prompts // prompts_a_step)


def default_learning_rate(mode: str, method: str) -> float:
    """What trains: 2e-4 and 2e-5 for SFT; GRPO's published recipes are twenty times below."""
    rates = {("sft", False): 2e-4, ("sft", True): 2e-5, ("grpo", False): 1e-5, ("grpo", True): 1e-6}
    return rates[mode, method == "full"]
