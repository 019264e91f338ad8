"""Step 3, continued: the columns, where no known format fits."""

from collections.abc import Mapping, Sequence
from typing import Any

from dimba.common.errors import BadInput, Location
from dimba.dataset.formats import UnknownFormat
from dimba.options import table
from dimba.wizard.answers import Choice, InvalidAnswer
from dimba.wizard.facts import (
    chosen_on_hub,
    columns,
    example_row,
    is_local,
    local_data,
    needs_columns,
    reference,
    with_flag,
)
from dimba.wizard.question import Question, from_param
from dimba.wizard.state import State
from dimba.wizard.steps.sample import sample


def recognise_on_hub(state: State, row: Mapping[str, Any], renamed: Mapping[str, str]) -> None:
    """Raise InvalidAnswer if no format fits a row of the Hub, unless its columns can still be named."""
    try:
        state.objective.rows.format_name(row, renamed, Location(reference(state), row=1))
    except UnknownFormat as error:
        # Some shapes of preference data are recognisable only with further rows, which the trainer reads.
        if renamed or (state.objective.wants == "answers" and not state.interactive):
            raise InvalidAnswer(error.message, with_flag(error.hint)) from None
    except BadInput as error:
        raise InvalidAnswer(error.message, error.hint) from None


def parse_columns(text: str, _state: State) -> dict[str, str]:
    """Our columns → theirs, from one `prompt=the question` per line."""
    pairs = [pair.partition("=") for pair in text.splitlines()]
    wrong = [ours for ours, equals, theirs in pairs if not (ours and equals and theirs)]
    if wrong:
        raise InvalidAnswer(f"columns: `{wrong[0]}` is not OURS=YOURS", "for example prompt=question response=answer")
    return {ours: theirs for ours, _, theirs in pairs}


def _asks_columns(state: State) -> bool:
    return state.interactive and needs_columns(state)


def _column_choices(state: State) -> Sequence[Choice]:
    return [Choice(name, name) for name in example_row(state)]


def _answer_choices(state: State) -> Sequence[Choice]:
    return [choice for choice in _column_choices(state) if choice.value != state.value("prompt_column")]


def _likely(choices: Sequence[Choice], words: tuple[str, ...]) -> str:
    names = [choice.label for choice in choices]
    return next((name for word in words for name in names if word in name.lower()), names[0])


def _check_response(value: str, state: State) -> None:
    _check_columns({"prompt": state.value("prompt_column"), "response": value}, state)


def _check_columns(renamed: dict[str, str], state: State) -> None:
    if not renamed:
        return
    if is_local(state):
        local_data(state, reference(state), renamed)
    elif row := chosen_on_hub(state).first:
        recognise_on_hub(state, row, renamed)


COLUMN_QUESTIONS = (
    from_param(
        table.COLUMNS,
        optional=True,
        step=3,
        default=lambda _state: {},
        parse=parse_columns,
        to_text=lambda renamed: "\n".join(f"{ours}={theirs}" for ours, theirs in renamed.items()),
        check=_check_columns,
        is_asked=lambda _state: False,
        after=lambda state: sample(state, reference(state), columns(state)) if columns(state) else [],
    ),
    Question(
        key="prompt_column",
        step=3,
        label="No known format has these columns. Which one holds the prompt?",
        kind="choice",
        choices=_column_choices,
        default=lambda state: _likely(_column_choices(state), ("prompt", "instruct", "quest", "input", "user")),
        applies=_asks_columns,
    ),
    Question(
        key="response_column",
        step=3,
        label="Which one holds the response?",
        kind="choice",
        choices=_answer_choices,
        default=lambda state: _likely(_answer_choices(state), ("response", "answer", "output", "complet", "assist")),
        check=_check_response,
        applies=_asks_columns,
        after=lambda state: sample(state, reference(state), columns(state)),
    ),
)
