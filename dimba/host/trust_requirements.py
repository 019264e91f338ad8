"""What of a spec could harm whoever launches it for a stranger: found by looking at it, executing nothing."""

import os
import stat
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from dimba.common.contract import absolute
from dimba.common.errors import BadInput
from dimba.common.runners import AUTO, RUNNERS
from dimba.host.build_context import in_context
from dimba.host.facts import Harm
from dimba.host.trainer import find_trainer
from dimba.objectives.rewards import parse_reward
from dimba.spec import JobSpec

USUAL_VARIABLES = ("HF_", "WANDB_", "TENSORBOARD_", "NCCL_", "OMP_")
IMAGES = ("container.image", "container.base_image")  # of an engine here
# Flags by which what a checkpoint brings along is executed.
CODE_FLAGS = {
    "trust-remote-code": "code that lies beside the weights is executed",
    "allow-pickle": "pickled weights can execute code when they are read",
}
_SOCKETS = Path("/run")  # where engines listen
_DISKS = Path("/run/media")


def find_harms(
    spec: JobSpec, folder: Path, project: Path, environment: Collection[str] | None = None
) -> tuple[Harm, ...]:
    """Everything of that kind; relative paths begin in `folder`, and what lies in `project` is dimba's own.

    `environment` are the names of the variables that are somebody's own: those of this process, unless given.
    """
    environment = os.environ if environment is None else environment
    found = [*_programs(spec, folder, project), *_container(spec, folder, environment), *_cluster(spec)]
    if found and (where := _uncontained(spec)):
        found.append(Harm("runner", f"`{spec.runner}`: all of that runs on {where}, in no container"))
    return tuple(found)


def _uncontained(spec: JobSpec) -> str:
    """The machines that a spec asks to run on without a container; empty where it asks for no such thing."""
    if spec.runner == AUTO or (can := RUNNERS[spec.runner]).runs_in_image:
        return ""
    if not can.several_nodes:
        return "this machine itself"
    return "the cluster's machines" if spec.slurm.container in (None, "none") else ""


def beyond(harms: Sequence[Harm], overrides: Sequence[str]) -> tuple[Harm, ...]:
    """Those that the command line (`key=value`) did not ask for itself."""
    said = [override.partition("=")[0] for override in overrides]
    return tuple(each for each in harms if not any(f"{each.key}.".startswith(f"{key}.") for key in said))


def _programs(spec: JobSpec, folder: Path, project: Path) -> Iterator[Harm]:
    trainer = find_trainer(spec.trainer, spec.mode, folder, project).path
    if trainer and in_context(trainer, project) is None:
        yield Harm("trainer", f"{trainer} is executed, and no part of dimba")
    for file in _reward_files(spec):
        path = absolute(file, folder)
        if os.path.exists(path) and in_context(path, project) is None:
            yield Harm("trainer_args.reward", f"{path} is executed, and no part of dimba")
    for name, value in spec.trainer_args.items():
        what = CODE_FLAGS.get(name.replace("_", "-"))
        if what and value is not False:
            yield Harm(f"trainer_args.{name}", what)


def _reward_files(spec: JobSpec) -> Iterator[str]:
    value = spec.trainer_args.get("reward", [])
    for each in value if isinstance(value, list) else [value]:
        try:
            file = parse_reward(str(each)).file
        except BadInput:
            continue  # told by the plan
        if file:
            yield file


def _container(spec: JobSpec, folder: Path, environment: Collection[str]) -> Iterator[Harm]:
    container = spec.container
    for key, image in zip(IMAGES, (container.image, container.base_image), strict=True):
        if image:
            yield Harm(key, f"the job runs in what is in `{image}`")
    for item in container.env:
        name, equals, _value = item.partition("=")
        if equals:
            yield Harm("container.env", f"sets {name} to a value of its own")
        elif name in environment and not name.startswith(USUAL_VARIABLES):
            yield Harm("container.env", f"gives {name} of your environment to the job")
    if container.network == "host":
        yield Harm("container.network", "`host`: the job reaches what listens on this machine alone")
    for mount in container.mounts:
        yield _mount(mount, folder)


def _cluster(spec: JobSpec) -> Iterator[Harm]:
    if spec.runner == AUTO or not RUNNERS[spec.runner].several_nodes:
        return
    if spec.slurm.image:
        yield Harm("slurm.image", f"the job runs in what is in `{spec.slurm.image}`")
    if spec.slurm.extra:
        yield Harm("slurm.extra", f"tells the scheduler {' '.join(spec.slurm.extra)}")


def _mount(text: str, folder: Path) -> Harm:
    source = absolute(text.split(":", maxsplit=1)[0], folder)
    if _leads_to_an_engine(source):
        what = "hands over the sockets of this machine's engine: whoever has one is root here"
        return Harm("container.mounts", f"`{text}` {what}", grave=True)
    if _is_socket(source):
        what = "hands over a socket: whatever listens there obeys the job"
        return Harm("container.mounts", f"`{text}` {what}", grave=True)
    return Harm("container.mounts", f"`{text}` shows the job more of this machine than base, data and output")


def _leads_to_an_engine(source: Path) -> bool:
    real = source.resolve()
    return (real.is_relative_to(_SOCKETS) and not real.is_relative_to(_DISKS)) or _SOCKETS.is_relative_to(real)


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False
