"""One at a time, across processes and users: a lock goes with the process that held it."""

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
    """The folder that every user of this machine shares, and that a reboot empties; raises HostCannot."""
    named = os.environ.get(ENV_LEASES)
    usable = _USUAL.is_dir() or os.access(_USUAL.parent, os.W_OK)
    return shared_folder(Path(named) if named else _USUAL if usable else _ELSE)


def shared_folder(path: Path) -> Path:
    """A folder that everybody may write in."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HostCannot(
            str(error.strerror), f"name a folder that all users share with {ENV_LEASES}", file=path
        ) from None
    with suppress(PermissionError):  # somebody else's, who has opened it to all
        path.chmod(0o777)
    if not os.access(path, os.W_OK):
        hint = f"`sudo chmod 777 {path}`: GPUs are given out there, to every user of this machine"
        raise HostCannot(f"{path} may not be written in", hint)
    return path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Waits for its turn, and holds it for the block."""
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def if_free(path: Path) -> Iterator[bool]:
    """Holds it for the block where nobody else does; says whether."""
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
    """Whether somebody holds it now."""
    if not path.exists():
        return False
    with if_free(path) as free:
        return not free


def _open(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    with suppress(PermissionError):
        os.fchmod(descriptor, 0o666)
    return descriptor
