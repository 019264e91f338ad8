"""Checks of the GPUs: on this machine, in a container, and their driver's version against the image's CUDA."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from dimba.commands.doctor.check import Check
from dimba.commands.doctor.machine import Machine
from dimba.common.contract import ENV_GPU_PATH
from dimba.common.project import project_root
from dimba.runners.protocol import OneShot

# The first driver for each major version of CUDA; it runs every minor version. CUDA Toolkit Release Notes, table 2.
_FIRST_DRIVER = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}
_INSTALL = "`sudo ubuntu-drivers install` (Ubuntu) or `sudo apt-get install nvidia-driver` (Debian), then `sudo reboot`"
_RELOAD = "`sudo modprobe nvidia`; after a driver update `sudo reboot`"
_TOOLKIT = "`sudo apt-get install nvidia-container-toolkit`, then `sudo systemctl restart docker`"
_CDI = "`sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml` renews the list of CDI devices"
_QUERY = "nvidia-smi -L; s=$?; nvidia-smi --query-gpu=driver_version --format=csv,noheader; nvidia-smi; exit $s"
_SECONDS = 30

Version = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ContainerGpus:
    """The GPUs that `nvidia-smi` reports in a container."""

    count: int = 0
    driver: str = ""
    cuda: Version = ()  # the newest that the driver runs; empty if unknown


def check_gpus(machine: Machine) -> list[Check]:
    """Whether the host or CDI lists GPUs."""
    found = machine.gpu
    if found.gpus:
        names = ", ".join(f"{gpu.index}: {gpu.name or 'unnamed'}" for gpu in found.gpus)
        return [Check(name="GPUs", status="ok", detail=f"{names} (by {found.source})")]
    if found.source == "nvidia-smi" and found.problem and "No devices" not in found.problem:
        return [Check(name="GPUs", status="error", detail=found.problem, fix=_RELOAD)]
    fix = f"if this machine has a GPU: {_INSTALL}; otherwise jobs run on the CPU"
    return [Check(name="GPUs", status="warning", detail=found.problem or "none", fix=fix)]


def probe_container(machine: Machine) -> ContainerGpus:
    """Run `nvidia-smi` in a container with every GPU, as the engine's own list proves nothing. Raises DimbaError."""
    assert machine.docker is not None
    uid, gid = machine.user
    place = OneShot(
        uid=uid,
        gid=gid,
        image=machine.base,
        gpus=machine.gpu.gpus,
        gpu_devices=machine.gpu_devices,
        environment={"NVIDIA_VISIBLE_DEVICES": "void"} if machine.gpu_devices else {},
        timeout=_SECONDS,
    )
    return parse_nvidia_smi(machine.docker.run_once(["sh", "-c", _QUERY], place).text)


def parse_nvidia_smi(text: str) -> ContainerGpus:
    """The GPUs in the output of `_QUERY`, which calls `nvidia-smi` in three ways."""
    driver = re.search(r"^\d{3}\.\d+(?:\.\d+)?$", text, re.MULTILINE)
    cuda = re.search(r"CUDA (?:UMD )?Version\s*:\s*(\d+\.\d+)", text)
    count = sum(line.startswith("GPU ") for line in text.splitlines())
    return ContainerGpus(count=count, driver=driver[0] if driver else "", cuda=_version(cuda[1]) if cuda else ())


def check_container_gpus(machine: Machine, found: ContainerGpus | Check | None) -> list[Check]:
    """Whether the container has all GPUs; `found` is None if no container was run."""
    name = "GPUs in a container"
    if not machine.gpu.gpus:
        return [Check(name=name, status="ok", detail="this machine has none to pass")]
    if found is None:
        return [machine.skipped_check(name)]
    if isinstance(found, Check):
        return [replace(found, fix=_fix(found))]
    how = "CDI" if machine.gpu_devices else "the nvidia driver"
    wanted = len(machine.gpu.gpus)
    if found.count >= wanted:
        return [Check(name=name, status="ok", detail=f"{found.count} seen by nvidia-smi, passed by {how}")]
    fix = f"{_CDI}; `export {ENV_GPU_PATH}=nvidia` avoids CDI" if machine.gpu_devices else _TOOLKIT
    return [Check(name=name, status="error", detail=f"{found.count} of {wanted} seen, passed by {how}", fix=fix)]


def _fix(failed: Check) -> str:
    fixes = {
        "no GPU support": _TOOLKIT,
        "does not start": _RELOAD,
        "too old": f"update the driver: {_INSTALL}",
        "no such CDI device": _CDI,
    }
    return next((fix for cause, fix in fixes.items() if cause in failed.detail), failed.fix or _TOOLKIT)


def check_driver(machine: Machine, found: ContainerGpus | Check | None) -> list[Check]:
    """Whether the driver runs the CUDA of the base image and of the wheels in the image."""
    inside = found if isinstance(found, ContainerGpus) else ContainerGpus()
    driver = next((gpu.driver for gpu in machine.gpu.gpus if gpu.driver), None) or inside.driver
    needed = max(base_cuda(machine.base, _base_environment(machine)), wheels_cuda(project_root()))
    return [compare_driver(driver, inside.cuda, needed, has_gpus=bool(machine.gpu.gpus))]


def compare_driver(driver: str, runs: Version, needed: Version, *, has_gpus: bool) -> Check:
    """The check of a driver; `runs` is the newest CUDA that it reports, `needed` the image's; empty is unknown."""
    name, cuda = "driver and CUDA", _written(needed) or "?"
    if not has_gpus:
        return Check(name=name, status="ok", detail=f"no GPU to drive; the image has CUDA {cuda}")
    first = _FIRST_DRIVER.get(needed[0]) if needed else None
    if not driver or not first:
        detail = f"driver {driver or 'of unknown version'} and CUDA {cuda} in the image cannot be compared"
        return Check(
            name=name, status="warning", detail=detail, fix="see `nvidia-smi` for the CUDA that the driver runs"
        )
    if _version(driver) < _version(first) or (runs and runs[0] < needed[0]):
        detail = f"driver {driver} is too old for CUDA {cuda} of the image, which needs {first} or later"
        return Check(name=name, status="error", detail=detail, fix=f"update the driver: {_INSTALL}")
    return Check(name=name, status="ok", detail=f"driver {driver} runs CUDA {cuda} of the image (from {first} on)")


def _base_environment(machine: Machine) -> dict[str, str]:
    from dimba.runners.docker.details import image_environment

    return image_environment(machine.docker.api, machine.base) if machine.docker else {}


def base_cuda(base: str, environment: Mapping[str, str]) -> Version:
    """The CUDA version of a base image, by its variables, else by its tag; empty if it has none."""
    variable = environment.get("CUDA_VERSION", "")
    requires = re.search(r"cuda>=(\d+\.\d+)", environment.get("NVIDIA_REQUIRE_CUDA", ""))
    tag = re.search(r"cuda\D{0,2}(\d+\.\d+)", base)
    return _version(variable) or (_version(requires[1]) if requires else ()) or (_version(tag[1]) if tag else ())


def wheels_cuda(project: Path) -> Version:
    """The CUDA version of torch's wheels; empty if the pins cannot be read."""
    try:
        pins = (project / "docker" / "constraints.txt").read_text(encoding="utf-8")
    except OSError:
        return ()
    match = re.search(r"^nvidia-cuda-runtime\S*==(\d+\.\d+)", pins, re.MULTILINE)
    return _version(match[1]) if match else ()


def _version(text: str) -> Version:
    return tuple(int(each) for each in re.findall(r"\d+", text))


def _written(version: Version) -> str:
    return ".".join(map(str, version[:2]))
