"""The grid of a sweep: its axes, the combinations that are drawn from it, and their names."""

import json
import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from dimba.records.sweep import short_names

MOST = 256  # runs of a sweep
_UNSAFE = re.compile(r"[^A-Za-z0-9._=+-]+")
_PLAIN = re.compile(r"[A-Za-z0-9_./=+~-]*")
_LONGEST = 100  # characters of a folder's name


@dataclass(frozen=True)
class Axis:
    """A key of the spec, and the values that it takes, as they are written in YAML."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Combination:
    """One value of each axis."""

    keys: tuple[str, ...]
    values: tuple[str, ...]

    @property
    def overrides(self) -> tuple[str, ...]:
        """As `--set` takes them."""
        return tuple(f"{key}={value}" for key, value in zip(self.keys, self.values, strict=True))

    @property
    def label(self) -> str:
        """The values with the shortest names of their keys."""
        return ", ".join(f"{name}={value}" for name, value in self._named())

    @property
    def folder(self) -> str:
        """The label as a name that every file system, shell and mount option takes."""
        parts = (_UNSAFE.sub("-", f"{name}={value}").strip("-") for name, value in self._named())
        return "_".join(parts)[:_LONGEST].strip("-_. ")

    def _named(self) -> list[tuple[str, str]]:
        return list(zip(short_names(self.keys), self.values, strict=True))


def size_of(axes: Sequence[Axis]) -> int:
    """The number of combinations."""
    return math.prod(len(axis.values) for axis in axes)


def combinations(axes: Sequence[Axis], at_most: int | None, seed: int) -> tuple[Combination, ...]:
    """All combinations, the last axis the fastest; or `at_most` of them, drawn without repetition, in that order."""
    total = size_of(axes)
    drawn = at_most is not None and at_most < total
    numbers = sorted(random.Random(seed).sample(range(total), at_most or 0)) if drawn else range(total)  # noqa: S311
    return tuple(_combination(axes, number) for number in numbers)


def _combination(axes: Sequence[Axis], number: int) -> Combination:
    values = []
    for axis in reversed(axes):
        number, place = divmod(number, len(axis.values))
        values.append(axis.values[place])
    return Combination(tuple(axis.key for axis in axes), tuple(reversed(values)))


def folder_names(of: Sequence[Combination]) -> tuple[str, ...]:
    """A folder name for each combination; a number that makes no other one's name keeps equal ones apart."""
    names = [each.folder for each in of]
    taken = {name.lower() for name in names}
    seen: set[str] = set()
    unique = []
    for name in names:
        numbered = (f"{name}_{number}" for number in count(2))
        free = name if name.lower() not in seen else next(each for each in numbered if each.lower() not in taken)
        seen.add(name.lower())
        taken.add(free.lower())
        unique.append(free)
    return tuple(unique)


def override(key: str, text: str) -> str:
    """`key=text` for `--set`, quoted where YAML would read the text as something else."""
    return f"{key}={text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)}"
