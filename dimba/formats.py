"""What a row of training data is: its format recognised, and every row of a file turned into a sample.

Both sides need it: the launcher checks the data before anything starts, the trainer trains on them.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from dimba.errors import BadInput, BadRow
from dimba.files import Read, read_rows
from dimba.samples import (
    Convert,
    Row,
    Sample,
    Unfit,
    check_chat,
    instruction,
    is_blank,
    pair,
    text_of,
    tools_of,
    turns,
)

__all__ = [
    "FORMATS",
    "DataSummary",
    "Format",
    "Sample",
    "UnknownFormat",
    "as_sample",
    "recognise",
    "samples_of",
    "survey",
]

Samples = Iterator[tuple[str, Sample | BadRow]]
_OF_CSV = re.compile(r"\.csv(\.gz)?:", re.IGNORECASE)
_SHOWN = 5  # bad rows that are told one by one
_PATIENCE = 1000  # rows without a readable one, after which a file is given up


class UnknownFormat(BadInput):
    """No format fits the columns, or two do: naming the columns would help."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """A shape of row: the columns that make it, and how they become turns (None: the one column is plain text)."""

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


def recognise(keys: Iterable[str], columns: Mapping[str, str], where: str) -> Format:
    """The one format that a row has, after `columns` (ours → theirs) renamed its own.

    Given a row rather than its keys, a column that is null in it counts only where nothing fits without it.

    Raises:
        BadInput: no format fits, two fit equally well, or `columns` names a column that is not there.
    """
    row = keys if isinstance(keys, Mapping) else {}
    present = set(keys)
    theirs_in(present, columns, where)
    filled = {key for key in present if row.get(key, "") is not None}
    fitting = _fitting(filled, columns) or _fitting(present, columns)
    if not fitting:
        raise _nothing_fits(present, row, columns, where)
    if len(fitting) > 1:
        raise _several_fit(fitting, columns, where)
    return fitting[0]


def theirs_in(present: Iterable[str], columns: Mapping[str, str], where: str) -> None:
    """Raises BadInput where `columns` (ours → theirs) names a column that is not there, or one twice."""
    named = list(columns.values())
    for theirs in named:
        if theirs not in present:
            meant = [f"did you mean `{each}`? " for each in sorted(present) if each.lower() == theirs.lower()]
            hint = f"{''.join(meant[:1])}the columns are: {', '.join(sorted(present))}"
            raise BadInput(f"{where}: no column `{theirs}`", hint)
        if named.count(theirs) > 1:
            ours = " and ".join(f"`{each}`" for each in columns if columns[each] == theirs)
            hint = f"give each a column of its own; the columns are: {', '.join(sorted(present))}"
            raise BadInput(f"{where}: `dataset.columns` takes `{theirs}` for {ours}", hint)


def _fitting(present: set[str], columns: Mapping[str, str]) -> list[Format]:
    ours = (present - set(columns.values())) | set(columns)

    def fits(form: Format) -> bool:
        return set(form.required) <= ours and set(columns) <= set(form.columns)

    return _most_telling([form for form in FORMATS if fits(form)])


def _most_telling(fitting: list[Format]) -> list[Format]:
    """A list of turns says more than any columns beside it, more columns than some of them, and all more than text."""
    lists = [form for form in fitting if form.name in _TURN_LISTS]
    fitting = [form for form in fitting if form.convert] or fitting
    return lists or [form for form in fitting if not any(set(form.required) < set(other.required) for other in fitting)]


def _nothing_fits(present: set[str], row: Row, columns: Mapping[str, str], where: str) -> UnknownFormat:
    if {"chosen", "rejected"} <= present:
        return UnknownFormat(f"{where}: `chosen` and `rejected` are preference pairs", _pairs_hint(row))
    ours = (present - set(columns.values())) | set(columns)
    if partners := sorted({each for form in FORMATS for each in _partners(form, ours, columns)}):
        named = ", ".join(f"{each}: {theirs}" for each, theirs in columns.items())
        return UnknownFormat(
            f"{where}: beside `{'`, `'.join(columns)}` there is no {' or '.join(f'`{each}`' for each in partners)}",
            f"name its column too, `dataset.columns: {{{named}, {partners[-1]}: …}}`; "
            f"the columns are: {', '.join(sorted(present))}",
        )
    return UnknownFormat(
        f"{where}: no known format has the columns {', '.join(f'`{key}`' for key in sorted(ours)) or '(none)'}",
        f"known formats: {', '.join(form.name for form in FORMATS)}; "
        "name the columns with `dataset.columns: {prompt: …, response: …}`"
        + "; the first line of a .csv names its columns: is it there?"
        * bool(_OF_CSV.search(where)),
    )


def _partners(form: Format, ours: set[str], columns: Mapping[str, str]) -> set[str]:
    """What a format lacks of which some is named already."""
    absent = set(form.required) - ours
    return absent if set(columns) & set(form.required) and set(columns) <= set(form.columns) else set()


def _pairs_hint(row: Row) -> str:
    asks = next((key for key in ("prompt", *_TURN_LISTS, "question", "instruction") if key in row), None)
    whole = asks is None or isinstance(row.get("chosen"), list | type(None))
    named = "{messages: chosen}" if whole else f"{{prompt: {asks}, response: chosen}}"
    return f"they are for `mode: grpo`; or train on the chosen answers with `dataset.columns: {named}`"


def _several_fit(fitting: list[Format], columns: Mapping[str, str], where: str) -> UnknownFormat:
    named = [", ".join(f"{ours}: {columns.get(ours, ours)}" for ours in form.required) for form in fitting]
    return UnknownFormat(
        f"{where}: the columns fit {' and '.join(f'`{form.name}`' for form in fitting)} equally well",
        "say which with " + " or ".join(f"`dataset.columns: {{{each}}}`" for each in named),
    )


def as_sample(row: Row, form: Format, columns: Mapping[str, str], where: str) -> Sample:
    """The row as `form` reads it; raises BadRow with `where` and the reason."""
    theirs = {columns.get(ours, ours) for ours in form.required}
    absent = sorted(theirs - row.keys())
    if absent:
        raise BadRow(where, f"no `{absent[0]}` here, unlike the first row (format `{form.name}`)")
    try:
        return _sample(renamed(row, columns), form)
    except Unfit as error:
        pairs = str(error).startswith("no assistant") and not columns and {"chosen", "rejected"} <= row.keys()
        hint = _pairs_hint(row) if pairs else error.hint
        raise BadRow(where, in_their_words(str(error), columns), hint) from None


def renamed(row: Row, columns: Mapping[str, str]) -> Row:
    """The row with the columns of `columns` (ours → theirs) under our names."""
    if not columns:
        return row
    others = {key: value for key, value in row.items() if key not in columns.values()}
    return {**others, **{ours: row.get(theirs) for ours, theirs in columns.items()}}


def in_their_words(why: str, columns: Mapping[str, str]) -> str:
    """A reason that begins with our name of a column, with theirs."""
    return re.sub(r"^`(\w+)", lambda match: f"`{columns.get(match[1], match[1])}", why)


def _sample(row: Row, form: Format) -> Sample:
    if form.convert is None:
        text = text_of(row[form.required[0]], form.required[0])
        if is_blank(text):
            raise Unfit(f"`{form.required[0]}` is blank, so there is nothing to train on")
        return Sample(text=text)
    chat = form.convert(row)
    check_chat(chat)
    return Sample(
        messages=tuple(turn.message for turn in chat),
        trained=tuple(turn.trained for turn in chat),
        tools=tools_of(row) if "tools" in form.optional else None,
    )


def samples_of(rows: Read, columns: Mapping[str, str]) -> tuple[Format, Samples]:
    """The format of the first readable row, and every row as it reads it, a BadRow in place of one that it cannot.

    Of the format's optional columns those are left that the row has.

    Raises:
        BadInput: the format is not recognised, or no row is readable.
    """
    bad: list[tuple[str, BadRow]] = []
    for where, row in rows:
        if not isinstance(row, BadRow):
            form = recognise(row, columns, where)
            there = renamed(row, columns)
            shown = replace(form, optional=tuple(each for each in form.optional if each in there))
            return shown, _samples(chain(bad, [(where, row)], rows), form, columns)
        bad.append((where, row))
        if len(bad) == _PATIENCE:
            break
    raise none_usable(len(bad), bad[0][1]) if bad else BadInput("no rows", "choose another split, or data with rows")


def _samples(rows: Read, form: Format, columns: Mapping[str, str]) -> Samples:
    for where, row in rows:
        if isinstance(row, BadRow):
            yield where, row
            continue
        try:
            sample: Sample | BadRow = as_sample(row, form, columns, where)
        except BadRow as error:
            sample = error
        yield where, sample


def none_usable(rows: int, first: BadRow) -> BadInput:
    """The error for data of which no row can be used, with the first reason."""
    others = f" (and no other of the {rows:,} rows read can be used)" if rows > 1 else ""
    return BadInput(first.message + others, first.hint)


@dataclass(frozen=True, kw_only=True)
class DataSummary:
    """What a look through a whole file found: `unusable` of its `rows` cannot be trained on, `bad` are the first."""

    format: str
    rows: int
    columns: tuple[str, ...]
    first: Sample | None = None
    unusable: int = 0
    left_out: int = 0  # pairs that compare nothing
    bad: tuple[tuple[str, str], ...] = ()  # (where, why)
    hint: str = ""  # what mends all of `bad`
    compares: bool = False  # pairs without short answers: what `reward: auto` makes of them is a reward model

    @property
    def usable(self) -> int:
        """Rows that are trained on."""
        return self.rows - self.unusable - self.left_out


def survey(
    path: Path, columns: Mapping[str, str], *, progress: Callable[[int], None] = lambda _rows: None
) -> DataSummary:
    """Reads every row of `path` as the trainer will, and says what they are; a bad one is counted.

    Raises:
        BadInput: the file or its format is not readable, or no row at all can be used.
    """
    keys: list[str] = []
    form, samples = samples_of(_noting_keys(read_rows(path), keys), columns)
    rows, unusable = 0, 0
    first: Sample | None = None
    bad: list[BadRow] = []
    for _where, sample in samples:
        rows += 1
        progress(rows)
        if not isinstance(sample, BadRow):
            first = first or sample
            continue
        unusable += 1
        if len(bad) < _SHOWN:
            bad.append(sample)
    if first is None:
        raise none_usable(rows, bad[0])
    shown = tuple((each.where, each.why) for each in bad)
    hints = {each.hint for each in bad}
    return DataSummary(
        format=form.name,
        rows=rows,
        columns=tuple(keys),
        first=first,
        unusable=unusable,
        bad=shown,
        hint=hints.pop() if len(hints) == 1 else "",
    )


def _noting_keys(rows: Read, keys: list[str]) -> Read:
    """The same rows; the first readable one's columns go to `keys`."""
    for where, row in rows:
        if not keys and not isinstance(row, BadRow):
            keys.extend(row)
        yield where, row
