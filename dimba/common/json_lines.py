"""The lines that a process in the container prints for the host: JSON objects of one key, among those of libraries."""

import json
from typing import Any


def event_in(line: str) -> tuple[str, Any] | None:
    """The key and the value of a line; None for a line of a library."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return next(iter(value.items())) if isinstance(value, dict) and len(value) == 1 else None
