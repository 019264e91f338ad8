"""The draft: the answers so far, written to disk after each one, so that none is lost however the wizard ends."""

import hashlib
import json
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from dimba.wizard.state import State


@dataclass(frozen=True, kw_only=True)
class Draft:
    """The answers of an unfinished wizard, and the keys of the questions behind them."""

    answers: dict[str, Any]
    passed_keys: tuple[str, ...]
    suggestions: dict[str, Any]
    written: datetime


def draft_file(folder: Path) -> Path:
    """The draft's path for `folder`: in the user's state folder, not among the project's files."""
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return home / "dimba" / "drafts" / f"{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}.json"


def save_draft(state: State) -> bool:
    """Write the draft atomically; False if that fails."""
    file = draft_file(state.folder)
    content = {
        "folder": str(state.folder),
        "answers": state.answers,
        "passed": sorted(state.passed_keys),
        "offered": state.suggestions,
    }
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = file.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(content), encoding="utf-8")
        part.replace(file)
    except OSError:
        return False
    return True


def load_draft(folder: Path) -> Draft | None:
    """The draft of `folder`; None if it is missing or unreadable."""
    file = draft_file(folder)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        written = datetime.fromtimestamp(file.stat().st_mtime).astimezone()
        answers, keys, suggestions = dict(content["answers"]), tuple(content["passed"]), dict(content["offered"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Draft(answers=answers, passed_keys=keys, suggestions=suggestions, written=written) if keys else None


def delete_draft(folder: Path) -> None:
    """Delete the draft: the spec is saved, or the user starts over."""
    draft_file(folder).unlink(missing_ok=True)
