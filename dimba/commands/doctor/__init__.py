"""`dimba doctor`: one check per requirement of a job, each with its fix."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from dimba.commands.doctor.base import check_usual_base
from dimba.commands.doctor.check import Check, value_or_check
from dimba.commands.doctor.clock import check_clock
from dimba.commands.doctor.engine import RESTART, check_base, check_engine, check_kind, check_process
from dimba.commands.doctor.gpus import ContainerGpus, check_container_gpus, check_driver, check_gpus, probe_container
from dimba.commands.doctor.machine import Machine, find_engine, has_base
from dimba.commands.doctor.mounts import check_mounts
from dimba.commands.doctor.network import NAME as HUB
from dimba.commands.doctor.network import SECONDS, check_hub, unreachable
from dimba.commands.doctor.storage import check_cache, check_image_disk, check_output_disk, check_shm
from dimba.host.facts import EngineFacts
from dimba.host.gpus import find_gpus

__all__ = ["Check", "examine"]

_SECONDS = 12
_CONTAINER_SECONDS = 40
_REBOOT = "`sudo reboot`; before it, `sudo dmesg | grep -i nvrm` shows the driver's messages"
Examine = Callable[[Machine], list[Check]]


def examine(folder: Path) -> Iterator[Check]:
    """Run every check in turn, each with a time limit; no check raises."""
    machine = Machine(folder=folder, engine=EngineFacts(reachable=False, problem="no answer"))
    found = value_or_check("engine", _SECONDS, lambda: find_engine(folder), timeout_fix=RESTART)
    if isinstance(found, Check):
        yield replace(found, status="error", fix=found.fix or RESTART)
    else:
        machine = found
        yield from _run("engine", check_engine, machine)
    gpus = value_or_check("GPUs", _SECONDS, lambda: find_gpus(machine.engine.cdi_devices), timeout_fix=_REBOOT)
    if isinstance(gpus, Check):
        yield gpus
    else:
        machine = replace(machine, gpu=gpus)
        yield from _run("GPUs", check_gpus, machine)
    yield from _container_checks(machine)
    yield from _host_checks(machine)


def _container_checks(machine: Machine) -> Iterator[Check]:
    yield from _run("engine's kind", check_kind, machine)
    here = value_or_check("base image", _SECONDS, lambda: has_base(machine))
    if isinstance(here, Check):
        yield here
    else:
        machine = replace(machine, base_is_here=here)
        yield from _run("base image", check_base if machine.docker else check_process, machine)
    yield from _gpu_checks(machine)
    yield from _run("files from a container", check_mounts, machine, _CONTAINER_SECONDS)


def _gpu_checks(machine: Machine) -> Iterator[Check]:
    name = "GPUs in a container"
    found: ContainerGpus | Check | None = None
    if machine.docker and machine.base_is_here and machine.gpu.gpus:
        found = value_or_check(name, _CONTAINER_SECONDS, lambda: probe_container(machine), timeout_fix=RESTART)
    yield from _run(name, lambda machine: check_container_gpus(machine, found), machine)
    yield from _run("driver and CUDA", lambda machine: check_driver(machine, found), machine)


def _host_checks(machine: Machine) -> Iterator[Check]:
    yield from _run("shared memory", check_shm, machine)
    yield from _run("disk, images", check_image_disk, machine)
    yield from _run("disk, cache", check_cache, machine)
    yield from _run("disk, checkpoints", check_output_disk, machine)
    yield from _run("base checkpoint", check_usual_base, machine)
    yield from _run("clock", check_clock, machine)
    answer = _run(HUB, check_hub, machine, SECONDS)
    yield from [unreachable(each.detail) if each.detail.startswith("no answer") else each for each in answer]


def _run(name: str, examine: Examine, machine: Machine, seconds: float = _SECONDS) -> list[Check]:
    found = value_or_check(name, seconds, lambda: examine(machine))
    return [found] if isinstance(found, Check) else found
