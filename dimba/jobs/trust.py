"""What a spec brings along is agreed to once, by whoever launches it: in a terminal, or with --trust-spec."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from dimba.common.errors import BadInput
from dimba.host.facts import Harm
from dimba.host.findings import recall, remember
from dimba.host.probe import project_root
from dimba.host.trust_requirements import beyond, find_harms
from dimba.spec import LoadedSpec

Ask = Callable[[str, Sequence[Harm]], bool]  # (the spec's file, what it brings along)

_KIND = "trusted"
_BY_WIZARD = "written by the wizard in "


def harms_of(loaded: LoadedSpec, folder: Path) -> tuple[Harm, ...]:
    """What could harm the reader of a stranger's spec; nothing of what its reader said or answered themselves."""
    if _BY_WIZARD + str(folder) in _agreed(_name(loaded.data)):
        return ()
    return beyond(find_harms(loaded.spec, folder, project_root()), loaded.overrides)


def require_trust(loaded: LoadedSpec, folder: Path, *, trust: bool, ask: Ask | None) -> None:
    """Asks where somebody can be asked, once for a file's content; raises BadInput where the answer is no."""
    harms = harms_of(loaded, folder)
    if trust or _covers(_agreed(_name(loaded.data)), harms):
        return
    if ask is None or not ask(loaded.source, harms):
        raise _untrusted(loaded.source, loaded, harms, "launch it with --trust-spec")
    _remember(_name(loaded.data), [str(each) for each in harms])


def require_trust_in_run(run_id: str, loaded: LoadedSpec, folder: Path, *, trust: bool) -> None:
    """The same for a run that goes on: what its launch agreed to holds. Its folder may be a stranger's too."""
    harms = find_harms(loaded.spec, folder, project_root())
    if not trust and not _covers(_agreed(_name(loaded.data, run_id)), harms):
        raise _untrusted(run_id, loaded, harms, "resume it with --trust-spec")


def remember_run(run_id: str, loaded: LoadedSpec, folder: Path) -> tuple[str, ...]:
    """Notes, for when the run goes on, what its launch has agreed to."""
    harms = tuple(str(each) for each in find_harms(loaded.spec, folder, project_root()))
    if harms:
        _remember(_name(loaded.data, run_id), harms)
    return harms


def remember_written(data: bytes, folder: Path) -> None:
    """What the wizard wrote is its reader's own."""
    _remember(_name(data), [_BY_WIZARD + str(folder)])


def _untrusted(source: str, loaded: LoadedSpec, harms: Sequence[Harm], how: str) -> BadInput:
    lines = "\n".join(f"  {loaded.location(each.key)}: {each}" for each in harms)
    whose = "if you know where it comes from, and have read it"
    return BadInput(f"{source} brings along what could do harm, if it is a stranger's:\n{lines}", f"{whose}, {how}")


def _covers(agreed: frozenset[str], harms: Sequence[Harm]) -> bool:
    return all(str(each) in agreed for each in harms)


def _name(data: bytes, run_id: str = "") -> str:
    digest = hashlib.sha256(data).hexdigest()
    return f"{run_id}-{digest}" if run_id else digest


# Kept by content, in the reader's own cache: neither a spec nor a run's folder can bring the answer along.
def _agreed(name: str) -> frozenset[str]:
    known = recall(_KIND, name)
    return frozenset(map(str, known)) if isinstance(known, list) else frozenset()


def _remember(name: str, what: Sequence[str]) -> None:
    remember(_KIND, name, sorted(_agreed(name) | set(what)))
