"""Files of rows: .jsonl, .json, .csv, .parquet, .arrow and .txt, each also as .gz, read with bounded memory."""

import gzip
import io
import re
import zlib
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any

from dimba.common.contract import DATA_SUFFIXES
from dimba.common.errors import BadInput, Location, UnusableRow
from dimba.dataset.files.array import json_rows
from dimba.dataset.files.find import DataFiles, find_files
from dimba.dataset.files.lines import AS_UTF8, BYTE_ORDER_MARK, LONGEST, Read, check_lines, json_lines, kind, text_lines
from dimba.dataset.files.table import arrow_rows, csv_rows, parquet_rows

__all__ = ["KINDS", "LONGEST", "DataFiles", "Read", "find_files", "kind", "read_rows"]

KINDS = f"{', '.join(DATA_SUFFIXES)}, each also as .gz"
_BUFFER = 1 << 20
_READERS: dict[str, Callable[[io.BufferedReader, Path], Read]] = {
    ".jsonl": json_lines,
    ".json": json_rows,
    ".csv": csv_rows,
    ".parquet": parquet_rows,
    ".arrow": arrow_rows,
    ".txt": text_lines,
}
_PARQUET = b"PAR1"
# The first bytes of files whose content is of another kind than their name.
_STARTS = (
    (b"\xff\xfe\x00\x00", "is UTF-32, expected UTF-8", AS_UTF8.format("UTF-32")),
    (b"\x00\x00\xfe\xff", "is UTF-32, expected UTF-8", AS_UTF8.format("UTF-32")),
    (b"\xff\xfe", "is UTF-16, expected UTF-8", AS_UTF8.format("UTF-16")),
    (b"\xfe\xff", "is UTF-16, expected UTF-8", AS_UTF8.format("UTF-16")),
    (b"\x1f\x8b", "is compressed with gzip", "let its name end in .gz"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd", "unpack it first, or compress it with gzip"),
    (b"PK\x03\x04", "is a zip archive (or a spreadsheet)", "unpack it first; export a spreadsheet as .csv"),
    (_PARQUET, "is a parquet file", "let its name end in .parquet"),
    (
        b"version https://git-lfs.github.com/spec/",
        "is a git-lfs pointer, not the data",
        "fetch it: `git lfs pull`",
    ),
)
_UNPACK = f"unpack it, and give the folder or the files in it ({KINDS})"
_EXPORT = "export the sheet as .csv"
_WAYS = {
    **dict.fromkeys((".zip", ".tar", ".tgz", ".7z", ".rar", ".xz", ".bz2", ".zst"), _UNPACK),
    **dict.fromkeys((".xls", ".xlsx", ".ods", ".numbers"), _EXPORT),
}
_HTML = re.compile(rb"\s*<(!doctype html|html|head|body)\b", re.IGNORECASE)
_DOWNLOAD = "download it again: the saved file may be the page that asks to log in, or that previews the file"


Rows = Generator[tuple[Location, dict[str, Any] | UnusableRow], None, None]


def read_rows(place: Path, split: str | None = None) -> Rows:
    """Yields every row of a file, folder or pattern with its location, an UnusableRow for one that cannot be read.

    Raises:
        BadInput: a file is missing, of another kind or unreadable, or there is no row.
    """
    found = False
    for file in find_files(place, split).files:
        for each in _rows_of_file(file):
            found = True
            yield each
    if not found:
        raise BadInput("no rows", "the file is empty, or holds nothing but its header", file=place)


def _rows_of_file(path: Path) -> Rows:
    try:
        reader = _READERS[_suffix(path)]
        with closing(_opened(path)) as stream:
            _check_start(stream, path)
            for where, row in reader(stream, path):
                yield where, row.at(where) if isinstance(row, UnusableRow) else row
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadInput(f"not a complete gzip file: {error}", "copy it again, or compress it again", file=path) from None
    except OSError as error:
        cause = f"cannot be read: {error.strerror or error}"
        raise BadInput(cause, "check the path and its permissions", file=path) from None


def _suffix(path: Path) -> str:
    plain = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    suffix = plain.suffix.lower()
    if suffix not in _READERS:
        cause = f"`{plain.suffix or 'no suffix'}` is not a supported kind of file"
        known = f"known kinds: {KINDS}; for example .jsonl, one JSON object a line"
        raise BadInput(cause, _WAYS.get(suffix, known), file=path)
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "is not a regular file" if path.exists() else "does not exist"
        raise BadInput(problem, f"give the path of a file ({KINDS})", file=path)
    return suffix


def _opened(path: Path) -> io.BufferedReader:
    if path.suffix.lower() == ".gz":
        return io.BufferedReader(gzip.open(path), _BUFFER)
    return io.BufferedReader(io.FileIO(path), _BUFFER)


def _check_start(stream: io.BufferedReader, path: Path) -> None:
    begin = stream.peek(8)
    start = begin[:64]
    is_parquet = _suffix(path) == ".parquet"
    if is_parquet and start.startswith(_PARQUET):
        return
    for magic, problem, hint in _STARTS:
        if start.startswith(magic):
            raise BadInput(problem, hint, file=path)
    if _suffix(path) != ".txt" and _HTML.match(begin.removeprefix(BYTE_ORDER_MARK)):
        raise BadInput("is an HTML page, not data", _DOWNLOAD, file=path)
    if is_parquet and start:
        raise BadInput("is not a parquet file", "write it again, or give it the suffix of its own format", file=path)
    if _every_other_is_nul(start):
        raise BadInput("is UTF-16 without its mark, expected UTF-8", AS_UTF8.format("UTF-16LE"), file=path)
    if _suffix(path) == ".jsonl":
        check_lines(begin, path)


def _every_other_is_nul(start: bytes) -> bool:
    zeros = [byte == 0 for byte in start[:4]]
    return zeros in ([False, True, False, True], [True, False, True, False])
