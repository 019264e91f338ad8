"""Whether the transformers of a job knows the base's model type."""

from collections.abc import Iterator

from dimba.common.checkpoint.refusal import Refusal
from dimba.common.checkpoint.releases import LibraryType
from dimba.common.contract import LATEST, TESTED
from dimba.host.facts import CheckpointFacts, HostFacts

_OF_IMAGE = "of the image"


def type_refusal(facts: HostFacts) -> Refusal | None:
    """The refusal of a model type that the transformers of the job does not know; None where its release is unknown."""
    wanted = facts.checkpoint.library_type
    release = _release(facts, wanted) if wanted else ""
    if not wanted or not release:
        return None
    if facts.image:
        return wanted.unknown_to(release, place=_OF_IMAGE)
    return wanted.unknown_to(release, place="installed here", install=facts.pip_install)


def _release(facts: HostFacts, wanted: LibraryType) -> str:
    """The release of transformers that the job has; empty if nothing here tells."""
    if image := facts.image:
        tested = wanted.tested if image.key and image.pins == TESTED else ""
        return image.versions.get("transformers", tested)
    return "" if facts.slurm else facts.transformers


def type_notes(facts: HostFacts) -> Iterator[str]:
    """A line about a model type that the job may not know: its release is unknown, or its trainer is custom."""
    wanted = facts.checkpoint.library_type
    if wanted is None:
        return
    is_latest = facts.image is not None and facts.image.pins == LATEST
    release = _release(facts, wanted) or (wanted.newest if is_latest else wanted.tested)
    if found := wanted.unknown_to(release, place=_OF_IMAGE):
        yield f"base: it {found.problem}; {found.hint}"


def doubted_type(base: CheckpointFacts) -> Refusal | None:
    """The refusal of a model type that the image's tested transformers does not know."""
    wanted = base.library_type
    return wanted.unknown_to(wanted.tested, place=_OF_IMAGE) if wanted else None
