"""The machine that the checks examine, filled in by each check for the next."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dimba.commands.doctor.check import Check
from dimba.common.contract import ENV_GPU_PATH, absolute
from dimba.common.errors import DimbaError
from dimba.common.project import project_root
from dimba.host.facts import EngineFacts, GpuFacts
from dimba.host.gpus import cdi_device
from dimba.host.output import home_of, job_user, nearest_existing
from dimba.host.probe import hub_cache
from dimba.runners import registry

if TYPE_CHECKING:
    from dimba.runners.docker.details import EngineDetails
    from dimba.runners.docker.runner import DockerRunner


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The engine, the GPUs, and the folders and the user of a job launched in `folder`."""

    folder: Path
    engine: EngineFacts
    docker: "DockerRunner | None" = None
    details: "EngineDetails | None" = None
    gpu: GpuFacts = field(default_factory=GpuFacts)
    base: str = ""  # the base image; empty if the repository is missing
    base_is_here: bool = False

    @property
    def output(self) -> Path:
        """The default folder of checkpoints."""
        return absolute("checkpoints", self.folder)

    @property
    def user(self) -> tuple[int, int]:
        """uid and gid of a job."""
        return job_user(nearest_existing(self.output))

    @property
    def cache(self) -> Path:
        """The Hugging Face cache of a job."""
        uid, _gid = self.user
        return hub_cache(uid, home_of(uid), self.folder)

    def skipped_check(self, name: str) -> Check:
        """The result of a check that needs a container if none can run."""
        if self.docker:
            fix = f"`docker pull {self.base}`" if self.base else "the fix of the check `base image`"
            return Check(name=name, status="warning", detail="skipped: the base image is not here", fix=fix)
        fix = "`sudo systemctl start docker`, or the fix of the check `engine`"
        return Check(name=name, status="warning", detail="skipped: no engine of this machine answers", fix=fix)

    @property
    def gpu_devices(self) -> tuple[str, ...]:
        """The CDI devices of all GPUs; empty if the engine's nvidia driver passes them instead."""
        devices = [cdi_device(gpu, self.engine.cdi_devices) for gpu in self.gpu.gpus]
        found = tuple(device for device in devices if device)
        return () if os.environ.get(ENV_GPU_PATH) == "nvidia" or len(found) < len(devices) else found


def find_engine(folder: Path) -> Machine:
    """The machine with the engine and the name of the base image filled in."""
    from dimba.runners.docker.details import engine_details

    runner, engine = registry.find_engine()
    base = _base()
    if runner is None:
        return Machine(folder=folder, engine=engine, base=base)
    return Machine(folder=folder, engine=engine, docker=runner, details=engine_details(runner.api), base=base)


def has_base(machine: Machine) -> bool:
    """Whether the engine has the base image."""
    from dimba.runners.docker.image import present

    return machine.docker is not None and bool(machine.base) and present(machine.docker.api, machine.base)


def _base() -> str:
    from dimba.runners.docker.image import base_image

    try:
        return base_image(project_root())
    except (DimbaError, OSError):
        return ""
