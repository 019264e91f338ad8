"""The formats of rows: recognises the format of a row, and converts the row to a sample.

The launcher checks the data with it before a job starts; the trainer trains on the samples.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dimba.common.errors import BadInput, Location, UnusableRow
from dimba.dataset.dialogue import Row, is_blank, text_of, unread_keys
from dimba.dataset.samples import (
    ARGUMENTS,
    DOCUMENTS,
    Convert,
    NoAnswer,
    Sample,
    arguments_of,
    check_chat,
    instruction,
    pair,
    tools_of,
    turns,
)

__all__ = [
    "FORMATS",
    "Format",
    "Sample",
    "UnknownFormat",
    "as_sample",
    "recognise",
]

_CSV = re.compile(r"\.csv(\.gz)?$", re.IGNORECASE)


class UnknownFormat(BadInput):
    """No format fits the columns, or two do; `dataset.columns` resolves it."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format: its columns, and the function from them to turns (None where its one column is plain text)."""

    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    convert: Convert | None

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that the format reads."""
        return self.required + self.optional


FORMATS = (
    *(
        Format(name=name, required=(name,), optional=("system", "tools"), convert=turns(name))
        for name in ("messages", "conversations")
    ),
    *(
        Format(name=f"{ask}/{answer}", required=(ask, answer), optional=("system", "tools"), convert=pair(ask, answer))
        for ask, answer in (
            ("prompt", "completion"),
            ("prompt", "response"),
            ("query", "answer"),
            ("question", "answer"),
        )
    ),
    Format(
        name="instruction/output",
        required=("instruction", "output"),
        optional=("input", "system", "history", "tools"),
        convert=instruction,
    ),
    Format(name="text", required=("text",), convert=None),
)
_TURN_LISTS = ("messages", "conversations")


def recognise(keys: Iterable[str], columns: Mapping[str, str], where: Location) -> Format:
    """The format that fits a row, with its columns renamed by `columns` (ours → theirs).

    Given a row rather than its keys, a column that is null in it counts only if no format fits without it.

    Raises:
        BadInput: no format fits, two fit equally well, or `columns` names a column that the row lacks.
    """
    row = keys if isinstance(keys, Mapping) else {}
    present = set(keys)
    check_columns(present, columns, where)
    filled = {key for key in present if row.get(key, "") is not None}
    fitting = _fitting(filled, columns) or _fitting(present, columns)
    if not fitting:
        raise _no_format(present, row, columns, where).at(where)
    if len(fitting) > 1:
        raise _ambiguous(fitting, columns).at(where)
    return fitting[0]


def check_columns(present: Iterable[str], columns: Mapping[str, str], where: Location) -> None:
    """Raises BadInput where `columns` (ours → theirs) names a column that is not present, or one twice."""
    named = list(columns.values())
    for theirs in named:
        if theirs not in present:
            meant = [f"did you mean `{each}`? " for each in sorted(present) if each.lower() == theirs.lower()]
            hint = f"{''.join(meant[:1])}the columns are: {', '.join(sorted(present))}"
            ours = next(each for each in columns if columns[each] == theirs)
            raise BadInput(f"no column `{theirs}`", hint, key=f"dataset.columns.{ours}").at(where)
        if named.count(theirs) > 1:
            ours = " and ".join(f"`{each}`" for each in columns if columns[each] == theirs)
            hint = f"give each a column of its own; the columns are: {', '.join(sorted(present))}"
            raise BadInput(f"`dataset.columns` takes `{theirs}` for {ours}", hint).at(where)


def _fitting(present: set[str], columns: Mapping[str, str]) -> list[Format]:
    ours = (present - set(columns.values())) | set(columns)

    def fits(form: Format) -> bool:
        return set(form.required) <= ours and set(columns) <= set(form.columns)

    return _most_specific([form for form in FORMATS if fits(form)])


def _most_specific(fitting: list[Format]) -> list[Format]:
    """Prefers a list of turns to the columns beside it, more columns to some of them, and any format to plain text."""
    lists = [form for form in fitting if form.name in _TURN_LISTS]
    fitting = [form for form in fitting if form.convert] or fitting
    return lists or [form for form in fitting if not any(set(form.required) < set(other.required) for other in fitting)]


def _no_format(present: set[str], row: Row, columns: Mapping[str, str], where: Location) -> UnknownFormat:
    if {"chosen", "rejected"} <= present:
        return UnknownFormat("`chosen` and `rejected` are preference pairs", _pairs_hint(row))
    ours = (present - set(columns.values())) | set(columns)
    if partners := sorted({each for form in FORMATS for each in _partners(form, ours, columns)}):
        named = ", ".join(f"{each}: {theirs}" for each, theirs in columns.items())
        return UnknownFormat(
            f"beside `{'`, `'.join(columns)}` there is no {' or '.join(f'`{each}`' for each in partners)}",
            f"name its column too, `dataset.columns: {{{named}, {partners[-1]}: …}}`; "
            f"the columns are: {', '.join(sorted(present))}",
        )
    return UnknownFormat(
        f"no known format has the columns {', '.join(f'`{key}`' for key in sorted(ours)) or '(none)'}",
        f"known formats: {', '.join(form.name for form in FORMATS)}; "
        "name the columns with `dataset.columns: {prompt: …, response: …}`"
        + "; the first line of a .csv names its columns: is it there?"
        * bool(_CSV.search(where.file)),
    )


def _partners(form: Format, ours: set[str], columns: Mapping[str, str]) -> set[str]:
    """The columns that a format lacks, if `columns` names some of it already."""
    absent = set(form.required) - ours
    return absent if set(columns) & set(form.required) and set(columns) <= set(form.columns) else set()


def _pairs_hint(row: Row) -> str:
    asks = next((key for key in ("prompt", *_TURN_LISTS, "question", "instruction") if key in row), None)
    complete = asks is None or isinstance(row.get("chosen"), list | type(None))
    named = "{messages: chosen}" if complete else f"{{prompt: {asks}, response: chosen}}"
    return f"they are for `mode: dpo` or `mode: grpo`; or train on the chosen answers with `dataset.columns: {named}`"


def _ambiguous(fitting: list[Format], columns: Mapping[str, str]) -> UnknownFormat:
    named = [", ".join(f"{ours}: {columns.get(ours, ours)}" for ours in form.required) for form in fitting]
    return UnknownFormat(
        f"the columns fit {' and '.join(f'`{form.name}`' for form in fitting)} equally well",
        "choose one: " + " or ".join(f"`dataset.columns: {{{each}}}`" for each in named),
    )


def as_sample(row: Row, form: Format, columns: Mapping[str, str], where: Location) -> Sample:
    """The row as `form` reads it; raises UnusableRow at `where`."""
    try:
        check_present(row, sorted(form.required, key=lambda ours: columns.get(ours, ours)), columns)
        return _sample(with_our_names(row, columns), form)
    except UnusableRow as error:
        if isinstance(error, NoAnswer) and not columns and {"chosen", "rejected"} <= row.keys():
            error.hint = _pairs_hint(row)
        raise with_their_name(error, columns).at(where) from None


def check_present(row: Row, needed: Iterable[str], columns: Mapping[str, str]) -> None:
    """Raises UnusableRow where a row lacks one of the columns (by our names) that the first row has."""
    for ours in needed:
        if columns.get(ours, ours) not in row:
            raise UnusableRow("is missing, unlike in the first row", column=ours)


def with_our_names(row: Row, columns: Mapping[str, str]) -> Row:
    """The row with the columns of `columns` (ours → theirs) under our names."""
    if not columns:
        return row
    others = {key: value for key, value in row.items() if key not in columns.values()}
    return {**others, **{ours: row.get(theirs) for ours, theirs in columns.items()}}


def with_their_name(error: UnusableRow, columns: Mapping[str, str]) -> UnusableRow:
    """The error, with its column under the name that the data give it."""
    error.column = re.sub(r"^\w+", lambda match: columns.get(match[0], match[0]), error.column)
    return error


def _sample(row: Row, form: Format) -> Sample:
    if form.convert is None:
        text = text_of(row[form.required[0]], form.required[0])
        if is_blank(text):
            raise UnusableRow("is blank, so there is nothing to train on", column=form.required[0])
        return Sample(text=text)
    chat = form.convert(row)
    check_chat(chat)
    return Sample(
        messages=tuple(turn.message for turn in chat),
        trained=tuple(turn.trained for turn in chat),
        tools=tools_of(row) if "tools" in form.optional else None,
        arguments=arguments_of(row),
    )


class UnreadColumns:
    """Finds the columns of rows, and the keys of their turns, that hold something and are not read; names each once."""

    def __init__(self, read: Iterable[str]) -> None:
        self._read = tuple(read)
        self._known = set(self._read)

    def new(self, row: Row, arguments: Mapping[str, Any]) -> tuple[str, ...]:
        """The columns and keys that no row before had; columns that are arguments of the template are read."""
        return self._columns(row, arguments) + self._keys(row)

    def _keys(self, row: Row) -> tuple[str, ...]:
        found: tuple[str, ...] = ()
        for name in self._read:
            if (value := row.get(name)) and (keys := unread_keys(value)):
                new = dict.fromkeys(f"{name}[].{key}" for key in keys)
                found += tuple(each for each in new if each not in self._known)
        self._known.update(found)
        return found

    def _columns(self, row: Row, arguments: Mapping[str, Any]) -> tuple[str, ...]:
        if row.keys() <= self._known:
            return ()
        unread = (name for name, value in row.items() if name not in self._known and value not in (None, "", []))
        found = tuple(name for name in unread if name != DOCUMENTS or DOCUMENTS not in arguments)
        self._known.update(found)
        return found


def read_columns(form: Format, columns: Mapping[str, str]) -> list[str]:
    """The columns that the format reads, by the names in the data."""
    return [*(columns.get(ours, ours) for ours in form.columns), *([ARGUMENTS] if form.convert else [])]
