"""What GRPO starts from: rows that ask, and what an answer is held against. Both sides need it, as with formats."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from dimba.errors import BadInput, BadRow
from dimba.files import Read, kind, read_rows
from dimba.formats import DataSummary, UnknownFormat, as_sample, none_usable, recognise, renamed, theirs_in
from dimba.pairs import TIE, Nothing, checked, degenerate, pair_of, transcript
from dimba.samples import (
    Message,
    Row,
    Sample,
    Turn,
    Unfit,
    instructed,
    is_blank,
    side,
    text_of,
    tools_of,
    turns,
    with_system,
)

_LISTS = ("messages", "conversations")
_ASKS = ("prompt", "question", "query", "problem", "instruction", *_LISTS)
_CHECKABLE = ("answer", "solution")
_WEAK = ("response", "completion", "output")
_BESIDE = ("system", "tools", "input", "history")
_SCORED = ("orig_instruction", "orig_response", "orig_score")
_TWO = ("orig_instruction", "orig_response_A", "orig_response_B")
_TWO_MORE = ("orig_score_A", "orig_score_B", "orig_preference")
_CRITERIA = "orig_criteria"
_OURS = (*_ASKS, *_CHECKABLE, *_WEAK, *_BESIDE, "chosen", "rejected", *_SCORED, *_TWO, *_TWO_MORE, _CRITERIA)
_PATIENCE = 1000  # rows without a readable one, after which a file is given up
_SHOWN = 5  # bad rows that are told one by one


@dataclass(frozen=True, kw_only=True)
class Task:
    """One thing to answer, and what an answer is held against.

    `messages` ends with what somebody asks; `chosen` and `rejected` go on from there. `row` is the row as it stands
    in the data, which reward functions get; `plain` says whether it asks in plain text.
    """

    messages: tuple[Message, ...]
    tools: tuple[Any, ...] | None = None
    reference: str | None = None
    chosen: tuple[Message, ...] | None = None
    rejected: tuple[Message, ...] | None = None
    row: Mapping[str, Any]
    plain: bool


@dataclass(frozen=True, kw_only=True)
class TaskForm:
    """A shape of row: `reference` is the column of right answers; `checkable` where it is one of short answers."""

    name: str
    columns: dict[str, str]  # ours: theirs
    ask: str | None  # ours; None where transcripts say what was asked
    reference: str | None
    checkable: bool
    pairs: bool


class LeftOut(NamedTuple):
    """A row that is fine, and compares nothing."""

    where: str
    why: str


Found = Iterator[tuple[str, Task | BadRow | LeftOut]]


def recognise_task(row: Row, columns: Mapping[str, str], where: str) -> TaskForm:
    """The form of a row, after `columns` (ours → theirs) renamed its own.

    Raises:
        BadInput: nothing in it asks, two columns do, or `columns` names one that is not there.
    """
    theirs_in(row, columns, where)
    filled = {key: value for key, value in row.items() if value is not None}
    ours = set(renamed(filled, columns))
    if unknown := sorted(set(columns) - set(_OURS)):
        hint = f"GRPO knows {', '.join(_OURS)}"
        raise UnknownFormat(f"{where}: `{unknown[0]}` is no column that GRPO reads", hint)
    if set(_TWO) <= ours and ours & set(_TWO_MORE):
        return _form("responses A and B", (*_TWO, *_TWO_MORE), ours, columns, ask=_TWO[0], pairs=True)
    if set(_SCORED) <= ours:
        return _form("scored responses", (*_SCORED, _CRITERIA), ours, columns, ask=_SCORED[0], pairs=True)
    return _usual_form(ours, columns, row, where)


def _usual_form(ours: set[str], columns: Mapping[str, str], row: Row, where: str) -> TaskForm:
    pairs = {"chosen", "rejected"} <= ours
    ask = _ask(ours, columns, where)
    if ask is None and not pairs:
        raise _nothing_asks(ours, row, where)
    answer = next((name for name in (*_CHECKABLE, *_WEAK) if name in ours and ask), None)
    if answer is None and ask in _LISTS and not pairs:
        answer = ask
    parts = [part for part in (ask, answer if answer != ask else None, "chosen/rejected" if pairs else None) if part]
    read = [ask, answer, *(("chosen", "rejected") if pairs else ()), *_BESIDE]
    name = "/".join(parts) if ask else "chosen/rejected (transcripts)"
    return _form(name, [each for each in read if each], ours, columns, ask=ask, pairs=pairs, answer=answer)


def _form(
    name: str,
    read: Any,
    ours: set[str],
    columns: Mapping[str, str],
    *,
    ask: str | None,
    pairs: bool,
    answer: str | None = None,
) -> TaskForm:
    return TaskForm(
        name=name,
        columns={each: columns.get(each, each) for each in dict.fromkeys(read) if each in ours},
        ask=ask,
        reference=columns.get(answer, answer) if answer else None,
        checkable=answer in _CHECKABLE,
        pairs=pairs,
    )


def _ask(ours: set[str], columns: Mapping[str, str], where: str) -> str | None:
    """The column that asks; one that was named wins, and a text over a list of turns beside it."""
    named = [each for each in _ASKS if each in columns]
    texts = [each for each in _ASKS if each in ours and each not in _LISTS]
    found = named or texts or [each for each in _LISTS if each in ours]
    if len(found) > 1:
        each = " or ".join(f"`dataset.columns: {{{name}: {columns.get(name, name)}}}`" for name in found)
        raise UnknownFormat(f"{where}: `{found[0]}` and `{found[1]}` could both be what is asked", f"say which: {each}")
    return found[0] if found else None


def _nothing_asks(ours: set[str], row: Row, where: str) -> UnknownFormat:
    has = ", ".join(f"`{key}`" for key in sorted(ours)) or "(none)"
    half = next((name for name in ("chosen", "rejected") if name in row), None)
    missing = f"`{'rejected' if half == 'chosen' else 'chosen'}` is missing for pairs; " if half else ""
    return UnknownFormat(
        f"{where}: nothing in this row asks: GRPO needs one of {', '.join(f'`{each}`' for each in _ASKS)}, "
        f"or transcripts in `chosen` and `rejected`; the columns are {has}",
        f"{missing}name the column that asks: `dataset.columns: {{prompt: …}}`",
    )


def tasks_of(rows: Read, columns: Mapping[str, str]) -> tuple[TaskForm, Found]:
    """The form of the first readable row, and every row as it reads it.

    Raises:
        BadInput: nothing asks, or no row is readable; while reading, that rows scored one by one make no pair.
    """
    bad: list[tuple[str, BadRow]] = []
    for where, row in rows:
        if not isinstance(row, BadRow):
            form = recognise_task(row, columns, where)
            every = chain(bad, [(where, row)], rows)
            scored = form.name == "scored responses"
            return form, _scored(every, columns) if scored else _tasks(every, form, columns)
        bad.append((where, row))
        if len(bad) == _PATIENCE:
            break
    raise none_usable(len(bad), bad[0][1]) if bad else BadInput("no rows", "choose another split, or data with rows")


def _tasks(rows: Any, form: TaskForm, columns: Mapping[str, str]) -> Found:
    read = _two_responses if form.name == "responses A and B" else _usual
    for where, row in rows:
        yield where, row if isinstance(row, BadRow) else _tried(read, where, row, form, columns)


def _tried(
    read: Callable[[Row, TaskForm], Task], where: str, row: Row, form: TaskForm, columns: Mapping[str, str]
) -> Task | BadRow | LeftOut:
    needed = [each for each in (form.ask, *(("chosen", "rejected") if "chosen" in form.columns else ())) if each]
    absent = [theirs for ours in needed if (theirs := columns.get(ours, ours)) not in row]
    if absent:
        return BadRow(where, f"no `{absent[0]}` here, unlike the first row (`{form.name}`)")
    try:
        return replace(read(renamed(row, columns), form), row=row)
    except Nothing as nothing:
        return LeftOut(where, str(nothing))
    except Unfit as error:
        why = str(error)
        for ours, theirs in columns.items():
            why = why.replace(f"`{ours}", f"`{theirs}", 1) if why.startswith(f"`{ours}") else why
        return BadRow(where, why, error.hint)


def _usual(row: Row, form: TaskForm) -> Task:
    asked = _asked(row, form.ask) if form.ask else None
    tools = tools_of(row)
    plain = isinstance(row.get(form.ask or "chosen"), str)
    if form.pairs:
        pair = pair_of(row, asked)
        reference = _answer(row, form) if form.reference else None
        task = Task(messages=pair.asked, chosen=pair.chosen, rejected=pair.rejected, row=row, plain=plain)
        return replace(_checked(task), reference=reference, tools=tools)
    assert asked is not None, "without pairs something asks"
    messages = tuple(turn.message for turn in asked)
    reference = None
    if form.ask in _LISTS and messages[-1]["role"] == "assistant":
        messages, reference = messages[:-1], messages[-1]["content"]
    if form.reference and form.reference != form.columns.get(form.ask or ""):
        reference = _answer(row, form)
    return _checked(Task(messages=messages, tools=tools, reference=reference, row=row, plain=plain))


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


def _asked(row: Row, ask: str) -> list[Turn]:
    if ask in _LISTS:
        return turns(ask)(row)
    if ask == "instruction":
        return instructed(row)
    value = row[ask]
    if isinstance(value, str) and (parsed := transcript(text_of(value, ask), ask)):
        # `Human: …`, and perhaps an empty `Assistant:` where the answer goes.
        empty = parsed[-1].message["role"] == "assistant" and is_blank(parsed[-1].message["content"])
        return with_system(row, parsed[:-1] if empty else parsed)
    return with_system(row, side(row, ask, "user"))


def _answer(row: Row, form: TaskForm) -> str:
    name = next(ours for ours in (*_CHECKABLE, *_WEAK) if ours in form.columns)
    value = row.get(name)
    if isinstance(value, bool | int | float):
        return str(value).lower() if isinstance(value, bool) else repr(value)
    text = text_of(value, name)
    if is_blank(text):
        raise Unfit(f"`{name}` is blank, so no answer is right")
    return text


# Responses that were scored.


def _two_responses(row: Row, _form: TaskForm) -> Task:
    scores = [_score(row.get(name), name) for name in ("orig_score_A", "orig_score_B")]
    better = _better(scores, row.get("orig_preference"))
    named = ("orig_response_A", "orig_response_B")
    best, worse = named if better == "A" else named[::-1]
    return _compared(row, _response(row, best), _response(row, worse))


def _better(scores: list[float | None], preference: object) -> str:
    """A or B: by the scores, whatever the preference says; without them by the preference. Raises Nothing, Unfit."""
    a, b = scores
    if a is not None and b is not None:
        if a == b:
            raise Nothing(TIE)
        return "A" if a > b else "B"
    said = str(preference).strip().upper()
    if said not in ("A", "B"):
        raise Unfit("`orig_preference` is neither A nor B, and there are not two scores")
    return said


def _score(value: object, name: str) -> float | None:
    if value is None or (isinstance(value, str) and is_blank(value)):
        return None
    try:
        return float(value)  # type: ignore[arg-type]  # what it cannot take is told
    except (TypeError, ValueError):
        shown = f"`{value}`" if isinstance(value, str) else kind(value)
        raise Unfit(f"`{name}` is {shown}, expected a number") from None


def _response(row: Row, name: str) -> str:
    return text_of(row.get(name), name)


def _compared(row: Row, best: str, worse: str) -> Task:
    asked = ({"role": "user", "content": text_of(row["orig_instruction"], "orig_instruction")},)
    answers = [({"role": "assistant", "content": text},) for text in (best, worse)]
    pair = checked(asked, *answers)
    return Task(messages=pair.asked, chosen=pair.chosen, rejected=pair.rejected, row=row, plain=True)


def _scored(rows: Any, columns: Mapping[str, str]) -> Found:
    """The best response to an instruction against each that scored less; all rows are held, as they may be apart."""
    groups: dict[tuple[str, str], list[tuple[float, str, str, Row]]] = {}
    for where, row in rows:
        try:
            if isinstance(row, BadRow):
                raise row
            ours = renamed(row, columns)
            key = text_of(ours.get("orig_instruction"), "orig_instruction"), str(ours.get(_CRITERIA))
            score = _score(ours.get("orig_score"), "orig_score")
            if score is None:
                raise Unfit("`orig_score` is missing, expected a number")
            groups.setdefault(key, []).append((score, where, _response(ours, "orig_response"), row))
        except BadRow as error:
            yield where, error
        except Unfit as error:
            yield where, BadRow(where, str(error), error.hint)
    pairs = 0
    for group in groups.values():
        for where, found in _pairs_of(group, columns):
            pairs += isinstance(found, Task)
            yield where, found
    if not pairs and groups:
        raise BadInput(
            "each response has a score and nothing to compare it with: no instruction has two of different scores",
            "give pairs (`prompt`, `chosen`, `rejected`), rows with an `answer`, or two scored responses to the same "
            "`orig_instruction`; prometheus-eval/Preference-Collection has pairs of this kind",
        )


def _pairs_of(group: list[tuple[float, str, str, Row]], columns: Mapping[str, str]) -> Found:
    best = max(group, key=lambda each: each[0])
    for each in group:
        score, where, response, row = each
        if each is best:
            if len(group) == 1:
                yield where, LeftOut(where, TIE)
            continue
        try:
            if score == best[0]:
                raise Nothing(TIE)
            yield where, replace(_compared(renamed(row, columns), best[2], response), row=row)
        except Nothing as nothing:
            yield where, LeftOut(where, str(nothing))


# A look through a whole file.


def survey_tasks(
    path: Path, columns: Mapping[str, str], *, progress: Callable[[int], None] = lambda _rows: None
) -> DataSummary:
    """Reads every row of `path` as GRPO's trainer will, and says what they are; a bad one is counted.

    Raises:
        BadInput: the file is not readable, nothing asks, no row can be used, or too many pairs compare nothing.
    """
    form, found = tasks_of(read_rows(path), columns)
    tasks: list[Task] = []
    bad: list[BadRow] = []
    left_out: Counter[str] = Counter()
    count = rows = unusable = 0
    for _where, each in found:
        rows += 1
        progress(rows)
        if isinstance(each, Task):
            count += 1
            tasks = tasks or [each]
        elif isinstance(each, LeftOut):
            left_out[each.why] += 1
        else:
            unusable += 1
            bad = [*bad, each] if len(bad) < _SHOWN else bad
    if problem := left_out_problem(left_out, count + left_out.total()):
        raise BadInput(f"{path}: {problem[0]}", problem[1])
    if not tasks:
        raise none_usable(rows, bad[0]) if bad else BadInput(f"{path}: every pair compares nothing", "give other pairs")
    return DataSummary(
        format=form.name,
        rows=rows,
        columns=tuple(tasks[0].row),
        first=Sample(messages=tasks[0].messages),
        unusable=unusable,
        left_out=left_out.total(),
        bad=tuple((each.where, each.why) for each in bad),
    )


def left_out_problem(left_out: Mapping[str, int], pairs: int) -> tuple[str, str] | None:
    """(what, hint) where more than one pair in twenty compares nothing; ties are no fault."""
    return degenerate(dict(left_out), pairs)


def form_name(row: Row, columns: Mapping[str, str], where: str, mode: str) -> str:
    """What a row of data for `mode` is; raises BadInput where it is nothing known."""
    return (recognise_task if mode == "grpo" else recognise)(row, columns, where).name


def first_sample(row: Row, columns: Mapping[str, str], where: str, mode: str) -> Sample:
    """A row as `mode` would begin with it: a chat to learn from, or what is asked; raises BadInput."""
    if mode != "grpo":
        return as_sample(row, recognise(row, columns, where), columns, where)
    _, found = tasks_of(iter([(where, dict(row))]), columns)
    task = next((each for _, each in found if isinstance(each, Task)), None)
    return Sample(messages=task.messages if task else ())
