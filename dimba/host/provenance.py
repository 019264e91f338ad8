"""The provenance of a model: the repository's revision and changes, and hashes of pins, base checkpoint and data."""

import os
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from dimba.common.contract import is_secret_name
from dimba.common.hub_cache import folder_name, is_commit
from dimba.common.sampled_hash import sampled_hash
from dimba.host.build_context import code_digest
from dimba.host.facts import CheckpointFacts, DataFacts, HostFacts, TrainerFacts
from dimba.host.fingerprint import file_hash, fingerprint, fingerprint_of_files
from dimba.host.script_hash import script_hash
from dimba.spec.secrets import mask_secrets

Progress = Callable[[str, int, int], None]  # (activity, bytes so far, bytes in all)

_CONFIG = ("-c", "core.fsmonitor=false", "-c", "core.quotePath=false")  # git must not execute the repository's hooks


def provenance(facts: HostFacts, named: Iterable[str], progress: Progress) -> dict[str, Any]:
    """Fields of a run record; a field is None without git, a repository, or a readable file.

    The diff masks the values of the variables `named` in a spec and of every variable with a secret's name.
    """
    project = facts.project
    # An installed dimba may lie in an environment inside the user's repository, which does not track it.
    tracked = _git(project, "ls-files", "--error-unmatch", "Dockerfile") is not None
    changes = _git(project, "status", "--porcelain") if tracked else None
    return {
        "git_revision": _git(project, "rev-parse", "HEAD") if tracked else None,
        "git_dirty": None if changes is None else bool(changes),
        "git_diff": mask_secrets(_diff(project), _secret_values(named)) if changes else None,
        "code_hash": None if tracked else f"sha256:{code_digest(project)}",
        "lock_hash": _hash(project / "docker" / "constraints.txt"),
        "base_hash": _content(facts.checkpoint, lambda done, total: progress("hashing the checkpoint", done, total)),
        "trainer_hash": _trainer(facts.trainer),
        "files": _files(facts),
        "data_hash": data_hash(facts.data, lambda done, total: progress("hashing the data", done, total)),
    }


def _trainer(trainer: TrainerFacts) -> str | None:
    return script_hash(trainer.path) if trainer.path and not trainer.in_image else None


def _files(facts: HostFacts) -> dict[str, str]:
    """The hash of each file and each model's folder that the spec names, as a reward's; not of other mounts."""
    readable = [each.path for each in facts.named.values() if not each.why_not_read and os.access(each.path, os.R_OK)]
    found = {str(path): f"sha256:{file_hash(path)}" for path in readable if path.is_file()}
    models = [path for path in readable if (path / "config.json").is_file()]
    hashes = {str(path): fingerprint(path, lambda *_: None) for path in models}
    return found | {path: f"sha256:{digest}" for path, digest in hashes.items() if digest}


def hub_commits(plan: dict[str, Any]) -> dict[str, Any]:
    """Fields of a run's record: the commits of the base and the data that the job of `plan` fetched from the Hub.

    `commits` has each as `models/owner/name` or `datasets/owner/name`; `base_hash` and `data_hash` all of one kind, if
    the record has no hash of files.
    """
    kinds = {"base_hash": ("checkpoint", "models"), "data_hash": ("data", "datasets")}
    found: dict[str, Any] = {}
    for name, (part, kind) in kinds.items():
        facts = plan.get(part) or {}
        sources = facts.get("sources") or [facts]
        remote = [each for each in sources if each.get("local") is False]
        commits = {f"{kind}/{each.get('reference')}": commit_in_cache(plan, kind, each) for each in remote}
        if known := {key: commit for key, commit in commits.items() if commit}:
            found["commits"] = {**found.get("commits", {}), **known}
        if remote == sources and all(commits.values()):
            found[name] = f"commit:{'+'.join(map(str, commits.values()))}"
    return found


def commit_in_cache(plan: dict[str, Any], kind: str, facts: dict[str, Any]) -> str | None:
    """The commit of a repository of `kind` that the job's Hugging Face cache has at the revision of `facts`."""
    revision = str(facts.get("revision") or "main")
    if is_commit(revision):
        return revision
    folder = folder_name(kind, str(facts.get("reference")))
    try:
        return Path(plan["writable"][0], "hub", folder, "refs", revision).read_text(encoding="utf-8").strip()
    except (OSError, ValueError, KeyError, IndexError):
        return None


def _content(facts: CheckpointFacts, progress: Callable[[int, int], None]) -> str | None:
    if facts.local and facts.revision:  # the folder of this commit in the cache
        return f"commit:{facts.revision}"
    digest = fingerprint(Path(facts.reference), progress) if facts.local else None
    return f"sha256:{digest}" if digest else None


def data_hash(facts: DataFacts, progress: Callable[[int, int], None]) -> str | None:
    """The hash of the file, or of all files that the data have; of files that are streamed, of blocks of them."""
    if not facts.local and not facts.files:
        return None
    if facts.streamed:
        blocks = sampled_hash(facts.files)
        return f"blocks:{blocks}" if blocks else None
    one = Path(facts.reference)
    several = facts.files not in ((), (one,))
    digest = fingerprint_of_files(facts.files, progress) if several else fingerprint(one, progress)
    return f"sha256:{digest}" if digest else None


def _diff(project: Path) -> str:
    """The difference from the revision, and the hash of every untracked file."""
    diff = _git(project, "diff", "--no-ext-diff", "--no-textconv", "--no-color", "HEAD") or ""
    unknown = (_git(project, "ls-files", "--others", "--exclude-standard") or "").splitlines()
    return "\n".join([diff, *(f"?? {name} sha256:{_hash(project / name)}" for name in unknown)]).strip()


def _secret_values(named: Iterable[str]) -> list[str]:
    return [value for name, value in os.environ.items() if name in set(named) or is_secret_name(name)]


def _hash(path: Path) -> str | None:
    return file_hash(path) if path.is_file() else None


def _git(project: Path, *arguments: str) -> str | None:
    # safe.directory: a repository of another user is only read here.
    command = ["git", "-c", f"safe.directory={project}", *_CONFIG, "-C", str(project), *arguments]
    try:
        result = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None
