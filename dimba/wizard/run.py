"""The wizard from flags to a file: who answers, what is kept, what is written."""

import itertools
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dimba.common.contract import absolute
from dimba.common.errors import BadInput, printable
from dimba.wizard.draft import Draft, forget_draft, load_draft
from dimba.wizard.flow import answer_all, ask_all, flag_of, flagged, still_fits
from dimba.wizard.machine import begin
from dimba.wizard.preview import Preview, preview
from dimba.wizard.probes import Probes
from dimba.wizard.question import Choice, Question, Said
from dimba.wizard.questions import QUESTIONS
from dimba.wizard.screen import BACK, Plain, Screen, patiently
from dimba.wizard.state import State

_QUIET_SECONDS = 2.0  # what takes less needs no word where nobody sits and waits
BY_KEY = {question.key: question for question in QUESTIONS}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The file that was written, whether to launch it, and what is worth a word."""

    path: Path
    launch: bool
    preview: Preview
    notes: tuple[str, ...] = ()


def new_state(folder: Path, flags: dict[str, Any]) -> State:
    """A state with the answers that `flags` give (question → text); raises BadInput for one that does not go."""
    state = State(folder=folder, questions=BY_KEY, probes=Probes())
    for question in QUESTIONS:
        if flags.get(question.key) is not None:
            with flagged(question):
                state.answers |= _given(question, flags[question.key], state)
            state.given = frozenset(state.answers)
    return state


def _given(question: Question, text: Any, state: State) -> dict[str, Any]:
    if not isinstance(text, str):
        return {question.key: text}
    return question.from_flag(text, state) if question.from_flag else {question.key: question.parse(text, state)}


def without_asking(state: State) -> Outcome:
    """Every default taken; raises BadInput for a wrong answer, a missing one, or a job that cannot be meant."""
    state.waiting = lambda what, job: patiently(what, job, _to_stderr, _QUIET_SECONDS)
    begin(state)
    answer_all(state)
    made = preview(state)
    if isinstance(made.problem, BadInput):
        raise made.problem
    return _saved(state, made)


def _to_stderr(text: str) -> None:
    sys.stderr.write(text + "\n")


def name_the_missing(state: State) -> None:
    """For a pipe, where nobody can be asked; raises BadInput unless every answer is given."""
    wanted = [
        question
        for question in QUESTIONS
        if question.flag and not question.optional and question.key not in state.given and question.applies(state)
    ]
    if wanted:
        flags = ", ".join(dict.fromkeys(flag_of(question) for question in wanted))
        hint = "give them as flags, or add --defaults to take the default of whatever is not given"
        raise BadInput(f"this is no terminal, and there is no answer for: {flags}", hint)


def by_asking(state: State, *, plain: bool) -> Outcome:
    """The six steps; raises KeyboardInterrupt or EOFError where one leaves, with the draft kept."""
    if plain:
        return _asked(state, Plain())
    from dimba.wizard.prompts import Prompts, quiet_terminal

    with quiet_terminal():
        return _asked(state, Prompts())


def _asked(state: State, screen: Screen) -> Outcome:
    state.waiting, state.asking = screen.waiting, True
    begin(state)
    _offer_draft(state, screen)
    ask_all(state, screen)
    return _saved(state, preview(state))


def _offer_draft(state: State, screen: Screen) -> None:
    draft = load_draft(state.folder)
    if draft is None:
        return
    choices = (
        Choice(True, f"go on with the draft of {draft.written:%d %b, %H:%M}: {_gist(draft)}"[:76], "the draft"),
        Choice(False, "start anew", "anew"),
    )
    question = Question(
        key="resume", step=0, ask="You left before the end", kind="choice",
        choices=lambda _state: choices, default=lambda _state: True,
    )  # fmt: skip
    state.questions = {**state.questions, question.key: question}
    reply: Any = BACK
    while reply is BACK:  # there is nothing before it
        reply = screen.ask(question, state, None)
    if reply is not True:
        return forget_draft(state.folder)
    _resume(state, draft)
    screen.say([Said(f"{each.ask}: {each.show(state.value(each.key))}", "dim") for each in _answered(state)])


def _answered(state: State) -> list[Question]:
    return [each for each in QUESTIONS if each.key in state.passed and each.applies(state) and each.asked(state)]


def _gist(draft: Draft) -> str:
    step = max(question.step for question in QUESTIONS if question.key in (*draft.passed, "mode"))
    return f"up to step {step}"


def _resume(state: State, draft: Draft) -> None:
    known = {key: value for key, value in draft.answers.items() if key in BY_KEY and key not in state.given}
    state.answers |= known
    state.offered |= draft.offered
    for question in QUESTIONS:
        if question.key not in (*draft.passed, *state.given) or not still_fits(question, state):
            return
        state.passed.add(question.key)


def _saved(state: State, made: Preview) -> Outcome:
    """Writes the spec, and the schema that its first line names; a file of that name is kept beside it."""
    from dimba.host.output import job_user, nearest_existing
    from dimba.jobs.trust import remember_written
    from dimba.records.store import make_folder, write_whole
    from dimba.spec import json_schema

    path = absolute(state.value("out"), state.folder)
    uid, gid = job_user(nearest_existing(path.parent))
    make_folder(path.parent, uid, gid)
    notes = _kept_aside(path, made.text)
    write_whole(path, made.text.encode(), uid, gid)
    remember_written(made.text.encode(), state.folder)
    schema = path.parent / "job.schema.json"
    if not schema.exists():
        write_whole(schema, (json.dumps(json_schema(), indent=2) + "\n").encode(), uid, gid)
    if state.asking:
        forget_draft(state.folder)
    notes = (*_unused(state), *([] if state.asking else _warnings(state)), *notes)
    return Outcome(path=path, launch=bool(state.value("launch")), preview=made, notes=notes)


def _kept_aside(path: Path, text: str) -> tuple[str, ...]:
    if not path.is_file() or path.read_bytes() == text.encode():
        return ()
    names = (path.with_name(f"{path.name}.bak{number or ''}") for number in itertools.count())
    kept = next(name for name in names if not name.exists())
    shutil.copy2(path, kept)
    return (f"{path.name} was there already: it is kept as {kept.name}",)


def _warnings(state: State) -> list[str]:
    """What the prompts would have warned of."""
    said = (line for question in QUESTIONS if question.applies(state) for line in question.after(state))
    return list(dict.fromkeys(printable(line.text) for line in said if line.kind == "warn"))


def _unused(state: State) -> list[str]:
    unused = [question for question in QUESTIONS if question.key in state.given and not question.applies(state)]
    return [
        f"left out: {flag_of(each)} {each.show(state.answers[each.key])}, which this job has no use for"
        for each in unused
    ]
