"""Step 5: the hyperparameters, one by one, each with its consequences."""

from collections.abc import Callable

from dimba.common.contract import absolute
from dimba.common.errors import BadInput
from dimba.objectives.budgets import starting_point
from dimba.objectives.rewards import parse_reward
from dimba.options import grpo_table, table
from dimba.options.param import Param
from dimba.wizard.answers import InvalidAnswer, parse_number
from dimba.wizard.batches import AUTO, accumulation, batch_size, exceeds_memory, fitting_generations, is_auto
from dimba.wizard.consequences import adjustment_lines, batch_lines, max_steps_lines, steps_of_epochs
from dimba.wizard.facts import base_facts
from dimba.wizard.lines import Line
from dimba.wizard.question import from_param
from dimba.wizard.state import State

_MOST_GENERATIONS = 64  # in the live hint
EPOCHS, CHANGE, FIT = "epochs", "change", "fit"  # answers to the first question


def takes(param: Param) -> Callable[[State], bool]:
    """Whether the chosen objective has this parameter."""
    """Whether the chosen objective's trainer has a parameter."""
    return lambda state: state.objective.takes(param)


def is_adapter(state: State) -> bool:
    """Whether the method trains an adapter."""
    return bool(state.value("method") != "full")


def is_tuned(state: State) -> bool:
    """Whether the user changes the values one by one."""
    return bool(state.value("tune") == CHANGE)


def learning_rate(state: State) -> float:
    """The default for mode and method."""
    return state.objective.rates.of(state.value("method"))


def _batch(state: State) -> int | str:
    """The starting batch size; `auto` if its estimate exceeds the memory, or if the user chose that."""
    batch = starting_point(state.value("vram")).batch[state.value("method")]
    fits = state.value("tune") != FIT and not exceeds_memory(state, batch, _starting_accumulation(state))
    return batch if fits else AUTO


def _starting_accumulation(state: State) -> int:
    return state.objective.start(state.value("vram")).accumulation[state.value("method")]


def _max_steps(state: State) -> int | None:
    """The starting number of steps, at most those of the usual epochs; None if the user chose the epochs."""
    if "epochs" in state.answers or state.answers.get("tune") == EPOCHS:
        return None
    usual, passes = state.objective.start(state.value("vram")).max_steps, steps_of_epochs(state, state.objective.epochs)
    return usual if passes is None else min(usual, passes)


def _context(state: State) -> int | None:
    facts = base_facts(state)
    return facts.context_length if facts else None


def _max_length(state: State) -> int:
    usual: int = table.MAX_LENGTH.default
    return min(usual, _context(state) or usual)


def _check_length(value: int, state: State) -> None:
    context = _context(state)
    if context and value > context:
        raise InvalidAnswer(f"max length {value} is more than the model's context", f"give {context} or less")


# Parsing.


def _parse_steps(text: str, _state: State) -> int | None:
    return None if text.strip().lower() in ("none", "null", "no", "") else parse_number(table.MAX_STEPS, text)


def _accumulation(state: State) -> int:
    return accumulation(state) if is_auto(state) else _starting_accumulation(state)


def _parse_batch(text: str, _state: State) -> int | str:
    return AUTO if text.strip().lower() == AUTO else parse_number(table.BATCH_SIZE, text)


def _batch_live(text: str, _state: State) -> str:
    auto = text.strip().lower() == AUTO
    usual = "rows that a GPU processes at once: more memory, same quality; auto: the largest that fits"
    return "the largest that fits by the estimate; accumulation makes up the rest" if auto else usual


def _generation_choices(state: State) -> list[int]:
    total = batch_size(state) * (accumulation(state) if is_auto(state) else state.value("grad_accumulation_steps"))
    return [number for number in range(2, min(total, _MOST_GENERATIONS) + 1) if total % number == 0]


def _generations_live(text: str, state: State) -> str:
    fitting = ", ".join(map(str, _generation_choices(state)[:12]))
    return f"complete groups: {fitting}; for another number, gradient accumulation is raised" if fitting else ""


def _parse_reward(text: str, state: State) -> str:
    try:
        spec = parse_reward(text)
    except BadInput as error:
        raise InvalidAnswer(error.message, error.hint) from None
    if spec.file and not absolute(spec.file, state.folder).is_file():
        raise InvalidAnswer(
            f"reward {absolute(spec.file, state.folder)} does not exist", "give path/to/file.py:function"
        )
    return text.strip()


def show_rate(value: float) -> str:
    """`2e-4`: scientific where that is exact and short."""
    digits, _, exponent = f"{value:e}".partition("e")
    short = f"{float(digits):.10g}e{int(exponent)}"
    return short if value < 1e-2 and float(short) == value else str(value)


def _plain_number(number: float) -> float:
    return int(number) if number == int(number) else number


def _after_accumulation(state: State) -> list[Line]:
    # Completions per prompt come later, and their default makes complete groups.
    return [*(adjustment_lines(state) if state.value("num_generations") else []), *batch_lines(state)]


VALUES = (
    from_param(
        table.BATCH_SIZE,
        step=5,
        help=f"{table.BATCH_SIZE.help}; auto: the largest that fits the GPU's memory",
        default=_batch,
        parse=_parse_batch,
        is_asked=is_tuned,
        after=_after_accumulation,
        live_hint=_batch_live,
    ),
    from_param(
        table.ACCUMULATION,
        step=5,
        default=_accumulation,
        is_asked=lambda state: is_tuned(state) and not is_auto(state),
        after=_after_accumulation,
        live_hint=lambda _text, _state: "batches per optimiser step: a larger effective batch without more memory",
    ),
    from_param(
        table.EPOCHS,
        step=5,
        default=lambda state: _plain_number(state.objective.epochs),
        parse=lambda text, _state: _plain_number(parse_number(table.EPOCHS, text)),
        to_text=lambda value: f"{value:g}",
        is_asked=is_tuned,
        after=batch_lines,
    ),
    from_param(
        table.MAX_STEPS,
        step=5,
        help=f"{table.MAX_STEPS.help}; none: the epochs decide",
        default=_max_steps,
        parse=_parse_steps,
        to_text=lambda value: "none" if value is None else str(value),
        is_asked=is_tuned,
        after=lambda state: [*batch_lines(state), *max_steps_lines(state)],
        live_hint=lambda _text, _state: "optimiser steps in total, instead of epochs; none: the epochs decide",
    ),
    from_param(
        table.LEARNING_RATE,
        step=5,
        default=learning_rate,
        to_text=show_rate,
        is_asked=is_tuned,
        live_hint=lambda _text, state: (
            f"usual for {state.value('mode')}, {state.value('method')}: {show_rate(learning_rate(state))}"
        ),
    ),
    from_param(
        table.MAX_LENGTH,
        optional=True,
        step=5,
        help=f"{table.MAX_LENGTH.help}; longer rows are cut, and reported",
        default=_max_length,
        check=_check_length,
        is_asked=is_tuned,
        live_hint=lambda _text, _state: "tokens per row; longer rows are cut, and reported before training",
    ),
    from_param(
        table.LORA_R,
        step=5,
        default=lambda state: starting_point(state.value("vram")).rank,
        applies=is_adapter,
        is_asked=is_tuned,
        live_hint=lambda _text, _state: "capacity of the adapter: 4 to 64 is usual",
    ),
    from_param(
        table.LORA_ALPHA,
        step=5,
        default=lambda state: 2 * state.value("lora_r"),
        applies=is_adapter,
        is_asked=is_tuned,
        live_hint=lambda _text, _state: "twice the rank is usual",
    ),
    from_param(
        grpo_table.REWARD,
        step=5,
        several=False,
        default=lambda _state: grpo_table.REWARD.default[0],
        parse=_parse_reward,
        applies=takes(grpo_table.REWARD),
        is_asked=is_tuned,
        live_hint=lambda _text, _state: "auto decides by the rows; numeric, exact_match, …; or file.py:function",
    ),
    from_param(
        grpo_table.NUM_GENERATIONS,
        step=5,
        default=fitting_generations,
        applies=takes(grpo_table.NUM_GENERATIONS),
        is_asked=is_tuned,
        after=_after_accumulation,
        live_hint=_generations_live,
    ),
)
