"""The files that a pattern such as `shards/**/*.jsonl` matches."""

import fnmatch
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from dimba.common.contract import is_pattern
from dimba.common.errors import BadInput


def pattern_base(place: Path) -> Path:
    """The folder in which a pattern begins: its longest part that exists as it is written."""
    base = Path(place.anchor)
    for part in place.parts[len(base.parts) : -1]:
        if is_pattern(part) and not os.path.lexists(base / part):
            break
        base /= part
    return base


def matches_below(base: Path, pattern: Path) -> list[Path]:
    """What a relative pattern matches below `base`, each path once.

    `**` is any number of folders, links to folders too. Unlike in `glob`, a link that leads back to a folder above ends
    there: two such links would take forever. A wildcard matches no hidden name.

    Raises:
        BadInput: a folder cannot be read.
    """
    return list(dict.fromkeys(_matches(base, pattern.parts, frozenset({os.path.realpath(base)}))))


def _matches(folder: Path, parts: Sequence[str], above: frozenset[str]) -> Iterator[Path]:
    name, rest = parts[0], parts[1:]
    if name == "**":
        yield from _matches_at_any_depth(folder, rest, above)
        return
    for each in _entries(folder, name):
        if not rest:
            yield each
        elif each.is_dir():
            yield from _matches(each, rest, above | {os.path.realpath(each)})


def _matches_at_any_depth(folder: Path, rest: Sequence[str], above: frozenset[str]) -> Iterator[Path]:
    yield from _matches(folder, rest or ("*",), above)
    for each in _entries(folder, "*"):
        if each.is_dir() and (real := os.path.realpath(each)) not in above:
            yield from _matches_at_any_depth(each, rest, above | {real})


def _entries(folder: Path, name: str) -> list[Path]:
    """The entries of a folder with a name, or whose names match it."""
    if not folder.is_dir():
        return []
    if not is_pattern(name):
        return [folder / name] if os.path.lexists(folder / name) else []
    try:
        names = sorted(each.name for each in folder.iterdir())
    except OSError as error:
        cause = f"cannot be read: {error.strerror}"
        raise BadInput(cause, "check the path and its permissions", file=folder) from None
    hidden = name.startswith(".")
    return [folder / each for each in names if (hidden or each[0] != ".") and fnmatch.fnmatchcase(each, name)]
