"""Results that stay valid for as long as their name does, cached as JSON in dimba's own cache."""

import json
from pathlib import Path
from typing import Any

from dimba.common.contract import cache_home


def recall(kind: str, name: str) -> Any:
    """The remembered value; None if there is none or it cannot be read."""
    try:
        return json.loads(_file(kind, name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def remember(kind: str, name: str, value: Any) -> None:
    """Store the value, readable by this user alone; a failure is ignored, as the value can be computed again."""
    path = _file(kind, name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(json.dumps(value, indent=1), encoding="utf-8")
    except OSError:
        return


def _file(kind: str, name: str) -> Path:
    return cache_home() / kind / f"{name}.json"
