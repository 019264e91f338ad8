"""Answers on a terminal or a pipe: as they come, reasoning apart, two models side by side."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dimba.cli import render
from dimba.commands.talk.rows import fields_of
from dimba.common.errors import printable
from dimba.common.inference import LENGTH, REASONING, Answer

_COLUMNS = 60  # of a terminal on which two answers stand side by side


def labels_of(against: str | None, name: str | None) -> list[str]:
    """The labels of one model or of two; `name` is the other's."""
    return ["tuned", name if name and against != "base" else "base"] if against else [""]


class AnswerView:
    """Shows the answers to one question after another."""

    def __init__(self, labels: Sequence[str], *, as_json: bool) -> None:
        self._labels, self._as_json = labels, as_json

    @contextmanager
    def question(self, text: str) -> Iterator["Shown"]:
        """What shows the answers to this question; it is complete after the block."""
        console = Console(highlight=False)
        is_beside = len(self._labels) > 1 and console.is_terminal and console.width >= _COLUMNS
        shown: Shown = (
            AsJson(text) if self._as_json else Beside(self._labels, console) if is_beside else Lines(self._labels)
        )
        try:
            yield shown
        finally:
            shown.end()


class Shown:
    """Shows parts of answers, and the answers."""

    def part(self, kind: str, text: str) -> None:
        """Takes a part of the answer that is being generated."""

    def answer(self, answer: Answer) -> None:
        """Takes the complete answer; parts belong to the next model from now on."""

    def end(self) -> None:
        """Shows what is left."""


class AsJson(Shown):
    """One JSON object a question."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._answers: list[dict[str, Any]] = []

    def answer(self, answer: Answer) -> None:
        """Keeps the answer."""
        self._answers.append(fields_of(answer))

    def end(self) -> None:
        """Prints the object."""
        if self._answers:
            first, *others = self._answers
            line = {"prompt": self._text, **first, **({"against": others[0]} if others else {})}
            sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
            sys.stdout.flush()


class Lines(Shown):
    """Text as it comes: answers on stdout, reasoning on stderr."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = list(labels)
        self._errors = render.errors_console()
        self._last = ""  # the kind of the last part

    def part(self, kind: str, text: str) -> None:
        """Prints the part."""
        if not self._last and (label := self._labels[0]):
            sys.stdout.write(f"{label}: ")
        if kind != self._last and self._last:
            self._errors.print()
        self._last = kind
        if kind == REASONING:
            sys.stdout.flush()
            self._errors.print(Text(_safe(text), style="dim"), end="")
        else:
            sys.stdout.write(_safe(text) if sys.stdout.isatty() else text)
            sys.stdout.flush()

    def answer(self, answer: Answer) -> None:
        """Ends its line."""
        if not self._last and self._labels[0]:
            sys.stdout.write(f"{self._labels[0]}: ")
        sys.stdout.write("\n")
        sys.stdout.flush()
        self._labels, self._last = self._labels[1:], ""
        note_cut(answer)


class Beside(Shown):
    """Two columns that fill as the answers come."""

    def __init__(self, labels: Sequence[str], console: Console) -> None:
        self._labels, self._texts = labels, [Text() for _ in labels]
        self._number, self._last = 0, ""
        self._live = Live(self._table(), console=console, refresh_per_second=8, vertical_overflow="visible")
        self._live.start()

    def part(self, kind: str, text: str) -> None:
        """Appends the part to its column."""
        column = self._texts[self._number]
        if self._last and kind != self._last:
            column.append("\n")
        self._last = kind
        column.append(_safe(text), style="dim" if kind == REASONING else "")
        self._live.update(self._table())

    def answer(self, answer: Answer) -> None:
        """Begins the next column."""
        if answer.finish == LENGTH:
            self._texts[self._number].append(f"\n(cut at {answer.tokens:,} tokens)", style="dim")
        self._number, self._last = self._number + 1, ""

    def end(self) -> None:
        """Leaves the columns on the screen."""
        self._live.update(self._table(), refresh=True)
        self._live.stop()

    def _table(self) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0), expand=True, header_style="bold")
        for label in self._labels:
            table.add_column(label, ratio=1)
        table.add_row(*self._texts)
        return table


def note_cut(answer: Answer) -> None:
    """Prints a line for an answer that was cut."""
    if answer.finish == LENGTH:
        render.note(f"(cut at {answer.tokens:,} tokens: `--max-new-tokens` allows more, up to the model's context)")


def _safe(text: str) -> str:
    """The text without characters that a terminal would obey; tabs become blanks."""
    return printable(text.replace("\t", "    "))
