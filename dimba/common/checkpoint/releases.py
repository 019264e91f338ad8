"""Which releases of transformers know a model type; `scripts/tables/releases.py` makes the table."""

import json
import re
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dimba.common.checkpoint.kind import tested_release
from dimba.common.checkpoint.refusal import Refusal

LATEST = "`container.pins: latest` builds the image with the newest releases, untested"
PIP = "pip install"
_KEYS = ("first", "last")
_NO_CODE = "if its author publishes code for it, copy the checkpoint with its .py files"
_OTHER = "convert the checkpoint, or train another family"


@dataclass(frozen=True, kw_only=True)
class LibraryType:
    """A model type that transformers itself must know, with the releases that do."""

    name: str
    first: str | None  # None if no release of the table knows it
    last: str | None  # the last release that knew it; None if the newest does
    tested: str  # the release that the image has
    newest: str  # of the table

    def is_known_to(self, release: str) -> bool | None:
        """Whether this release of transformers knows the type; None of one that is newer than the table."""
        at = _numbers(release)
        if self.first is not None and _numbers(self.first) <= at:
            # The table has one release of each minor version.
            return self.last is None or at[:2] <= _numbers(self.last)[:2]
        return None if at > _numbers(self.newest) else False

    @property
    def needs_latest(self) -> bool:
        """Whether the newest release knows the type, and the one that the image has does not."""
        return self.is_known_to(self.tested) is False and self.is_known_to(self.newest) is True

    def unknown_to(self, release: str, *, place: str = "", install: str = "") -> Refusal | None:
        """The refusal of a checkpoint whose type this release does not know; None if it may.

        `place` says whose release it is, such as "of the image"; `install` is the command that installs packages
        there, and is empty for an image.
        """
        if self.is_known_to(release) is not False:
            return None
        which = f"has `model_type: {self.name}`, which transformers {f'{release} {place}'.rstrip()} does not know"
        if self.first is None:
            newer = f"`{install} -U transformers` may bring a newer one" if install else LATEST
            return Refusal(f"{which}, nor any release up to {self.newest}", f"{_NO_CODE}; {newer}")
        if self.last is not None and _numbers(self.last) < _numbers(release):
            return Refusal(f"{which}; {self.last} was the last that did", _OTHER)
        newer = f"`{install} 'transformers>={self.first}'`; in an image, {LATEST}" if install else LATEST
        return Refusal(f"{which}; {self.first} is the first that does", newer)


def library_type(model_type: str) -> LibraryType:
    """The model type with the releases of the table that know it."""
    table = _table()
    first, last = (next((at for at, names in table[key].items() if model_type in names), None) for key in _KEYS)
    return LibraryType(name=model_type, first=first, last=last, tested=tested_release(), newest=table["newest"])


@cache
def _table() -> dict[str, Any]:
    return dict(json.loads((Path(__file__).parent / "releases.json").read_text(encoding="utf-8")))


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", release)[:3]))


def installed_release() -> str:
    """The release of transformers in this Python; empty without one."""
    try:
        return version("transformers")
    except PackageNotFoundError:
        return ""


def unknown_here(model_type: str) -> Refusal | None:
    """The refusal of a model type that the transformers of this Python does not know; None for an empty one."""
    release = installed_release()
    return library_type(model_type).unknown_to(release, install=PIP) if release and model_type else None
