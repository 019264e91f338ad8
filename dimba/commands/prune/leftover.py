"""What may go, as a value."""

from dataclasses import asdict, dataclass
from typing import Any

KINDS = ("containers", "images", "runs", "cache")


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """One thing of ours that is of no more use."""

    kind: str  # container, image, run or cache
    name: str
    place: str  # the engine's id, or the path
    size: int  # bytes
    age: float  # seconds since it ended, was made or was last used, by kind
    why: str
    last: float = 0  # for `cache`: when it was last used, in seconds since 1970

    def as_json(self) -> dict[str, Any]:
        """What a program reads: whole seconds."""
        value = asdict(self)
        del value["last"]
        return {**value, "age": int(self.age)}


@dataclass(frozen=True, kw_only=True)
class Found:
    """What may go, in the order in which it has to, and what is worth saying of what stays."""

    leftovers: tuple[Leftover, ...] = ()
    notes: tuple[str, ...] = ()

    def __add__(self, other: "Found") -> "Found":
        return Found(leftovers=self.leftovers + other.leftovers, notes=self.notes + other.notes)
