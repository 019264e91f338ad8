"""The shapes of rows that ask, and of pairs of answers, and how they are recognised."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dimba.common.errors import BadRow
from dimba.dataset.dialogue import Message, Row, Unfit
from dimba.dataset.formats import UnknownFormat, renamed, theirs_in

TWO_RESPONSES, SCORED_RESPONSES = "responses A and B", "scored responses"
LISTS = ("messages", "conversations")
_ASKS = ("prompt", "question", "query", "problem", "instruction", *LISTS)
CHECKABLE = ("answer", "solution")
_PAIR = ("chosen", "rejected")
WEAK = ("response", "completion", "output")
_BESIDE = ("system", "tools", "input", "history")
SCORED = ("orig_instruction", "orig_response", "orig_score")
TWO = ("orig_instruction", "orig_response_A", "orig_response_B")
_TWO_MORE = ("orig_score_A", "orig_score_B", "orig_preference")
CRITERIA = "orig_criteria"
_OURS = (*_ASKS, *CHECKABLE, *WEAK, *_BESIDE, *_PAIR, *SCORED, *TWO, *_TWO_MORE, CRITERIA)


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

    @property
    def answer(self) -> str | None:
        """Our name of the column of answers, where that is not the one that asks."""
        return next((ours for ours in (*CHECKABLE, *WEAK) if ours in self.columns), None)

    @property
    def needed(self) -> tuple[str, ...]:
        """Our names of the columns that every row has."""
        if self.name in (TWO_RESPONSES, SCORED_RESPONSES):
            return TWO if self.name == TWO_RESPONSES else SCORED
        return tuple(each for each in (self.ask, self.answer, *(_PAIR if self.pairs else ())) if each)


def check_there(row: Row, needed: Iterable[str], columns: Mapping[str, str]) -> None:
    """Raises Unfit where a row lacks one of the columns that the first row has."""
    for ours in needed:
        if columns.get(ours, ours) not in row:
            raise Unfit(f"no `{columns.get(ours, ours)}` here, unlike the first row")


def open_answers(row: Row, columns: Mapping[str, str]) -> list[str]:
    """The columns of answers that are null in this row."""
    names = [columns.get(each, each) for each in (*CHECKABLE, *WEAK)]
    return [name for name in names if name in row and row[name] is None]


def with_answers(row: Row, later: Iterable[tuple[str, Row | BadRow]], columns: Mapping[str, str]) -> Row:
    """The row with the answers of later ones where its own are null: the first row alone does not say what all are."""
    given = [each for _, each in later if not isinstance(each, BadRow)]
    names = open_answers(row, columns)
    return {**row, **{name: next((each[name] for each in given if each.get(name) is not None), None) for name in names}}


def recognise_task(row: Row, columns: Mapping[str, str], where: str) -> TaskForm:
    """The form of a row, after `columns` (ours → theirs) renamed its own.

    Raises:
        BadInput: nothing in it asks, two columns do, or `columns` names one that is not there.
    """
    theirs_in(row, columns, where)
    filled = {key: value for key, value in row.items() if value is not None}
    ours = set(renamed(filled, columns))
    if unknown := sorted(set(columns) - set(_OURS)):
        hint = f"the columns that are read: {', '.join(_OURS)}"
        raise UnknownFormat(f"{where}: `{unknown[0]}` is no column of a prompt or of a pair", hint)
    there = set(renamed(row, columns))
    scored = _scored_form(ours, columns) or _scored_form(there, columns)
    return scored or _usual_form(ours, columns, row, where)


def _scored_form(ours: set[str], columns: Mapping[str, str]) -> TaskForm | None:
    if set(TWO) <= ours and ours & set(_TWO_MORE):
        return _form(TWO_RESPONSES, (*TWO, *_TWO_MORE), ours, columns, ask=TWO[0], pairs=True)
    if set(SCORED) <= ours:
        return _form(SCORED_RESPONSES, (*SCORED, CRITERIA), ours, columns, ask=SCORED[0], pairs=True)
    return None


def _usual_form(ours: set[str], columns: Mapping[str, str], row: Row, where: str) -> TaskForm:
    pairs = set(_PAIR) <= set(renamed(row, columns)) and bool(set(_PAIR) & ours)
    ours |= set(_PAIR) if pairs else set()  # one of them may be null in this row
    ask = _ask(ours, columns, where)
    if ask is None and not pairs:
        raise _nothing_asks(ours, row, where)
    answer = next((name for name in (*CHECKABLE, *(WEAK if not pairs else ())) if name in ours and ask), None)
    if answer is None and ask in LISTS and not pairs:
        answer = ask
    parts = [part for part in (ask, answer if answer != ask else None, "chosen/rejected" if pairs else None) if part]
    read = [ask, answer, *(_PAIR if pairs else ()), *_BESIDE]
    name = "/".join(parts) if ask else "chosen/rejected (transcripts)"
    return _form(name, [each for each in read if each], ours, columns, ask=ask, pairs=pairs, answer=answer)


def _form(
    name: str,
    read: Iterable[str],
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
        checkable=answer in CHECKABLE,
        pairs=pairs,
    )


def _ask(ours: set[str], columns: Mapping[str, str], where: str) -> str | None:
    """The column that asks; one that was named wins, and a text over a list of turns beside it."""
    named = [each for each in _ASKS if each in columns]
    texts = [each for each in _ASKS if each in ours and each not in LISTS]
    found = named or texts or [each for each in LISTS if each in ours]
    if len(found) > 1:
        each = " or ".join(f"`dataset.columns: {{{name}: {columns.get(name, name)}}}`" for name in found)
        raise UnknownFormat(f"{where}: `{found[0]}` and `{found[1]}` could both be what is asked", f"say which: {each}")
    return found[0] if found else None


def _nothing_asks(ours: set[str], row: Row, where: str) -> UnknownFormat:
    has = ", ".join(f"`{key}`" for key in sorted(ours)) or "(none)"
    half = next((name for name in _PAIR if name in row), None)
    missing = f"`{'rejected' if half == 'chosen' else 'chosen'}` is missing for pairs; " if half else ""
    return UnknownFormat(
        f"{where}: nothing in this row asks: it needs one of {', '.join(f'`{each}`' for each in _ASKS)}, "
        f"or transcripts in `chosen` and `rejected`; the columns are {has}",
        f"{missing}name the column that asks: `dataset.columns: {{prompt: …}}`",
    )
