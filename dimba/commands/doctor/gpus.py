"""The cards: on this machine, in a container, and whether their driver is new enough for the image."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from dimba.commands.doctor.check import Check
from dimba.commands.doctor.scene import Scene
from dimba.common.contract import ENV_GPU_PATH
from dimba.host.probe import project_root
from dimba.runners.protocol import OneShot

# The first driver for each major version of CUDA; any minor one runs on it. CUDA Toolkit Release Notes, table 2.
_FIRST_DRIVER = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}
_INSTALL = "`sudo ubuntu-drivers install` (Ubuntu) or `sudo apt-get install nvidia-driver` (Debian), then `sudo reboot`"
_RELOAD = "`sudo modprobe nvidia`; after an update of the driver `sudo reboot`"
_TOOLKIT = "`sudo apt-get install nvidia-container-toolkit`, then `sudo systemctl restart docker`"
_CDI = "`sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml` writes what CDI knows anew"
_ASKED = "nvidia-smi -L; s=$?; nvidia-smi --query-gpu=driver_version --format=csv,noheader; nvidia-smi; exit $s"
_SECONDS = 30

Version = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a throw-away container saw."""

    cards: int = 0
    driver: str = ""
    cuda: Version = ()  # the newest that the driver runs; empty where it was not told


def check_gpus(scene: Scene) -> list[Check]:
    """The cards that the host or CDI knows."""
    found = scene.gpu
    if found.gpus:
        names = ", ".join(f"{gpu.index}: {gpu.name or 'unnamed'}" for gpu in found.gpus)
        return [Check(name="GPUs", status="ok", detail=f"{names} (by {found.source})")]
    if found.source == "nvidia-smi" and found.problem and "No devices" not in found.problem:
        return [Check(name="GPUs", status="error", detail=found.problem, fix=_RELOAD)]
    fix = f"without a GPU jobs run on the CPU; with one: {_INSTALL}"
    return [Check(name="GPUs", status="warning", detail=found.problem or "none", fix=fix)]


def look_inside(scene: Scene) -> Seen:
    """A throw-away container with every card: what the engine says that it has proves nothing. Raises DimbaError."""
    assert scene.docker is not None
    uid, gid = scene.user
    place = OneShot(
        uid=uid,
        gid=gid,
        image=scene.base,
        gpus=scene.gpu.gpus,
        gpu_devices=scene.gpu_devices,
        environment={"NVIDIA_VISIBLE_DEVICES": "void"} if scene.gpu_devices else {},
        timeout=_SECONDS,
    )
    return seen(scene.docker.run_once(["sh", "-c", _ASKED], place).text)


def seen(text: str) -> Seen:
    """What `nvidia-smi` printed, asked in three ways."""
    driver = re.search(r"^\d{3}\.\d+(?:\.\d+)?$", text, re.MULTILINE)
    cuda = re.search(r"CUDA (?:UMD )?Version\s*:\s*(\d+\.\d+)", text)
    cards = sum(line.startswith("GPU ") for line in text.splitlines())
    return Seen(cards=cards, driver=driver[0] if driver else "", cuda=_version(cuda[1]) if cuda else ())


def check_inside(scene: Scene, found: Seen | Check | None) -> list[Check]:
    """Whether all of the cards were seen; `found` is None where nothing was tried."""
    name = "GPUs in a container"
    if not scene.gpu.gpus:
        return [Check(name=name, status="ok", detail="none here to pass")]
    if found is None:
        return [scene.not_tried(name)]
    if isinstance(found, Check):
        return [replace(found, fix=_mended(found))]
    how = "CDI" if scene.gpu_devices else "the nvidia driver"
    wanted = len(scene.gpu.gpus)
    if found.cards >= wanted:
        return [Check(name=name, status="ok", detail=f"{found.cards} seen by nvidia-smi, passed by {how}")]
    fix = f"{_CDI}; `export {ENV_GPU_PATH}=nvidia` goes without" if scene.gpu_devices else _TOOLKIT
    return [Check(name=name, status="error", detail=f"{found.cards} of {wanted} seen, passed by {how}", fix=fix)]


def _mended(failed: Check) -> str:
    fixes = {
        "no GPU support": _TOOLKIT,
        "does not start": _RELOAD,
        "too old": f"update the driver: {_INSTALL}",
        "no such CDI device": _CDI,
    }
    return next((fix for said, fix in fixes.items() if said in failed.detail), failed.fix or _TOOLKIT)


def check_driver(scene: Scene, found: Seen | Check | None) -> list[Check]:
    """The driver's version against the CUDA of the base image and of the wheels that go into it."""
    inside = found if isinstance(found, Seen) else Seen()
    driver = next((gpu.driver for gpu in scene.gpu.gpus if gpu.driver), None) or inside.driver
    needed = max(base_cuda(scene.base, _base_environment(scene)), wheels_cuda(project_root()))
    return [judge_driver(driver, inside.cuda, needed, has_gpus=bool(scene.gpu.gpus))]


def judge_driver(driver: str, runs: Version, needed: Version, *, has_gpus: bool) -> Check:
    """`runs` is the newest CUDA that the driver says it runs, `needed` the image's; empty is not known."""
    name, cuda = "driver and CUDA", _written(needed) or "?"
    if not has_gpus:
        return Check(name=name, status="ok", detail=f"no GPU to drive; the image has CUDA {cuda}")
    first = _FIRST_DRIVER.get(needed[0]) if needed else None
    if not driver or not first:
        detail = f"driver {driver or 'of unknown version'}, CUDA {cuda} in the image: not held against each other"
        return Check(name=name, status="warning", detail=detail, fix="`nvidia-smi` says what the driver runs")
    if _version(driver) < _version(first) or (runs and runs[0] < needed[0]):
        detail = f"driver {driver} is too old for CUDA {cuda} of the image, which wants {first} or later"
        return Check(name=name, status="error", detail=detail, fix=f"update the driver: {_INSTALL}")
    return Check(name=name, status="ok", detail=f"driver {driver} runs CUDA {cuda} of the image (from {first} on)")


def _base_environment(scene: Scene) -> dict[str, str]:
    from dimba.runners.docker.details import image_environment

    return image_environment(scene.docker.api, scene.base) if scene.docker else {}


def base_cuda(base: str, environment: Mapping[str, str]) -> Version:
    """The CUDA that a base image says it has: by its variables, else by its tag; empty for one without."""
    said = environment.get("CUDA_VERSION", "")
    requires = re.search(r"cuda>=(\d+\.\d+)", environment.get("NVIDIA_REQUIRE_CUDA", ""))
    tag = re.search(r"cuda\D{0,2}(\d+\.\d+)", base)
    return _version(said) or (_version(requires[1]) if requires else ()) or (_version(tag[1]) if tag else ())


def wheels_cuda(project: Path) -> Version:
    """The CUDA that comes with torch's wheels; empty where the pins cannot be read."""
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
