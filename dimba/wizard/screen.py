"""The screen as the wizard sees it, and a plain one that needs nothing but lines."""

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from dimba.common.errors import DimbaError, printable
from dimba.wizard.answers import Choice
from dimba.wizard.lines import Line
from dimba.wizard.question import Question
from dimba.wizard.state import Report, State

T = TypeVar("T")
NOTICE_SECONDS = 0.3  # a shorter wait needs no notice


class Back:
    """The answer that goes back to the previous question."""


BACK = Back()


def preferred(question: Question, state: State) -> Any:
    """The choice that a menu starts on: a suggestion after an invalid answer, else the answer or the default."""
    return state.suggestions.get(question.key, state.value(question.key))


class Screen(Protocol):
    """Asks questions and shows lines. `ask` gives a choice's value, or the typed text."""

    def show_title(self, step: int, steps: int, text: str) -> None:
        """Show that a step begins."""

    def show(self, lines: Sequence[Line]) -> None:
        """Show lines."""

    def show_problem(self, error: DimbaError) -> None:
        """Show why an answer is invalid."""

    def ask(self, question: Question, state: State, initial: str | None) -> Any:
        """The answer, or BACK; raises KeyboardInterrupt or EOFError when the user leaves. `initial` is prefilled."""

    def wait_for(self, label: str, job: Callable[[Report], T]) -> T:
        """Run `job`; show `label` and its progress if it takes long."""


def is_plain() -> bool:
    """Whether to use plain lines: for a screen reader, or a terminal that cannot move its cursor."""
    return os.environ.get("TERM", "dumb") in ("dumb", "") or bool(os.environ.get("ACCESSIBLE"))


class Plain:
    """One line per question and numbered menus, for screen readers and dumb terminals."""

    def show_title(self, step: int, steps: int, text: str) -> None:
        """Write `Step 2 of 6: Base checkpoint`."""
        self._write(f"\nStep {step} of {steps}: {text}")

    def show(self, lines: Sequence[Line]) -> None:
        """Write each line as it is."""
        for line in lines:
            self._write(line.text)

    def show_problem(self, error: DimbaError) -> None:
        """Write the cause, then the hint."""
        self._write(f"error: {error.message}")
        if error.hint:
            self._write(f"hint: {error.hint}")

    def ask(self, question: Question, state: State, initial: str | None) -> Any:
        """The number of a choice, or text. An empty line takes the value in brackets, `<` goes back."""
        if question.kind == "choice":
            return self._choose(question, list(question.choices(state)), preferred(question, state))
        prefilled = f" [{initial}]" if initial else ""
        if question.live_hint:
            self._write(question.live_hint("", state))
        if question.kind == "many":
            self.show([Line(choice.label) for choice in question.choices(state)])
        text = input(f"{question.label}{prefilled}: ").strip()
        return BACK if text == "<" else text or initial or ""

    def _choose(self, question: Question, choices: list[Choice], current: Any) -> Any:
        values = [choice.value for choice in choices]
        number = values.index(current) + 1 if current in values else 1
        for each, choice in enumerate(choices, 1):
            self._write(f"{each}. {choice.label}")
        while True:
            text = input(f"{question.label}, 1 to {len(choices)} [{number}]: ").strip()
            if text == "<":
                return BACK
            found = _find_choice(choices, text or str(number))
            if found:
                self._write(f"{question.label}: {found.short or found.label}")
                return found.value
            self._write(f"error: `{text}` is none of these; type a number, or < to go back")

    def wait_for(self, label: str, job: Callable[[Report], T]) -> T:
        """Run `job`; write `label` if it takes long."""
        return run_with_notice(label, job, self._write, NOTICE_SECONDS)

    def _write(self, text: str) -> None:
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(printable(text).encode(encoding, "replace").decode(encoding) + "\n")
        sys.stdout.flush()


def _find_choice(choices: Sequence[Choice], text: str) -> Choice | None:
    """The choice with this value, else the one with this number: `4` among sizes is a size."""
    matching = [choice for choice in choices if text in (str(choice.value), choice.short)]
    if not matching and text.isdecimal() and 0 < int(text) <= len(choices):
        return choices[int(text) - 1]
    return matching[0] if matching else None


def run_with_notice(label: str, job: Callable[[Report], T], write: Callable[[str], None], seconds: float) -> T:
    """The result of `job`; writes `label` once it takes longer than `seconds`, and its progress after that."""
    notice = threading.Timer(seconds, write, (f"{label} …",))
    notice.daemon = True
    notice.start()
    try:
        return job(_Progress(label, write))
    finally:
        notice.cancel()


class _Progress:
    """Writes the progress of a job, at most every two seconds."""

    def __init__(self, label: str, write: Callable[[str], None]) -> None:
        self._label, self._write, self._written = label, write, time.monotonic()

    def __call__(self, text: str) -> None:
        """Write `text`, unless the last one was written just now."""
        if time.monotonic() - self._written > 2:
            self._written = time.monotonic()
            self._write(f"{self._label}: {text}")
