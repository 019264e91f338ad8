"""The samples of a file, and a summary of all its rows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

from dimba.common.errors import BadInput, Location, UnusableRow
from dimba.dataset.files import Read, read_rows
from dimba.dataset.formats import Format, UnreadColumns, as_sample, read_columns, recognise, with_our_names
from dimba.dataset.samples import Sample
from dimba.dataset.values import KeyOrder

Samples = Iterator[tuple[Location, Sample | UnusableRow]]
SHOWN = 5  # unusable rows that are listed one by one
PATIENCE = 1000  # unreadable rows at the start of a file, after which reading ends


def samples_of(rows: Read, columns: Mapping[str, str]) -> tuple[Format, Samples]:
    """The format of the first readable row, and every row as a sample, an UnusableRow in place of one that is not.

    The format's optional columns are those that the first row has.

    Raises:
        BadInput: the format is not recognised, or no row is readable.
    """
    bad: list[tuple[Location, UnusableRow]] = []
    for where, row in rows:
        if not isinstance(row, UnusableRow):
            form = recognise(row, columns, where)
            present = with_our_names(row, columns)
            used = replace(form, optional=tuple(each for each in form.optional if each in present))
            return used, _samples(chain(bad, [(where, row)], rows), form, columns)
        bad.append((where, row))
        if len(bad) == PATIENCE:
            break
    raise no_usable_rows(len(bad), bad[0][1] if bad else None)


def _samples(rows: Read, form: Format, columns: Mapping[str, str]) -> Samples:
    order, unread = KeyOrder(), UnreadColumns(read_columns(form, columns))
    for where, row in rows:
        if isinstance(row, UnusableRow):
            yield where, row
            continue
        try:
            sample = as_sample(row, form, columns, where)
        except UnusableRow as error:
            yield where, error
        else:
            new = unread.new(row, sample.arguments)
            sample = replace(sample, unread=new) if new else sample
            yield where, _ordered(sample, order)


def _ordered(sample: Sample, order: KeyOrder) -> Sample:
    messages = order.messages(sample.messages)
    if messages is sample.messages and not sample.tools and not sample.arguments:
        return sample
    return replace(
        sample,
        messages=messages,
        tools=order.apply(sample.tools, "tools"),
        arguments=order.apply(sample.arguments, "arguments"),
    )


def no_usable_rows(rows: int, first: UnusableRow | None) -> BadInput:
    """The error for data without a usable row: the first row's, and how many there are."""
    if first is None:
        return BadInput("no rows", "choose another split, or data with rows")
    others = f" (and no other of the {rows:,} rows read can be used)" if rows > 1 else ""
    return BadInput(first.cause + others, first.hint, column=first.column).at(first.location)


def shared_hint(bad: Sequence[UnusableRow]) -> str:
    """The hint of all these errors; empty if they differ."""
    hints = {each.hint for each in bad}
    return hints.pop() if len(hints) == 1 else ""


@dataclass(frozen=True, kw_only=True)
class DataSummary:
    """The rows of a file: `unusable` of them cannot be trained on, the first of which are in `bad`."""

    format: str
    rows: int
    columns: tuple[str, ...]
    first: Sample | None = None
    unusable: int = 0
    skipped: int = 0  # pairs that compare nothing
    bad: tuple[tuple[str, str], ...] = ()  # (location, cause)
    hint: str = ""  # the action that fixes all of `bad`
    unread: tuple[str, ...] = ()  # columns that hold something and are not read
    compares: bool = False  # pairs without short answers, for which `reward: auto` means a reward model

    @property
    def usable(self) -> int:
        """Rows that are trained on."""
        return self.rows - self.unusable - self.skipped


def survey(
    path: Path,
    columns: Mapping[str, str],
    *,
    progress: Callable[[int], None] = lambda _rows: None,
    split: str | None = None,
    limit: int | None = None,
) -> DataSummary:
    """Reads the rows of `path` as the trainer will; returns their summary, which counts the unusable ones.

    With a `limit`, only so many rows are read.

    Raises:
        BadInput: the file or its format is not readable, or no row is usable.
    """
    keys: list[str] = []
    form, samples = samples_of(_noting_columns(islice(read_rows(path, split), limit), keys), columns)
    rows, unusable = 0, 0
    first: Sample | None = None
    bad: list[UnusableRow] = []
    unread: dict[str, None] = {}
    for _where, sample in samples:
        rows += 1
        progress(rows)
        if not isinstance(sample, UnusableRow):
            first = first or sample
            unread.update(dict.fromkeys(sample.unread))
            continue
        unusable += 1
        if len(bad) < SHOWN:
            bad.append(sample)
    if first is None:
        raise no_usable_rows(rows, bad[0])
    return DataSummary(
        format=form.name,
        rows=rows,
        columns=tuple(keys),
        first=first,
        unusable=unusable,
        bad=tuple((str(each.location), each.finding) for each in bad),
        hint=shared_hint(bad),
        unread=tuple(unread),
    )


def _noting_columns(rows: Read, keys: list[str]) -> Read:
    """Yields the same rows, and notes the columns of the first readable one in `keys`."""
    for where, row in rows:
        if not keys and not isinstance(row, UnusableRow):
            keys.extend(row)
        yield where, row
