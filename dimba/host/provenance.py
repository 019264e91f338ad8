"""What made a model: the repository's revision and changes, what is pinned, what the base and the data hold."""

import os
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from dimba.common.contract import names_a_secret
from dimba.host.facts import CheckpointFacts, DataFacts, HostFacts
from dimba.host.fingerprint import file_hash, fingerprint
from dimba.spec.secrets import mask_secrets

Progress = Callable[[str, int, int], None]  # (what is read, bytes so far, bytes in all)

_CONFIG = ("-c", "core.fsmonitor=false", "-c", "core.quotePath=false")  # nothing of the repository's is executed


def provenance(facts: HostFacts, named: Iterable[str], progress: Progress) -> dict[str, Any]:
    """Fields of a run record; None where there is no git, no repository, or nothing to read.

    Values of the variables `named` in a spec are masked in the diff, and so is whatever else is a secret.
    """
    project = facts.project
    changes = _git(project, "status", "--porcelain")
    return {
        "git_revision": _git(project, "rev-parse", "HEAD"),
        "git_dirty": None if changes is None else bool(changes),
        "git_diff": mask_secrets(_diff(project), _secret_values(named)) if changes else None,
        "lock_hash": _hash(project / "docker" / "constraints.txt"),
        "base_hash": _content(facts.checkpoint, lambda done, total: progress("hashing the checkpoint", done, total)),
        "data_hash": _content(facts.data, lambda done, total: progress("hashing the data", done, total)),
    }


def hub_commits(plan: dict[str, Any]) -> dict[str, Any]:
    """The same of what came from the Hub, once a job of `plan` (a plan.json) has fetched it: its commits."""
    kinds = {"base_hash": ("checkpoint", "models"), "data_hash": ("data", "datasets")}
    found = {}
    for name, (part, kind) in kinds.items():
        facts = plan.get(part) or {}
        if facts.get("local") is False and (commit := _commit(plan, kind, str(facts.get("reference")))):
            found[name] = commit
    return found


def _commit(plan: dict[str, Any], kind: str, reference: str) -> str | None:
    folder = f"{kind}--{reference.replace('/', '--')}"
    try:
        ref = Path(plan["writable"][0], "hub", folder, "refs", "main")
        return f"commit:{ref.read_text(encoding='utf-8').strip()}"
    except (OSError, ValueError, KeyError, IndexError):
        return None


def _content(facts: CheckpointFacts | DataFacts, progress: Callable[[int, int], None]) -> str | None:
    made = fingerprint(Path(facts.reference), progress) if facts.local else None
    return f"sha256:{made}" if made else None


def _diff(project: Path) -> str:
    """What differs from the revision, and the hash of every file that git does not know."""
    diff = _git(project, "diff", "--no-ext-diff", "--no-textconv", "--no-color", "HEAD") or ""
    unknown = (_git(project, "ls-files", "--others", "--exclude-standard") or "").splitlines()
    return "\n".join([diff, *(f"?? {name} sha256:{_hash(project / name)}" for name in unknown)]).strip()


def _secret_values(named: Iterable[str]) -> list[str]:
    return [value for name, value in os.environ.items() if name in set(named) or names_a_secret(name)]


def _hash(path: Path) -> str | None:
    return file_hash(path) if path.is_file() else None


def _git(project: Path, *arguments: str) -> str | None:
    # A repository that belongs to somebody else is only read here.
    command = ["git", "-c", f"safe.directory={project}", *_CONFIG, "-C", str(project), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
