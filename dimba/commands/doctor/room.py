"""Room: shared memory, and disk for images, the cache and checkpoints."""

import os
import shutil
from pathlib import Path

from dimba.commands.doctor.check import Check
from dimba.commands.doctor.scene import Scene
from dimba.common.units import size
from dimba.host.output import may_write, nearest_existing

_GIB = 1 << 30
_IMAGE_GIB = 15  # CUDA wheels unpacked, and the layers while they are built
_SHM = Path("/dev/shm")  # noqa: S108  # what loaders and NCCL use


def check_shm(scene: Scene, shm: Path = _SHM) -> list[Check]:
    """Shared memory of this machine, for jobs that run as processes; a container is given its own."""
    name, own = "shared memory", "containers get their own: `resources.shm_size`, or 1 GiB and 1 more a process"
    fix = f"for jobs without a container: `sudo mount -o remount,size=8G {shm}`"
    try:
        status = os.statvfs(shm)
    except OSError:
        missing = f"{shm} is not there; {own}"
        return [Check(name=name, status="warning", detail=missing, fix=f"`sudo mount -t tmpfs tmpfs {shm}`")]
    free = status.f_bavail * status.f_frsize
    detail = f"{size(free)} free at {shm}; {own}"
    return [Check(name=name, status="ok" if free >= _GIB else "warning", detail=detail, fix=fix if free < _GIB else "")]


def check_image_disk(scene: Scene) -> list[Check]:
    """Where the engine keeps its data, if that is a disk of this machine."""
    name, data = "disk, images", Path((scene.details and scene.details.data) or "/var/lib/docker")
    if scene.details and not os.path.exists(data):
        return [Check(name=name, status="ok", detail=f"the engine's own machine has it, at {data}: not looked at")]
    fix = "`dimba prune --images --containers`; `docker system df` shows what else takes it"
    return [disk(name, nearest_existing(data), _IMAGE_GIB, fix)]


def check_output_disk(scene: Scene) -> list[Check]:
    """Room for checkpoints, and whether a job may write there."""
    place = nearest_existing(scene.output)
    fix = f"`df -h {place}`; name another disk with `--set output_dir=…`"
    return [_unwritable("disk, checkpoints", scene.output, scene) or disk("disk, checkpoints", place, 5, fix)]


def check_cache(scene: Scene) -> list[Check]:
    """Room for models and data of the Hub, and whether a job may write there."""
    place = nearest_existing(scene.cache)
    fix = "`hf cache ls` and `dimba prune --cache`, or another disk: `export HF_HOME=…`"
    return [_unwritable("disk, cache", scene.cache, scene) or disk("disk, cache", place, 5, fix)]


def _unwritable(name: str, wanted: Path, scene: Scene) -> Check | None:
    place, (uid, gid) = nearest_existing(wanted), scene.user
    if may_write(place, uid, gid):
        return None
    detail = f"user {uid}, as whom jobs run here, may not write in {place}"
    return Check(name=name, status="error", detail=detail, fix=f"`sudo install -d -o {uid} -g {gid} {wanted}`")


def disk(name: str, path: Path, wanted_gib: int, fix: str) -> Check:
    """Free space; what has none at all is in a job's way."""
    free = shutil.disk_usage(path).free
    detail = f"{size(free)} free at {path}"
    if free >= wanted_gib * _GIB:
        return Check(name=name, status="ok", detail=detail)
    status = "error" if free < _GIB else "warning"
    return Check(name=name, status=status, detail=f"{detail}; {wanted_gib} GiB are soon used", fix=fix)
