"""The parts of a spec that require trust in its author, found without executing any of them."""

import os
import stat
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from dimba.common.contract import absolute
from dimba.common.errors import BadInput
from dimba.common.runners import AUTO, RUNNERS
from dimba.host.build_context import in_context
from dimba.host.facts import TrustRequirement
from dimba.host.trainer import find_trainer
from dimba.objectives.rewards import parse_reward
from dimba.spec import JobSpec

USUAL_VARIABLES = ("HF_", "WANDB_", "TENSORBOARD_", "NCCL_", "OMP_")
IMAGES = ("container.image", "container.base_image")  # keys whose images run in an engine on this machine
# Flags that execute code of a checkpoint.
CODE_FLAGS = {
    "trust-remote-code": "the job executes code that the checkpoint contains",
    "allow-pickle": "pickled weights can execute code when they are read",
}
_RUNNER = "runner"
_SOCKETS = Path("/run")  # engines listen there
_DISKS = Path("/run/media")


def find_trust_requirements(
    spec: JobSpec, folder: Path, project: Path, environment: Collection[str] | None = None
) -> tuple[TrustRequirement, ...]:
    """Every part of `spec` that requires trust; relative paths start in `folder`, files in `project` are dimba's.

    `environment`: the names of the user's own variables, by default those of this process.
    """
    environment = os.environ if environment is None else environment
    found = [*_programs(spec, folder, project), *_container(spec, folder, environment), *_cluster(spec), *_store(spec)]
    if found and (machines := _uncontained(spec)):
        found.append(TrustRequirement(_RUNNER, f"`{spec.runner}` runs all of this on {machines} without a container"))
    return tuple(found)


def _uncontained(spec: JobSpec) -> str:
    """The machines on which the spec requests a run without a container; empty if it requests none."""
    if spec.runner == AUTO or (can := RUNNERS[spec.runner]).runs_in_image:
        return ""
    if not can.several_nodes:
        return "this machine"
    return "the cluster's machines" if spec.slurm.container in (None, "none") else ""


def not_overridden(requirements: Sequence[TrustRequirement], overrides: Sequence[str]) -> tuple[TrustRequirement, ...]:
    """Those whose key no override (`key=value`) of the command line sets."""
    keys = [override.partition("=")[0] for override in overrides]
    left = tuple(each for each in requirements if not any(f"{each.key}.".startswith(f"{key}.") for key in keys))
    return left if any(each.key != _RUNNER for each in left) else ()  # which only says where the others are carried out


def _programs(spec: JobSpec, folder: Path, project: Path) -> Iterator[TrustRequirement]:
    trainer = find_trainer(spec.trainer, spec.mode, folder, project).path
    if trainer and in_context(trainer, project) is None:
        yield TrustRequirement("trainer", f"the job executes {trainer}, which is not part of dimba")
    for file in _reward_files(spec):
        path = absolute(file, folder)
        if os.path.exists(path) and in_context(path, project) is None:
            yield TrustRequirement("trainer_args.reward", f"the job executes {path}, which is not part of dimba")
    for name, value in spec.trainer_args.items():
        what = CODE_FLAGS.get(name.replace("_", "-"))
        if what and value is not False:
            yield TrustRequirement(f"trainer_args.{name}", what)


def _reward_files(spec: JobSpec) -> Iterator[str]:
    value = spec.trainer_args.get("reward", [])
    for each in value if isinstance(value, list) else [value]:
        try:
            file = parse_reward(str(each)).file
        except BadInput:
            continue  # the plan reports it
        if file:
            yield file


def _container(spec: JobSpec, folder: Path, environment: Collection[str]) -> Iterator[TrustRequirement]:
    container = spec.container
    for key, image in zip(IMAGES, (container.image, container.base_image), strict=True):
        if image:
            yield TrustRequirement(key, f"the job runs in the image `{image}`")
    for item in container.env:
        name, equals, _value = item.partition("=")
        if equals:
            yield TrustRequirement("container.env", f"the spec sets {name} for the job")
        elif name in environment and not name.startswith(USUAL_VARIABLES):
            yield TrustRequirement("container.env", f"the job receives {name} from your environment")
    if container.network == "host":
        yield TrustRequirement(
            "container.network", "`host` lets the job reach services that listen only on this machine"
        )
    for mount in container.mounts:
        yield _mount(mount, folder)


def _cluster(spec: JobSpec) -> Iterator[TrustRequirement]:
    if spec.runner == AUTO or not RUNNERS[spec.runner].several_nodes:
        return
    if spec.slurm.image:
        yield TrustRequirement("slurm.image", f"the job runs in the image `{spec.slurm.image}`")
    if spec.slurm.extra:
        yield TrustRequirement("slurm.extra", f"the scheduler receives the options {' '.join(spec.slurm.extra)}")


def _store(spec: JobSpec) -> Iterator[TrustRequirement]:
    if spec.output_store:
        yield TrustRequirement("output_store", f"the job sends its checkpoints and the model to {spec.output_store}")


def _mount(text: str, folder: Path) -> TrustRequirement:
    source = absolute(text.split(":", maxsplit=1)[0], folder)
    if _leads_to_an_engine(source):
        what = "gives the job the sockets of this machine's engine, and with them root's rights"
        return TrustRequirement("container.mounts", f"`{text}` {what}", grave=True)
    if _is_socket(source):
        what = "gives the job control over the service that listens on this socket"
        return TrustRequirement("container.mounts", f"`{text}` {what}", grave=True)
    return TrustRequirement("container.mounts", f"`{text}` exposes more of this machine than base, data and output")


def _leads_to_an_engine(source: Path) -> bool:
    real = source.resolve()
    return (real.is_relative_to(_SOCKETS) and not real.is_relative_to(_DISKS)) or _SOCKETS.is_relative_to(real)


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False
