"""The wizard from its flags to the spec's file, with or without prompts."""

import sys
from pathlib import Path
from typing import Any

from dimba.common.errors import BadInput
from dimba.wizard.answers import Choice
from dimba.wizard.draft import Draft, delete_draft, load_draft
from dimba.wizard.flow import answer_all, ask_all, flag_of, is_still_valid, naming_flag
from dimba.wizard.lines import Line
from dimba.wizard.machine import start_probes
from dimba.wizard.preview import preview
from dimba.wizard.probes import Probes
from dimba.wizard.question import Question
from dimba.wizard.questions import QUESTIONS
from dimba.wizard.saving import Outcome, save
from dimba.wizard.screen import BACK, Plain, Screen, run_with_notice
from dimba.wizard.state import State

_NOTICE_SECONDS = 2.0  # a shorter wait needs no notice in a script's log
BY_KEY = {question.key: question for question in QUESTIONS}


def new_state(folder: Path, flags: dict[str, Any]) -> State:
    """A state with the answers of `flags` (question → text); raises BadInput for an invalid one."""
    state = State(folder=folder, questions=BY_KEY, probes=Probes())
    for question in QUESTIONS:
        if flags.get(question.key) is not None:
            with naming_flag(question):
                state.answers |= _flag_answers(question, flags[question.key], state)
            state.flag_keys = frozenset(state.answers)
    return state


def _flag_answers(question: Question, text: Any, state: State) -> dict[str, Any]:
    if not isinstance(text, str):
        return {question.key: text}
    return question.from_flag(text, state) if question.from_flag else {question.key: question.parse(text, state)}


def take_defaults(state: State) -> Outcome:
    """Save a spec of flags and defaults; raises BadInput for an invalid or missing answer, or for their combination."""
    state.wait_for = lambda label, job: run_with_notice(label, job, _to_stderr, _NOTICE_SECONDS)
    start_probes(state)
    answer_all(state)
    made = preview(state)
    if isinstance(made.problem, BadInput):
        raise made.problem
    return save(state, made)


def _to_stderr(text: str) -> None:
    sys.stderr.write(text + "\n")


def refuse_missing_flags(state: State) -> None:
    """Raise BadInput unless every required flag is given: without a terminal there are no prompts."""
    missing = [
        question
        for question in QUESTIONS
        if question.flag and not question.optional and question.key not in state.flag_keys and question.applies(state)
    ]
    if missing:
        flags = ", ".join(dict.fromkeys(flag_of(question) for question in missing))
        hint = "give them as flags, or add --defaults to take the defaults for the rest"
        raise BadInput(f"no terminal to ask on, and no answer for: {flags}", hint)


def ask_user(state: State, *, plain: bool) -> Outcome:
    """Ask the six steps and save; raises KeyboardInterrupt or EOFError when the user leaves, with the draft kept."""
    if plain:
        return _ask_on(Plain(), state)
    from dimba.wizard.prompts import Prompts, quiet_terminal

    with quiet_terminal():
        return _ask_on(Prompts(), state)


def _ask_on(screen: Screen, state: State) -> Outcome:
    state.wait_for, state.interactive = screen.wait_for, True
    start_probes(state)
    _offer_draft(state, screen)
    ask_all(state, screen)
    outcome = save(state, preview(state))
    delete_draft(state.folder)
    return outcome


def _offer_draft(state: State, screen: Screen) -> None:
    draft = load_draft(state.folder)
    if draft is None:
        return
    question = _draft_question(draft)
    state.questions = {**state.questions, question.key: question}
    reply: Any = BACK
    while reply is BACK:  # there is no previous question
        reply = screen.ask(question, state, None)
    if reply is not True:
        return delete_draft(state.folder)
    _resume(state, draft)
    screen.show([Line(f"{each.label}: {each.to_text(state.value(each.key))}", "dim") for each in _answered(state)])


def _draft_question(draft: Draft) -> Question:
    step = max(question.step for question in QUESTIONS if question.key in (*draft.passed_keys, "mode"))
    choices = (
        Choice(True, f"continue the draft of {draft.written:%d %b, %H:%M}: up to step {step}"[:76], "the draft"),
        Choice(False, "start over", "over"),
    )
    return Question(
        key="resume",
        step=0,
        label="You left before the end",
        kind="choice",
        choices=lambda _state: choices,
        default=lambda _state: True,
    )


def _answered(state: State) -> list[Question]:
    return [
        each for each in QUESTIONS if each.key in state.passed_keys and each.applies(state) and each.is_asked(state)
    ]


def _resume(state: State, draft: Draft) -> None:
    known = {key: value for key, value in draft.answers.items() if key in BY_KEY and key not in state.flag_keys}
    state.answers |= known
    state.suggestions |= draft.suggestions
    for question in QUESTIONS:
        if question.key not in (*draft.passed_keys, *state.flag_keys) or not is_still_valid(question, state):
            return
        state.passed_keys.add(question.key)
