"""Whether what a container writes in a folder of this machine is there, and belongs to the job's user."""

import os
import shutil
import tempfile
from pathlib import Path

from dimba.commands.doctor.check import Check
from dimba.commands.doctor.scene import Scene
from dimba.common.errors import HostCannot
from dimba.host.output import nearest_existing
from dimba.plan.model import Mount
from dimba.runners.protocol import OneShot

_NAME = "files from a container"
_TRY = 'touch "$0/kept" && touch "$0/removed" && rm "$0/removed"'
_SELINUX = Path("/sys/fs/selinux/enforce")
_SECONDS = 20


def check_mounts(scene: Scene) -> list[Check]:
    """A throw-away container writes in a folder made for it, where checkpoints would go. Raises HostCannot."""
    if scene.docker is None or not scene.base_is_here:
        return [scene.not_tried(_NAME)]
    place = nearest_existing(scene.output)
    try:
        folder = Path(tempfile.mkdtemp(prefix=".dimba-doctor-", dir=place))
    except OSError as error:
        raise HostCannot(str(error.strerror), _mended(scene.output, *scene.user), file=place) from None
    try:
        return [_tried(scene, folder)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _tried(scene: Scene, folder: Path) -> Check:
    assert scene.docker is not None
    uid, gid = scene.user
    if os.geteuid() == 0:
        os.chown(folder, uid, gid)
    mount = Mount(source=str(folder), target=str(folder), read_only=False)
    place = OneShot(uid=uid, gid=gid, image=scene.base, mounts=(mount,), timeout=_SECONDS)
    done = scene.docker.run_once(["sh", "-c", _TRY, str(folder)], place)
    if done.exit_code:
        said = done.text.strip().splitlines()
        detail = f"user {uid} cannot write from a container: {said[-1] if said else f'status {done.exit_code}'}"
        return Check(name=_NAME, status="error", detail=detail, fix=_mended(scene.output, uid, gid))
    return _owned(folder / "kept", uid, done.exit_code)


def _owned(file: Path, uid: int, status: int | None) -> Check:
    if status is None or not file.exists():
        detail = f"what a container writes in {file.parent.parent} does not come to be here"
        fix = "share that folder with the engine's machine (Docker Desktop: Settings, Resources, File sharing)"
        return Check(name=_NAME, status="error", detail=detail, fix=fix)
    if (owner := file.stat().st_uid) != uid:
        fix = 'take "userns-remap" out of /etc/docker/daemon.json, then `sudo systemctl restart docker`'
        detail = f"what user {uid} writes in a container belongs to user {owner} here"
        return Check(name=_NAME, status="error", detail=detail, fix=fix)
    return Check(name=_NAME, status="ok", detail=f"user {uid} writes and removes them in {file.parent.parent}")


def _mended(wanted: Path, uid: int, gid: int) -> str:
    try:
        enforcing = _SELINUX.read_text(encoding="ascii").strip() == "1"
    except OSError:
        enforcing = False
    made = f"`sudo install -d -o {uid} -g {gid} {wanted}`"
    return f"{made}, then `sudo chcon -Rt container_file_t {wanted}`" if enforcing else made
