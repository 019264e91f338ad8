"""The result of a user's reward function, as scores."""

import numbers
from collections.abc import Sequence
from typing import Any

from dimba.common.errors import BadInput, Location, RunFailed

_LARGEST = 3.4e38  # of a float32, the type in which TRL keeps rewards
_HINT = "return a list with a number or None for each completion"

Kind = type[BadInput] | type[RunFailed]


def scores_of(result: Any, reward: str, places: Sequence[Location], kind: Kind) -> list[float | None]:
    """One float or None per place; raises an error of that kind, which names the reward and the row."""
    values, label = _as_list(result), f"the reward `{reward}`"
    if values is None:
        raise kind(f"{label} returned {_excerpt(result)}, which is no list", _HINT).at(place_range(places))
    if len(values) != len(places):
        count = f"{len(values)} values for {len(places)} completions"
        raise kind(f"{label} returned {count}", _HINT).at(place_range(places))
    return [_score(value, label, place, kind) for value, place in zip(values, places, strict=True)]


def place_range(places: Sequence[Location]) -> Location:
    """The first and the last of the places as one."""
    distinct = list(dict.fromkeys(places))
    if len(distinct) == 1:
        return distinct[0]
    return Location(f"{distinct[0]} to {distinct[-1]}" if distinct else "no rows")


def _score(value: Any, label: str, place: Location, kind: Kind) -> float | None:
    number = _as_float(value)
    if number is None and value is not None:
        raise kind(f"{label} returned {_excerpt(value)}, which is no number", _HINT).at(place)
    if number is not None and not abs(number) <= _LARGEST:
        raise kind(f"{label} returned {number}, from which nothing can be learnt", _HINT).at(place)
    return number


def _as_list(result: Any) -> list[Any] | None:
    """A list, tuple, array or tensor of one dimension as a list."""
    if isinstance(result, list | tuple):
        return list(result)
    if getattr(result, "ndim", None) == 1 and hasattr(result, "tolist"):
        return list(result.tolist())
    return None


def _as_float(value: Any) -> float | None:
    if isinstance(value, numbers.Real):
        try:
            return float(value)
        except OverflowError:
            return float("inf")
    # numpy's scalars, and tensors without dimensions
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        item = value.item()
        return float(item) if isinstance(item, int | float) else None
    return None


def _excerpt(value: Any) -> str:
    text = repr(value)
    return f"{text[:60]}{'…' if len(text) > 60 else ''} ({type(value).__name__})"
