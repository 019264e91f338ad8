"""The runners by name, and what each can do: the one list, which the spec, the plan and the command line read."""

from typing import NamedTuple

AUTO = "auto"


class Capabilities(NamedTuple):
    """What a runner does with a job; callers ask for one of these, never for a name."""

    summary: str  # where the job runs, for menus
    uses_engine: bool = False  # jobs are containers of this machine's engine, named by the container's id
    runs_in_image: bool = False  # always; a scheduler's job runs in one where the spec names it
    leases_gpus: bool = False  # the job gets cards of this machine, which dimba leases; else a scheduler gives them
    isolates_network: bool = False  # a job can be kept from the network
    several_nodes: bool = False  # a cluster's scheduler places the job, on as many machines as it asks for


RUNNERS = {
    "docker": Capabilities(
        "always a container", uses_engine=True, runs_in_image=True, leases_gpus=True, isolates_network=True
    ),
    "process": Capabilities("on this machine itself, without a container", leases_gpus=True),
    "slurm": Capabilities("handed to the scheduler of a cluster", several_nodes=True),
}
# `dimba plan` renders a job for these, and nothing is started there.
RENDERED = {
    "kubernetes": Capabilities("the pods of a cluster", runs_in_image=True, several_nodes=True),
}
IN_ENGINE, ON_HOST = "docker", "process"  # what `auto` means: where an engine answers, and where none does


def resolve_runner(wanted: str, *, engine_answers: bool) -> str:
    """The runner that a spec's `runner` means."""
    if wanted != AUTO:
        return wanted
    return IN_ENGINE if engine_answers else ON_HOST


def capabilities_of(runner: str) -> Capabilities:
    """What the runner of this name can do, whether jobs are started on it or only rendered for it."""
    return RUNNERS.get(runner) or RENDERED[runner]
