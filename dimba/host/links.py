"""Links that lead out of a folder: a container that has the folder needs their targets too."""

import os
from collections.abc import Iterator
from pathlib import Path


def links_out_of(file: Path, folder: Path) -> Iterator[tuple[Path, Path]]:
    """(link target, real file) for each link of a chain that leads out of `folder`.

    The container must have the file or folder at each of these paths too.
    """
    real, stop = file.resolve(), file
    for _ in range(40):  # as many links as the kernel follows
        if not stop.is_symlink() or not real.exists():
            return
        stop = Path(os.path.normpath(stop.parent / stop.readlink()))
        if not stop.is_relative_to(folder):
            yield stop, real
