"""The only place that makes runners; each is imported on first use, as the docker SDK takes 0.2 s."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from dimba.common.project import project_root
from dimba.common.runners import AUTO, IN_ENGINE, ON_HOST, RUNNERS
from dimba.host.facts import EngineFacts
from dimba.runners.protocol import FoundRunner, Runner
from dimba.spec import load_site

if TYPE_CHECKING:
    from dimba.runners.docker.runner import DockerRunner

_NOT_ASKED = EngineFacts(reachable=False, problem="not asked for")


def find_runner(wanted: str) -> FoundRunner:
    """The runner that a spec's `runner` means on this machine; asks the engine only if it matters.

    Without an engine on this machine it is the host's runner, which can still probe; the plan refuses the job if it
    needs an engine.
    """
    if wanted != AUTO and not RUNNERS[wanted].uses_engine:
        return FoundRunner(_WITHOUT_ENGINE[wanted](), _NOT_ASKED)
    runner, engine = find_engine()
    return FoundRunner(runner or host_runner(), engine)


def find_engine() -> "tuple[DockerRunner | None, EngineFacts]":
    """The engine's runner, None if no engine answers on this machine; for commands about the engine itself."""
    from dimba.runners.docker.engine import Engine, connect
    from dimba.runners.docker.runner import DockerRunner

    found = connect()
    if isinstance(found, Engine):
        return DockerRunner(found, project_root()), found.facts
    return None, found


def host_runner() -> Runner:
    """The runner that starts processes on this machine."""
    return _WITHOUT_ENGINE[ON_HOST]()


def runner_of(name: str) -> Runner | None:
    """The runner that a record names; None if its engine does not answer, or this version has no such runner."""
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
