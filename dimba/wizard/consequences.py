"""The consequences of the hyperparameters: effective batch, optimiser steps, passes over the data."""

from dimba.common.units import quantity
from dimba.objectives.batches import total_steps
from dimba.options.grpo_table import GENERATIONS
from dimba.wizard.batches import accumulation, batch_size, is_auto, processes, why_auto
from dimba.wizard.facts import known_rows
from dimba.wizard.lines import Line
from dimba.wizard.state import State

_MANY_PASSES = 10


def adjustment_lines(state: State) -> list[Line]:
    """The adjustments that give every process equal work, and GRPO complete groups."""
    if is_auto(state):
        return [Line(why_auto(state), "dim")]
    wanted, needed = state.value("grad_accumulation_steps"), accumulation(state)
    if wanted == needed:
        return _fewer_generations(state)
    batch = state.value("batch_size")
    group = state.value("num_generations")
    if group is None or batch * wanted % group == 0:
        why = f"shared evenly by {quantity(processes(state), 'GPU')}"
        return [Line(f"gradient accumulation {wanted} → {needed}: {why}", "warn")]
    why = f"{batch} × {wanted} completions do not make complete groups of {group}"
    return [Line(f"gradient accumulation {wanted} → {needed}: {why}, {batch} × {needed} do", "warn")]


def _fewer_generations(state: State) -> list[Line]:
    group = state.value("num_generations")
    if "num_generations" in state.answers or group in (None, GENERATIONS):
        return []
    return [Line(f"completions per prompt {group}: the most up to {GENERATIONS} that make complete groups", "warn")]


def batch_lines(state: State) -> list[Line]:
    """Effective batch, steps per epoch, and steps in total."""
    batch, count = batch_size(state), processes(state)
    steps = accumulation(state)
    gpus = f", shared by {count} GPUs" if count > 1 else ""
    effective = batch * steps
    text = f"{quantity(effective, state.objective.batches.unit)} per step ({batch} × {steps}{gpus})"
    if group := state.value("num_generations"):
        text += f", {quantity(effective // group, 'prompt')} × {group}"
    return [Line(f"{text}; {_steps(state, steps)}", "dim")]


def _per_pass(state: State, steps: int) -> int | None:
    rows, batch = known_rows(state), batch_size(state)
    if rows is None:
        return None
    completions = state.value("num_generations")
    return state.objective.batches.steps_per_epoch(rows, batch_size=batch, accumulation=steps, completions=completions)


def steps_of_epochs(state: State, epochs: float) -> int | None:
    """Optimiser steps of so many passes over the data; None if the number of rows is unknown."""
    per_pass = _per_pass(state, accumulation(state))
    return None if per_pass is None else total_steps(per_pass, epochs=epochs, max_steps=None)


def _steps(state: State, steps: int) -> str:
    per_pass, limit = _per_pass(state, steps), state.value("max_steps")
    if per_pass is None:
        return f"{quantity(limit, 'step')} in total" if limit else "the number of steps depends on the rows"
    total = total_steps(per_pass, epochs=state.value("epochs"), max_steps=limit)
    return f"{quantity(per_pass, 'step')} per epoch, {total:,} in total"


def max_steps_lines(state: State) -> list[Line]:
    """The passes over the data that max steps amounts to, as it wins over epochs."""
    per_pass = _per_pass(state, accumulation(state))
    limit, epochs = state.value("max_steps"), state.value("epochs")
    if per_pass is None or limit is None:
        return []
    passes = limit / per_pass
    if passes > max(_MANY_PASSES, epochs):
        instead = counted_epochs(epochs)
        text = f"{limit:,} steps are {passes:,.0f} passes over the data: max steps `none` trains {instead} instead"
        return [Line(text, "warn")]
    shown = f"{passes:,.2f}".rstrip("0").rstrip(".")
    return [Line(f"max steps wins over epochs: {shown} passes over the data", "dim")] if passes != epochs else []


def counted_epochs(epochs: float) -> str:
    """`1 epoch`, `2.5 epochs`."""
    return "1 epoch" if epochs == 1 else f"{epochs:g} epochs"
