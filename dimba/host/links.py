"""Links that lead out of a folder: a container that has the folder needs their targets too."""

import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from dimba.host.places import is_link

_ROOT = Path("/")
_MOST_LINKS = 40  # that the kernel follows in one path
_Place = tuple[Path, Path]  # (path in the container, the same on this machine without links)


def links_out_of(folder: Path, files: Iterable[Path]) -> tuple[_Place, ...]:
    """(path in the container, real file or folder) of what links on the way to `files` name outside of `folder`.

    The container has `folder` at its own path, and needs these mounts beside it to open each file.
    """
    walk = _Walk(folder)
    for each in files:
        walk.to(each)
    return tuple(sorted(place for place in walk.mounts.items() if place[0] != folder))


class _Walk:
    """Follows paths as a container's kernel does, which sees nothing but the mounts."""

    def __init__(self, folder: Path) -> None:
        self._start = folder, Path(os.path.realpath(folder))
        self._links = 0
        self._follow_once = cache(self._follow)  # most files have their folder in common
        self.mounts = dict([self._start])

    def to(self, file: Path) -> None:
        """Adds the mounts that are needed to open a file in the folder."""
        self._links = 0
        at = self._follow_once(self._start, file.parent.relative_to(self._start[0]).parts)
        self._follow(at, (file.name,))

    def _follow(self, at: _Place, parts: tuple[str, ...]) -> _Place:
        seen, real = at
        for part in parts:
            here = real / part
            if part == "..":
                seen, real = seen.parent, real.parent
            elif self._has(seen) and self._links < _MOST_LINKS and is_link(here):
                seen, real = self._target((seen, real), here.readlink())
            else:
                seen, real = seen / part, Path(os.path.realpath(here))
        return seen, real

    def _target(self, at: _Place, target: Path) -> _Place:
        """The place that a link names, with a mount for it outside of all others."""
        self._links += 1
        if target.is_absolute():
            at, target = (_ROOT, _ROOT), target.relative_to(_ROOT)
        seen, real = self._follow(at, target.parts)
        if not self._has(seen) and os.path.exists(real):
            self.mounts[seen] = real
        return seen, real

    def _has(self, seen: Path) -> bool:
        return seen in self.mounts or any(each in self.mounts for each in seen.parents)
