"""Rows of tables: .csv, .parquet and .arrow."""

import csv
import gzip
import io
import shutil
import tempfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from dimba.common.errors import BadInput, Location, UnusableRow
from dimba.dataset.files.lines import AS_UTF8, LONGEST, Read, has_escapes, not_utf8, with_nul

_QUOTES = (
    "the rows in it cannot be separated: correct the quotes from that line on "
    "(a cell with a quote stands in quotes, and the quote within it is written twice)"
)
_NAMES = "the first line names the columns: add one that does, if it is a row of data already"
_LONGEST_NAME = 100  # characters
_ARROW = b"ARROW1"  # begins a file; a stream begins without it
_BATCH_BYTES, _BATCH_ROWS = 8 << 20, 1024


def csv_rows(stream: io.BufferedReader, path: Path) -> Read:
    """Yields the rows after the header, each by the line that it begins on; cells end with `,`, `;` or a tab."""
    csv.field_size_limit(LONGEST)
    lines = _text_lines(stream)
    before = list(_up_to_header(lines))
    delimiter = max(",;\t", key=(before or [""])[-1].count)
    table = csv.reader(chain(before, lines), delimiter=delimiter, strict=True)
    names = _header(table, path)
    while names:
        where = Location(str(path), table.line_num + 1)
        try:
            cells = next(table)
        except StopIteration:
            return
        except csv.Error as error:
            yield where, _broken_cells(error, where, table.line_num)
            continue
        _check_no_line_lost(names, cells, where, table.line_num)
        if len(cells) > 1 or any(cell.strip() for cell in cells):
            yield where, _csv_row(names, cells)


def _text_lines(stream: io.BufferedReader) -> Iterator[str]:
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    while line := text.readline(LONGEST):
        yield line


def _up_to_header(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        yield line
        if line.strip():
            return


def _header(table: Any, path: Path) -> list[str]:
    try:
        first: list[str] = next((cells for cells in table if any(cell.strip() for cell in cells)), [])
    except csv.Error as error:
        raise BadInput(f"its header is not CSV: {error}", _NAMES, file=path) from None
    names = [name.strip() for name in first]
    if names and not all(names):
        hint = f"{_NAMES}; pandas leaves its index out with `to_csv(…, index=False)`"
        raise BadInput(f"column {names.index('') + 1} of the header has no name", hint, file=path, line=1)
    if twice := [name for name in names if names.count(name) > 1]:
        raise BadInput(f"two columns are called `{twice[0]}`", f"rename one of them; {_NAMES}", file=path, line=1)
    if long := [name for name in names if len(name) > _LONGEST_NAME]:
        raise BadInput(f"`{long[0][:40]}…` is taken for the name of a column", _NAMES, file=path, line=1)
    if any(map(has_escapes, names)):
        raise BadInput("the header is not UTF-8", AS_UTF8.format("WINDOWS-1252"), file=path, line=1)
    return names


def _broken_cells(error: csv.Error, where: Location, last: int) -> UnusableRow:
    """The error of one line; raises BadInput where an open quote joins lines, as their rows would be lost."""
    if "unexpected end" in str(error):
        raise BadInput(f"a quote is opened here and never closed (the file ends at line {last})", _QUOTES).at(where)
    if span := _span(where, last):
        raise BadInput(f"not valid CSV: {error} ({span} are read as one row: is a quote left open?)", _QUOTES).at(where)
    return UnusableRow(f"not valid CSV: {error}", "write a quote within a quoted cell twice")


def _check_no_line_lost(names: list[str], cells: list[str], where: Location, last: int) -> None:
    span = _span(where, last)
    if span and len(cells) != len(names):
        found = f"{len(cells)} cells, and the header has {len(names)}"
        raise BadInput(f"{span} are read as one row with {found}: is a quote left open?", _QUOTES).at(where)


def _span(where: Location, last: int) -> str:
    first = where.line or last
    return f"{last - first + 1:,} lines, {first} to {last}," if last > first else ""


def _csv_row(names: list[str], cells: list[str]) -> dict[str, Any] | UnusableRow:
    if len(cells) != len(names):
        return UnusableRow(f"{len(cells)} cells, and the header has {len(names)}")
    for name, cell in zip(names, cells, strict=True):
        if "\0" in cell:
            return with_nul()
        if has_escapes(cell):
            return not_utf8(f" in column `{name}`")
    return dict(zip(names, cells, strict=True))


def parquet_rows(stream: io.BufferedReader, path: Path) -> Read:
    """Yields the rows of a parquet file by number."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    number = 0
    file = _seekable(stream)
    try:
        table = ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
        _check_names(table.schema_arrow.names, path)
        for batch in table.iter_batches(batch_size=_batch_rows(table.metadata), use_threads=False):
            for row in _batch(batch):
                number += 1
                yield Location(str(path), row=number), row
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        broken = f"broken after row {number}" if number else "is not a complete parquet file"
        raise BadInput(f"{broken}: {reason}", "copy or write the file again", file=path) from None


def arrow_rows(stream: io.BufferedReader, path: Path) -> Read:
    """Yields the rows of an Arrow file, or of an Arrow stream as `datasets` writes it, by number."""
    import pyarrow
    from pyarrow import ipc

    number = 0
    try:
        is_file = stream.peek(len(_ARROW)).startswith(_ARROW)
        reader = ipc.open_file(_seekable(stream)) if is_file else ipc.open_stream(stream)
        _check_names(reader.schema.names, path)
        batches = (reader.get_batch(n) for n in range(reader.num_record_batches)) if is_file else reader
        for batch in batches:
            for start in range(0, batch.num_rows, _BATCH_ROWS):
                for row in _batch(batch.slice(start, _BATCH_ROWS)):
                    number += 1
                    yield Location(str(path), row=number), row
    except (pyarrow.ArrowException, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        broken = f"broken after row {number}" if number else "is not a complete Arrow file"
        raise BadInput(f"{broken}: {reason}", "copy or write the file again", file=path) from None


def _seekable(stream: io.BufferedReader) -> BinaryIO:
    """The stream, or an unpacked copy of it: a parquet file is read from its end."""
    if not isinstance(stream.raw, gzip.GzipFile):
        return stream
    file = tempfile.TemporaryFile()  # noqa: SIM115  # removed when it is closed
    shutil.copyfileobj(stream, file, 1 << 20)
    file.seek(0)
    return file


def _check_names(names: list[str], path: Path) -> None:
    if twice := [name for name in names if names.count(name) > 1]:
        raise BadInput(f"two columns are called `{twice[0]}`", "rename one of them", file=path)


def _batch_rows(metadata: Any) -> int:
    size: int = sum(metadata.row_group(n).total_byte_size for n in range(metadata.num_row_groups))
    rows: int = metadata.num_rows
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES * max(rows, 1) // max(size, 1)))


def _batch(batch: Any) -> Iterator[dict[str, Any] | UnusableRow]:
    """Yields the rows; one by one, if the batch does not convert at once."""
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError):
        yield from (_one(batch.slice(n, 1)) for n in range(batch.num_rows))


def _one(batch: Any) -> dict[str, Any] | UnusableRow:
    try:
        row: dict[str, Any] = batch.to_pylist()[0]
    except UnicodeDecodeError:
        return UnusableRow("not UTF-8")
    except (ValueError, OverflowError) as error:
        return UnusableRow(f"not readable: {error}")
    return row
