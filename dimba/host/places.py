"""Places on this machine that no job may read or write, named directly or through links."""

import os
from pathlib import Path

_PRIVATE = tuple(map(Path, ("/etc", "/proc", "/sys", "/dev", "/boot", "/run")))
_SHARED = tuple(map(Path, ("/dev/shm", "/run/media")))  # noqa: S108  # people do keep data there
_SYSTEM = tuple(map(Path, ("/etc", "/dev", "/boot", "/run", "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64")))
_TOPS = frozenset(map(Path, ("/", "/home", "/tmp", "/var", "/var/tmp", "/var/lib", "/opt", "/mnt", "/media", "/srv")))  # noqa: S108
# In home folders; none of them holds checkpoints or data.
_LOGINS = frozenset((
    ".ssh", ".gnupg", ".aws", ".azure", ".kube", ".docker", ".config", ".password-store", ".netrc", ".pgpass", ".npmrc",
    ".pypirc", ".git-credentials", ".bash_history", ".zsh_history", ".python_history", ".mozilla", "keyrings",
))  # fmt: skip
_TOKENS = ("token", "stored_tokens")  # of the Hub, in its cache


def why_not_read(path: Path) -> str:
    """The reason why a job may not read from `path`, links followed; empty if it may."""
    real = Path(os.path.realpath(path))
    leads = "" if real == path else f"leads to {real}, which "
    for place in (path, real):
        if _below(place, _PRIVATE) and not _below(place, _SHARED):
            return f"{leads}belongs to the system"
        if _LOGINS & set(place.parts) or (place.name in _TOKENS and place.parent.name == "huggingface"):
            return f"{leads}holds logins"
    return _foreign_link(path, to_write=False)


def why_not_write(path: Path) -> str:
    """The reason why a job may not write in `path`, links followed; empty if it may."""
    real = Path(os.path.realpath(path))
    leads = "" if real == path else f"leads to {real}, which "
    for place in (path, real):
        if _below(place, _SYSTEM) and not _below(place, _SHARED):
            return f"{leads}belongs to the system"
        if holds_more_than_a_job(place):
            return f"{leads}holds more than one job's files"
        if _LOGINS & set(place.parts):
            return f"{leads}holds logins"
    return _foreign_link(path, to_write=True)


def holds_more_than_a_job(folder: Path) -> bool:
    """Whether a folder is one that many programs and users share, or a user's home."""
    return folder in _TOPS or folder == Path.home() or folder.parent == Path("/home")


def _below(path: Path, places: tuple[Path, ...]) -> bool:
    return any(path.is_relative_to(place) for place in places)


def _foreign_link(path: Path, *, to_write: bool) -> str:
    """The reason if another user's link leads to a place that this user does not own."""
    for link in (path, *path.parents):
        if is_link(link) and (owner := link.lstat().st_uid) not in (0, os.geteuid()):
            real = _existing(Path(os.path.realpath(link)))
            open_to_all = not to_write and real.stat().st_mode & 0o004
            if owner != real.stat().st_uid and not open_to_all:
                return f"is reached by the link {link} of user {owner} to {real}, which is not theirs"
    return ""


def is_link(path: Path) -> bool:
    """Whether the path is a link; False if this user may not look."""
    try:
        return path.is_symlink()
    except OSError:
        return False


def _existing(path: Path) -> Path:
    return next(each for each in (path, *path.parents) if os.path.exists(each))
