"""Through the questions: forward, back, and out."""

from typing import Any

from dimba.errors import BadInput, DimbaError
from dimba.wizard.draft import save_draft
from dimba.wizard.question import MISSING, Question, Wrong
from dimba.wizard.questions import QUESTIONS, TITLES
from dimba.wizard.screen import BACK, Screen
from dimba.wizard.state import State


def ask_all(state: State, screen: Screen) -> None:
    """Asks whatever has no answer yet, one after the other; raises KeyboardInterrupt or EOFError where one leaves."""
    position, step = _first_open(state), 0
    while position < len(QUESTIONS):
        question = QUESTIONS[position]
        if not _is_asked(question, state):
            _take(question, state)
            position += 1
            continue
        if question.step != step:
            step = question.step
            screen.title(step, len(TITLES), TITLES[step])
        position += _turn(question, position, state, screen)


def _first_open(state: State) -> int:
    return next((n for n, each in enumerate(QUESTIONS) if each.key not in state.passed), len(QUESTIONS))


def _is_asked(question: Question, state: State) -> bool:
    return question.key not in state.given and question.applies(state) and question.asked(state)


def _take(question: Question, state: State) -> None:
    """What nobody is asked: a flag's answer is checked where its turn comes."""
    if question.key in state.given and question.applies(state):
        check_given(question, state)
    state.passed.add(question.key)


def check_given(question: Question, state: State) -> None:
    """Raises what is wrong with a flag's answer, with the flag."""
    try:
        question.check(state.answers[question.key], state)
    except Wrong as error:
        raise BadInput(flagged(question, error.message), error.hint) from None


def flagged(question: Question, message: str) -> str:
    """The prompt's own message, after the flag."""
    return f"{flag_of(question)}: {message}"


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
    try:
        value = answer(question, reply, state)
    except Wrong as error:
        screen.problem(error)
        state.offered |= {question.key: reply, **error.instead}
        return _way_to(error, position)
    state.accept(question, value)
    save_draft(state)
    try:
        screen.say(question.after(state))
    except DimbaError as error:
        screen.problem(error)
    return 1


def answer(question: Question, reply: Any, state: State) -> Any:
    """The value of a reply, parsed and checked; raises Wrong."""
    value = question.parse(reply, state) if isinstance(reply, str) and question.kind != "choice" else reply
    before = state.answers.get(question.key, MISSING)
    state.answers[question.key] = value  # a check may ask for it
    try:
        question.check(value, state)
    except BaseException:
        if before is MISSING:
            state.answers.pop(question.key)
        else:
            state.answers[question.key] = before
        raise
    return value


def still_fits(question: Question, state: State) -> bool:
    """Whether an answer of an earlier time is still one: what it names may be gone."""
    if not question.applies(state):
        return True
    try:
        value = state.value(question.key)
        answer(question, question.show(value) if question.kind in ("text", "path") else value, state)
    except Wrong:
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


def _way_to(error: Wrong, position: int) -> int:
    """Back to the first question that a better answer was found for, else the same one again."""
    numbers = [n for n, question in enumerate(QUESTIONS[:position]) if question.key in error.instead]
    return min(numbers, default=position) - position


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
    try:
        answer(question, value, state)
    except Wrong as error:
        raise BadInput(flagged(question, error.message), error.hint) from None
    state.accept(question, value)


def flag_of(question: Question) -> str:
    """The flag that answers a question."""
    by_other = {"dataset_id": "--dataset", "dataset_path": "--dataset", "trainer_path": "--trainer"}
    return question.flag or by_other.get(question.key, question.ask)
