"""Lines that a screen shows, and the numbers in them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """A line on the screen and its kind: plain, dim, good, warn or title."""

    text: str
    kind: str = "plain"


def quantity(number: int, noun: str) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
