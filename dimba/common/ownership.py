"""The owner of an output folder: the one run, or the one trainer without a launcher, that may write there now.

dimba-owner.json appears in the folder by a hard link, so that one of several processes gets it, also over NFS, from
containers and from other machines. Its owner holds a shared lock on it while it lives, which the kernel releases even
after kill -9. Process ids prove nothing: they differ between containers and machines.
"""

import fcntl
import json
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields
from pathlib import Path

from dimba.common.contract import ACTIVE, OWNER_FILE, RUN_FILE, read_json_object
from dimba.common.errors import BadInput
from dimba.common.owner import Owner, Use, own_machine, use_by
from dimba.common.processes import own_boot, own_host

_TRIES = 20  # a folder whose owner changes that often between two looks counts as in use
_PAUSES = (0.01, 0.03)  # seconds; another process holds a lock for less, only to look whether it is held

Judge = Callable[[Path, Owner], bool | None]  # (folder, owner) → whether the owner has ended, None if unknown


def owner_of(folder: Path) -> Owner | None:
    """The owner on record in a folder; an Owner of unknowns if the record is unreadable, None without one."""
    file = folder / OWNER_FILE
    return _read(file) if os.path.lexists(file) else None


def _read(file: Path) -> Owner:
    known = {each.name for each in fields(Owner)}  # another version may write more
    return Owner(**{name: str(value) for name, value in read_json_object(file).items() if name in known})


def has_ended(folder: Path, owner: Owner) -> bool | None:
    """Whether the owner has ended, by its lock and the record of its run; None if that cannot be known here."""
    held = _is_held(folder)
    if held:
        return False
    if status := read_json_object(Path(owner.run, RUN_FILE)).get("status") if owner.run else None:
        return status not in ACTIVE
    if owner.run and (os.path.exists(owner.run) or not Path(owner.run).parent.is_dir()):
        return None  # its record may not be read here
    if owner.boot and owner.boot == own_boot():
        return True if held is False else None
    rebooted = owner.machine and (owner.machine, owner.host) == (own_machine(), own_host())
    return True if rebooted else None


class Ownership:
    """The right of this process to write in a folder, until `release` or `keep`."""

    def __init__(self, folder: Path, owner: Owner, descriptor: int) -> None:
        self._folder, self._owner, self._descriptor = folder, owner, descriptor

    def release(self) -> None:
        """Gives the folder back."""
        release(self._folder, self._owner)
        self.keep()

    def keep(self) -> None:
        """Leaves the folder to the run, which continues without this process."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1


def take(
    folder: Path, me: Owner, *, adopts: bool = False, judge: Judge = has_ended, key: str = "output_dir"
) -> Ownership:
    """Makes `me` the owner of an existing folder; with `adopts`, also if another process of its run took the folder.

    Raises:
        BadInput: another run writes there, in a folder below it, or in one that it lies in. It names the owner.
        OSError: the folder may not be written.
    """
    for _ in range(_TRIES):
        with _alone(folder):  # without hard links, the record appears before its content
            found = owner_of(folder)
        joins = found is not None and (_is_same_process(found, me) or (adopts and found.run_id == me.run_id != ""))
        if found and not joins:
            _require_free(_use(folder, found, judge, folder), key)
        with _alone(folder):
            if owner_of(folder) != found:
                continue
            if found and joins:
                taken = Ownership(folder, found, _lock(folder / OWNER_FILE))
                break
            if (descriptor := _replace(folder, found, me)) is not None:
                taken = Ownership(folder, me, descriptor)
                break
    else:
        raise BadInput(f"{folder} changes its owner all the time", "give another folder", key=key)
    try:
        _require_free(next(_uses(folder, _nested(folder), judge), None), key)
    except BaseException:
        taken.keep() if joins else taken.release()
        raise
    return taken


def use_of(folder: Path) -> Use | None:
    """The use of a folder, of one below it or of one that it lies in, by an owner that has not ended for sure."""
    return next(_uses(folder, [folder, *_nested(folder)], has_ended), None)


def give_back(folder: Path, run_id: str) -> None:
    """Removes the record of a run that has ended from its output folder."""
    owner = owner_of(folder)
    if owner and owner.run_id == run_id:
        release(folder, owner)


def owner_lives(folder: Path, run_id: str) -> bool:
    """Whether a process holds the output folder for a run, in this container or another one of this machine."""
    owner = owner_of(folder)
    return bool(owner and owner.run_id == run_id and _is_held(folder))


def release(folder: Path, owner: Owner) -> None:
    """Removes the record of an owner, if it still is the owner."""
    with suppress(OSError), _alone(folder):
        if owner_of(folder) == owner:
            _remove(folder, owner)


def _uses(folder: Path, places: Iterable[Path], judge: Judge) -> Iterator[Use]:
    for place in places:
        if (owner := owner_of(place)) and (use := _use(place, owner, judge, folder)):
            yield use


def _use(place: Path, owner: Owner, judge: Judge, folder: Path) -> Use | None:
    ended = judge(place, owner)
    if ended or owner_of(place) != owner:
        return None
    return use_by(owner, folder, place, is_known=ended is False)


def _require_free(use: Use | None, key: str) -> None:
    if use:
        raise BadInput(use.cause, use.hint, key=key)


def _replace(folder: Path, before: Owner | None, me: Owner) -> int | None:
    """The locked record that now names `me`; None if a process that does not see this machine's locks was faster."""
    if before and not _remove_ended(folder, before):
        time.sleep(_PAUSES[0])
        return None
    part = folder / f".{OWNER_FILE}.{secrets.token_hex(8)}"
    part.write_text(json.dumps(asdict(me)), encoding="utf-8")
    descriptor = _lock(part)  # before others see it
    try:
        part.chmod(0o644)
        _give_to_owner_of(folder, part)
        if not _link(part, folder / OWNER_FILE):
            return None
        if part.stat().st_nlink == 1:  # a copy
            return _lock(folder / OWNER_FILE)
        kept, descriptor = descriptor, -1
        return kept
    finally:
        part.unlink(missing_ok=True)
        if descriptor >= 0:
            os.close(descriptor)


def _remove_ended(folder: Path, before: Owner) -> bool:
    """Removes the record of an owner that has ended; False if another process is about to, or was faster."""
    file = folder / OWNER_FILE
    try:
        descriptor = _open(file)
    except FileNotFoundError:
        return False
    try:  # also where folders cannot be locked, one process holds the lock of the record that it removes
        is_ours = _try_lock(descriptor) is not False
        return is_ours and os.path.samestat(os.fstat(descriptor), file.stat()) and _remove(folder, before)
    except FileNotFoundError:
        return False
    finally:
        os.close(descriptor)


def _remove(folder: Path, before: Owner) -> bool:
    # Renamed first, and looked at again: without a common lock, another process may have replaced it by now.
    aside = folder / f".{OWNER_FILE}.{secrets.token_hex(8)}"
    (folder / OWNER_FILE).rename(aside)
    still = _read(aside) == before
    if not still:
        _link(aside, folder / OWNER_FILE)
    aside.unlink()
    return still


def _link(part: Path, place: Path) -> bool:
    try:
        os.link(part, place)
        return True
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links, or an answer of an NFS server that got lost
        if part.stat().st_nlink > 1:
            return True
    try:
        with place.open("x", encoding="utf-8") as file:
            file.write(part.read_text(encoding="utf-8"))
        return True
    except FileExistsError:
        return False


def _give_to_owner_of(folder: Path, file: Path) -> None:
    if os.geteuid() == 0:
        status = folder.stat()
        os.chown(file, status.st_uid, status.st_gid)


def _is_same_process(found: Owner, me: Owner) -> bool:
    return (found.run_id, found.process, found.pids, found.boot) == (me.run_id, me.process, me.pids, me.boot)


def _nested(folder: Path) -> Iterator[Path]:
    """The folders with an owner that contain `folder`, or that it contains."""
    real = Path(os.path.realpath(folder))  # resolve() raises for links in a circle
    yield from (each for each in real.parents if os.path.lexists(each / OWNER_FILE))
    with suppress(OSError):
        for pattern in ("*", "*/*"):
            yield from (file.parent for file in real.glob(f"{pattern}/{OWNER_FILE}"))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Waits for the other processes of this machine that look at the folder's owner."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # NFS does not lock folders
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _lock(file: Path) -> int:
    """An open file with a shared lock, the sign that this process lives; -1 if the file system has no locks."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def _is_held(folder: Path) -> bool | None:
    """Whether a living process holds the record's lock; None if that cannot be known."""
    try:
        descriptor = _open(folder / OWNER_FILE)
    except OSError:
        return None
    try:
        for pause in (*_PAUSES, 0):
            with _alone(folder):
                is_free = _try_lock(descriptor)
            if is_free is not False:
                break
            time.sleep(pause)
        return None if is_free is None else not is_free
    finally:
        os.close(descriptor)


def _open(record: Path) -> int:
    return os.open(record, (os.O_RDWR if os.access(record, os.W_OK) else os.O_RDONLY) | os.O_CLOEXEC)


def _try_lock(descriptor: int) -> bool | None:
    """Whether the file is locked for this process alone now; None if the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
