"""Step 5: hyperparameters, each with its consequences."""

from collections.abc import Callable

from dimba.common.contract import absolute
from dimba.common.errors import BadInput
from dimba.objectives.budgets import starting_point
from dimba.objectives.rewards import parse_reward
from dimba.options import grpo_table, table
from dimba.options.param import Param
from dimba.wizard.batches import AUTO, accumulation, batch_size, fitting_generations, is_auto, is_too_much
from dimba.wizard.consequences import consequences, passes, solved_note
from dimba.wizard.looks import base_facts
from dimba.wizard.question import Said, Wrong, from_param, positive, whole
from dimba.wizard.state import State

EPOCHS, CHANGE, FIT = "epochs", "change", "fit"  # what may be said of all of them at once


def _takes(param: Param) -> Callable[[State], bool]:
    """Whether the trainer of the chosen objective has a parameter."""
    return lambda state: state.objective.takes(param)


def _is_adapter(state: State) -> bool:
    return bool(state.value("method") != "full")


def _tuned(state: State) -> bool:
    return bool(state.value("tune") == CHANGE)


def learning_rate(state: State) -> float:
    """The spec's own default for mode and method."""
    return state.objective.rates.of(state.value("method"))


def _batch(state: State) -> int | str:
    """The table's, unless that is known not to fit the cards, or what fits them is asked for."""
    batch = starting_point(state.value("vram")).batch[state.value("method")]
    fits = state.value("tune") != FIT and not is_too_much(state, batch, _table_accumulation(state))
    return batch if fits else AUTO


def _table_accumulation(state: State) -> int:
    return state.objective.start(state.value("vram")).accumulation[state.value("method")]


def _max_steps(state: State) -> int | None:
    """The table's; whoever says how many epochs it shall be means that."""
    if "epochs" in state.answers or state.answers.get("tune") == EPOCHS:
        return None
    return state.objective.start(state.value("vram")).max_steps


def _context(state: State) -> int | None:
    facts = base_facts(state)
    return facts.context_length if facts else None


def _max_length(state: State) -> int:
    usual: int = table.MAX_LENGTH.default
    return min(usual, _context(state) or usual)


def _check_length(value: int, state: State) -> None:
    context = _context(state)
    if context and value > context:
        raise Wrong(f"max length {value} is more than the model's context", f"give {context} or less")


# Parsing.


def _parse_steps(text: str, _state: State) -> int | None:
    return None if text.strip().lower() in ("none", "null", "no", "") else whole(text, "max steps")


def _accumulation(state: State) -> int:
    return accumulation(state) if is_auto(state) else _table_accumulation(state)


def _parse_batch(text: str, _state: State) -> int | str:
    return AUTO if text.strip().lower() == AUTO else whole(text, "batch size")


def _batch_live(text: str, _state: State) -> str:
    auto = text.strip().lower() == AUTO
    usual = "rows a GPU computes at once: more memory, same quality; auto: what fits"
    return "the most that fits by the estimate; accumulation makes up the rest" if auto else usual


def _parse_generations(text: str, _state: State) -> int:
    number = whole(text, "completions per prompt")
    if number < 2:
        raise Wrong(f"completions per prompt {number}: GRPO compares several answers", "give 2 or more; 8 is usual")
    return number


def _generation_choices(state: State) -> list[int]:
    total = batch_size(state) * (accumulation(state) if is_auto(state) else state.value("grad_accumulation_steps"))
    return [number for number in range(2, min(total, 64) + 1) if total % number == 0]


def _generations_live(text: str, state: State) -> str:
    fitting = ", ".join(map(str, _generation_choices(state)[:12]))
    return f"fit as they are: {fitting}; for another, gradient accumulation is raised" if fitting else ""


def _parse_reward(text: str, state: State) -> str:
    try:
        spec = parse_reward(text)
    except BadInput as error:
        raise Wrong(error.message, error.hint) from None
    if spec.file and not absolute(spec.file, state.folder).is_file():
        raise Wrong(f"reward {absolute(spec.file, state.folder)} does not exist", "give path/to/file.py:function")
    return text.strip()


def show_rate(value: float) -> str:
    """`2e-4`, as rates are written."""
    digits, _, exponent = f"{value:e}".partition("e")
    short = f"{float(digits):.10g}e{int(exponent)}"
    return short if value < 1e-2 and float(short) == value else str(value)


def _epochs(text: str) -> float:
    return _plain_number(positive(text, "epochs", "3"))


def _plain_number(number: float) -> float:
    return int(number) if number == int(number) else number


def _after_accumulation(state: State) -> list[Said]:
    # The number of completions is asked for later, and chosen so that it fits.
    return [*(solved_note(state) if state.value("num_generations") else []), *consequences(state)]


VALUES = (
    from_param(
        table.BATCH_SIZE,
        step=5,
        help="rows (GRPO: completions) per GPU and forward pass; auto: the most that fits the GPU",
        default=_batch,
        parse=_parse_batch,
        asked=_tuned,
        after=_after_accumulation,
        live=_batch_live,
    ),
    from_param(
        table.ACCUMULATION,
        step=5,
        default=_accumulation,
        parse=lambda text, _state: whole(text, "gradient accumulation"),
        asked=lambda state: _tuned(state) and not is_auto(state),
        after=_after_accumulation,
        live=lambda _text, _state: "batches before one optimiser step: a larger effective batch for no memory",
    ),
    from_param(
        table.EPOCHS,
        step=5,
        default=lambda state: _plain_number(state.objective.epochs),
        parse=lambda text, _state: _epochs(text),
        show=lambda value: f"{value:g}",
        asked=_tuned,
        after=consequences,
    ),
    from_param(
        table.MAX_STEPS,
        step=5,
        help="optimiser steps, instead of epochs; none: the epochs decide",
        default=_max_steps,
        parse=_parse_steps,
        show=lambda value: "none" if value is None else str(value),
        asked=_tuned,
        after=lambda state: [*consequences(state), *passes(state)],
        live=lambda _text, _state: "optimiser steps in all, whatever the epochs say; none: the epochs decide",
    ),
    from_param(
        table.LEARNING_RATE,
        step=5,
        help="such as 2e-4",
        default=learning_rate,
        parse=lambda text, _state: positive(text, "learning rate", "2e-4"),
        show=show_rate,
        asked=_tuned,
        live=lambda _text, state: (
            f"usual for {state.value('mode')}, {state.value('method')}: {show_rate(learning_rate(state))}"
        ),
    ),
    from_param(
        table.MAX_LENGTH,
        optional=True,
        step=5,
        help="tokens per row at most; longer rows are cut, and reported",
        default=_max_length,
        parse=lambda text, _state: whole(text, "max length", least=table.MAX_LENGTH.least),
        check=_check_length,
        asked=_tuned,
        live=lambda _text, _state: "tokens a row; longer rows are cut, and how many is said before training",
    ),
    from_param(
        table.LORA_R,
        step=5,
        default=lambda state: starting_point(state.value("vram")).rank,
        parse=lambda text, _state: whole(text, "LoRA rank"),
        applies=_is_adapter,
        asked=_tuned,
        live=lambda _text, _state: "how much an adapter can learn: 4 to 64",
    ),
    from_param(
        table.LORA_ALPHA,
        step=5,
        default=lambda state: 2 * state.value("lora_r"),
        parse=lambda text, _state: whole(text, "LoRA alpha"),
        applies=_is_adapter,
        asked=_tuned,
        live=lambda _text, _state: "twice the rank is usual",
    ),
    from_param(
        grpo_table.REWARD,
        step=5,
        help="auto, a verifier's name, or path/to/file.py:function",
        default=lambda _state: "auto",
        parse=_parse_reward,
        applies=_takes(grpo_table.REWARD),
        asked=_tuned,
        live=lambda _text, _state: "auto looks at the rows; numeric, exact_match, …; or file.py:function",
    ),
    from_param(
        grpo_table.NUM_GENERATIONS,
        step=5,
        help="answers that GRPO samples and compares",
        default=fitting_generations,
        parse=_parse_generations,
        applies=_takes(grpo_table.NUM_GENERATIONS),
        asked=_tuned,
        after=_after_accumulation,
        live=_generations_live,
    ),
)
