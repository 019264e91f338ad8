"""The output folder: whose files will be written there, and whether they can be."""

import json
import os
import pwd
import tempfile
from pathlib import Path

from dimba.contract import OUTPUT_FILE, absolute, trained_files
from dimba.host.facts import OutputFacts


def look_at_output(output_dir: str, folder: Path) -> OutputFacts:
    """Facts of `output_dir`, relative to `folder`. Root works for whoever owns the nearest existing folder."""
    path = absolute(output_dir, folder)
    nearest = nearest_existing(path)
    uid, gid = job_user(nearest)
    problem, hint, user_error = _obstacle(path, nearest, uid, gid)
    holds = tuple(file.name for file in trained_files(path)) if not problem else ()
    return OutputFacts(
        path=path,
        uid=uid,
        gid=gid,
        home=_home(uid),
        problem=problem,
        hint=hint,
        user_error=user_error,
        holds=holds,
        run_id=_run_id(path),
    )


def nearest_existing(path: Path) -> Path:
    """`path` itself or the closest folder above it that exists."""
    return next(each for each in (path, *path.parents) if each.exists())


def job_user(nearest: Path) -> tuple[int, int]:
    """uid and gid of the job: the caller's; for root, those of whoever owns `nearest`."""
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    status = nearest.stat()
    return status.st_uid, status.st_gid


def _obstacle(path: Path, nearest: Path, uid: int, gid: int) -> tuple[str, str, bool]:
    if not nearest.is_dir():
        return f"`{nearest}` is a file", "choose an `output_dir` that is a folder", True
    if not (_can_write(nearest) and _may_write(nearest, uid, gid)):
        hint = f"`chown -R {uid} {nearest}`, or choose another `output_dir`"
        return f"user {uid} may not write in `{nearest}`", hint, False
    if path.is_dir():
        foreign = [each.name for each in path.iterdir() if not _may_read(each, uid)]
        if foreign:
            return f"`{path / foreign[0]}` belongs to somebody else", f"`chown -R {uid} {path}`", False
    return "", "", False


def _can_write(folder: Path) -> bool:
    """By writing: permissions say nothing of a read-only or special file system, least of all to root."""
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


def _may_read(path: Path, uid: int) -> bool:
    return uid != os.geteuid() or os.access(path, os.R_OK)


def _home(uid: int) -> Path:
    try:
        return Path(pwd.getpwuid(uid).pw_dir)
    except KeyError:
        return Path("/nonexistent")


def _run_id(path: Path) -> str | None:
    try:
        note = json.loads((path / OUTPUT_FILE).read_text(encoding="utf-8"))
        return str(note["run_id"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
