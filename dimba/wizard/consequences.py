"""What follows from the hyperparameters: rows a step, steps, passes over the data."""

from dimba.objectives.batches import total_steps
from dimba.options.grpo_table import GENERATIONS
from dimba.wizard.batches import accumulation, batch_size, is_auto, processes, why_auto
from dimba.wizard.looks import known_rows
from dimba.wizard.question import Said, counted
from dimba.wizard.state import State

_MANY_PASSES = 10


def solved_note(state: State) -> list[Said]:
    """What was done so that every process has as much to do, and the groups of GRPO are whole."""
    if is_auto(state):
        return [Said(why_auto(state), "dim")]
    asked, needed = state.value("grad_accumulation_steps"), accumulation(state)
    if asked == needed:
        return _fewer_generations(state)
    batch = state.value("batch_size")
    group = state.value("num_generations")
    if group is None or batch * asked % group == 0:
        why = f"{counted(processes(state), 'GPU')} share it evenly then"
        return [Said(f"gradient accumulation {asked} → {needed}: {why}", "warn")]
    why = f"{batch} × {asked} completions are no whole groups of {group}"
    return [Said(f"gradient accumulation {asked} → {needed}: {why}, {batch} × {needed} are", "warn")]


def _fewer_generations(state: State) -> list[Said]:
    group = state.value("num_generations")
    if "num_generations" in state.answers or group in (None, GENERATIONS):
        return []
    return [Said(f"completions per prompt {group}: the most up to {GENERATIONS} that make whole groups", "warn")]


def consequences(state: State) -> list[Said]:
    """Effective batch, steps a pass, steps in all, and how many passes that is."""
    batch, count = batch_size(state), processes(state)
    steps = accumulation(state)
    gpus = f", shared by {count} GPUs" if count > 1 else ""
    effective = batch * steps
    text = f"{counted(effective, state.objective.batches.unit)} a step ({batch} × {steps}{gpus})"
    if group := state.value("num_generations"):
        text += f", {counted(effective // group, 'prompt')} × {group}"
    return [Said(f"{text}; {_steps(state, steps)}", "dim")]


def _per_pass(state: State, steps: int) -> int | None:
    rows, batch = known_rows(state), batch_size(state)
    if rows is None:
        return None
    completions = state.value("num_generations")
    return state.objective.batches.steps_per_epoch(rows, batch_size=batch, accumulation=steps, completions=completions)


def _steps(state: State, steps: int) -> str:
    per_pass, limit = _per_pass(state, steps), state.value("max_steps")
    if per_pass is None:
        return f"{counted(limit, 'step')} in all" if limit else "how many steps depends on the rows"
    total = total_steps(per_pass, epochs=state.value("epochs"), max_steps=limit)
    return f"{counted(per_pass, 'step')} an epoch, {total:,} in all"


def passes(state: State) -> list[Said]:
    """What a limit on steps makes of the epochs, since the limit wins."""
    per_pass = _per_pass(state, accumulation(state))
    limit, epochs = state.value("max_steps"), state.value("epochs")
    if per_pass is None or limit is None:
        return []
    passes = limit / per_pass
    if passes > max(_MANY_PASSES, epochs):
        instead = counted_epochs(epochs)
        text = f"{limit:,} steps are {passes:,.0f} passes over the data: `none` trains {instead} instead"
        return [Said(text, "warn")]
    shown = f"{passes:,.2f}".rstrip("0").rstrip(".")
    return [Said(f"max steps wins over epochs: {shown} passes over the data", "dim")] if passes != epochs else []


def counted_epochs(epochs: float) -> str:
    """`1 epoch`, `2.5 epochs`."""
    return "1 epoch" if epochs == 1 else f"{epochs:g} epochs"
