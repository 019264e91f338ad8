"""The engine: whether one answers, whose it is, and whether it has the base image."""

import os
import re

from dimba.commands.doctor.check import Check
from dimba.commands.doctor.scene import Scene
from dimba.common.contract import ENV_BASE_IMAGE
from dimba.runners.registry import host_runner

RESTART = "`sudo systemctl restart docker`"
_PODMAN_WITH_GPUS = (5, 4)
_CDI = "`sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml`"


def check_engine(scene: Scene) -> list[Check]:
    """Whether one answers on this machine, and which."""
    from dimba.runners.docker.engine import context_address, context_name

    engine = scene.engine
    if not engine.reachable:
        return [Check(name="engine", status="error", detail=f"{engine.problem} ({_source()})", fix=_mended(scene))]
    if not engine.local:
        fix = "`docker context use default` and `unset DOCKER_HOST`: another machine's engine mounts its own folders"
        detail = f"{engine.address} is another machine ({_source()})"
        return [Check(name="engine", status="error", detail=detail, fix=fix)]
    kind = f"Podman {scene.details.podman}" if scene.details and scene.details.podman else f"Docker {engine.version}"
    detail = f"{kind} at {engine.address} ({_source()}){', rootless' if engine.rootless else ''}"
    if not os.environ.get("DOCKER_HOST") and context_address(context_name()) is None:
        detail += f"; there is no context `{context_name()}`, so the default is used"
        return [Check(name="engine", status="warning", detail=detail, fix="`docker context use default`")]
    return [Check(name="engine", status="ok", detail=detail)]


def _source() -> str:
    from dimba.runners.docker.engine import context_name

    return "DOCKER_HOST" if os.environ.get("DOCKER_HOST") else f"context {context_name()}"


def _mended(scene: Scene) -> str:
    if "may not be opened" in scene.engine.problem:
        return "`sudo usermod -aG docker $USER`, then log in again"
    unset = "; `unset DOCKER_HOST` for the default one" if os.environ.get("DOCKER_HOST") else ""
    rootless = "`systemctl --user start docker` where it is rootless; " if "/user/" in scene.engine.address else ""
    return f"{rootless}`sudo systemctl start docker`{unset}; without one, jobs run as processes of this machine"


def check_kind(scene: Scene) -> list[Check]:
    """What is different with Podman and without root; nothing where neither is so."""
    checks = []
    if scene.details and scene.details.podman:
        checks.append(_podman(scene.details.podman, has_gpus=bool(scene.gpu.gpus), by_cdi=bool(scene.gpu_devices)))
    if scene.engine.rootless:
        checks.append(_rootless(has_gpus=bool(scene.gpu.gpus), by_cdi=bool(scene.gpu_devices)))
    return checks


def _podman(version: str, *, has_gpus: bool, by_cdi: bool) -> Check:
    numbers = tuple(int(each) for each in re.findall(r"\d+", version)[:2])
    if numbers < _PODMAN_WITH_GPUS:
        fix = (
            "`sudo dnf upgrade podman`, or Docker where the distribution has no newer one: `docker context use default`"
        )
        detail = f"{version} ignores that GPUs are asked for, which works from 5.4 on"
        return Check(name="Podman", status="warning", detail=detail, fix=fix)
    if has_gpus and not by_cdi:
        return Check(name="Podman", status="warning", detail="it passes GPUs by CDI only, which knows none", fix=_CDI)
    return Check(name="Podman", status="ok", detail=f"{version} passes GPUs by CDI")


def _rootless(*, has_gpus: bool, by_cdi: bool) -> Check:
    detail = "what root writes in a container belongs to you, so jobs run as root there"
    if has_gpus and not by_cdi:
        fix = "`sudo nvidia-ctk config --set nvidia-container-cli.no-cgroups=true --in-place`, or CDI: " + _CDI
        detail = "the nvidia driver of a rootless engine may set no cgroups"
        return Check(name="rootless", status="warning", detail=detail, fix=fix)
    return Check(name="rootless", status="ok", detail=detail)


def check_base(scene: Scene) -> list[Check]:
    """Whether the base image is there."""
    base = scene.base
    if scene.base_is_here:
        return [Check(name="base image", status="ok", detail=f"{base} is here")]
    if not base:
        fix = "clone it and `pip install -e` it, or set `container.image` in the spec"
        return [Check(name="base image", status="warning", detail="dimba's repository is not here", fix=fix)]
    fix = f"`docker pull {base}`; another: `export {ENV_BASE_IMAGE}=…`; no registry reachable: `docker/make-base-image`"
    detail = f"{base} is not here; the first launch fetches it"
    return [Check(name="base image", status="warning", detail=detail, fix=fix)]


def check_without(scene: Scene) -> list[Check]:
    """Without an engine: whether jobs can run as processes instead."""
    name = "jobs as processes"
    if host_runner().can_train():
        return [Check(name=name, status="ok", detail="what trains is installed here")]
    fix = "`.venv/bin/pip install -r docker/requirements.txt -c docker/constraints.txt`"
    return [Check(name=name, status="warning", detail="what trains is not installed here", fix=fix)]
