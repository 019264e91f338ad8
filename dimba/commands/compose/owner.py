"""Whom the job runs as: whoever owns checkpoints/, where nobody was named."""

import os
import sys
from pathlib import Path

from dimba.common.errors import HostCannot
from dimba.host.output import may_write

CHECKPOINTS = "checkpoints"
_HF_HOME = "HF_HOME"


def become_owner() -> None:
    """Root gives up what root may; raises HostCannot where the job could not write what it will have to."""
    folder, cache = Path.cwd() / CHECKPOINTS, Path(os.environ[_HF_HOME])
    if os.geteuid() == 0:
        status = folder.stat()
        _give_if_new(cache, status.st_uid, status.st_gid)
        _become(status.st_uid, status.st_gid)
    uid, gid = os.geteuid(), os.getegid()
    if not may_write(folder, uid, gid):
        hint = f"`sudo chown -R {uid}:{gid} {folder}`, or name its owner: UID=… and GID=… in a file `.env`"
        raise HostCannot(f"user {uid}, as whom the job runs, may not write in {folder}", hint)
    if not may_write(cache, uid, gid):
        os.environ[_HF_HOME] = str(folder / ".cache" / "huggingface")
        sys.stderr.write(
            f"user {uid}, as whom the job runs, may not write in {cache}: {os.environ[_HF_HOME]} instead\n"
        )


def _give_if_new(folder: Path, uid: int, gid: int) -> None:
    """The engine makes a cache that is not there yet, as root's."""
    if folder.stat().st_uid == 0 and not any(folder.iterdir()):
        os.chown(folder, uid, gid)


def _become(uid: int, gid: int) -> None:
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
