"""Step 5, first question: take the default hyperparameters, or change them."""

import math
from collections.abc import Sequence

from dimba.wizard.answers import Choice, in_sentence
from dimba.wizard.batches import AUTO, fitting_batch
from dimba.wizard.consequences import adjustment_lines, batch_lines, counted_epochs, max_steps_lines
from dimba.wizard.lines import Line
from dimba.wizard.preview import prefetch_trainer
from dimba.wizard.question import Question
from dimba.wizard.state import State
from dimba.wizard.steps import further
from dimba.wizard.steps.training import CHANGE, EPOCHS, FIT, VALUES

_TAKE = "take"


def _values_table(state: State) -> list[Line]:
    prefetch_trainer(state)
    asked = [question for question in VALUES if question.applies(state)]
    pairs = [f"{in_sentence(each.label)} {each.to_text(state.value(each.key))}" for each in asked]
    half = math.ceil(len(pairs) / 2)
    columns = [f"  {left:<36}{right}" for left, right in zip(pairs[:half], [*pairs[half:], ""], strict=False)]
    return [*(Line(line) for line in columns), *adjustment_lines(state), *batch_lines(state), *max_steps_lines(state)]


def _is_tune_asked(state: State) -> bool:
    return not all(question.key in state.flag_keys for question in VALUES if question.applies(state))


def _tune_choices(state: State) -> Sequence[Choice]:
    epochs = counted_epochs(state.value("epochs"))
    choices = [
        Choice(_TAKE, "take these values", "taken"),
        Choice(EPOCHS, f"take them, but end after {epochs}: max steps none", f"taken, max steps none: {epochs}"),
        Choice(CHANGE, "change them one by one", "one by one"),
    ]
    if (fitting := _fitting_batch(state)) and state.value("batch_size") not in (AUTO, fitting):
        text = f"take them, but batch size auto: {fitting} here, the largest that fits"
        choices.insert(-1, Choice(FIT, text, f"taken, batch size auto: {fitting} here"))
    return choices


def _fitting_batch(state: State) -> int | None:
    return None if "batch_size" in state.flag_keys else fitting_batch(state)


TUNE = Question(
    key="tune",
    step=5,
    label="Hyperparameters",
    kind="choice",
    choices=_tune_choices,
    default=lambda _state: _TAKE,
    before=_values_table,
    is_asked=_is_tune_asked,
)

QUESTIONS = (TUNE, *VALUES, *further.QUESTIONS)
