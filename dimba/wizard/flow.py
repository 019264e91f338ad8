"""The way through the questions: forward, back, and out."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dimba.common.errors import BadInput, DimbaError
from dimba.wizard.answers import InvalidAnswer
from dimba.wizard.draft import save_draft
from dimba.wizard.lines import Line
from dimba.wizard.question import Question
from dimba.wizard.questions import QUESTIONS, TITLES
from dimba.wizard.screen import BACK, Screen
from dimba.wizard.state import MISSING, State


def ask_all(state: State, screen: Screen) -> None:
    """Ask every question without an answer; raises KeyboardInterrupt or EOFError when the user leaves."""
    position, step = _first_open(state), 0
    while position < len(QUESTIONS):
        question = QUESTIONS[position]
        is_shown = _is_asked(question, state) or _is_new_flag(question, state)
        if is_shown and question.step != step:
            step = question.step
            screen.show_title(step, len(TITLES), TITLES[step])
        position += (_ask if _is_asked(question, state) else _pass)(question, position, state, screen)


def _first_open(state: State) -> int:
    return next((n for n, each in enumerate(QUESTIONS) if each.key not in state.passed_keys), len(QUESTIONS))


def _is_asked(question: Question, state: State) -> bool:
    return question.key not in state.flag_keys and question.applies(state) and question.is_asked(state)


def _is_new_flag(question: Question, state: State) -> bool:
    """Whether a flag's answer comes up for the first time."""
    return question.key in state.flag_keys and question.key not in state.passed_keys and question.applies(state)


def _pass(question: Question, _position: int, state: State, screen: Screen) -> int:
    """Pass a question without asking; a flag's answer is checked here, and shown with its consequences."""
    is_new_flag = _is_new_flag(question, state)
    if is_new_flag:
        check_flag(question, state)
    state.passed_keys.add(question.key)
    if is_new_flag:
        text = question.to_text(state.answers[question.key]).replace("\n", " ")
        screen.show([Line(f"{question.label}: {text} ({flag_of(question)})", "dim"), *question.after(state)])
    return 1


def check_flag(question: Question, state: State) -> None:
    """Check a flag's answer; raises BadInput with the flag's name."""
    with naming_flag(question):
        question.check(state.answers[question.key], state)


@contextmanager
def naming_flag(question: Question) -> Iterator[None]:
    """Put the flag before the message of an InvalidAnswer, as there was no prompt."""
    try:
        yield
    except InvalidAnswer as error:
        raise BadInput(error.message, error.hint, key=flag_of(question)) from None


def _ask(question: Question, position: int, state: State, screen: Screen) -> int:
    """Ask one question; returns by how many questions to move."""
    try:
        screen.show(question.before(state))
    except DimbaError as error:  # the file or folder of an earlier answer has disappeared
        screen.show_problem(error)
        return _steps_to_previous(position, state)
    reply = screen.ask(question, state, _initial_text(question, state))
    if reply is BACK:
        return _steps_to_previous(position, state)
    return _take_reply(question, position, state, screen, reply)


def _take_reply(question: Question, position: int, state: State, screen: Screen, reply: Any) -> int:
    state.suggestions[question.key] = reply  # kept in the draft if the user leaves during a long check
    save_draft(state)
    try:
        state.accept(question, checked_answer(question, reply, state))
        save_draft(state)
        screen.show(question.after(state))
    except DimbaError as error:
        screen.show_problem(error)
        return _steps_to_correction(question, position, state, error)
    return 1


def _steps_to_correction(question: Question, position: int, state: State, error: DimbaError) -> int:
    """The way to the same question, or to the first one that the error suggests a better answer for."""
    instead = error.instead if isinstance(error, InvalidAnswer) else {}
    state.suggestions |= instead
    state.passed_keys.discard(question.key)
    numbers = [n for n, each in enumerate(QUESTIONS[:position]) if each.key in instead]
    return min(numbers, default=position) - position


def checked_answer(question: Question, reply: Any, state: State) -> Any:
    """The value of a reply, parsed and checked; raises InvalidAnswer."""
    value = question.parse(reply, state) if isinstance(reply, str) and question.kind != "choice" else reply
    before = state.answers.get(question.key, MISSING)
    state.answers[question.key] = value  # checks read it from the state
    try:
        question.check(value, state)
    finally:
        state.answers.pop(question.key)
        if before is not MISSING:
            state.answers[question.key] = before
    return value


def is_still_valid(question: Question, state: State) -> bool:
    """Whether a draft's answer is valid today: the file that it names may be gone."""
    if not question.applies(state):
        return True
    try:
        value = state.value(question.key)
        if question.kind == "choice" and question.is_asked(state):
            return value in [choice.value for choice in question.choices(state)]
        checked_answer(question, question.to_text(value) if question.kind in ("text", "path") else value, state)
    except DimbaError:
        return False
    return True


def _initial_text(question: Question, state: State) -> str | None:
    """The text in the prompt: a suggestion after an invalid answer, else the answer or the default."""
    if question.key in state.suggestions:
        return str(state.suggestions[question.key])
    value = state.value(question.key)
    return None if value is None and question.default(state) is MISSING else question.to_text(value)


def _steps_to_previous(position: int, state: State) -> int:
    asked = (n for n in range(position - 1, -1, -1) if _is_asked(QUESTIONS[n], state))
    return next(asked, position) - position


def answer_all(state: State) -> None:
    """Take each question's flag or default, asking nothing.

    Raises:
        BadInput: a flag's answer is invalid, or a question has neither flag nor default.
    """
    for question in QUESTIONS:
        if not question.applies(state):
            continue
        if question.key in state.flag_keys:
            check_flag(question, state)
        elif question.default(state) is MISSING:
            hint = f"{flag_of(question)}: {question.help or question.label}"
            raise BadInput(f"no answer for {flag_of(question)}, and no default", hint)
        else:
            _accept_default(question, state)


def _accept_default(question: Question, state: State) -> None:
    value = question.default(state)
    with naming_flag(question):
        checked_answer(question, value, state)
    state.accept(question, value)


def flag_of(question: Question) -> str:
    """The flag that answers a question."""
    by_other = {"dataset_id": "--dataset", "dataset_path": "--dataset", "trainer_path": "--trainer"}
    return question.flag or by_other.get(question.key, question.label)
