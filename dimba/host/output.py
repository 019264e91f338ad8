"""The output folder: its future owner, and whether a job can write in it."""

import json
import os
import pwd
import tempfile
from pathlib import Path

from dimba.common.contract import OUTPUT_FILE, absolute, trained_files
from dimba.common.errors import BadInput
from dimba.common.owner import Owner, Use, use_by
from dimba.common.ownership import use_of
from dimba.host.facts import OutputFacts
from dimba.host.places import is_link, why_not_write
from dimba.records import RunFolder


def look_at_output(output_dir: str, folder: Path) -> OutputFacts:
    """Facts of `output_dir`, relative to `folder`."""
    path = absolute(output_dir, folder)
    nearest = nearest_existing(path)
    uid, gid = job_user(nearest)
    problem, hint, user_error = _misplaced(path, folder) or _obstacle(path, nearest, uid, gid)
    holds = tuple(file.name for file in trained_files(path)) if not problem else ()
    run_id, active = _claimed_by(path)
    return OutputFacts(
        path=path,
        uid=uid,
        gid=gid,
        home=home_of(uid),
        problem=problem,
        hint=hint,
        user_error=user_error,
        holds=holds,
        run_id=run_id,
        use=use_of(path) or active,
    )


def nearest_existing(path: Path) -> Path:
    """`path` itself, or the closest folder above it that exists."""
    return next(each for each in (path, *path.parents) if os.path.exists(each))


def job_user(nearest: Path) -> tuple[int, int]:
    """uid and gid of the job: the caller's; run by root, those of the owner of `nearest`."""
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    status = nearest.stat()
    return status.st_uid, status.st_gid


def _misplaced(path: Path, folder: Path) -> tuple[str, str, bool] | None:
    hint = "give a folder of its own, such as checkpoints/mine"
    if folder.is_relative_to(path) or folder.resolve().is_relative_to(os.path.realpath(path)):
        return f"`{path}` is the folder that dimba is run in, or above it", hint, True
    if why := why_not_write(path):
        return f"`{path}` {why}", hint, True
    if lost := [each for each in (path, *path.parents) if is_link(each) and not os.path.exists(each)]:
        return f"`{lost[0]}` is a broken link", "fix the link, or choose another `output_dir`", True
    return None


def _obstacle(path: Path, nearest: Path, uid: int, gid: int) -> tuple[str, str, bool]:
    if not nearest.is_dir():
        return f"`{nearest}` is a file", "choose an `output_dir` that is a folder", True
    if not may_write(nearest, uid, gid):
        return f"user {uid} may not write in `{nearest}`", "choose another `output_dir`, or fix its permissions", False
    if path.is_dir():
        foreign = [each.name for each in path.iterdir() if not may_read(each, uid, gid)]
        if foreign:
            return f"`{path / foreign[0]}` belongs to another user", "choose another `output_dir`", False
    return "", "", False


def may_write(folder: Path, uid: int, gid: int) -> bool:
    """Whether the job's user may write in a folder, and its file system accepts files."""
    return _can_write(folder) and _may_write(folder, uid, gid)


def _can_write(folder: Path) -> bool:
    # Permissions do not show that a file system is read-only or special, least of all to root.
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _may_write(folder: Path, uid: int, gid: int) -> bool:
    if uid == 0:
        return True
    status = folder.stat()
    shift = 6 if status.st_uid == uid else 3 if status.st_gid == gid else 0
    return bool(status.st_mode >> shift & 0o2) or uid == os.geteuid()


def may_read(path: Path, uid: int, gid: int, *, plain: bool = False) -> bool:
    """Whether the job's user may read a file; by the file's mode if that user is not the caller.

    `plain`: root has no privileges, as in a container.
    """
    if (uid == os.geteuid() or uid == 0) and not (uid == 0 and plain):
        return os.access(path, os.R_OK)
    status = path.stat()
    shift = 6 if status.st_uid == uid else 3 if status.st_gid == gid else 0
    return bool(status.st_mode >> shift & 0o4)


def home_of(uid: int) -> Path:
    """The user's home folder; a folder that does not exist for a user without one."""
    try:
        return Path(pwd.getpwuid(uid).pw_dir)
    except KeyError:
        return Path("/nonexistent")


def _claimed_by(path: Path) -> tuple[str | None, Use | None]:
    """The id of the run whose model the folder holds, and its use of the folder if its record shows it active."""
    try:
        note = json.loads((path / OUTPUT_FILE).read_text(encoding="utf-8"))
        run_id, folder = str(note["run_id"]), Path(note["run"])
    except (OSError, ValueError, KeyError, TypeError):
        return None, None
    try:
        record = RunFolder(folder, 0, 0).record()
    except BadInput:
        return run_id, None
    if record.status not in ("running", "stopping"):
        return run_id, None
    owner = Owner(run_id=run_id, run=str(folder), host=record.host or "", boot=record.boot or "")
    return run_id, use_by(owner, path, path, is_known=True)
