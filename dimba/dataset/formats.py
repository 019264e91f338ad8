"""What a row of training data is: its format recognised, and the row turned into a sample.

Both sides need it: the launcher checks the data before anything starts, the trainer trains on them.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dimba.common.errors import BadInput, BadRow
from dimba.dataset.dialogue import Row, Unfit, is_blank, text_of
from dimba.dataset.samples import Convert, Sample, check_chat, instruction, pair, tools_of, turns

__all__ = [
    "FORMATS",
    "Format",
    "Sample",
    "UnknownFormat",
    "as_sample",
    "recognise",
]

_OF_CSV = re.compile(r"\.csv(\.gz)?:", re.IGNORECASE)


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
    return f"they are for `mode: dpo` or `mode: grpo`; or train on the chosen answers with `dataset.columns: {named}`"


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
