"""Step 3 too: which column is which, where no known format has these."""

from collections.abc import Mapping, Sequence
from typing import Any

from dimba.common.errors import BadInput, Location
from dimba.dataset.formats import UnknownFormat
from dimba.wizard.looks import (
    chosen_on_hub,
    columns,
    example_row,
    is_local,
    local_data,
    needs_columns,
    reference,
    with_flag,
)
from dimba.wizard.question import Choice, Question, Wrong
from dimba.wizard.state import State
from dimba.wizard.steps.sample import sample


def recognise_on_hub(state: State, row: Mapping[str, Any], named: Mapping[str, str]) -> None:
    """Raises Wrong where no format fits a row of the Hub, unless its columns can still be named."""
    try:
        state.objective.rows.format_name(row, named, Location(reference(state), row=1))
    except UnknownFormat as error:
        # Other shapes of preference data become recognisable with further rows, which the trainer reads.
        if named or (state.objective.wants == "answers" and not state.asking):
            raise Wrong(error.message, with_flag(error.hint)) from None
    except BadInput as error:
        raise Wrong(error.message, error.hint) from None


def parse_columns(text: str, _state: State) -> dict[str, str]:
    """Ours → theirs of a line each, `prompt=the question`."""
    pairs = [pair.partition("=") for pair in text.splitlines()]
    wrong = [ours for ours, equals, theirs in pairs if not (ours and equals and theirs)]
    if wrong:
        raise Wrong(f"columns: `{wrong[0]}` is not OURS=YOURS", "for example prompt=question response=answer")
    return {ours: theirs for ours, _, theirs in pairs}


def _asks_columns(state: State) -> bool:
    return state.asking and needs_columns(state)


def _column_choices(state: State) -> Sequence[Choice]:
    return [Choice(name, name) for name in example_row(state)]


def _answer_choices(state: State) -> Sequence[Choice]:
    return [choice for choice in _column_choices(state) if choice.value != state.value("prompt_column")]


def _likely(choices: Sequence[Choice], words: tuple[str, ...]) -> str:
    names = [choice.label for choice in choices]
    return next((name for word in words for name in names if word in name.lower()), names[0])


def _check_response(value: str, state: State) -> None:
    _check_columns({"prompt": state.value("prompt_column"), "response": value}, state)


def _check_columns(named: dict[str, str], state: State) -> None:
    if not named:
        return
    if is_local(state):
        local_data(state, reference(state), named)
    elif row := chosen_on_hub(state).first:
        recognise_on_hub(state, row, named)


COLUMN_QUESTIONS = (
    Question(
        key="columns",
        optional=True,
        step=3,
        ask="Columns",
        flag="--columns",
        metavar="OURS=YOURS",
        help="where your columns are called otherwise, such as prompt=question response=answer",
        default=lambda _state: {},
        parse=parse_columns,
        show=lambda named: "\n".join(f"{ours}={theirs}" for ours, theirs in named.items()),
        check=_check_columns,
        asked=lambda _state: False,
        after=lambda state: sample(state, reference(state), columns(state)) if columns(state) else [],
    ),
    Question(
        key="prompt_column",
        step=3,
        ask="No known format has these columns. Which one asks?",
        kind="choice",
        choices=_column_choices,
        default=lambda state: _likely(_column_choices(state), ("prompt", "instruct", "quest", "input", "user")),
        applies=_asks_columns,
    ),
    Question(
        key="response_column",
        step=3,
        ask="Which one answers?",
        kind="choice",
        choices=_answer_choices,
        default=lambda state: _likely(_answer_choices(state), ("response", "answer", "output", "complet", "assist")),
        check=_check_response,
        applies=_asks_columns,
        after=lambda state: sample(state, reference(state), columns(state)),
    ),
)
