"""Finds the files of a recipe on this machine: where its relative paths lead, or beside it."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from dimba.common.contract import absolute, cache_home, is_pattern
from dimba.common.errors import BadInput, DimbaError, raise_all
from dimba.common.units import quantity
from dimba.jobs.recipes.compare import short
from dimba.jobs.recipes.portable import reward_file
from dimba.options.grpo_table import REWARD_MODEL
from dimba.records.store import make_folder, write_atomically
from dimba.spec import JobSpec, LoadedSpec, parse_spec
from dimba.spec.recipe import Content, Recipe, SourceContent


@dataclass(frozen=True)
class _Needed:
    """A path of the packed spec: its key, its value there, and the part of the value that is the path."""

    key: str
    value: str
    path: str
    content: str  # in words

    def at(self, place: Path) -> str:
        """The override that puts `place` there."""
        return f"{self.key}={json.dumps(self.value.replace(self.path, str(place), 1), ensure_ascii=False)}"


def with_files(loaded: LoadedSpec, folder: Path) -> LoadedSpec:
    """The spec with the places of its recipe's files beside the recipe that are not in `folder`; others as they are.

    Raises:
        BadInput: a file is in neither place.
    """
    if loaded.recipe is None:
        return loaded
    found, missing = list[str](), list[DimbaError]()
    beside = absolute(loaded.source, folder).parent
    packed, texts = parse_spec(loaded.data, source=loaded.source).spec, _texts(loaded.recipe)
    for each in _needed(packed, loaded.recipe):
        if _value(loaded.spec, each.key) != each.value or _is_there(absolute(each.path, folder)):
            continue
        if _is_there(place := absolute(each.path, beside)):
            found.append(each.at(place))
        elif text := texts.get(PurePath(each.path).name):
            found.append(each.at(_unpacked(PurePath(each.path).name, text)))
        else:
            missing.append(_missing(loaded, each, beside))
    raise_all(missing)
    return parse_spec(loaded.data, source=loaded.source, overrides=loaded.overrides, found=found) if found else loaded


def _needed(spec: JobSpec, recipe: Recipe) -> Iterator[_Needed]:
    if not recipe.base.hub:
        yield _Needed("base_checkpoint", spec.base_checkpoint, spec.base_checkpoint, _words(recipe.base))
    for (key, dataset), content in zip(spec.sources.items(), recipe.data, strict=False):
        if dataset.path is not None:
            yield _Needed(f"{key}.path", dataset.path, dataset.path, _words(content))
    hashes = {each.name: short(each.hash) for each in recipe.code}
    if spec.trainer in hashes:
        yield _Needed("trainer", spec.trainer, spec.trainer, hashes[spec.trainer])
    model = spec.trainer_args.get(REWARD_MODEL.name)
    if isinstance(model, str) and (name := PurePath(model).name) in hashes:
        yield _Needed(f"trainer_args.{REWARD_MODEL.name}", model, model, hashes[name])
    rewards = spec.trainer_args.get("reward", [])
    for number, each in enumerate(rewards if isinstance(rewards, list) else [rewards]):
        if (file := reward_file(str(each))) in hashes:
            key = f"trainer_args.reward[{number}]" if isinstance(rewards, list) else "trainer_args.reward"
            yield _Needed(key, str(each), str(file), hashes[str(file)])


def _words(content: Content) -> str:
    rows = content.rows if isinstance(content, SourceContent) else None
    return ", ".join([short(content.hash), *([] if rows is None else [quantity(rows, "row")])])


def _texts(recipe: Recipe) -> dict[str, str]:
    return {each.name: each.text for each in recipe.code if each.text is not None}


def _value(spec: JobSpec, key: str) -> Any:
    """The value that the spec has now under the key of a packed path."""
    if key.startswith("dataset"):
        source = spec.sources.get(key.removesuffix(".path"))
        return source.path if source else None
    if key == f"trainer_args.{REWARD_MODEL.name}":
        return spec.trainer_args.get(REWARD_MODEL.name)
    if key.startswith("trainer_args"):
        rewards = spec.trainer_args.get("reward")
        number = int(key.partition("[")[2].rstrip("]") or 0)
        return rewards[number] if isinstance(rewards, list) and number < len(rewards) else rewards
    return getattr(spec, key)


def _is_there(place: Path) -> bool:
    parts = place.parts
    first = next((number for number, part in enumerate(parts) if is_pattern(part)), len(parts))
    return os.path.exists(place) or (first < len(parts) and os.path.exists(Path(*parts[:first])))


def _unpacked(name: str, text: str) -> Path:
    """A file in dimba's cache with the text of a file of code; raises HostCannot."""
    data = text.encode()
    file = cache_home() / "recipes" / hashlib.sha256(data).hexdigest()[:16] / name
    make_folder(file.parent, os.getuid(), os.getgid())
    write_atomically(file, data, os.getuid(), os.getgid())
    return file


def _missing(loaded: LoadedSpec, needed: _Needed, beside: Path) -> BadInput:
    cause = f"`{needed.path}`, which the recipe needs, is not here ({needed.content})"
    hint = f"put it into {beside}, or give its place with `--set {needed.key}=PLACE`"
    return BadInput(cause, hint, key=needed.key).at(loaded.location(needed.key))
