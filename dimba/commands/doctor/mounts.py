"""The check that a container's files appear in a mounted folder and belong to the job's user."""

import os
import shutil
import tempfile
from pathlib import Path

from dimba.commands.doctor.check import Check
from dimba.commands.doctor.machine import Machine
from dimba.common.errors import HostCannot
from dimba.host.output import nearest_existing
from dimba.plan.mounts import same_place
from dimba.runners.protocol import OneShot

_NAME = "files from a container"
_TRY = 'touch "$0/kept" && touch "$0/removed" && rm "$0/removed"'
_SELINUX = Path("/sys/fs/selinux/enforce")
_SECONDS = 20


def check_mounts(machine: Machine) -> list[Check]:
    """Write from a container into a temporary folder beside the checkpoints. Raises HostCannot."""
    if machine.docker is None or not machine.base_is_here:
        return [machine.skipped_check(_NAME)]
    place = nearest_existing(machine.output)
    try:
        folder = Path(tempfile.mkdtemp(prefix=".dimba-doctor-", dir=place))
    except OSError as error:
        raise HostCannot(str(error.strerror), _fix(machine.output, *machine.user), file=place) from None
    try:
        return [_write_from_container(machine, folder)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_from_container(machine: Machine, folder: Path) -> Check:
    assert machine.docker is not None
    uid, gid = machine.user
    if os.geteuid() == 0:
        os.chown(folder, uid, gid)
    mount = same_place(folder, read_only=False)
    place = OneShot(uid=uid, gid=gid, image=machine.base, mounts=(mount,), timeout=_SECONDS)
    done = machine.docker.run_once(["sh", "-c", _TRY, str(folder)], place)
    if done.exit_code:
        lines = done.text.strip().splitlines()
        detail = f"user {uid} cannot write from a container: {lines[-1] if lines else f'status {done.exit_code}'}"
        return Check(name=_NAME, status="error", detail=detail, fix=_fix(machine.output, uid, gid))
    return _check_owner(folder / "kept", uid, done.exit_code)


def _check_owner(file: Path, uid: int, status: int | None) -> Check:
    if status is None or not file.exists():
        detail = f"a file that a container writes in {file.parent.parent} does not appear on this machine"
        fix = "share that folder with the engine's machine (Docker Desktop: Settings, Resources, File sharing)"
        return Check(name=_NAME, status="error", detail=detail, fix=fix)
    if (owner := file.stat().st_uid) != uid:
        fix = 'take "userns-remap" out of /etc/docker/daemon.json, then `sudo systemctl restart docker`'
        detail = f"a file that user {uid} writes in a container belongs to user {owner} here"
        return Check(name=_NAME, status="error", detail=detail, fix=fix)
    return Check(name=_NAME, status="ok", detail=f"user {uid} writes and removes files in {file.parent.parent}")


def _fix(wanted: Path, uid: int, gid: int) -> str:
    try:
        enforcing = _SELINUX.read_text(encoding="ascii").strip() == "1"
    except OSError:
        enforcing = False
    install = f"`sudo install -d -o {uid} -g {gid} {wanted}`"
    return f"{install}, then `sudo chcon -Rt container_file_t {wanted}`" if enforcing else install
