"""A base on the Hub at a revision: the folder of that commit in the Hugging Face cache, once a job has fetched it."""

from dataclasses import replace
from pathlib import Path

from dimba.common.hub_cache import folder_name, is_commit
from dimba.host.checkpoint import look_at_checkpoint
from dimba.host.facts import CheckpointFacts


def at_revision(facts: CheckpointFacts, revision: str, cache: Path, *, allow_pickle: bool) -> CheckpointFacts:
    """The facts of a base at `revision`: those of its folder in the cache if that is complete, else of the Hub id."""
    if facts.local:
        problem = "is a folder on this machine, and `base_revision` is of a base on the Hub"
        return facts if facts.problem else replace(facts, problem=problem, hint="remove `base_revision`")
    if is_commit(revision):
        folder = cache / "hub" / folder_name("models", facts.reference) / "snapshots" / revision
        if folder.is_dir():
            found = look_at_checkpoint(str(folder), folder, allow_pickle=allow_pickle)
            if not found.problem:
                return replace(found, revision=revision)
    return replace(facts, revision=revision)
