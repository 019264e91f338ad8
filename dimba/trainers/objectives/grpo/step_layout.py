"""How many completions of how many prompts an optimiser step of GRPO consists of."""

from collections.abc import Sequence
from dataclasses import dataclass

from dimba.common.units import quantity
from dimba.objectives.batches import complete_groups, group_steps_per_epoch, total_steps
from dimba.objectives.grpo import GrpoOptions
from dimba.trainers.objectives.grpo.prompts import Prompt
from dimba.trainers.ranks import is_main_process, world_size


@dataclass(frozen=True)
class StepLayout:
    """An optimiser step of complete groups, over all processes."""

    accumulation: int
    generations: int  # completions per prompt
    prompts: int


def step_layout(options: GrpoOptions) -> StepLayout:
    """The layout for these options; accumulation grows until the groups are complete."""
    processes = world_size()
    accumulation, generations = complete_groups(
        options.grad_accumulation_steps,
        batch_size=options.batch_size,
        processes=processes,
        generations=options.num_generations,
    )
    return StepLayout(accumulation, generations, accumulation * options.batch_size * processes // generations)


def planned_steps(options: GrpoOptions, prompts: int) -> int:
    """The optimiser steps of a job with that many prompts."""
    per_epoch = group_steps_per_epoch(prompts, prompts_per_step=step_layout(options).prompts)
    return total_steps(per_epoch, epochs=options.epochs, max_steps=options.max_steps)


def fill_step(options: GrpoOptions, prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts, repeated if they are fewer than a step needs; prints the layout of a step."""
    layout = step_layout(options)
    repeats = -(-layout.prompts // len(prompts))
    if is_main_process():
        _print_layout(layout, options, len(prompts))
    return list(prompts) * repeats


def _print_layout(layout: StepLayout, options: GrpoOptions, prompts: int) -> None:
    given = options.grad_accumulation_steps
    if layout.accumulation != given:
        print(f"gradient accumulation {given} → {layout.accumulation}: a step then has complete groups")
    print(f"a step: {quantity(layout.prompts, 'prompt')} × {quantity(layout.generations, 'completion')}", flush=True)
    if prompts < layout.prompts:
        print(f"{prompts} prompts are repeated to fill a step of {layout.prompts}", flush=True)
