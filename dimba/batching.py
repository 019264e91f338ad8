"""Batch arithmetic: how rows become optimiser steps. Both the plan and the trainers count with it."""

import math


def steps_per_epoch(rows: int, *, batch_size: int, accumulation: int, processes: int = 1) -> int:
    """Optimiser steps in one pass over `rows`; the last one may be short."""
    per_process = math.ceil(rows / processes)
    return max(1, math.ceil(math.ceil(per_process / batch_size) / accumulation))


def total_steps(per_epoch: int, *, epochs: float, max_steps: int | None) -> int:
    """Optimiser steps of the whole job: `max_steps` where given, else the epochs' worth."""
    return max_steps if max_steps is not None else max(1, math.ceil(per_epoch * epochs))
