"""Rows that ask, and what an answer is compared with: prompts and pairs. Both sides need it, as with formats."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

from dimba.common.errors import BadInput, BadRow
from dimba.dataset.dialogue import Message, Row, Turn, Unfit, is_blank, text_of
from dimba.dataset.files import Read, read_rows
from dimba.dataset.formats import in_their_words, renamed
from dimba.dataset.pairs import LeftOut, Nothing, Tally, pair_of, transcript
from dimba.dataset.prompt_formats import (
    LISTS,
    SCORED_RESPONSES,
    TWO_RESPONSES,
    WEAK,
    Task,
    TaskForm,
    check_there,
    open_answers,
    recognise_task,
    with_answers,
)
from dimba.dataset.samples import Sample, instructed, side, tools_of, turns, with_system
from dimba.dataset.scored import Found, asked_alone, compared_responses, two_responses
from dimba.dataset.summary import DataSummary, none_usable

__all__ = [
    "LeftOut",
    "Tally",
    "Task",
    "TaskForm",
    "answered",
    "first_prompt",
    "first_task",
    "recognise_task",
    "survey_tasks",
    "tasks_of",
]

_PATIENCE = 1000  # rows without a readable one, after which a file is given up
_SHOWN = 5  # bad rows that are told one by one


Recognise = Callable[[Row, Mapping[str, str], str], TaskForm]  # of a row, the columns' names, and where it stands


def tasks_of(rows: Read, columns: Mapping[str, str], recognise: Recognise = recognise_task) -> tuple[TaskForm, Found]:
    """The form of the first readable row, and every row as it reads it.

    Raises:
        BadInput: nothing asks, or no row is readable; while reading, that rows scored one by one make no pair.
    """
    bad: list[tuple[str, BadRow]] = []
    for where, row in rows:
        if not isinstance(row, BadRow):
            later = list(islice(rows, _PATIENCE)) if open_answers(row, columns) else []
            form = recognise(with_answers(row, later, columns), columns, where)
            every: Iterable[tuple[str, Row | BadRow]] = chain(bad, [(where, row)], later, rows)
            scored = form.name == SCORED_RESPONSES
            return form, compared_responses(every, columns) if scored else _tasks(every, form, columns)
        bad.append((where, row))
        if len(bad) == _PATIENCE:
            break
    raise none_usable(len(bad), bad[0][1]) if bad else BadInput("no rows", "choose another split, or data with rows")


def _tasks(rows: Iterable[tuple[str, Row | BadRow]], form: TaskForm, columns: Mapping[str, str]) -> Found:
    read = {TWO_RESPONSES: two_responses, SCORED_RESPONSES: asked_alone}.get(form.name, _usual)
    for where, row in rows:
        yield where, row if isinstance(row, BadRow) else _tried(read, where, row, form, columns)


def _tried(
    read: Callable[[Row, TaskForm], Task], where: str, row: Row, form: TaskForm, columns: Mapping[str, str]
) -> Task | BadRow | LeftOut:
    try:
        check_there(row, form.needed, columns)
        return replace(read(renamed(row, columns), form), row=row)
    except Nothing as nothing:
        return LeftOut(where, str(nothing))
    except Unfit as error:
        return BadRow(where, in_their_words(str(error), columns), error.hint)


def _usual(row: Row, form: TaskForm) -> Task:
    asked, said = _asked(row, form.ask) if form.ask else (None, None)
    reference = _answer(row, form.answer) if form.answer else said
    plain = isinstance(row.get(form.ask or "chosen"), str)
    if form.pairs:
        pair = pair_of(row, asked)
        task = Task(messages=pair.asked, chosen=pair.chosen, rejected=pair.rejected, row=row, plain=plain)
        return replace(_checked(task), reference=reference if form.answer else None, tools=tools_of(row))
    assert asked is not None, "without pairs something asks"
    messages = tuple(turn.message for turn in asked)
    return _checked(Task(messages=messages, tools=tools_of(row), reference=reference, row=row, plain=plain))


def _checked(task: Task) -> Task:
    """The task, where it begins and ends with somebody who asks; raises Unfit."""
    spoken = [message for message in task.messages if message["role"] != "system"]
    if not spoken or spoken[-1]["role"] not in ("user", "tool"):
        raise Unfit("the chat does not end with somebody who asks, so there is nothing to answer")
    if spoken[0]["role"] == "assistant":
        raise Unfit("the assistant speaks first, and nobody asked")
    if is_blank(spoken[-1]["content"]):
        raise Unfit("what is asked is blank")
    return task


def _asked(row: Row, ask: str) -> tuple[list[Turn], str | None]:
    """What is asked, and the answer where the chat goes on to it."""
    chat = _chat(row, ask)
    asked = list(chat)
    while asked and asked[-1].message["role"] == "assistant":
        asked.pop()
    if not asked:
        raise Unfit("the assistant speaks first, and nobody asked")
    said = chat[-1].message["content"] if len(asked) < len(chat) else ""
    return asked, None if is_blank(said) else said


def _chat(row: Row, ask: str) -> list[Turn]:
    if ask in LISTS:
        return turns(ask)(row)
    if ask == "instruction":
        return instructed(row)
    value = row[ask]
    if isinstance(value, str) and (parsed := transcript(text_of(value, ask), ask)):
        return with_system(row, parsed)
    return with_system(row, side(row, ask, "user"))


def _answer(row: Row, name: str) -> str:
    value = row.get(name)
    if isinstance(value, bool | int | float):
        if isinstance(value, float) and not math.isfinite(value):
            raise Unfit(f"`{name}` is no finite number")
        return str(value).lower() if isinstance(value, bool) else repr(value)
    text = _completion(row, name) if name in WEAK else text_of(value, name)
    if is_blank(text):
        raise Unfit(f"`{name}` is blank, so no answer is right")
    return text


def _completion(row: Row, name: str) -> str:
    """The last word of an answer, which may be turns."""
    last = side(row, name, "assistant")[-1].message
    if last["role"] != "assistant":
        raise Unfit(f"`{name}` ends with what the {last['role']} says, expected the assistant's answer")
    return str(last["content"])


# A look through a whole file.


def survey_tasks(
    path: Path,
    columns: Mapping[str, str],
    *,
    progress: Callable[[int], None] = lambda _rows: None,
    recognise: Recognise = recognise_task,
) -> DataSummary:
    """Reads every row of `path` as the trainer will, and says what they are; a bad one is counted.

    Raises:
        BadInput: the file is not readable, nothing asks, no row can be used, or too many pairs compare nothing.
    """
    form, found = tasks_of(read_rows(path), columns, recognise)
    tasks: list[Task] = []
    bad: list[BadRow] = []
    left_out = Tally()
    count = rows = unusable = 0
    for _where, each in found:
        rows += 1
        progress(rows)
        if isinstance(each, Task):
            count += 1
            tasks = tasks or [each]
        elif isinstance(each, LeftOut):
            left_out.add(each)
        else:
            unusable += 1
            bad = [*bad, each] if len(bad) < _SHOWN else bad
    if problem := left_out.problem(count):
        raise BadInput(f"{path}: {problem[0]}", problem[1])
    if not tasks:
        raise none_usable(rows, bad[0]) if bad else BadInput(f"{path}: every pair compares nothing", "give other pairs")
    hints = {each.hint for each in bad}
    return DataSummary(
        format=form.name,
        rows=rows,
        columns=tuple(tasks[0].row),
        first=_asked_sample(tasks[0]),
        unusable=unusable,
        left_out=left_out.total,
        bad=tuple((each.where, each.why) for each in bad),
        hint=hints.pop() if len(hints) == 1 else "",
        compares=form.pairs and not form.checkable,
    )


def first_prompt(row: Row, columns: Mapping[str, str], where: str) -> Sample:
    """The prompt of a row, without an answer; raises BadInput for an unusable row."""
    return _asked_sample(first_task(row, columns, where))


def first_task(row: Row, columns: Mapping[str, str], where: str, recognise: Recognise = recognise_task) -> Task:
    """What a row asks, and its answers where they are in it; raises BadInput for an unusable row."""
    found = next(iter(_tasks([(where, row)], recognise(row, columns, where), columns)))[1]
    if not isinstance(found, Task):
        raise BadRow(where, found.why)
    return found


def answered(task: Task, answer: Sequence[Message] | None) -> Sample:
    """What is asked as a chat, and an answer to it, which is trained."""
    said = tuple(answer or ())
    trained = tuple(message["role"] == "assistant" for message in said)
    return Sample(
        messages=(*task.messages, *said), trained=(*(False for _ in task.messages), *trained), tools=task.tools
    )


def _asked_sample(task: Task) -> Sample:
    return answered(replace(task, tools=None), None)
