"""Batch arithmetic: how rows become optimiser steps, for the plan, the wizard and the trainers."""

import math
from collections.abc import Mapping
from typing import Any, Protocol

from dimba.options.grpo_table import GENERATIONS, NUM_GENERATIONS


def steps_per_epoch(rows: int, *, batch_size: int, accumulation: int) -> int:
    """Optimiser steps per pass over `rows`; the last one may be short."""
    return max(1, math.ceil(rows / (batch_size * accumulation)))


def total_steps(per_epoch: int, *, epochs: float, max_steps: int | None) -> int:
    """Optimiser steps of the job: `max_steps` if given, else those of `epochs` passes."""
    return max_steps if max_steps is not None else max(1, math.ceil(per_epoch * epochs))


def group_unit(generations: int, batch_size: int) -> int:
    """The fewest batches of `batch_size` completions that hold complete groups of `generations`."""
    return generations // math.gcd(generations, batch_size)


def complete_groups(wanted: int, *, batch_size: int, processes: int, generations: int | None) -> tuple[int, int]:
    """(accumulation, completions per prompt) that make every step consist of complete groups.

    With `generations` given, accumulation grows from `wanted` until the groups are complete; otherwise the completions
    per prompt are the largest number up to GENERATIONS that divides the step.
    """
    completions = wanted * batch_size * processes
    fitting = [each for each in range(GENERATIONS, 1, -1) if completions % each == 0]
    generations = generations or (fitting[0] if fitting else GENERATIONS)
    if completions % generations == 0:
        return wanted, generations
    unit = group_unit(generations, batch_size)
    return math.ceil(wanted / unit) * unit, generations


def group_steps_per_epoch(prompts: int, *, prompts_per_step: int) -> int:
    """Optimiser steps per pass of GRPO; prompts that do not fill a step go to the next pass."""
    return max(1, prompts // prompts_per_step)


class Batches(Protocol):
    """How an objective counts a batch; `args` are the spec's `trainer_args`."""

    unit: str  # noun for one element of a batch

    def generations(self, args: Mapping[str, Any]) -> int | None:
        """Completions per prompt, if the spec sets them."""

    def complete(self, wanted: int, *, batch_size: int, args: Mapping[str, Any]) -> tuple[int, int | None]:
        """(accumulation of the job, completions per prompt or None) for the wanted accumulation."""

    def least_accumulation(self, batch_size: int, args: Mapping[str, Any]) -> int:
        """The accumulation of which every valid one is a multiple."""

    def steps_per_epoch(self, rows: int, *, batch_size: int, accumulation: int, completions: int | None) -> int:
        """Optimiser steps per pass over `rows`."""


class RowBatches:
    """Batches of rows, each on its own."""

    unit = "row"

    def generations(self, args: Mapping[str, Any]) -> int | None:
        """None: nothing is sampled."""
        return None

    def complete(self, wanted: int, *, batch_size: int, args: Mapping[str, Any]) -> tuple[int, int | None]:
        """The wanted accumulation."""
        return wanted, None

    def least_accumulation(self, batch_size: int, args: Mapping[str, Any]) -> int:
        """1: every accumulation is valid."""
        return 1

    def steps_per_epoch(self, rows: int, *, batch_size: int, accumulation: int, completions: int | None) -> int:
        """Optimiser steps per pass over `rows`; the last one may be short."""
        return steps_per_epoch(rows, batch_size=batch_size, accumulation=accumulation)


class GroupBatches:
    """Batches of completions, sampled in groups that share a prompt."""

    unit = "completion"

    def generations(self, args: Mapping[str, Any]) -> int | None:
        """Completions per prompt, if the spec sets them."""
        text = str(args.get(NUM_GENERATIONS.name, ""))
        return int(text) if text.isdecimal() and int(text) > 1 else None

    def complete(self, wanted: int, *, batch_size: int, args: Mapping[str, Any]) -> tuple[int, int | None]:
        """(accumulation, completions per prompt) with complete groups in every step."""
        return complete_groups(wanted, batch_size=batch_size, processes=1, generations=self.generations(args))

    def least_accumulation(self, batch_size: int, args: Mapping[str, Any]) -> int:
        """The accumulation below which groups would be incomplete."""
        generations = self.generations(args)
        return group_unit(generations, batch_size) if generations else 1

    def steps_per_epoch(self, rows: int, *, batch_size: int, accumulation: int, completions: int | None) -> int:
        """Optimiser steps per pass over `rows` prompts."""
        return group_steps_per_epoch(rows, prompts_per_step=batch_size * accumulation // (completions or GENERATIONS))
