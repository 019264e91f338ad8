"""Files of rows: .jsonl, .json, .csv, .parquet and .txt, each also as .gz, read with bounded memory."""

import gzip
import io
import re
import zlib
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any

from dimba.common.contract import DATA_SUFFIXES
from dimba.common.errors import BadInput, BadRow
from dimba.dataset.files.array import json_rows
from dimba.dataset.files.lines import AS_UTF8, BYTE_ORDER_MARK, LONGEST, Read, check_lines, json_lines, kind, text_lines
from dimba.dataset.files.table import csv_rows, parquet_rows

__all__ = ["KINDS", "LONGEST", "Read", "kind", "read_rows"]

KINDS = f"{', '.join(DATA_SUFFIXES)}, each also as .gz"
_BUFFER = 1 << 20
_READERS: dict[str, Callable[[io.BufferedReader, Path], Read]] = {
    ".jsonl": json_lines,
    ".json": json_rows,
    ".csv": csv_rows,
    ".parquet": parquet_rows,
    ".txt": text_lines,
}
_PARQUET = b"PAR1"
# How files begin that are something else than their name says.
_STARTS = (
    (b"\xff\xfe\x00\x00", "is UTF-32, expected UTF-8", AS_UTF8.format("UTF-32")),
    (b"\x00\x00\xfe\xff", "is UTF-32, expected UTF-8", AS_UTF8.format("UTF-32")),
    (b"\xff\xfe", "is UTF-16, expected UTF-8", AS_UTF8.format("UTF-16")),
    (b"\xfe\xff", "is UTF-16, expected UTF-8", AS_UTF8.format("UTF-16")),
    (b"\x1f\x8b", "is compressed with gzip", "let its name end in .gz"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd", "unpack it first, or compress it with gzip"),
    (b"PK\x03\x04", "is a zip archive (or a spreadsheet)", "unpack it first; export a spreadsheet as .csv"),
    (_PARQUET, "is a parquet file", "let its name end in .parquet"),
    (b"version https://git-lfs.github.com/spec/", "is a git-lfs pointer, not the data", "fetch them: `git lfs pull`"),
)
_HTML = re.compile(rb"\s*<(!doctype html|html|head|body)\b", re.IGNORECASE)
_DOWNLOAD = "download it again: a page that asks to log in, or that shows the file, may have been saved in its place"


def read_rows(path: Path) -> Generator[tuple[str, dict[str, Any] | BadRow], None, None]:
    """Every row of a file as (`file:line` or `file: row n`, row), a BadRow in place of one that cannot be read.

    Raises:
        BadInput: the file is missing, of another kind, broken as a whole, or empty.
    """
    found = False
    try:
        reader = _READERS[_suffix(path)]
        with closing(_opened(path)) as stream:
            _check_start(stream, path)
            for each in reader(stream, path):
                found = True
                yield each
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadInput(f"{path}: not a whole gzip file: {error}", "copy it again, or compress it again") from None
    except OSError as error:
        raise BadInput(
            f"{path}: cannot be read: {error.strerror or error}", "check the path and who may read"
        ) from None
    if not found:
        raise BadInput(f"{path}: no rows", "the file is empty, or holds nothing but its header")


def _suffix(path: Path) -> str:
    plain = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    suffix = plain.suffix.lower()
    if suffix not in _READERS:
        known = f"known kinds: {KINDS}; for example .jsonl, one JSON object a line"
        raise BadInput(f"{path}: `{plain.suffix or 'no suffix'}` is no kind of file that is read", known)
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "is no ordinary file" if path.exists() else "does not exist"
        raise BadInput(f"{path}: {problem}", f"give the path of a file ({KINDS})")
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
            raise BadInput(f"{path}: {problem}", hint)
    if _suffix(path) != ".txt" and _HTML.match(begin.removeprefix(BYTE_ORDER_MARK)):
        raise BadInput(f"{path}: is an HTML page, not data", _DOWNLOAD)
    if is_parquet and start:
        raise BadInput(f"{path}: is no parquet file", "write it again, or give it the suffix of what it is")
    if _every_other_is_nul(start):
        raise BadInput(f"{path}: is UTF-16 without its mark, expected UTF-8", AS_UTF8.format("UTF-16LE"))

    if _suffix(path) == ".jsonl":
        check_lines(begin, path)


def _every_other_is_nul(start: bytes) -> bool:
    zeros = [byte == 0 for byte in start[:4]]
    return zeros in ([False, True, False, True], [True, False, True, False])
