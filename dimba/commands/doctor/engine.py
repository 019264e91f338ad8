"""Checks of the container engine: whether it answers, its kind, and whether it has the base image."""

import os
import re

from dimba.commands.doctor.check import Check
from dimba.commands.doctor.machine import Machine
from dimba.common.contract import ENV_BASE_IMAGE
from dimba.common.project import project_root
from dimba.host.packages import install_command
from dimba.runners.registry import host_runner

RESTART = "`sudo systemctl restart docker`"
_PODMAN_WITH_GPUS = (5, 4)
_NO_DOCKERFILE = "the image cannot be built: {} has no Dockerfile"
_CDI = "`sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml`"


def check_engine(machine: Machine) -> list[Check]:
    """Whether an engine on this machine answers, and which."""
    from dimba.runners.docker.engine import context_address, context_name

    engine = machine.engine
    if not engine.reachable:
        return [Check(name="engine", status="error", detail=f"{engine.problem} ({_source()})", fix=_fix(machine))]
    if not engine.local:
        fix = "`docker context use default` and `unset DOCKER_HOST`: another machine's engine mounts its own folders"
        detail = f"{engine.address} is another machine ({_source()})"
        return [Check(name="engine", status="error", detail=detail, fix=fix)]
    kind = (
        f"Podman {machine.details.podman}" if machine.details and machine.details.podman else f"Docker {engine.version}"
    )
    detail = f"{kind} at {engine.address} ({_source()}){', rootless' if engine.rootless else ''}"
    if not os.environ.get("DOCKER_HOST") and context_address(context_name()) is None:
        detail += f"; the context `{context_name()}` does not exist, so the default is used"
        return [Check(name="engine", status="warning", detail=detail, fix="`docker context use default`")]
    return [Check(name="engine", status="ok", detail=detail)]


def _source() -> str:
    from dimba.runners.docker.engine import context_name

    return "DOCKER_HOST" if os.environ.get("DOCKER_HOST") else f"context {context_name()}"


def _fix(machine: Machine) -> str:
    if "may not be opened" in machine.engine.problem:
        return "`sudo usermod -aG docker $USER`, then log in again"
    unset = "; `unset DOCKER_HOST` for the default engine" if os.environ.get("DOCKER_HOST") else ""
    rootless = "`systemctl --user start docker` if it is rootless; " if "/user/" in machine.engine.address else ""
    return f"{rootless}`sudo systemctl start docker`{unset}; without an engine, jobs run as processes of this machine"


def check_kind(machine: Machine) -> list[Check]:
    """One check if the engine is Podman, and one if it is rootless."""
    checks = []
    if machine.details and machine.details.podman:
        checks.append(
            _podman(machine.details.podman, has_gpus=bool(machine.gpu.gpus), by_cdi=bool(machine.gpu_devices))
        )
    if machine.engine.rootless:
        checks.append(_rootless(has_gpus=bool(machine.gpu.gpus), by_cdi=bool(machine.gpu_devices)))
    return checks


def _podman(version: str, *, has_gpus: bool, by_cdi: bool) -> Check:
    numbers = tuple(int(each) for each in re.findall(r"\d+", version)[:2])
    if numbers < _PODMAN_WITH_GPUS:
        fix = "`sudo dnf upgrade podman`; without a newer package use Docker: `docker context use default`"
        detail = f"{version} ignores requests for GPUs; 5.4 is the first that honours them"
        return Check(name="Podman", status="warning", detail=detail, fix=fix)
    if has_gpus and not by_cdi:
        return Check(
            name="Podman", status="warning", detail="Podman passes GPUs by CDI only, which lists none", fix=_CDI
        )
    return Check(name="Podman", status="ok", detail=f"{version} passes GPUs by CDI")


def _rootless(*, has_gpus: bool, by_cdi: bool) -> Check:
    detail = "files that root writes in a container belong to you, so jobs run as root there"
    if has_gpus and not by_cdi:
        fix = "`sudo nvidia-ctk config --set nvidia-container-cli.no-cgroups=true --in-place`, or CDI: " + _CDI
        detail = "the nvidia driver of a rootless engine may set no cgroups"
        return Check(name="rootless", status="warning", detail=detail, fix=fix)
    return Check(name="rootless", status="ok", detail=detail)


def check_base(machine: Machine) -> list[Check]:
    """Whether the engine has the base image."""
    base = machine.base
    if machine.base_is_here:
        return [Check(name="base image", status="ok", detail=f"{base} is here")]
    if not base:
        fix = "install dimba again (`pip install .` in its repository), or set `container.image` in the spec"
        return [Check(name="base image", status="warning", detail=_NO_DOCKERFILE.format(project_root()), fix=fix)]
    make = f"without a registry: `sudo {project_root() / 'docker' / 'make-base-image'}`"
    fix = f"`docker pull {base}`; another: `export {ENV_BASE_IMAGE}=…`; {make}"
    detail = f"{base} is not here; the first launch fetches it"
    return [Check(name="base image", status="warning", detail=detail, fix=fix)]


def check_process(machine: Machine) -> list[Check]:
    """Whether jobs can run as processes, for a machine without an engine."""
    name = "jobs as processes"
    if host_runner().can_train():
        return [Check(name=name, status="ok", detail="the training libraries are installed here")]
    fix = f"`{install_command(project_root())}`"
    return [Check(name=name, status="warning", detail="the training libraries are not installed here", fix=fix)]
