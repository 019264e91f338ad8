"""The only list of runners and their capabilities; the spec, the plan, the command line and the wizard read it."""

from typing import NamedTuple

AUTO = "auto"


class Capabilities(NamedTuple):
    """What a runner does with a job; callers ask for a capability, never for a name."""

    summary: str  # the place where the job runs, for menus
    uses_engine: bool = False  # jobs are containers of this machine's engine, named by the container's id
    runs_in_image: bool = False  # always; a scheduler's job does if its spec names an image
    leases_gpus: bool = False  # dimba leases this machine's GPUs to the job; otherwise a scheduler allocates them
    isolates_network: bool = False  # a job can run without network access
    takes_arrays: bool = False  # one submission starts several jobs, as tasks that a scheduler orders
    several_nodes: bool = False  # a cluster's scheduler runs the job on as many nodes as it asks for


RUNNERS = {
    "docker": Capabilities(
        "always a container", uses_engine=True, runs_in_image=True, leases_gpus=True, isolates_network=True
    ),
    "process": Capabilities("on this machine itself, without a container", leases_gpus=True),
    "slurm": Capabilities("handed to the scheduler of a cluster", several_nodes=True, takes_arrays=True),
}
# `dimba plan` renders jobs for these; dimba starts nothing on them.
RENDERED = {
    "kubernetes": Capabilities("the pods of a cluster", runs_in_image=True, several_nodes=True),
}
IN_ENGINE, ON_HOST = "docker", "process"  # `auto` with an engine that answers, and without one


def resolve_runner(wanted: str, *, engine_answers: bool) -> str:
    """The runner that a spec's `runner` means."""
    if wanted != AUTO:
        return wanted
    return IN_ENGINE if engine_answers else ON_HOST


def capabilities_of(runner: str) -> Capabilities:
    """The capabilities of a runner, or of a target that jobs are only rendered for."""
    return RUNNERS.get(runner) or RENDERED[runner]
