"""The job's user: the owner of checkpoints/, unless UID names another."""

import os
import sys
from pathlib import Path

from dimba.common.errors import HostCannot
from dimba.host.output import may_write

CHECKPOINTS = "checkpoints"
_HF_HOME = "HF_HOME"


def become_owner() -> None:
    """Switch from root to the owner of checkpoints/. Raises HostCannot if the job's user may not write there."""
    folder, cache = Path.cwd() / CHECKPOINTS, Path(os.environ[_HF_HOME])
    if os.geteuid() == 0:
        status = folder.stat()
        _give_if_new(cache, status.st_uid, status.st_gid)
        _become(status.st_uid, status.st_gid)
    uid, gid = os.geteuid(), os.getegid()
    if not may_write(folder, uid, gid):
        hint = f"`sudo chown -R {uid}:{gid} {folder}`, or set UID and GID to its owner's in a file `.env`"
        raise HostCannot(f"the job's user {uid} may not write in {folder}", hint)
    if not may_write(cache, uid, gid):
        os.environ[_HF_HOME] = str(folder / ".cache" / "huggingface")
        sys.stderr.write(
            f"the job's user {uid} may not write in {cache}; the cache is {os.environ[_HF_HOME]} instead\n"
        )


def _give_if_new(folder: Path, uid: int, gid: int) -> None:
    """Change the owner of a cache folder that the engine has just created for root."""
    if folder.stat().st_uid == 0 and not any(folder.iterdir()):
        os.chown(folder, uid, gid)


def _become(uid: int, gid: int) -> None:
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
