"""The formats of prompts and of preference pairs, and how a row's format is recognised."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dimba.common.errors import Location, UnusableRow
from dimba.dataset.dialogue import Message, Row
from dimba.dataset.formats import UnknownFormat, check_columns, with_our_names

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
class PromptExample:
    """A prompt, and the reference or the pair of answers that completions are compared with.

    `messages` ends with a question; `chosen` and `rejected` continue it. `row` is the unchanged row of the data, which
    reward functions get; `plain` tells whether its question is plain text. `arguments` are given to the chat template
    beside the messages; `unread` are columns that only reward functions see, named by the first example that has them.
    """

    messages: tuple[Message, ...]
    tools: tuple[Any, ...] | None = None
    reference: str | None = None
    chosen: tuple[Message, ...] | None = None
    rejected: tuple[Message, ...] | None = None
    row: Mapping[str, Any]
    plain: bool
    arguments: Mapping[str, Any] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    source: int = 0  # the number of its data set in a list

    def as_json(self) -> dict[str, Any]:
        """What models are asked and answers are compared with, as JSON."""
        names = ("messages", "tools", "reference", "chosen", "rejected", "arguments", "plain")
        return {name: value for name in names if (value := getattr(self, name))}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "PromptExample":
        """Reads `as_json`; the row of the data is not in it."""
        lists = {name: tuple(value[name]) if name in value else None for name in ("tools", "chosen", "rejected")}
        return cls(
            messages=tuple(value["messages"]),
            tools=lists["tools"],
            reference=value.get("reference"),
            chosen=lists["chosen"],
            rejected=lists["rejected"],
            arguments=value.get("arguments", {}),
            plain=bool(value.get("plain")),
            row={},
        )


@dataclass(frozen=True, kw_only=True)
class PromptFormat:
    """A format of rows: `reference` is the column of right answers, `checkable` if those are short answers."""

    name: str
    columns: dict[str, str]  # ours: theirs
    ask: str | None  # ours; None if the question is in the transcripts
    reference: str | None
    checkable: bool
    pairs: bool

    @property
    def answer(self) -> str | None:
        """Our name of the column of answers; None if it is the column that asks."""
        return next((ours for ours in (*CHECKABLE, *WEAK) if ours in self.columns), None)

    @property
    def needed(self) -> tuple[str, ...]:
        """Our names of the columns that every row must have."""
        if self.name in (TWO_RESPONSES, SCORED_RESPONSES):
            return TWO if self.name == TWO_RESPONSES else SCORED
        return tuple(each for each in (self.ask, self.answer, *(_PAIR if self.pairs else ())) if each)


def null_answers(row: Row, columns: Mapping[str, str]) -> list[str]:
    """The columns of answers that are null in this row."""
    names = [columns.get(each, each) for each in (*CHECKABLE, *WEAK)]
    return [name for name in names if name in row and row[name] is None]


def with_later_answers(
    row: Row, later: Iterable[tuple[Location, Row | UnusableRow]], columns: Mapping[str, str]
) -> Row:
    """The row, with answers of later rows in place of its null ones: their kind shows the format."""
    given = [each for _, each in later if not isinstance(each, UnusableRow)]
    names = null_answers(row, columns)
    return {**row, **{name: next((each[name] for each in given if each.get(name) is not None), None) for name in names}}


def recognise_prompt(row: Row, columns: Mapping[str, str], where: Location) -> PromptFormat:
    """The format of a row, with its columns renamed by `columns` (ours → theirs).

    Raises:
        BadInput: no column asks, two columns do, or `columns` names one that the row lacks.
    """
    check_columns(row, columns, where)
    filled = {key: value for key, value in row.items() if value is not None}
    ours = set(with_our_names(filled, columns))
    if unknown := sorted(set(columns) - set(_OURS)):
        hint = f"known columns: {', '.join(_OURS)}"
        raise UnknownFormat(f"`{unknown[0]}` is not a column of a prompt or a pair", hint).at(where)
    present = set(with_our_names(row, columns))
    scored = _scored_format(ours, columns) or _scored_format(present, columns)
    return scored or _usual_format(ours, columns, row, where)


def _scored_format(ours: set[str], columns: Mapping[str, str]) -> PromptFormat | None:
    if set(TWO) <= ours and ours & set(_TWO_MORE):
        return _format(TWO_RESPONSES, (*TWO, *_TWO_MORE), ours, columns, ask=TWO[0], pairs=True)
    if set(SCORED) <= ours:
        return _format(SCORED_RESPONSES, (*SCORED, CRITERIA), ours, columns, ask=SCORED[0], pairs=True)
    return None


def _usual_format(ours: set[str], columns: Mapping[str, str], row: Row, where: Location) -> PromptFormat:
    pairs = set(_PAIR) <= set(with_our_names(row, columns)) and bool(set(_PAIR) & ours)
    ours |= set(_PAIR) if pairs else set()  # one of them may be null in this row
    ask = _ask(ours, columns, where)
    if ask is None and not pairs:
        raise _no_question(ours, row).at(where)
    answer = next((name for name in (*CHECKABLE, *(WEAK if not pairs else ())) if name in ours and ask), None)
    if answer is None and ask in LISTS and not pairs:
        answer = ask
    parts = [part for part in (ask, answer if answer != ask else None, "chosen/rejected" if pairs else None) if part]
    read = [ask, answer, *(_PAIR if pairs else ()), *_BESIDE]
    name = "/".join(parts) if ask else "chosen/rejected (transcripts)"
    return _format(name, [each for each in read if each], ours, columns, ask=ask, pairs=pairs, answer=answer)


def _format(
    name: str,
    read: Iterable[str],
    ours: set[str],
    columns: Mapping[str, str],
    *,
    ask: str | None,
    pairs: bool,
    answer: str | None = None,
) -> PromptFormat:
    return PromptFormat(
        name=name,
        columns={each: columns.get(each, each) for each in dict.fromkeys(read) if each in ours},
        ask=ask,
        reference=columns.get(answer, answer) if answer else None,
        checkable=answer in CHECKABLE,
        pairs=pairs,
    )


def _ask(ours: set[str], columns: Mapping[str, str], where: Location) -> str | None:
    """The column that asks: one that `columns` names, else a text, else a list of turns."""
    named = [each for each in _ASKS if each in columns]
    texts = [each for each in _ASKS if each in ours and each not in LISTS]
    found = named or texts or [each for each in LISTS if each in ours]
    if len(found) > 1:
        each = " or ".join(f"`dataset.columns: {{{name}: {columns.get(name, name)}}}`" for name in found)
        cause = f"`{found[0]}` and `{found[1]}` could both hold the question"
        raise UnknownFormat(cause, f"choose one: {each}").at(where)
    return found[0] if found else None


def _no_question(ours: set[str], row: Row) -> UnknownFormat:
    has = ", ".join(f"`{key}`" for key in sorted(ours)) or "(none)"
    half = next((name for name in _PAIR if name in row), None)
    missing = f"`{'rejected' if half == 'chosen' else 'chosen'}` is missing for pairs; " if half else ""
    return UnknownFormat(
        f"no column of this row asks: it needs one of {', '.join(f'`{each}`' for each in _ASKS)}, "
        f"or transcripts in `chosen` and `rejected`; the columns are {has}",
        f"{missing}name the column of the question: `dataset.columns: {{prompt: …}}`",
    )
