"""A difference between two jobs, and what it does to the result."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["changes", "may change", "does not change", "figures"]
CHANGES: Kind = "changes"
MAY: Kind = "may change"
NOT: Kind = "does not change"
FIGURES: Kind = "figures"
KINDS: tuple[Kind, ...] = (CHANGES, MAY, NOT, FIGURES)


@dataclass(frozen=True)
class Difference:
    """A part that differs; `key` is the spec's, or names what the spec does not have."""

    kind: Kind
    key: str
    this: str
    that: str
    is_content: bool = False  # other bytes, which no option shows
    note: str = ""

    def __str__(self) -> str:
        return f"{self.key}: {self.that}, here {self.this}"
