"""`dimba doctor`: what a job needs of this machine, a line each, with the fix."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dimba.contract import ENV_BASE_IMAGE, ENV_GPU_PATH
from dimba.errors import DimbaError
from dimba.host.facts import EngineFacts, Gpu
from dimba.host.gpus import cdi_device, find_gpus
from dimba.host.output import job_user, nearest_existing
from dimba.host.probe import project_root, runs_folder
from dimba.launch import find_runner
from dimba.runners.protocol import Runner, Throwaway

_GIB = 1 << 30
_IMAGE_GIB = 15  # CUDA wheels unpacked, and the layers while they are built


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line: `status` is ok, warning or error; a warning does not stop a job."""

    name: str
    status: str
    detail: str
    fix: str = ""


def examine(folder: Path) -> Iterator[Check]:
    """Every check in turn; slow ones come as they are done."""
    runner, engine = find_runner("docker")
    yield _engine(engine)
    gpus = find_gpus(engine.cdi_devices)
    if gpus.gpus:
        names = ", ".join(f"{gpu.index}: {gpu.name or 'unnamed'}" for gpu in gpus.gpus)
        yield Check(name="GPUs", status="ok", detail=f"{names} (by {gpus.source})")
    else:
        fix = "without a GPU jobs run on the CPU; with one, install NVIDIA's driver"
        yield Check(name="GPUs", status="warning", detail=gpus.problem, fix=fix)
    if runner.name == "docker":
        from dimba.runners.docker.image import base_image

        base = base_image(project_root())
        present = _present(runner, base)
        yield _base_check(base, present=present)
        if gpus.gpus:
            yield _gpus_inside(runner, engine, gpus.gpus, base if present else None, folder)
    yield _disk("disk, runs and checkpoints", nearest_existing(runs_folder(folder)), 5)
    yield _disk("disk, images", nearest_existing(Path("/var/lib/docker")), _IMAGE_GIB)


def _engine(engine: EngineFacts) -> Check:
    if not engine.reachable:
        fix = "start it (`systemctl start docker`); without one, jobs run as processes of this machine"
        return Check(name="engine", status="error", detail=engine.problem, fix=fix)
    if not engine.local:
        fix = "`docker context use default` and unset DOCKER_HOST: another machine's engine mounts its own folders"
        return Check(name="engine", status="error", detail=f"{engine.address} is another machine", fix=fix)
    rootless = ", rootless" if engine.rootless else ""
    return Check(name="engine", status="ok", detail=f"Docker {engine.version} at {engine.address}{rootless}")


def _present(runner: Runner, base: str) -> bool:
    from dimba.runners.docker.image import present
    from dimba.runners.docker.runner import DockerRunner

    return isinstance(runner, DockerRunner) and present(runner.api, base)


def _base_check(base: str, *, present: bool) -> Check:
    if present:
        return Check(name="base image", status="ok", detail=f"{base} is here")
    fix = f"`docker pull {base}`; another: {ENV_BASE_IMAGE}=…; no registry reachable: docker/make-base-image"
    return Check(
        name="base image", status="warning", detail=f"{base} is not here; the first launch fetches it", fix=fix
    )


def _gpus_inside(runner: Runner, engine: EngineFacts, gpus: tuple[Gpu, ...], image: str | None, folder: Path) -> Check:
    """A throw-away container with every card; what the engine says it has proves nothing."""
    name = "GPUs in a container"
    if image is None:
        return Check(name=name, status="warning", detail="not tried: the base image is not here", fix="see above")
    devices = tuple(device for gpu in gpus if (device := cdi_device(gpu, engine.cdi_devices)))
    uid, gid = job_user(nearest_existing(folder))
    by_cdi = len(devices) == len(gpus) and os.environ.get(ENV_GPU_PATH) != "nvidia"
    place = Throwaway(uid=uid, gid=gid, image=image, gpus=gpus, gpu_devices=devices if by_cdi else (), timeout=60)
    try:
        done = runner.run_once(["nvidia-smi", "-L"], place)
    except DimbaError as error:
        return Check(name=name, status="error", detail=error.message, fix=error.hint)
    seen = [line for line in done.text.splitlines() if line.startswith("GPU ")]
    how = "CDI" if by_cdi else "the nvidia driver"
    if done.exit_code == 0 and len(seen) >= len(gpus):
        return Check(name=name, status="ok", detail=f"{len(seen)} seen by nvidia-smi, passed by {how}")
    fix = "install or update nvidia-container-toolkit, then `systemctl restart docker`"
    return Check(name=name, status="error", detail=f"{len(seen)} of {len(gpus)} seen, passed by {how}", fix=fix)


def _disk(name: str, path: Path, wanted_gib: int) -> Check:
    free = shutil.disk_usage(path).free / _GIB
    detail = f"{free:,.0f} GiB free at {path}"
    if free >= wanted_gib:
        return Check(name=name, status="ok", detail=detail)
    return Check(name=name, status="warning", detail=detail, fix=f"make room: {wanted_gib} GiB are soon used")
