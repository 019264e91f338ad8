"""Telling whether something on disk has changed, without reading it."""

import os
from pathlib import Path


def stamp(path: Path) -> object:
    """What changes when a file, or something in a folder, does; None where nothing is there."""
    try:
        if not path.is_dir():
            return _of(path.stat())
        return tuple(sorted((each.name, *_of(_status(each))) for each in os.scandir(path)))
    except OSError:
        return None


def _of(status: os.stat_result) -> tuple[int, ...]:
    # Copying tools restore the time of a change and may keep the size, but neither of the others.
    return status.st_mtime_ns, status.st_size, status.st_ctime_ns, status.st_ino


def _status(entry: "os.DirEntry[str]") -> os.stat_result:
    """Of what a link leads to; of the link itself where that is nowhere."""
    try:
        return entry.stat()
    except OSError:
        return entry.stat(follow_symlinks=False)
