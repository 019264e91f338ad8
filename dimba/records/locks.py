"""File locks across processes and users; the system releases a lock when its process ends."""

# Not filelock: it polls where the kernel queues (longest wait of 8 processes 1.06 s, here 0.03 s); 40 ms to import.

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dimba.common.contract import ENV_LEASES
from dimba.common.errors import HostCannot

_USUAL, _ELSE = Path("/run/lock/dimba"), Path("/tmp/dimba-locks")  # noqa: S108  # the same for every user


def locks_folder() -> Path:
    """The folder of locks that all users of this machine share, and that a reboot empties; raises HostCannot."""
    named = os.environ.get(ENV_LEASES)
    usable = _USUAL.is_dir() or os.access(_USUAL.parent, os.W_OK)
    return shared_folder(Path(named) if named else _USUAL if usable else _ELSE)


def shared_folder(path: Path) -> Path:
    """Makes a folder that every user may write in, and returns it; raises HostCannot."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HostCannot(
            str(error.strerror), f"name a folder that all users share with {ENV_LEASES}", file=path
        ) from None
    with suppress(PermissionError):  # another user made it, and opened it to all
        path.chmod(0o777)
    if not os.access(path, os.W_OK):
        hint = f"`sudo chmod 777 {path}`: all users of this machine lease GPUs there"
        raise HostCannot(f"{path} is not writable", hint)
    return path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Waits for the lock, and holds it for the block."""
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Holds the lock for the block if it is free; yields whether it was."""
    descriptor = _open(path)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether a process holds the lock now."""
    if not path.exists():
        return False
    with try_lock(path) as free:
        return not free


def _open(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    with suppress(PermissionError):
        os.fchmod(descriptor, 0o666)
    return descriptor
