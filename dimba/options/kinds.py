"""Kinds of values with their bounds. argparse and the wizard call them to parse; the spec's model reads the bounds."""

import argparse
import datetime
import json
import math
from contextlib import suppress
from dataclasses import dataclass

MOST = 10**9  # upper bound of every count


@dataclass(frozen=True)
class Integer:
    """Whole numbers from `least` to `most`; `words` may stand in place of a number."""

    least: int = 1
    most: int = MOST
    words: tuple[str, ...] = ()

    def __call__(self, text: str) -> int | str:
        """Parse a command-line argument."""
        if text in self.words:
            return text
        try:
            number = int(text)
        except ValueError:
            words = f", and none of {', '.join(self.words)}" if self.words else ""
            raise argparse.ArgumentTypeError(f"`{text}` is not a whole number{words}") from None
        if number < self.least:
            raise argparse.ArgumentTypeError(f"{number} is less than {self.least}")
        if number > self.most:
            raise argparse.ArgumentTypeError(f"{number} is more than {self.most}")
        return number


@dataclass(frozen=True)
class Number:
    """Finite numbers above `above`, or from `least` on, up to `most`."""

    above: float | None = None
    least: float | None = None
    most: float | None = None

    def __call__(self, text: str) -> float:
        """Parse a command-line argument."""
        try:
            number = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"`{text}` is not a number") from None
        if self.above is not None and not number > self.above:
            raise argparse.ArgumentTypeError(f"{text} is not above {_bound(self.above)}")
        if self.least is not None and not number >= self.least:
            raise argparse.ArgumentTypeError(f"{text} is less than {_bound(self.least)}")
        if self.most is not None and number > self.most:
            raise argparse.ArgumentTypeError(f"{text} is more than {_bound(self.most)}")
        if not math.isfinite(number):
            raise argparse.ArgumentTypeError(f"{text} is not a finite number")
        return number


def _bound(value: float) -> str:
    return "zero" if value == 0 else f"{value:g}"


@dataclass(frozen=True)
class Text:
    """Any text."""

    def __call__(self, text: str) -> str:
        """Parse a command-line argument."""
        return text


@dataclass(frozen=True)
class OneOf:
    """One of a few words."""

    words: tuple[str, ...]


@dataclass(frozen=True)
class Switch:
    """A flag without a value."""


@dataclass(frozen=True)
class HeldOut:
    """A share of the rows below 1, a whole number of rows, or the name of a split."""

    def __call__(self, text: str) -> float | str:
        """Parse a command-line argument."""
        if self.is_name(text):
            return text
        number = float(text)
        if not 0 < number < float("inf") or (number >= 1 and number % 1):
            raise argparse.ArgumentTypeError(f"{text} is neither a share between 0 and 1 nor a whole number of rows")
        return number

    @staticmethod
    def is_name(text: str) -> bool:
        """Whether it names a split."""
        with suppress(ValueError):
            float(text)
            return False
        return True


@dataclass(frozen=True)
class StepsOrShare:
    """A whole number of steps, or a share of all steps below 1."""

    def __call__(self, text: str) -> float:
        """Parse a command-line argument."""
        try:
            number = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"`{text}` is not a number") from None
        if problem := self.problem(number):
            raise argparse.ArgumentTypeError(f"{text} {problem}")
        return number

    def problem(self, number: float) -> str:
        """The reason why a number is neither; empty if it is one of them."""
        is_valid = 0 <= number <= MOST and (number < 1 or number % 1 == 0)
        return "" if is_valid else "is neither a whole number of steps nor a share below 1"


@dataclass(frozen=True)
class Date:
    """The text of a date, with or without a time of day."""

    def __call__(self, text: str) -> str:
        """Check a command-line argument."""
        try:
            return datetime.datetime.fromisoformat(text).isoformat()
        except ValueError:
            raise argparse.ArgumentTypeError(f"`{text}` is not a date such as 2026-11-28") from None


@dataclass(frozen=True)
class JsonObject:
    """The text of a JSON object without the keys `refused`."""

    refused: tuple[str, ...] = ()

    def __call__(self, text: str) -> str:
        """Check a command-line argument."""
        try:
            value = json.loads(text)
            json.dumps(value, ensure_ascii=False).encode()  # refuses half a character, a lone surrogate
        except (ValueError, RecursionError) as error:
            raise argparse.ArgumentTypeError(f"`{text}` is not JSON: {error}") from None
        if not isinstance(value, dict):
            raise argparse.ArgumentTypeError(f'`{text}` is not a JSON object such as {{"enable_thinking": false}}')
        if taken := [key for key in value if key in self.refused]:
            raise argparse.ArgumentTypeError(f"`{taken[0]}` is set by the trainer itself: leave it out")
        return text


Kind = Integer | Number | Text | OneOf | Switch | HeldOut | StepsOrShare | Date | JsonObject
