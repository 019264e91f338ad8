"""Trust in a foreign spec: asked for once on a terminal, or given with --trust-spec."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from dimba.common.errors import BadInput
from dimba.common.project import project_root
from dimba.host.facts import TrustRequirement
from dimba.host.findings import recall, remember
from dimba.host.trust_requirements import find_trust_requirements, not_overridden
from dimba.spec import LoadedSpec

Ask = Callable[[str, Sequence[TrustRequirement]], bool]  # (the spec's file, what it requires trust for)

_KIND = "trusted"
_BY_WIZARD = "written by the wizard in "


def trust_requirements_of(loaded: LoadedSpec, folder: Path) -> tuple[TrustRequirement, ...]:
    """The trust requirements of a spec, without those that the user wrote or confirmed."""
    if _BY_WIZARD + str(folder) in _agreed(_name(loaded.data)):
        return ()
    return not_overridden(find_trust_requirements(loaded.spec, folder, project_root()), loaded.overrides)


def require_trust(loaded: LoadedSpec, folder: Path, *, trust: bool, ask: Ask | None) -> None:
    """Ask for trust once per file content; raises BadInput if it is refused, or without a terminal."""
    requirements = trust_requirements_of(loaded, folder)
    if trust or _covers(_agreed(_name(loaded.data)), requirements):
        return
    if ask is None or not ask(loaded.source, requirements):
        raise _untrusted(loaded.source, loaded, requirements, "launch it with --trust-spec")
    _remember(_name(loaded.data), [str(each) for each in requirements])


def require_trust_in_run(run_id: str, loaded: LoadedSpec, folder: Path, *, trust: bool, ask: Ask | None = None) -> None:
    """The same for a run that is resumed: the trust of its launch holds. Its folder may be foreign, too."""
    requirements = find_trust_requirements(loaded.spec, folder, project_root())
    if trust or _covers(_agreed(_name(loaded.data, run_id)), requirements):
        return
    if ask is None or not ask(loaded.source, requirements):
        raise _untrusted(run_id, loaded, requirements, "resume it with --trust-spec")


def remember_run(run_id: str, loaded: LoadedSpec, folder: Path) -> tuple[str, ...]:
    """Remember the trust that a launch was given, for resuming the run."""
    requirements = tuple(str(each) for each in find_trust_requirements(loaded.spec, folder, project_root()))
    if requirements:
        _remember(_name(loaded.data, run_id), requirements)
    return requirements


def remember_written(data: bytes, folder: Path) -> None:
    """Remember that the wizard wrote a spec, so that it is trusted."""
    _remember(_name(data), [_BY_WIZARD + str(folder)])


def _untrusted(source: str, loaded: LoadedSpec, requirements: Sequence[TrustRequirement], how: str) -> BadInput:
    lines = "\n".join(f"  {loaded.location(each.key)}: {each}" for each in requirements)
    cause = f"{source} can run code, or reach files, that you did not choose:\n{lines}"
    return BadInput(cause, f"read it; if you trust it, {how}")


def _covers(agreed: frozenset[str], requirements: Sequence[TrustRequirement]) -> bool:
    return all(str(each) in agreed for each in requirements)


def _name(data: bytes, run_id: str = "") -> str:
    digest = hashlib.sha256(data).hexdigest()
    return f"{run_id}-{digest}" if run_id else digest


# Stored by content in the user's own cache, so that neither a spec nor a run's folder can contain the answer.
def _agreed(name: str) -> frozenset[str]:
    known = recall(_KIND, name)
    return frozenset(map(str, known)) if isinstance(known, list) else frozenset()


def _remember(name: str, what: Sequence[str]) -> None:
    remember(_KIND, name, sorted(_agreed(name) | set(what)))
