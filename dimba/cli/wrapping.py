"""Lines that fit the terminal, or COLUMNS, and break between words only; a pipe gets them whole."""

import os
from textwrap import TextWrapper

from rich.console import Console

from dimba.common.errors import printable

_UNLIMITED = 10_000


def asked_columns() -> int:
    """The columns that COLUMNS asks for; 0 if it is not set, or no number."""
    asked = os.environ.get("COLUMNS", "")
    return int(asked) if asked.isascii() and asked.isdecimal() else 0


def width_of(console: Console, *, on_pipe: int = _UNLIMITED) -> int:
    """The columns of a line: the terminal's or COLUMNS; `on_pipe` where neither is known."""
    return console.width if console.is_terminal or asked_columns() else on_pipe


def wrapped(line: str, *, indent: int, width: int) -> list[str]:
    """The line, broken to `width` columns with `indent` blanks below; paths and other long words stay whole."""
    if len(line) <= width:  # wrapping would collapse the blanks between a bar and its count
        return [line]
    start = line[: len(line) - len(line.lstrip())]
    wrapper = TextWrapper(width, start, " " * indent, break_long_words=False, break_on_hyphens=False)
    return wrapper.wrap(line.strip()) or [""]


def print_wrapped(line: str, console: Console, *, indent: int, width: int) -> None:
    """Print a line as `wrapped` breaks it."""
    for each in wrapped(line, indent=indent, width=width):
        console.print(printable(each), markup=False, soft_wrap=True)
