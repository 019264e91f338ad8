"""What the plan of a job with a store needs. Pure."""

from collections.abc import Iterator
from pathlib import PurePosixPath

from dimba.common.contract import ENV_STORE
from dimba.common.errors import BadInput
from dimba.common.output_store import local_folder
from dimba.host.facts import HostFacts
from dimba.plan.model import Mount
from dimba.plan.mounts import hides_the_image, same_place
from dimba.spec import JobSpec

_KEY = "output_store"


def store_problems(spec: JobSpec, facts: HostFacts) -> Iterator[BadInput]:
    """The reasons why the job cannot send its checkpoints to the store that the spec names."""
    if spec.output_store is None:
        return
    folder = local_folder(spec.output_store)
    if folder is None and spec.container.network == "none" and facts.image:
        hint = "`container.network: auto`, or leave out `output_store`"
        yield BadInput("the store is elsewhere, and `network: none` forbids it", hint, key=_KEY)
    elif folder and (facts.store_problem or hides_the_image(PurePosixPath(folder))):
        problem = facts.store_problem or "would hide files of the image"
        yield BadInput(f"`{folder}` {problem}", "give a folder of its own, such as file:///data/checkpoints", key=_KEY)


def store_mounts(spec: JobSpec) -> tuple[Mount, ...]:
    """The mount of a store that is a folder of this machine."""
    folder = local_folder(spec.output_store) if spec.output_store else None
    return (same_place(folder, read_only=False),) if folder else ()


def store_environment(spec: JobSpec) -> dict[str, str]:
    """The variable that starts the upload beside the ranks."""
    return {ENV_STORE: spec.output_store} if spec.output_store else {}


def store_notes(spec: JobSpec) -> Iterator[str]:
    """Where the checkpoints go, besides the output folder."""
    if spec.output_store:
        yield f"{_KEY}: complete checkpoints and the model go to {spec.output_store} too"
