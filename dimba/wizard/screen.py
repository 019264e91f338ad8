"""What the wizard needs of a screen, and the one that needs nothing but lines."""

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from dimba.common.errors import DimbaError, printable
from dimba.wizard.question import Choice, Question, Said
from dimba.wizard.state import State

T = TypeVar("T")
PATIENCE = 0.3  # seconds; what takes less is not worth a word


class Back:
    """The answer that asks for the question before."""


BACK = Back()


def preferred(question: Question, state: State) -> Any:
    """The choice that a menu starts on: one offered after a wrong answer, else the answer or the default."""
    return state.offered.get(question.key, state.value(question.key))


class Screen(Protocol):
    """Asks questions and says things. `ask` gives a choice's value, or the text that was typed."""

    def title(self, step: int, steps: int, text: str) -> None:
        """A step begins."""

    def say(self, lines: Sequence[Said]) -> None:
        """Lines to read."""

    def problem(self, error: DimbaError) -> None:
        """An answer did not go."""

    def ask(self, question: Question, state: State, initial: str | None) -> Any:
        """The answer; BACK; KeyboardInterrupt or EOFError where somebody leaves. `initial` is typed already."""

    def waiting(self, what: str, job: Callable[[Callable[[str], None]], T]) -> T:
        """Runs `job`, showing that it goes on where it takes a while."""


def is_plain() -> bool:
    """Whether lines alone are wanted: a screen reader's mode, or a terminal that cannot move its cursor."""
    return os.environ.get("TERM", "dumb") in ("dumb", "") or bool(os.environ.get("ACCESSIBLE"))


class Plain:
    """Questions a line each, menus numbered: for screen readers and for dumb terminals."""

    def title(self, step: int, steps: int, text: str) -> None:
        """`Step 2 of 6: Base checkpoint`."""
        self._write(f"\nStep {step} of {steps}: {text}")

    def say(self, lines: Sequence[Said]) -> None:
        """As they are."""
        for line in lines:
            self._write(line.text)

    def problem(self, error: DimbaError) -> None:
        """Cause, then hint."""
        self._write(f"error: {error.message}")
        if error.hint:
            self._write(f"hint: {error.hint}")

    def ask(self, question: Question, state: State, initial: str | None) -> Any:
        """A numbered menu where there is one; an empty line takes what stands in brackets, `<` goes back."""
        if question.kind == "choice":
            return self._choose(question, list(question.choices(state)), preferred(question, state))
        shown = f" [{initial}]" if initial else ""
        if question.live:
            self._write(question.live("", state))
        if question.kind == "many":
            self.say([Said(choice.label) for choice in question.choices(state)])
        text = input(f"{question.ask}{shown}: ").strip()
        return BACK if text == "<" else text or initial or ""

    def _choose(self, question: Question, choices: list[Choice], current: Any) -> Any:
        values = [choice.value for choice in choices]
        number = values.index(current) + 1 if current in values else 1
        for each, choice in enumerate(choices, 1):
            self._write(f"{each}. {choice.label}")
        while True:
            text = input(f"{question.ask}, 1 to {len(choices)} [{number}]: ").strip()
            if text == "<":
                return BACK
            chosen = _chosen(choices, text or str(number))
            if chosen:
                self._write(f"{question.ask}: {chosen.short or chosen.label}")
                return chosen.value
            self._write(f"error: `{text}` is none of these; type a number, or < to go back")

    def waiting(self, what: str, job: Callable[[Callable[[str], None]], T]) -> T:
        """Says what it waits for, once it takes a while."""
        return patiently(what, job, self._write, PATIENCE)

    def _write(self, text: str) -> None:
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(printable(text).encode(encoding, "replace").decode(encoding) + "\n")
        sys.stdout.flush()


def _chosen(choices: Sequence[Choice], text: str) -> Choice | None:
    """By value before by number: `4` among sizes is a size."""
    named = [choice for choice in choices if text in (str(choice.value), choice.short)]
    if not named and text.isdecimal() and 0 < int(text) <= len(choices):
        return choices[int(text) - 1]
    return named[0] if named else None


def patiently(what: str, job: Callable[[Callable[[str], None]], T], write: Callable[[str], None], seconds: float) -> T:
    """Runs `job`; writes what is waited for once it takes longer than `seconds`, and how far it is."""
    said = threading.Timer(seconds, write, (f"{what} …",))
    said.daemon = True
    said.start()
    try:
        return job(_Teller(what, write))
    finally:
        said.cancel()


class _Teller:
    """Says how far something is, at most every two seconds."""

    def __init__(self, what: str, write: Callable[[str], None]) -> None:
        self._what, self._write, self._said = what, write, time.monotonic()

    def __call__(self, text: str) -> None:
        """`text` is how far it is."""
        if time.monotonic() - self._said > 2:
            self._said = time.monotonic()
            self._write(f"{self._what}: {text}")
