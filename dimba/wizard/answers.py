"""From typed text to a value: menus, and numbers within the bounds of their parameter."""

import argparse
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dimba.common.errors import BadInput
from dimba.options.kinds import Integer, Number, StepsOrShare
from dimba.options.param import Param

_LEAST_NUMBER = 1e-12  # a smaller rate or share of an epoch is a typing error


@dataclass(frozen=True)
class Choice:
    """One line of a menu."""

    value: Any
    label: str
    short: str = ""  # the text that remains on the screen once it is chosen


class InvalidAnswer(BadInput):
    """An answer that the wizard cannot use; `instead` has better ones, by question."""

    def __init__(self, message: str, hint: str = "", instead: dict[str, Any] | None = None) -> None:
        super().__init__(message, hint)
        self.instead = instead or {}


def one_of(choices: Sequence[Choice], text: str, noun: str) -> Any:
    """The choice that `text` names, by its value or its short text."""
    for choice in choices:
        if text.strip().lower() in (str(choice.value).lower(), choice.short.lower()):
            return choice.value
    known = [choice.short or str(choice.value) for choice in choices]
    close = difflib.get_close_matches(text, known, n=1)
    hint = f"did you mean `{close[0]}`?" if close else f"one of: {', '.join(known)}"
    raise InvalidAnswer(f"{noun} `{text}` is not known", hint)


def parse_number(param: Param, text: str) -> Any:
    """The number that `text` gives, within the bounds of its parameter; raises InvalidAnswer."""
    kind, noun = param.kind, in_sentence(param.question)
    assert isinstance(kind, Integer | Number | StepsOrShare), f"{param.question} is not a number"
    try:
        # `2,000` is a whole number; `2,5` may mean 2.5, so it is refused as a number.
        number: Any = kind(text.replace(",", "") if isinstance(kind, Integer) else text)
    except argparse.ArgumentTypeError as error:
        raise InvalidAnswer(f"{noun} {error}", _number_hint(kind)) from None
    if 0 < number < _LEAST_NUMBER:
        raise InvalidAnswer(f"{noun} {text} is less than {_LEAST_NUMBER:g}", _number_hint(kind))
    return number


def in_sentence(label: str) -> str:
    """A label inside a sentence: `Batch size` as `batch size`, `LoRA rank` as it is."""
    return " ".join(word if word[1:] != word[1:].lower() else word.lower() for word in label.split())


def _number_hint(kind: Integer | Number | StepsOrShare) -> str:
    if isinstance(kind, Integer):
        return f"give a whole number, {kind.least} or more"
    if isinstance(kind, StepsOrShare):
        return "give a whole number of steps, or a share below 1 such as 0.03"
    if kind.least is not None:
        return f"give a number from {kind.least:g}" + (" on" if kind.most is None else f" to {kind.most:g}")
    return f"give a number above {kind.above or 0:g}, such as 3 or 2e-4"
