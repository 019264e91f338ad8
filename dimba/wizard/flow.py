"""Through the questions: forward, back, and out."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dimba.common.errors import BadInput, DimbaError
from dimba.wizard.draft import save_draft
from dimba.wizard.question import Question, Said, Wrong
from dimba.wizard.questions import QUESTIONS, TITLES
from dimba.wizard.screen import BACK, Screen
from dimba.wizard.state import MISSING, State


def ask_all(state: State, screen: Screen) -> None:
    """Asks whatever has no answer yet, one after the other; raises KeyboardInterrupt or EOFError where one leaves."""
    position, step = _first_open(state), 0
    while position < len(QUESTIONS):
        question = QUESTIONS[position]
        speaks = _is_asked(question, state) or _is_told(question, state)
        if speaks and question.step != step:
            step = question.step
            screen.title(step, len(TITLES), TITLES[step])
        position += (_turn if _is_asked(question, state) else _take)(question, position, state, screen)


def _first_open(state: State) -> int:
    return next((n for n, each in enumerate(QUESTIONS) if each.key not in state.passed), len(QUESTIONS))


def _is_asked(question: Question, state: State) -> bool:
    return question.key not in state.given and question.applies(state) and question.asked(state)


def _is_told(question: Question, state: State) -> bool:
    """Whether a flag's answer comes up for the first time."""
    return question.key in state.given and question.key not in state.passed and question.applies(state)


def _take(question: Question, _position: int, state: State, screen: Screen) -> int:
    """What nobody is asked: a flag's answer is checked where its turn comes, and what follows from it is said."""
    told = _is_told(question, state)
    if told:
        check_given(question, state)
    state.passed.add(question.key)
    if told:
        shown = question.show(state.answers[question.key]).replace("\n", " ")
        screen.say([Said(f"{question.ask}: {shown} ({flag_of(question)})", "dim"), *question.after(state)])
    return 1


def check_given(question: Question, state: State) -> None:
    """Raises what is wrong with a flag's answer, with the flag."""
    with flagged(question):
        question.check(state.answers[question.key], state)


@contextmanager
def flagged(question: Question) -> Iterator[None]:
    """What is wrong with an answer that nobody was asked for: the prompt's own message, after the flag."""
    try:
        yield
    except Wrong as error:
        raise BadInput(f"{flag_of(question)}: {error.message}", error.hint) from None


def _turn(question: Question, position: int, state: State, screen: Screen) -> int:
    """Asks one question; returns by how many to move."""
    try:
        screen.say(question.before(state))
    except DimbaError as error:  # what an earlier answer named is gone
        screen.problem(error)
        return _way_back(position, state)
    reply = screen.ask(question, state, _initial(question, state))
    if reply is BACK:
        return _way_back(position, state)
    state.offered[question.key] = reply  # whoever leaves during a long look finds it again
    save_draft(state)
    try:
        state.accept(question, answer(question, reply, state))
        save_draft(state)
        screen.say(question.after(state))
    except DimbaError as error:
        screen.problem(error)
        return _again(question, position, state, error)
    return 1


def _again(question: Question, position: int, state: State, error: DimbaError) -> int:
    """The same question once more, or the first one that a better answer was found for."""
    instead = error.instead if isinstance(error, Wrong) else {}
    state.offered |= instead
    state.passed.discard(question.key)
    numbers = [n for n, each in enumerate(QUESTIONS[:position]) if each.key in instead]
    return min(numbers, default=position) - position


def answer(question: Question, reply: Any, state: State) -> Any:
    """The value of a reply, parsed and checked; raises Wrong."""
    value = question.parse(reply, state) if isinstance(reply, str) and question.kind != "choice" else reply
    before = state.answers.get(question.key, MISSING)
    state.answers[question.key] = value  # a check may ask for it
    try:
        question.check(value, state)
    finally:
        state.answers.pop(question.key)
        if before is not MISSING:
            state.answers[question.key] = before
    return value


def still_fits(question: Question, state: State) -> bool:
    """Whether an answer of an earlier time is still one: what it names may be gone."""
    if not question.applies(state):
        return True
    try:
        value = state.value(question.key)
        if question.kind == "choice" and question.asked(state):
            return value in [choice.value for choice in question.choices(state)]
        answer(question, question.show(value) if question.kind in ("text", "path") else value, state)
    except DimbaError:
        return False
    return True


def _initial(question: Question, state: State) -> str | None:
    """What stands in the prompt: a better answer than the last, else the answer or the default."""
    if question.key in state.offered:
        return str(state.offered[question.key])
    value = state.value(question.key)
    return None if value is None and question.default(state) is MISSING else question.show(value)


def _way_back(position: int, state: State) -> int:
    asked = (n for n in range(position - 1, -1, -1) if _is_asked(QUESTIONS[n], state))
    return next(asked, position) - position


def answer_all(state: State) -> None:
    """Takes a flag's answer or the default for everything, asking nothing.

    Raises:
        BadInput: a flag's answer does not go, or something has neither.
    """
    for question in QUESTIONS:
        if not question.applies(state):
            continue
        if question.key in state.given:
            check_given(question, state)
        elif question.default(state) is MISSING:
            hint = f"{flag_of(question)}: {question.help or question.ask}"
            raise BadInput(f"no answer for {flag_of(question)}, and no default", hint)
        else:
            _check_default(question, state)


def _check_default(question: Question, state: State) -> None:
    value = question.default(state)
    with flagged(question):
        answer(question, value, state)
    state.accept(question, value)


def flag_of(question: Question) -> str:
    """The flag that answers a question."""
    by_other = {"dataset_id": "--dataset", "dataset_path": "--dataset", "trainer_path": "--trainer"}
    return question.flag or by_other.get(question.key, question.ask)
