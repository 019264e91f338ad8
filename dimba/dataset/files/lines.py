"""Rows that are lines: .jsonl and .txt."""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dimba.common.errors import BadInput, BadRow

Read = Iterator[tuple[str, dict[str, Any] | BadRow]]

LONGEST = 32 << 20  # bytes of one row: what is read into memory at once
TOO_LONG = f"longer than {LONGEST >> 20} MiB"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
AS_UTF8 = "save the file as UTF-8, for example with `iconv -f {} -t UTF-8 old > new`"
_ARRAY = re.compile(rb"\[\s*\{")
_KINDS = {type(None): "null", str: "text", dict: "an object", list: "a list", bool: "true or false"}


def kind(value: object) -> str:
    """What a value is, as a user of JSON calls it."""
    return _KINDS.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def too_long(where: str) -> BadRow:
    """The BadRow of a row beyond LONGEST."""
    return BadRow(where, TOO_LONG, "is it one row? one row a line; or split it")


def json_lines(stream: io.BufferedReader, path: Path) -> Read:
    """One JSON object a line; empty lines are passed over."""
    for where, line in _lines(stream, path):
        if isinstance(line, BadRow) or not line.isspace():
            yield where, line if isinstance(line, BadRow) else _parsed(line, where)


def check_lines(begin: bytes, path: Path) -> None:
    """Refuses a .jsonl that begins as a .json file does: every line of it would be told as a bad row."""
    first, _, rest = begin.removeprefix(BYTE_ORDER_MARK).lstrip().partition(b"\n")
    first = first.rstrip()
    hint = "rename it so that it ends in .json, or write one object a line"
    if first == b"[" or (_ARRAY.match(first) and not (first.endswith(b"]") and rest.strip())):
        raise BadInput(f"{path}: is one JSON array, expected one JSON object a line", hint)
    if first == b"{":
        raise BadInput(f"{path}: its objects stand on several lines each, expected one a line", hint)


def text_lines(stream: io.BufferedReader, path: Path) -> Read:
    """Every line that is not empty, as {"text": line}."""
    for where, line in _lines(stream, path):
        if isinstance(line, BadRow) or not line.isspace():
            yield where, line if isinstance(line, BadRow) else _text_row(line, where)


def _lines(stream: io.BufferedReader, path: Path) -> Iterator[tuple[str, bytes | BadRow]]:
    number = 0
    while line := stream.readline(LONGEST + 1):
        number += 1
        where = f"{path}:{number}"
        if len(line) > LONGEST:
            _skip_rest(stream, line)
            yield where, too_long(where)
            continue
        yield where, (line.removeprefix(BYTE_ORDER_MARK) or b"\n") if number == 1 else line


def _skip_rest(stream: io.BufferedReader, line: bytes) -> None:
    while line and not line.endswith(b"\n"):
        line = stream.readline(LONGEST)


def _text_row(line: bytes, where: str) -> dict[str, Any] | BadRow:
    if b"\0" in line:
        return with_nul(where)
    try:
        return {"text": line.decode().rstrip("\r\n")}
    except UnicodeDecodeError as error:
        return not_utf8(where, f" at byte {error.start + 1}")


def with_nul(where: str) -> BadRow:
    """The BadRow of a row with NUL in it."""
    return BadRow(where, "holds NUL bytes", "the file was not written whole: copy or make it again")


def not_utf8(where: str, place: str = "") -> BadRow:
    """The BadRow of a row with bytes of another encoding, at a place of it."""
    return BadRow(where, f"not UTF-8{place}", AS_UTF8.format("WINDOWS-1252"))


def has_escapes(text: str) -> bool:
    """Whether text that was decoded with `surrogateescape` holds bytes that are no UTF-8."""
    if text.isascii():
        return False
    try:
        text.encode()  # many times faster than a search
    except UnicodeEncodeError:
        return True
    return False


def _parsed(line: bytes, where: str) -> dict[str, Any] | BadRow:
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return not_utf8(where, f" at byte {error.start + 1}")
    except json.JSONDecodeError as error:
        return with_nul(where) if b"\0" in line else _not_json(line, where, error)
    except (ValueError, RecursionError) as error:
        return BadRow(where, unreadable(error))
    return as_object(value, where)


def _not_json(line: bytes, where: str, error: json.JSONDecodeError) -> BadRow:
    why = f"not valid JSON: {error.msg.removesuffix(' at')} at column {broken_at(error) + 1}"
    if not line.endswith(b"\n") and is_cut_off(error):
        return BadRow(where, f"{why}; the file ends in the middle of this row", "copy or make the file again")
    if line.lstrip().startswith(b"["):
        return BadRow(where, why, "one JSON object a line; an array of objects belongs in a .json file")
    return BadRow(where, why)


def broken_at(error: json.JSONDecodeError) -> int:
    """Where it breaks; what ends too early does so at its end, not on the line after it."""
    return min(error.pos, len(error.doc.rstrip()))


def is_cut_off(error: json.JSONDecodeError) -> bool:
    """Whether more text could have made it valid."""
    return error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated string")


def unreadable(error: Exception) -> str:
    """Why valid JSON could not be read: what is too deep, or a number of thousands of digits."""
    return "nested too deeply to be read" if isinstance(error, RecursionError) else f"not readable: {error}"


def as_object(value: object, where: str) -> dict[str, Any] | BadRow:
    """The value where it is an object, else its BadRow."""
    if isinstance(value, dict):
        return value
    return BadRow(where, f'is {kind(value)}, expected an object such as {{"question": …, "answer": …}}')
