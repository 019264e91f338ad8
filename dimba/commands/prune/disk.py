"""Folders of ended runs, and dimba's entries in the Hugging Face cache."""

import os
import pwd
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from dimba.commands.prune.leftover import Found, Leftover
from dimba.common.contract import OUTPUT_FILE
from dimba.common.errors import BadInput, HostCannot
from dimba.records import ACTIVE, RunFolder, RunRecord
from dimba.records.sweep import run_folders, sweep_folder, sweep_of

_CACHES = ("tokens", "rewards")
_REMOVING = ".pruned"  # suffix of a folder during its removal


def age_of(record: RunRecord) -> float:
    """Seconds since the run ended; 0 if its record has no time."""
    try:
        ended = datetime.fromisoformat(record.ended or record.created)
    except ValueError:
        return 0
    ended = ended if ended.tzinfo else ended.replace(tzinfo=UTC)
    return max(0.0, time.time() - ended.timestamp())


def runs(folders: Mapping[str, Path], ages: Mapping[str, float], older: float) -> Found:
    """Folders of the runs that ended at least `older` seconds ago; `folders` and `ages` (seconds) by run id."""
    old = [run for run in folders if ages[run] >= older]
    with_output = [run for run in old if _holds_output(folders[run])]
    notes = tuple(f"kept: {folders[run]}: it contains a trained model" for run in with_output)
    leftovers = tuple(_run_leftover(run, folders[run], ages[run]) for run in old if run not in with_output)
    return Found(leftovers=leftovers, notes=notes)


def _run_leftover(run: str, folder: Path, age: float) -> Leftover:
    return Leftover(kind="run", name=run, place=str(folder), size=size_of(folder), age=age, why="it has ended")


def _holds_output(folder: Path) -> bool:
    return not folder.is_symlink() and any(path.name == OUTPUT_FILE for path in _tree(folder))


def cache(home: Path, older: float) -> Found:
    """Tokens and reward models below the Hugging Face cache that were not used for `older` seconds."""
    found = Found()
    for name in _CACHES:
        folder = home / "dimba" / name
        if folder.is_symlink() or folder.parent.is_symlink():
            found += Found(notes=(f"kept: {folder}: it is a link to another folder",))
            continue
        found += Found(leftovers=tuple(_entries(folder, older)))
    return found


def _entries(folder: Path, older: float) -> Iterator[Leftover]:
    try:
        paths = sorted(folder.iterdir())
    except OSError:
        return
    for path in paths:
        last = last_use(path)
        age = max(0.0, time.time() - last)
        if path.suffix == ".lock" or age < older:
            continue
        name, why = f"{folder.name}/{path.name}", "unused; jobs recreate it when needed"
        yield Leftover(kind="cache", name=name, place=str(path), size=size_of(path), age=age, why=why, last=last)


def last_use(path: Path) -> float:
    """The last time that a file in it was read or anything written, in seconds since 1970; listing does not count."""
    return max(_times(path))


def _times(path: Path) -> Iterator[float]:
    yield 0
    for each in _tree(path):
        try:
            status = each.lstat()
        except OSError:
            continue
        yield max(status.st_mtime, status.st_atime) if stat.S_ISREG(status.st_mode) else status.st_mtime


def size_of(path: Path) -> int:
    """The bytes of the files in it; links are not followed."""
    total = 0
    for each in _tree(path):
        try:
            total += 0 if each.is_dir() else each.lstat().st_size
        except OSError:
            continue
    return total


def _tree(path: Path) -> Iterator[Path]:
    yield path
    if path.is_symlink() or not path.is_dir():
        return
    for folder, names, files in os.walk(path):
        yield from (Path(folder, name) for name in (*names, *files))


def remove_run(leftover: Leftover) -> str:
    """Remove the folder, or the link to it; returns the reason if the run is active again. Raises HostCannot."""
    path = Path(leftover.place)
    try:
        record = RunFolder(path, 0, 0).record()
    except BadInput:
        return "" if not os.path.lexists(path) else "its record cannot be read any more"
    if record.status in ACTIVE:
        return "the run was resumed"
    remove(path)
    sweep = sweep_folder(path.parent, record.group) if record.group else None
    if sweep and not run_folders(sweep, sweep_of(sweep)):
        remove(sweep.path)  # that was its last run
    return ""


def remove_entry(leftover: Leftover) -> str:
    """Remove tokens or a reward model, and their lock; returns the reason if a job uses them. Raises HostCannot."""
    path = Path(leftover.place)
    if last_use(path) > leftover.last:
        return "a job has just used it"
    remove(path)
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    return ""


def remove(path: Path) -> None:
    """Remove a folder completely or not at all; a link is removed, not its target.

    Raises:
        HostCannot: it contains another user's file, or the disk refuses.
    """
    if foreign := _not_removable(path):
        hint = f"run `dimba prune` as that user, or `sudo chown -R $USER {path}` first"
        raise HostCannot(f"{foreign} belongs to {_owner(foreign)}", hint, file=path)
    removing = path.with_name(f"{path.name}{_REMOVING}")
    try:
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
            return
        if removing.exists():
            shutil.rmtree(removing)  # an earlier removal was interrupted
        path.rename(removing)  # readers see either all of it or nothing
        shutil.rmtree(removing)
    except OSError as error:
        hint = "fix the permissions of its folder"
        raise HostCannot(str(error.strerror), hint, file=error.filename or path) from None


def _not_removable(path: Path) -> Path | None:
    """The first file or folder in `path` that the caller may not remove."""
    if not _may_remove_from(path.parent, path):
        return path
    for each in _tree(path):
        if _is_closed(each):
            return each
        if each != path and not _may_remove_from(each.parent, each):
            return each
    return None


def _is_closed(path: Path) -> bool:
    """Whether it is a folder whose entries the caller may not list or remove."""
    if path.is_symlink() or not path.is_dir() or os.access(path, os.R_OK | os.W_OK | os.X_OK):
        return False
    try:
        return any(path.iterdir())
    except OSError:
        return True


def _may_remove_from(folder: Path, path: Path) -> bool:
    if not os.access(folder, os.W_OK | os.X_OK):
        return False
    status = folder.stat()
    owners = (0, status.st_uid, path.lstat().st_uid)  # in a sticky folder, users remove only their own files
    return not status.st_mode & stat.S_ISVTX or os.geteuid() in owners or os.geteuid() == 0


def _owner(path: Path) -> str:
    uid = path.lstat().st_uid
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"
