"""What differs between two jobs, by whether it changes the result. Pure."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dimba.common.units import quantity
from dimba.jobs.recipes.difference import CHANGES, KINDS, MAY, NOT, Difference, Kind
from dimba.jobs.recipes.figures import compare_figures
from dimba.jobs.recipes.portable import SITE
from dimba.options import speed_table
from dimba.options.param import Param
from dimba.spec.recipe import UNKNOWN, CodeFile, Content, Recipe, Software, SourceContent

_ABSENT = "–"
_SHOWN = 3  # files of a data set
_DIGITS = 19  # of a hash, with its kind
_SPEED = frozenset(each.name for each in vars(speed_table).values() if isinstance(each, Param))
# Keys of a spec, the longest first: the others change the result.
_BY_KEY: dict[str, Kind] = {
    "trainer_args.save-steps": NOT,
    "trainer_args.save-total-limit": NOT,
    "training.report_to": NOT,
    "training.batch_size": MAY,  # the effective batch is compared, and divided in another way it rounds otherwise
    "training.grad_accumulation_steps": MAY,
    "container.image": MAY,
    "container.base_image": MAY,
    "container.pins": MAY,
    **dict.fromkeys(("container", "resources.shm_size", "resources.memory", "resources.memory_check"), NOT),
    **dict.fromkeys(("resources", "accelerate"), MAY),
    **dict.fromkeys(("name", "output_dir", "version", *SITE), NOT),
}


@dataclass(frozen=True)
class Job:
    """A job to compare: its spec without its machine, defaults included, and what it is made of."""

    spec: Mapping[str, Any]
    recipe: Recipe


def compare(this: Job, that: Job) -> list[Difference]:
    """Every difference, those that change the result first."""
    found = [*_contents(this.recipe, that.recipe), *_spec(this.spec, that.spec), *_made(this.recipe, that.recipe)]
    found += compare_figures(this.recipe.figures, that.recipe.figures)
    return sorted(found, key=lambda each: KINDS.index(each.kind))


def _contents(this: Recipe, that: Recipe) -> Iterator[Difference]:
    yield from _content("base_checkpoint", this.base, that.base)
    if len(this.data) != len(that.data):
        here, there = (quantity(len(each.data), "data set") for each in (this, that))
        yield Difference(CHANGES, "dataset", here, there, is_content=True)
    for ours, theirs in zip(this.data, that.data, strict=False):
        yield from _content(theirs.key, ours, theirs)
    yield from _code(this.code, that.code)


def _content(key: str, this: Content, that: Content) -> Iterator[Difference]:
    if not _is_same(this, that):
        yield Difference(CHANGES, key, _shown(this, that), _shown(that, this), is_content=True)
    elif this.name != that.name:
        yield Difference(NOT, key, this.name, that.name)


def _is_same(this: Content, that: Content) -> bool:
    if this.hub and that.hub and (this.name, this.revision) == (that.name, that.revision):
        return this.revision != UNKNOWN
    return this.hash not in (None, UNKNOWN) and this.hash == that.hash


def _shown(content: Content, other: Content) -> str:
    """The name and the hash or commit; of several files those that differ from `other`'s."""
    digest = short(content.hash or content.revision)
    if not isinstance(content, SourceContent) or not isinstance(other, SourceContent):
        return f"{content.name} ({digest})"
    if content.files and other.files:
        return f"{content.name}: {_changed_files(content.files, other.files)}"
    rows = "" if content.rows is None else f", {quantity(content.rows, 'row')}"
    return f"{content.name} ({digest}{rows})"


def _changed_files(files: Mapping[str, str], others: Mapping[str, str]) -> str:
    names = [name for name in sorted({*files, *others}) if files.get(name) != others.get(name)]
    listed = [f"{name} ({short(files.get(name))})" for name in names[:_SHOWN]]
    more = [f"{len(names) - _SHOWN:,} more files"] if len(names) > _SHOWN else []
    return ", ".join([*listed, *more]) or "the same files in another order"


def short(digest: str | None) -> str:
    """The beginning of a hash or a commit."""
    if not digest:
        return "missing"
    return f"{digest[:_DIGITS]}…" if len(digest) > _DIGITS else digest


def _code(this: Sequence[CodeFile], that: Sequence[CodeFile]) -> Iterator[Difference]:
    ours = {each.name: each.hash for each in this}
    for each in that:
        if ours.get(each.name) != each.hash:
            here, there = (f"{each.name} ({short(digest)})" for digest in (ours.get(each.name), each.hash))
            yield Difference(CHANGES, each.key, here, there, is_content=True)
    for name in ours.keys() - {each.name for each in that}:
        yield Difference(CHANGES, "trainer_args", f"{name} ({short(ours[name])})", "missing", is_content=True)


def _spec(this: Mapping[str, Any], that: Mapping[str, Any]) -> Iterator[Difference]:
    ours, theirs = dict(_flat(this)), dict(_flat(that))
    for key in dict.fromkeys((*theirs, *ours)):
        here, there = ours.get(key, _ABSENT), theirs.get(key, _ABSENT)
        if here != there and not _is_compared_elsewhere(key, this, that):
            yield Difference(_kind(key), key, here, there)


def _is_compared_elsewhere(key: str, this: Mapping[str, Any], that: Mapping[str, Any]) -> bool:
    if key.startswith("dataset"):
        return key.rpartition(".")[2] in ("name", "path", "revision")
    no_adapter = key.startswith("lora.") and "full" in (this.get("method"), that.get("method"))
    return no_adapter or key in ("base_checkpoint", "base_revision", "trainer")


def _kind(key: str) -> Kind:
    if key.removeprefix("trainer_args.") in _SPEED:
        return MAY
    known = (kind for start, kind in _BY_KEY.items() if f"{key}.".startswith(f"{start}."))
    return next(known, CHANGES)


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _flat(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        for number, item in enumerate(value):
            yield from _flat(item, f"{key}[{number}]")
    else:
        yield key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _made(this: Recipe, that: Recipe) -> Iterator[Difference]:
    values = {"effective batch": "effective_batch", "optimiser steps": "total"}
    for label, name in values.items():
        yield from _values(CHANGES, label, getattr(this.steps, name), getattr(that.steps, name))
    here, there = this.hardware, that.hardware
    yield from _values(MAY, "GPUs", _gpus(here.gpus), _gpus(there.gpus))
    for name in ("driver", "processes", "strategy", "precision"):
        yield from _values(MAY, name, getattr(here, name), getattr(there, name))
    yield from _values(NOT, "runner", here.runner, there.runner)
    yield from _software(this.software, that.software)


def _software(this: Software, that: Software) -> Iterator[Difference]:
    for name, there in that.packages.items():
        # The pins of an image do not say what it has of them: 2.13.0 for a CPU is 2.13.0+cpu.
        yield from _values(MAY, name, this.packages.get(name, "none").partition("+")[0], there.partition("+")[0])
    if not (this.packages and that.packages):
        yield from _values(MAY, "pinned versions", this.lock, that.lock)
    yield from _values(MAY, "dimba", this.dimba, that.dimba)
    code = [" with changes ".join(short(each) for each in (of.revision, of.changes) if each) for of in (this, that)]
    yield from _values(MAY, "dimba's code", *code)


def _values(kind: Kind, key: str, this: Any, that: Any) -> Iterator[Difference]:
    """The difference of two values; none where one is not known."""
    if this is not None and that is not None and this != that:
        yield Difference(kind, key, str(this), str(that))


def _gpus(names: Sequence[str]) -> str:
    counted = (f"{count} × {name}" for name, count in Counter(names).items())
    return ", ".join(counted) or "none"
