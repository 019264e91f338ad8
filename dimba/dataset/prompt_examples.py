"""Prompt examples: a row's prompt, and the answer or the pair that belongs to it.

The launcher checks the data with it before a job starts; the trainer trains on the examples.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

from dimba.common.errors import BadInput, Location, UnusableRow
from dimba.dataset.dialogue import Message, Row, Turn, is_blank, text_of
from dimba.dataset.files import Read, read_rows
from dimba.dataset.formats import UnreadColumns, check_present, with_our_names, with_their_name
from dimba.dataset.pairs import SkippedPair, Tally, read_pair, transcript
from dimba.dataset.prompt_formats import (
    LISTS,
    SCORED_RESPONSES,
    TWO_RESPONSES,
    WEAK,
    PromptExample,
    PromptFormat,
    null_answers,
    recognise_prompt,
    with_later_answers,
)
from dimba.dataset.samples import (
    ARGUMENTS,
    Sample,
    arguments_of,
    instruction_turns,
    side_turns,
    tools_of,
    turns,
    with_system,
)
from dimba.dataset.scored import Found, compare_responses, prompt_alone, two_responses
from dimba.dataset.summary import PATIENCE, SHOWN, DataSummary, no_usable_rows, shared_hint
from dimba.dataset.values import KeyOrder, plain

__all__ = [
    "PromptExample",
    "PromptFormat",
    "SkippedPair",
    "Tally",
    "first_example",
    "first_prompt",
    "prompts_of",
    "recognise_prompt",
    "survey_prompts",
    "with_answer",
]

Recognise = Callable[[Row, Mapping[str, str], Location], PromptFormat]  # (row, columns, where) → format


def prompts_of(
    rows: Read, columns: Mapping[str, str], recognise: Recognise = recognise_prompt
) -> tuple[PromptFormat, Found]:
    """The format of the first readable row, and every row as a prompt example of it.

    Raises:
        BadInput: no column asks, or no row is readable; while reading, that no two scored responses can be compared.
    """
    bad: list[tuple[Location, UnusableRow]] = []
    for where, row in rows:
        if not isinstance(row, UnusableRow):
            later = list(islice(rows, PATIENCE)) if null_answers(row, columns) else []
            form = recognise(with_later_answers(row, later, columns), columns, where)
            every: Iterable[tuple[Location, Row | UnusableRow]] = chain(bad, [(where, row)], later, rows)
            scored = form.name == SCORED_RESPONSES
            return form, compare_responses(every, columns) if scored else _examples(every, form, columns)
        bad.append((where, row))
        if len(bad) == PATIENCE:
            break
    raise no_usable_rows(len(bad), bad[0][1] if bad else None)


def _examples(
    rows: Iterable[tuple[Location, Row | UnusableRow]], form: PromptFormat, columns: Mapping[str, str]
) -> Found:
    read = {TWO_RESPONSES: two_responses, SCORED_RESPONSES: prompt_alone}.get(form.name, _usual)
    order, unread = KeyOrder(), UnreadColumns([*form.columns.values(), ARGUMENTS])
    for where, row in rows:
        found = row if isinstance(row, UnusableRow) else _example(read, where, row, form, columns)
        yield where, _settled(found, order, unread) if isinstance(found, PromptExample) else found


def _settled(example: PromptExample, order: KeyOrder, unread: UnreadColumns) -> PromptExample:
    """The example with its keys in order and its unread columns named."""
    return replace(
        example,
        messages=order.messages(example.messages),
        chosen=example.chosen and order.messages(example.chosen),
        rejected=example.rejected and order.messages(example.rejected),
        tools=order.apply(example.tools, "tools"),
        arguments=order.apply(example.arguments, "arguments"),
        unread=unread.new(example.row, example.arguments),
    )


def _example(
    read: Callable[[Row, PromptFormat], PromptExample],
    where: Location,
    row: Row,
    form: PromptFormat,
    columns: Mapping[str, str],
) -> PromptExample | UnusableRow | SkippedPair:
    try:
        check_present(row, form.needed, columns)
        return replace(read(with_our_names(row, columns), form), row=row)
    except SkippedPair as pair:
        return pair.at(where)
    except UnusableRow as error:
        return with_their_name(error, columns).at(where)


def _usual(row: Row, form: PromptFormat) -> PromptExample:
    question, reply = _question(row, form.ask) if form.ask else (None, None)
    reference = _answer(row, form.answer) if form.answer else reply
    is_plain = isinstance(row.get(form.ask or "chosen"), str)
    if form.pairs:
        pair = read_pair(row, question)
        example = PromptExample(
            messages=pair.question, chosen=pair.chosen, rejected=pair.rejected, row=row, plain=is_plain
        )
        _check_question(example)
        return replace(
            example,
            reference=reference if form.answer else None,
            tools=tools_of(row),
            arguments=arguments_of(row),
        )
    assert question is not None, "a format without pairs has a column that asks"
    messages = tuple(turn.message for turn in question)
    example = PromptExample(
        messages=messages,
        tools=tools_of(row),
        reference=reference,
        row=row,
        plain=is_plain,
        arguments=arguments_of(row),
    )
    _check_question(example)
    return example


def _check_question(example: PromptExample) -> None:
    """Raises UnusableRow unless the chat begins and ends with a question."""
    turns = [message for message in example.messages if message["role"] != "system"]
    if not turns or turns[-1]["role"] not in ("user", "tool"):
        raise UnusableRow("the chat does not end with a question, so there is nothing to answer")
    if turns[0]["role"] == "assistant":
        raise UnusableRow(_UNASKED)
    if is_blank(turns[-1]["content"]):
        raise UnusableRow("the question is blank")


_UNASKED = "the chat begins with the assistant, and no question precedes it"


def _question(row: Row, ask: str) -> tuple[list[Turn], str | None]:
    """The turns up to the last question, and the answer that follows it, if any."""
    chat = _chat(row, ask)
    question = list(chat)
    while question and question[-1].message["role"] == "assistant":
        question.pop()
    if not question:
        raise UnusableRow(_UNASKED)
    reply = chat[-1].message["content"] if len(question) < len(chat) else ""
    return question, None if is_blank(reply) else reply


def _chat(row: Row, ask: str) -> list[Turn]:
    if ask in LISTS:
        return turns(ask)(row)
    if ask == "instruction":
        return instruction_turns(row)
    value = row[ask]
    if isinstance(value, str) and (parsed := transcript(text_of(value, ask), ask)):
        return with_system(row, parsed)
    return with_system(row, side_turns(row, ask, "user"))


def _answer(row: Row, name: str) -> str:
    value = row.get(name)
    if isinstance(value, bool | int | float):
        if isinstance(value, float) and not math.isfinite(value):
            raise UnusableRow("is not a finite number", column=name)
        return str(value).lower() if isinstance(value, bool) else repr(plain(value))  # 72.0 in a table is 72
    text = _completion(row, name) if name in WEAK else text_of(value, name)
    if is_blank(text):
        raise UnusableRow("is blank, so no answer is right", column=name)
    return text


def _completion(row: Row, name: str) -> str:
    """The text of an answer; the last turn, if it is a list of turns."""
    last = side_turns(row, name, "assistant")[-1].message
    if last["role"] != "assistant":
        raise UnusableRow(f"ends with a turn of the {last['role']}, expected the assistant's answer", column=name)
    return str(last["content"])


def survey_prompts(
    path: Path,
    columns: Mapping[str, str],
    *,
    progress: Callable[[int], None] = lambda _rows: None,
    split: str | None = None,
    limit: int | None = None,
    recognise: Recognise = recognise_prompt,
) -> DataSummary:
    """Reads the rows of `path` as the trainer will; returns their summary, which counts the unusable ones.

    With a `limit`, only so many rows are read.

    Raises:
        BadInput: the file is not readable, no column asks, no row is usable, or too many pairs compare nothing.
    """
    form, found = prompts_of(islice(read_rows(path, split), limit), columns, recognise)
    first: PromptExample | None = None
    bad: list[UnusableRow] = []
    skipped = Tally()
    unread: dict[str, None] = {}
    count = rows = unusable = 0
    for _where, each in found:
        rows += 1
        progress(rows)
        if isinstance(each, PromptExample):
            count += 1
            first = first or each
            unread.update(dict.fromkeys(each.unread))
        elif isinstance(each, SkippedPair):
            skipped.add(each)
        else:
            unusable += 1
            bad = [*bad, each] if len(bad) < SHOWN else bad
    if problem := skipped.problem(count):
        raise BadInput(*problem, file=path)
    if not first and not bad:
        raise BadInput("every pair compares nothing", "give other pairs", file=path)
    if not first:
        raise no_usable_rows(rows, bad[0])
    return DataSummary(
        format=form.name,
        rows=rows,
        columns=tuple(first.row),
        first=_prompt_sample(first),
        unusable=unusable,
        skipped=skipped.total,
        bad=tuple((str(each.location), each.finding) for each in bad),
        hint=shared_hint(bad),
        unread=tuple(unread),
        compares=form.pairs and not form.checkable,
    )


def first_prompt(row: Row, columns: Mapping[str, str], where: Location) -> Sample:
    """The prompt of a row, without an answer; raises BadInput for an unusable row."""
    return _prompt_sample(first_example(row, columns, where))


def first_example(
    row: Row, columns: Mapping[str, str], where: Location, recognise: Recognise = recognise_prompt
) -> PromptExample:
    """The prompt example of a row; raises BadInput for an unusable row."""
    found = next(iter(_examples([(where, row)], recognise(row, columns, where), columns)))[1]
    if isinstance(found, SkippedPair):
        raise UnusableRow(found.reason).at(where)
    if isinstance(found, UnusableRow):
        raise found
    return found


def with_answer(example: PromptExample, answer: Sequence[Message] | None) -> Sample:
    """The prompt as a chat, with an answer whose assistant turns are trained."""
    turns = tuple(answer or ())
    trained = (*(False for _ in example.messages), *(turn["role"] == "assistant" for turn in turns))
    return Sample(
        messages=(*example.messages, *turns),
        trained=trained,
        tools=example.tools,
        arguments=example.arguments,
        unread=example.unread,
    )


def _prompt_sample(example: PromptExample) -> Sample:
    return Sample(messages=example.messages, trained=(False,) * len(example.messages))
