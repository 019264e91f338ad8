"""Telling whether something on disk has changed, without reading it."""

import os
from pathlib import Path


def stamp(path: Path) -> object:
    """What changes when a file, or something in a folder, does; None where nothing is there."""
    try:
        if not path.is_dir():
            return path.stat().st_mtime_ns, path.stat().st_size
        inside = ((each.name, _status(each)) for each in os.scandir(path))
        return tuple(sorted((name, status.st_mtime_ns, status.st_size) for name, status in inside))
    except OSError:
        return None


def _status(entry: "os.DirEntry[str]") -> os.stat_result:
    """Of what a link leads to; of the link itself where that is nowhere."""
    try:
        return entry.stat()
    except OSError:
        return entry.stat(follow_symlinks=False)
