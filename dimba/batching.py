"""How rows become optimiser steps, and how large a step is. Both the plan and the trainers count with it."""

import math

GENERATIONS = 8  # completions of one prompt that GRPO compares, unless told otherwise


def steps_per_epoch(rows: int, *, batch_size: int, accumulation: int, processes: int = 1) -> int:
    """Optimiser steps in one pass over `rows`; the last one may be short."""
    per_process = math.ceil(rows / processes)
    return max(1, math.ceil(math.ceil(per_process / batch_size) / accumulation))


def total_steps(per_epoch: int, *, epochs: float, max_steps: int | None) -> int:
    """Optimiser steps of the whole job: `max_steps` where given, else the epochs' worth."""
    return max_steps if max_steps is not None else max(1, math.ceil(per_epoch * epochs))


def default_learning_rate(mode: str, method: str) -> float:
    """What trains: 2e-4 and 2e-5 for SFT; GRPO's published recipes are twenty times below."""
    rates = {("sft", False): 2e-4, ("sft", True): 2e-5, ("grpo", False): 1e-5, ("grpo", True): 1e-6}
    return rates[mode, method == "full"]
