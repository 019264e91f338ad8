"""What code made a model: the repository's revision and the hash of what is pinned."""

import hashlib
import subprocess
from pathlib import Path
from typing import Any


def provenance(project: Path) -> dict[str, Any]:
    """Fields of a run record; None where there is no git, or no repository."""
    revision = _git(project, "rev-parse", "HEAD")
    changes = _git(project, "status", "--porcelain")
    return {
        "git_revision": revision,
        "git_dirty": None if changes is None else bool(changes),
        "lock_hash": _hash(project / "docker" / "constraints.txt"),
    }


def _hash(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _git(project: Path, *arguments: str) -> str | None:
    # A repository that belongs to somebody else is only read here.
    command = ["git", "-c", f"safe.directory={project}", "-C", str(project), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
