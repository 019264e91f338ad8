"""The files and folders that a spec names in `trainer_args` and `container.mounts`."""

import os
from collections.abc import Iterator
from pathlib import Path

from dimba.common.contract import absolute
from dimba.common.errors import BadInput
from dimba.host.facts import NamedPath
from dimba.host.places import why_not_read
from dimba.host.python_names import names_defined_in
from dimba.objectives.rewards import RewardSpec, parse_reward
from dimba.spec import JobSpec


def look_at_named_paths(spec: JobSpec, folder: Path) -> dict[str, NamedPath]:
    """Facts of each path by its text in the spec; relative paths start in `folder`."""
    return {text: _look(absolute(text, folder)) for text in _texts(spec)}


def _look(path: Path) -> NamedPath:
    exists = os.path.exists(path)
    why = why_not_read(path) if exists else ""
    names = names_defined_in(path) if path.suffix == ".py" and path.is_file() and not why else None
    return NamedPath(path=path, exists=exists, why_not_read=why, names=names)


def _texts(spec: JobSpec) -> Iterator[str]:
    rewards = spec.trainer_args.get("reward", [])
    for each in rewards if isinstance(rewards, list) else [rewards]:
        if file := _file_of(str(each)):
            yield file
    if isinstance(model := spec.trainer_args.get("reward-model"), str):
        yield model
    yield from (mount.partition(":")[0] for mount in spec.container.mounts)


def _file_of(reward: str) -> str | None:
    try:
        return file_of_reward(parse_reward(reward))
    except BadInput:
        return None  # the plan reports it


def file_of_reward(reward: RewardSpec) -> str | None:
    """The file that a reward reads: its Python source, or the schema of `json_valid`; None for other rewards."""
    return reward.file or (reward.parameter if reward.name == "json_valid" else None)
