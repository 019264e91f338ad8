"""The values of objects that a chat template renders, equal for rows that are equal in every format of files.

A table stores one list of keys for all its objects: an object then has a null for each key that it lacks, the keys
stand in the order in which the rows first have them, and 1 becomes 1.0 beside 2.5.
"""

import datetime
import decimal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_EXACT = 2.0**53  # up to which a double holds every whole number
_DEEPEST = 100  # levels of lists and objects: chat templates and the code here read them recursively
_PLAIN = (str, bool, int, float, decimal.Decimal, datetime.date, datetime.time, type(None))


def check_characters(text: str) -> None:
    """Raises ValueError for text that UTF-8 cannot hold."""
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"holds half a character ({text[error.start]!a}, a lone surrogate)") from None


def check_json(value: Any, levels: int = _DEEPEST) -> None:
    """Raises ValueError for a value that JSON cannot hold, or that is nested deeper than `levels`."""
    if not levels:
        raise ValueError(f"is nested more than {_DEEPEST} levels deep")
    if isinstance(value, str):
        check_characters(value)
    elif isinstance(value, dict):
        for each in (*value, *value.values()):
            check_json(each, levels - 1)
    elif isinstance(value, list | tuple):
        for each in value:
            check_json(each, levels - 1)
    elif not isinstance(value, _PLAIN):
        raise ValueError(f"holds {type(value).__name__}, which JSON cannot hold")


def plain(value: Any) -> Any:
    """The value as JSON has it: objects without their null keys, whole numbers without a point, dates as text."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items() if each is not None}
    if isinstance(value, list | tuple):
        return plain(dict(value)) if _is_map(value) else [plain(each) for each in value]
    if isinstance(value, decimal.Decimal):
        value = float(value)
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) <= _EXACT else value
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return value


def _is_map(value: list[Any] | tuple[Any, ...]) -> bool:
    """Whether the value is a map of pyarrow, a list of (key, value)."""
    return bool(value) and all(isinstance(each, tuple) and len(each) == 2 for each in value)


@dataclass
class KeyOrder:
    """Sorts the keys of objects by their first appearance in the data, as tables do; the state is of one data set."""

    known: dict[tuple[str, ...], dict[str, int]] = field(default_factory=dict)  # path → keys

    def apply(self, value: Any, *path: str) -> Any:
        """The value with sorted keys; objects with the same path share their order."""
        if isinstance(value, list | tuple):
            return type(value)(self.apply(each, *path) for each in value)
        if not isinstance(value, Mapping):
            return value
        known = self.known.setdefault(path, {})
        for key in value:
            known.setdefault(key, len(known))
        return {key: self.apply(value[key], *path, key) for key in sorted(value, key=known.__getitem__)}

    def messages(self, messages: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        """The messages, with the keys of their tool calls sorted."""
        if not any("tool_calls" in each for each in messages):
            return messages
        return tuple(
            {key: self.apply(value, key) if key == "tool_calls" else value for key, value in each.items()}
            for each in messages
        )
