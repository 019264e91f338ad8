"""Makes the runner that a name means; each is imported only where it is asked for."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from dimba.common.runners import AUTO, IN_ENGINE, ON_HOST, RUNNERS
from dimba.host.facts import EngineFacts
from dimba.host.probe import project_root
from dimba.runners.protocol import FoundRunner, Runner
from dimba.spec import load_site

if TYPE_CHECKING:
    from dimba.runners.docker.runner import DockerRunner

_NOT_ASKED = EngineFacts(reachable=False, problem="not asked for")


def find_runner(wanted: str) -> FoundRunner:
    """The runner that a spec's `runner` means here; the engine is asked only where it matters.

    Where no engine of this machine answers, one of the host looks at what can be looked at, and the plan refuses what
    needs an engine.
    """
    if wanted != AUTO and not RUNNERS[wanted].uses_engine:
        return FoundRunner(_WITHOUT_ENGINE[wanted](), _NOT_ASKED)
    runner, engine = find_engine()
    return FoundRunner(runner or host_runner(), engine)


def find_engine() -> "tuple[DockerRunner | None, EngineFacts]":
    """The engine's runner, for what looks into an engine; None where no engine of this machine answers."""
    from dimba.runners.docker.engine import Engine, connect
    from dimba.runners.docker.runner import DockerRunner

    found = connect()
    if isinstance(found, Engine):
        return DockerRunner(found, project_root()), found.facts
    return None, found


def host_runner() -> Runner:
    """The runner of this machine itself, which needs no engine."""
    return _WITHOUT_ENGINE[ON_HOST]()


def runner_of(name: str) -> Runner | None:
    """The runner that a record names; None where its engine is away, or this version has none of that name."""
    runner = find_runner(name).runner if name in RUNNERS else None
    return runner if runner and runner.name == name else None


def _process() -> Runner:
    from dimba.runners.process import ProcessRunner

    return ProcessRunner()


def _slurm() -> Runner:
    from dimba.runners.slurm.runner import SlurmRunner

    return SlurmRunner(load_site())


_WITHOUT_ENGINE: dict[str, Callable[[], Runner]] = {"process": _process, "slurm": _slurm}

assert {IN_ENGINE, *_WITHOUT_ENGINE} == set(RUNNERS), "each name has its maker"
