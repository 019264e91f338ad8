"""Rows that are lines: .jsonl and .txt."""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dimba.common.errors import BadInput, Location, UnusableRow

Read = Iterator[tuple[Location, dict[str, Any] | UnusableRow]]

LONGEST = 32 << 20  # bytes of one row, which is read into memory at once
TOO_LONG = f"longer than {LONGEST >> 20} MiB"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
AS_UTF8 = "save the file as UTF-8, for example with `iconv -f {} -t UTF-8 old > new`"
_ARRAY = re.compile(rb"\[\s*\{")
_KINDS = {type(None): "null", str: "text", dict: "an object", list: "a list", bool: "true or false"}


def kind(value: object) -> str:
    """The kind of a value, as a user of JSON calls it."""
    return _KINDS.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def too_long() -> UnusableRow:
    """The error for a row beyond LONGEST."""
    return UnusableRow(TOO_LONG, "is it one row? one row a line; or split it")


class Decoder(json.JSONDecoder):
    """A decoder that notes a key which stands twice in one object, as the object keeps the last value only."""

    def __init__(self) -> None:
        super().__init__(object_pairs_hook=self._object)
        self._twice = ""

    def raw_decode(self, s: str, idx: int = 0) -> tuple[Any, int]:
        """As in the standard library."""
        self._twice = ""
        return super().raw_decode(s, idx)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            self._twice = next((key for key, value in pairs if found[key] != value), self._twice)
        return found

    def as_object(self, value: object) -> dict[str, Any] | UnusableRow:
        """The value that was decoded last if it is an object, else an error; so for a key with two values."""
        if self._twice:
            return UnusableRow("stands twice in one object, with different values", column=self._twice)
        if isinstance(value, dict):
            return value
        return UnusableRow(f'is {kind(value)}, expected an object such as {{"question": …, "answer": …}}')


_DECODER = Decoder()


def json_lines(stream: io.BufferedReader, path: Path) -> Read:
    """Yields the JSON object of every line that is not empty; a file joined from several has their marks within."""
    for where, line in _lines(stream, path):
        if isinstance(line, UnusableRow) or not line.isspace():
            yield where, line if isinstance(line, UnusableRow) else _parse(line)


def check_lines(begin: bytes, path: Path) -> None:
    """Raises BadInput for a .jsonl that begins as a .json file does, rather than report every line of it."""
    first, _, rest = begin.removeprefix(BYTE_ORDER_MARK).lstrip().partition(b"\n")
    first = first.rstrip()
    hint = "rename it so that it ends in .json, or write one object a line"
    if first == b"[" or (_ARRAY.match(first) and not (first.endswith(b"]") and rest.strip())):
        raise BadInput("is one JSON array, expected one JSON object a line", hint, file=path)
    if first == b"{":
        raise BadInput("its objects stand on several lines each, expected one a line", hint, file=path)


def text_lines(stream: io.BufferedReader, path: Path) -> Read:
    """Yields every line that is not empty, as {"text": line}."""
    for where, line in _lines(stream, path):
        if isinstance(line, UnusableRow) or not line.isspace():
            yield where, line if isinstance(line, UnusableRow) else _text_row(line)


def _lines(stream: io.BufferedReader, path: Path) -> Iterator[tuple[Location, bytes | UnusableRow]]:
    number, file = 0, str(path)
    while line := stream.readline(LONGEST + 1):
        number += 1
        where = Location(file, number)
        if len(line) > LONGEST:
            _skip_rest(stream, line)
            yield where, too_long()
            continue
        yield where, (line.removeprefix(BYTE_ORDER_MARK) or b"\n") if number == 1 else line


def _skip_rest(stream: io.BufferedReader, line: bytes) -> None:
    while line and not line.endswith(b"\n"):
        line = stream.readline(LONGEST)


def _text_row(line: bytes) -> dict[str, Any] | UnusableRow:
    if b"\0" in line:
        return with_nul()
    try:
        return {"text": line.decode().rstrip("\r\n")}
    except UnicodeDecodeError as error:
        return not_utf8(f" at byte {error.start + 1}")


def with_nul() -> UnusableRow:
    """The error for a row that holds NUL."""
    return UnusableRow("holds NUL bytes", "the file was not written to its end: copy or make it again")


def not_utf8(place: str = "") -> UnusableRow:
    """The error for a row with bytes of another encoding, at a place in it."""
    return UnusableRow(f"not UTF-8{place}", AS_UTF8.format("WINDOWS-1252"))


def has_escapes(text: str) -> bool:
    """Whether text that was decoded with `surrogateescape` holds bytes that are not UTF-8."""
    if text.isascii():
        return False
    try:
        text.encode()  # many times faster than a search
    except UnicodeEncodeError:
        return True
    return False


def _parse(line: bytes) -> dict[str, Any] | UnusableRow:
    try:
        return _DECODER.as_object(_DECODER.decode(line.removeprefix(BYTE_ORDER_MARK).decode()))
    except UnicodeDecodeError as error:
        return not_utf8(f" at byte {error.start + 1}")
    except json.JSONDecodeError as error:
        return with_nul() if b"\0" in line else _not_json(line, error)
    except (ValueError, RecursionError) as error:
        return UnusableRow(unreadable(error))


def _not_json(line: bytes, error: json.JSONDecodeError) -> UnusableRow:
    cause = f"not valid JSON: {error.msg.removesuffix(' at')} at column {broken_at(error) + 1}"
    if not line.endswith(b"\n") and is_cut_off(error):
        return UnusableRow(f"{cause}; the file ends in the middle of this row", "copy or make the file again")
    if line.lstrip().startswith(b"["):
        return UnusableRow(cause, "one JSON object a line; an array of objects belongs in a .json file")
    return UnusableRow(cause)


def broken_at(error: json.JSONDecodeError) -> int:
    """The position of the mistake; text that ends too early is broken at its end, not on the line after it."""
    return min(error.pos, len(error.doc.rstrip()))


def is_cut_off(error: json.JSONDecodeError) -> bool:
    """Whether more text could have made it valid."""
    return error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated string")


def unreadable(error: Exception) -> str:
    """The cause for valid JSON that Python cannot read: it is nested too deeply, or has a number too long."""
    return "nested too deeply to be read" if isinstance(error, RecursionError) else f"not readable: {error}"
