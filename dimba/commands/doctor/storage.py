"""Checks of free space: shared memory, and disk for images, the cache and checkpoints."""

import os
import shutil
from pathlib import Path

from dimba.commands.doctor.check import Check
from dimba.commands.doctor.machine import Machine
from dimba.common.units import size
from dimba.host.output import may_write, nearest_existing

_GIB = 1 << 30
_IMAGE_GIB = 15  # unpacked CUDA wheels, and the layers during a build
_SHM = Path("/dev/shm")  # noqa: S108  # data loaders and NCCL use it


def check_shm(machine: Machine, shm: Path = _SHM) -> list[Check]:
    """The machine's shared memory, for jobs that run as processes; a container has its own."""
    name, own = "shared memory", "containers get their own: `resources.shm_size`, or 1 GiB and 1 more per process"
    fix = f"for jobs without a container: `sudo mount -o remount,size=8G {shm}`"
    try:
        status = os.statvfs(shm)
    except OSError:
        missing = f"{shm} does not exist; {own}"
        return [Check(name=name, status="warning", detail=missing, fix=f"`sudo mount -t tmpfs tmpfs {shm}`")]
    free = status.f_bavail * status.f_frsize
    detail = f"{size(free)} free at {shm}; {own}"
    return [Check(name=name, status="ok" if free >= _GIB else "warning", detail=detail, fix=fix if free < _GIB else "")]


def check_image_disk(machine: Machine) -> list[Check]:
    """Space for images, if the engine keeps its data on a disk of this machine."""
    name, data = "disk, images", Path((machine.details and machine.details.data) or "/var/lib/docker")
    if machine.details and not os.path.exists(data):
        return [Check(name=name, status="ok", detail=f"not checked: {data} is on the engine's own machine")]
    fix = "`dimba prune --images --containers`; `docker system df` lists the rest"
    return [disk(name, nearest_existing(data), _IMAGE_GIB, fix)]


def check_output_disk(machine: Machine) -> list[Check]:
    """Space for checkpoints, and whether a job may write there."""
    place = nearest_existing(machine.output)
    fix = f"`df -h {place}`; name another disk with `--set output_dir=…`"
    return [_unwritable("disk, checkpoints", machine.output, machine) or disk("disk, checkpoints", place, 5, fix)]


def check_cache(machine: Machine) -> list[Check]:
    """Space for models and data of the Hub, and whether a job may write there."""
    place = nearest_existing(machine.cache)
    fix = "`hf cache ls` and `dimba prune --cache`, or another disk: `export HF_HOME=…`"
    return [_unwritable("disk, cache", machine.cache, machine) or disk("disk, cache", place, 5, fix)]


def _unwritable(name: str, wanted: Path, machine: Machine) -> Check | None:
    place, (uid, gid) = nearest_existing(wanted), machine.user
    if may_write(place, uid, gid):
        return None
    detail = f"user {uid}, which jobs run as here, may not write in {place}"
    return Check(name=name, status="error", detail=detail, fix=f"`sudo install -d -o {uid} -g {gid} {wanted}`")


def disk(name: str, path: Path, wanted_gib: int, fix: str) -> Check:
    """The check of free space at `path`: below `wanted_gib` a warning, below 1 GiB an error."""
    free = shutil.disk_usage(path).free
    detail = f"{size(free)} free at {path}"
    if free >= wanted_gib * _GIB:
        return Check(name=name, status="ok", detail=detail)
    status = "error" if free < _GIB else "warning"
    return Check(name=name, status=status, detail=f"{detail}; jobs soon use {wanted_gib} GiB", fix=fix)
