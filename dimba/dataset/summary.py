"""Every row of a file turned into a sample, and what a look through all of them found."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from dimba.common.errors import BadInput, BadRow
from dimba.dataset.files import Read, read_rows
from dimba.dataset.formats import Format, as_sample, recognise, renamed
from dimba.dataset.samples import Sample

Samples = Iterator[tuple[str, Sample | BadRow]]
_SHOWN = 5  # bad rows that are told one by one
_PATIENCE = 1000  # rows without a readable one, after which a file is given up


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
