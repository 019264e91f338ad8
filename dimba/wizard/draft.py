"""The answers so far, kept on disk after each one, so that nothing is lost however the wizard ends."""

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
    """An unfinished wizard's answers."""

    answers: dict[str, Any]
    passed: tuple[str, ...]
    offered: dict[str, Any]
    written: datetime


def draft_file(folder: Path) -> Path:
    """Where the draft of `folder` lies: in the user's state, not among the project's files."""
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return home / "dimba" / "drafts" / f"{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}.json"


def save_draft(state: State) -> bool:
    """Writes the answers whole; False where that cannot be done."""
    file = draft_file(state.folder)
    content = {
        "folder": str(state.folder),
        "answers": state.answers,
        "passed": sorted(state.passed),
        "offered": state.offered,
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
    """The draft of `folder`; None where there is none, or none that can be read."""
    file = draft_file(folder)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        written = datetime.fromtimestamp(file.stat().st_mtime).astimezone()
        answers, passed, offered = dict(content["answers"]), tuple(content["passed"]), dict(content["offered"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Draft(answers=answers, passed=passed, offered=offered, written=written) if passed else None


def forget_draft(folder: Path) -> None:
    """Once the spec is saved, or somebody starts anew."""
    draft_file(folder).unlink(missing_ok=True)
