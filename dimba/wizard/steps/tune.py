"""Step 5, first of all: the table's hyperparameters in a glance, to be taken whole or changed."""

import math
from collections.abc import Sequence

from dimba.wizard.batches import AUTO, fitting_batch
from dimba.wizard.consequences import consequences, counted_epochs, passes, solved_note
from dimba.wizard.preview import prefetch_trainer
from dimba.wizard.question import Choice, Question, Said
from dimba.wizard.state import State
from dimba.wizard.steps.training import CHANGE, EPOCHS, FIT, VALUES

_TAKE = "take"


def _table(state: State) -> list[Said]:
    prefetch_trainer(state)
    keys = [question for question in VALUES if question.applies(state)]
    pairs = [f"{question.ask.lower()} {question.show(state.value(question.key))}" for question in keys]
    half = math.ceil(len(pairs) / 2)
    columns = [f"  {left:<36}{right}" for left, right in zip(pairs[:half], [*pairs[half:], ""], strict=False)]
    return [*(Said(line) for line in columns), *solved_note(state), *consequences(state), *passes(state)]


def _ask_tune(state: State) -> bool:
    return not all(question.key in state.given for question in VALUES if question.applies(state))


def _tune_choices(state: State) -> Sequence[Choice]:
    epochs = counted_epochs(state.value("epochs"))
    choices = [
        Choice(_TAKE, "take these values", "taken"),
        Choice(EPOCHS, f"take them, but end after {epochs}: max steps none", f"taken, max steps none: {epochs}"),
        Choice(CHANGE, "change them one by one", "one by one"),
    ]
    if (fitting := _fitting(state)) and state.value("batch_size") not in (AUTO, fitting):
        text = f"take them, but batch size auto: {fitting} here, the most that fits"
        choices.insert(-1, Choice(FIT, text, f"taken, batch size auto: {fitting} here"))
    return choices


def _fitting(state: State) -> int | None:
    return None if "batch_size" in state.given else fitting_batch(state)


TUNE = Question(
    key="tune",
    step=5,
    ask="Hyperparameters",
    kind="choice",
    choices=_tune_choices,
    default=lambda _state: _TAKE,
    before=_table,
    asked=_ask_tune,
)

QUESTIONS = (TUNE, *VALUES)
