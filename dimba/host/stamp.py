"""Detects changes on disk without reading the content."""

import os
from pathlib import Path


def stamp(path: Path) -> object:
    """A value that changes whenever the file, or an entry of the folder, does; None if there is neither."""
    try:
        if not path.is_dir():
            return _of(path.stat())
        return tuple(sorted((each.name, *_of(_status(each))) for each in os.scandir(path)))
    except OSError:
        return None


def _of(status: os.stat_result) -> tuple[int, ...]:
    # Copying tools restore the modification time and may keep the size, but not the change time and the inode.
    return status.st_mtime_ns, status.st_size, status.st_ctime_ns, status.st_ino


def _status(entry: "os.DirEntry[str]") -> os.stat_result:
    """The status of a link's target; of the link itself if it is broken."""
    try:
        return entry.stat()
    except OSError:
        return entry.stat(follow_symlinks=False)
