"""What was found out once and holds for as long as its name does: JSON in dimba's own cache."""

import json
from pathlib import Path
from typing import Any

from dimba.common.contract import cache_home


def recall(kind: str, name: str) -> Any:
    """What was remembered; None where nothing was, or it cannot be read."""
    try:
        return json.loads(_file(kind, name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def remember(kind: str, name: str, value: Any) -> None:
    """Keeps it, readable by this user alone; where that cannot be, it is found out again next time."""
    path = _file(kind, name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(json.dumps(value, indent=1), encoding="utf-8")
    except OSError:
        return


def _file(kind: str, name: str) -> Path:
    return cache_home() / kind / f"{name}.json"
