"""`dimba doctor`: what a job needs of this machine, a line each, with the fix."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from dimba.commands.doctor.check import Check, tried
from dimba.commands.doctor.clock import check_clock
from dimba.commands.doctor.engine import RESTART, check_base, check_engine, check_kind, check_without
from dimba.commands.doctor.gpus import Seen, check_driver, check_gpus, check_inside, look_inside
from dimba.commands.doctor.mounts import check_mounts
from dimba.commands.doctor.network import NAME as HUB
from dimba.commands.doctor.network import SECONDS, check_hub, silent
from dimba.commands.doctor.room import check_cache, check_image_disk, check_output_disk, check_shm
from dimba.commands.doctor.scene import Scene, find_engine, has_base
from dimba.host.facts import EngineFacts
from dimba.host.gpus import find_gpus

__all__ = ["Check", "examine"]

_SECONDS = 12
_CONTAINER_SECONDS = 40
_REBOOT = "`sudo dmesg | grep -i nvrm` says what the driver does; `sudo reboot`"
Look = Callable[[Scene], list[Check]]


def examine(folder: Path) -> Iterator[Check]:
    """Every check in turn, each for seconds at most; none of them raises."""
    scene = Scene(folder=folder, engine=EngineFacts(reachable=False, problem="no answer"))
    found = tried("engine", _SECONDS, lambda: find_engine(folder), late=RESTART)
    if isinstance(found, Check):
        yield replace(found, status="error", fix=found.fix or RESTART)
    else:
        scene = found
        yield from _looked("engine", check_engine, scene)
    gpus = tried("GPUs", _SECONDS, lambda: find_gpus(scene.engine.cdi_devices), late=_REBOOT)
    if isinstance(gpus, Check):
        yield gpus
    else:
        scene = replace(scene, gpu=gpus)
        yield from _looked("GPUs", check_gpus, scene)
    yield from _in_containers(scene)
    yield from _of_the_host(scene)


def _in_containers(scene: Scene) -> Iterator[Check]:
    yield from _looked("engine's kind", check_kind, scene)
    here = tried("base image", _SECONDS, lambda: has_base(scene))
    if isinstance(here, Check):
        yield here
    else:
        scene = replace(scene, base_is_here=here)
        yield from _looked("base image", check_base if scene.docker else check_without, scene)
    seen: Seen | Check | None = None
    if scene.docker and scene.base_is_here and scene.gpu.gpus:
        seen = tried("GPUs in a container", _CONTAINER_SECONDS, lambda: look_inside(scene), late=RESTART)
    yield from _looked("GPUs in a container", lambda scene: check_inside(scene, seen), scene)
    yield from _looked("driver and CUDA", lambda scene: check_driver(scene, seen), scene)
    yield from _looked("files from a container", check_mounts, scene, _CONTAINER_SECONDS)


def _of_the_host(scene: Scene) -> Iterator[Check]:
    yield from _looked("shared memory", check_shm, scene)
    yield from _looked("disk, images", check_image_disk, scene)
    yield from _looked("disk, cache", check_cache, scene)
    yield from _looked("disk, checkpoints", check_output_disk, scene)
    yield from _looked("clock", check_clock, scene)
    answer = _looked(HUB, check_hub, scene, SECONDS)
    yield from [silent(each.detail) if each.detail.startswith("no answer") else each for each in answer]


def _looked(name: str, look: Look, scene: Scene, seconds: float = _SECONDS) -> list[Check]:
    found = tried(name, seconds, lambda: look(scene))
    return [found] if isinstance(found, Check) else found
