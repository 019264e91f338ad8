"""Rows of a .json file: an array, one object a line, or objects one after the other, a window of it at a time."""

# Not ijson (1.2 to 2.2 times as fast): no line or column, a bad row loses the rest, and 20 KB of `[` take 969 MiB.

import codecs
import io
import json
import re
from itertools import count
from pathlib import Path
from shlex import quote
from typing import Any

from dimba.common.errors import BadInput, Location, UnusableRow
from dimba.dataset.files.lines import (
    BYTE_ORDER_MARK,
    LONGEST,
    TOO_LONG,
    Decoder,
    Read,
    broken_at,
    has_escapes,
    is_cut_off,
    json_lines,
    not_utf8,
    unreadable,
)

_CHUNK = 1 << 20  # bytes
_NEAR = 16  # characters: a broken word or escape this close to the window's end may only be cut
_SPACE = re.compile(r"[ \t\n\r]*")
_WRAPPERS = ("data", "rows", "train", "examples", "instances", "items", "samples", "records")
_ARRAY_ROWS, _OBJECTS = "-cn --stream 'fromstream(1|truncate_stream(inputs))'", "-c ."  # programs of jq
_DECODER = Decoder()


def json_rows(stream: io.BufferedReader, path: Path) -> Read:
    """Yields the rows of an array by number, those of objects by line.

    Raises:
        BadInput: the JSON breaks somewhere; the rows after that place cannot be counted.
    """
    start = stream.peek(1).removeprefix(BYTE_ORDER_MARK).lstrip()
    if start.startswith(b"["):
        return _array(_Window(stream), path)
    if start.startswith(b"{") and not _is_object_a_line(start):
        return _objects(_Window(stream), path)
    return json_lines(stream, path)


def _is_object_a_line(start: bytes) -> bool:
    first, _, rest = start.partition(b"\n")
    return bool(rest) and (first.rstrip().endswith(b"}") or rest.lstrip().startswith(b"{"))


class _Broken(ValueError):
    """The text is not JSON from here on."""


class _CutOff(_Broken):
    """The text ends before the JSON does."""


class _Window:
    """The file's text around `at`: it doubles to grow ahead, and drops the text that was read."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self.text, self.at, self.ended = "", 0, False
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self._line, self._column = 1, 1  # of the window's first character
        self._escapes = False
        self._counted = (0, 0)  # a position of the window, and the lines that end before it

    def next(self) -> str:
        """Moves to the next character that is not a space and returns it; empty at the end of the file."""
        while True:
            match = _SPACE.match(self.text, self.at)
            assert match is not None, "the pattern matches the empty string"
            self.at = match.end()
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self._grow()

    def value(self) -> tuple[Any, bool]:
        """Reads the JSON value that begins here; returns it, and whether it is UTF-8.

        Raises:
            _Broken: it is not JSON; OverflowError: it is longer than LONGEST.
        """
        self.next()
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                self._raise_unless_cut_off(error)
            except (ValueError, RecursionError) as error:
                raise _Broken(f"{unreadable(error)} ({self.place(self.at)})") from None
            else:
                if end < len(self.text) or self.ended:
                    start, self.at = self.at, end
                    return value, not (self._escapes and has_escapes(self.text[start:end]))
            self._grow()

    def place(self, at: int) -> str:
        """The line and column in the file of a character of the window."""
        line, column = self._position(at)
        return f"line {line}, column {column}"

    def line(self) -> int:
        """The line in the file of the next character, counted from the last one asked for."""
        at, lines = self._counted
        lines += self.text.count("\n", at, self.at)
        self._counted = self.at, lines
        return self._line + lines

    def _position(self, at: int) -> tuple[int, int]:
        lines = self.text.count("\n", 0, at)
        column = at - self.text.rfind("\n", 0, at) if lines else self._column + at
        return self._line + lines, column

    def _raise_unless_cut_off(self, error: json.JSONDecodeError) -> None:
        """Returns if more text may complete the value; raises _Broken if it cannot."""
        near = error.pos >= len(self.text) - _NEAR or error.msg.startswith("Unterminated string")
        if near and not self.ended:
            return
        cause = f"not valid JSON: {error.msg.removesuffix(' at')} at {self.place(broken_at(error))}"
        if self.ended and is_cut_off(error):
            raise _CutOff(f"{cause}; the file ends in the middle of this row") from None
        raise _Broken(cause) from None

    def _grow(self) -> None:
        left = len(self.text) - self.at
        if left > LONGEST:
            raise OverflowError
        self._line, self._column = self._position(self.at)
        size = max(_CHUNK, left)
        data = self._stream.read(size)
        self.ended = len(data) < size
        more = self._decoder.decode(data, self.ended)
        self._escapes = self._escapes or has_escapes(more)
        self.text, self.at, self._counted = self.text[self.at :] + more, 0, (0, 0)


def _array(window: _Window, path: Path) -> Read:
    for number in count(1):
        where = Location(str(path), row=number)
        try:
            if not _has_next_row(window, first=number == 1):
                return
            row = _row(window)
        except (_Broken, OverflowError) as error:
            raise _broken_off(where, error, _ARRAY_ROWS) from None
        yield where, row


def _has_next_row(window: _Window, *, first: bool) -> bool:
    """Whether another row follows; moves past the bracket or comma in front of it."""
    character = window.next()
    if first or character == ",":
        window.at += 1
        if not first or window.next() != "]":
            return True
        character = "]"
    if character != "]":
        cause = "not valid JSON: expected a comma or the array's `]`, found"
        if not character:
            raise _CutOff(f"{cause} the end of the file")
        raise _Broken(f"{cause} `{character}` at {window.place(window.at)}")
    window.at += 1
    if window.next():
        raise _Broken(f"not valid JSON: there is more after the array's `]`, at {window.place(window.at)}")
    return False


def _objects(window: _Window, path: Path) -> Read:
    first = True
    while window.next():
        where = Location(str(path), window.line())
        try:
            row = _row(window)
            if first and not window.next():
                _check_not_wrapped(row, path)
        except (_Broken, OverflowError) as error:
            raise _broken_off(where, error, _OBJECTS) from None
        first = False
        yield where, row


def _row(window: _Window) -> dict[str, Any] | UnusableRow:
    value, is_utf8 = window.value()
    return _DECODER.as_object(value) if is_utf8 else not_utf8()


def _broken_off(where: Location, error: Exception, jq: str) -> BadInput:
    if isinstance(error, OverflowError):
        hint = "no row after it can be read: split it, or is a quote or bracket missing?"
        return BadInput(TOO_LONG, hint).at(where)
    if isinstance(error, _CutOff):
        return BadInput(str(error), f"copy or make the file again{_with_rows_before(Path(where.file), jq)}").at(where)
    return BadInput(str(error), "correct it there: until then no row after it can be read").at(where)


def _with_rows_before(path: Path, jq: str) -> str:
    """The command that keeps the rows before the end: jq writes them, then fails."""
    if path.suffix.lower() == ".gz":
        return ""
    return f"; or train on the rows before it: `jq {jq} {quote(path.name)} > {quote(path.stem + '.jsonl')}`"


def _check_not_wrapped(row: dict[str, Any] | UnusableRow, path: Path) -> None:
    found = [key for key in _WRAPPERS if isinstance(row, dict) and isinstance(row.get(key), list)]
    if found:
        hint = f"write that list alone, for example `jq .{found[0]} {path.name} > rows.json`"
        raise BadInput(f"one object, with its rows under `{found[0]}`", hint, file=path)


__all__ = ["json_rows"]
