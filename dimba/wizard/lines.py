"""Lines that a screen shows."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """A line on the screen and its kind: plain, dim, good, warn or title."""

    text: str
    kind: str = "plain"
