"""A removable container, image, run folder or cache entry, as a value."""

from dataclasses import asdict, dataclass
from typing import Any

KINDS = ("containers", "images", "runs", "cache")


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """One thing that dimba made and no longer needs."""

    kind: str  # container, image, run or cache
    name: str
    place: str  # the engine's id, or the path
    size: int  # bytes
    age: float  # seconds since a container or run ended, an image was built, or a cache entry was last used
    why: str
    last: float = 0  # for `cache`: the time of its last use, in seconds since 1970

    def as_json(self) -> dict[str, Any]:
        """The fields for JSON, with the age in integer seconds."""
        value = asdict(self)
        del value["last"]
        return {**value, "age": int(self.age)}


@dataclass(frozen=True, kw_only=True)
class Found:
    """Leftovers in the order of their removal, and notes about things that are kept."""

    leftovers: tuple[Leftover, ...] = ()
    notes: tuple[str, ...] = ()

    def __add__(self, other: "Found") -> "Found":
        return Found(leftovers=self.leftovers + other.leftovers, notes=self.notes + other.notes)
