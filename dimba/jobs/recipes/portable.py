"""A spec without the machine that it was written for: names in place of paths, and no site."""

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from dimba.common.contract import PATH_STARTS, is_pattern
from dimba.common.errors import BadInput
from dimba.common.runners import RENDERED, RUNNERS
from dimba.host.named_paths import file_of_reward
from dimba.objectives.rewards import parse_reward
from dimba.options.grpo_table import REWARD_MODEL

_PATH_STARTS = ("/", "~", "./", "../")
# The keys of a place: where jobs run, the settings of clusters under their names, and where models are sent.
SITE = ("runner", *RUNNERS, *RENDERED, "output_store")
_CACHED = re.compile(r"models--([^/]+)--([^/]+)/snapshots/([0-9a-f]{40})/?$")
_PATH = re.compile(r"(?<![\w.:/])[~/](?:[^\s/:,;()'\"]+/)*([^\s/:,;()'\"]+)")


def public_name(reference: str, *, local: bool) -> str:
    """The name of a model or of data as others may see it: an id on the Hub, else the last part of a path.

    Of a pattern, the folder that it searches stays in front.
    """
    if cached := _CACHED.search(reference):
        return f"{cached[1]}/{cached[2]}"
    if not local:
        return reference
    if is_pattern(reference):
        parts = PurePath(reference).parts
        first = next(number for number, part in enumerate(parts) if is_pattern(part))
        return str(PurePath(*(part for part in parts[max(0, first - 1) :] if part not in ("/", "..", "~"))))
    return _name(reference)


def cached_revision(reference: str) -> str | None:
    """The commit of a folder in the Hugging Face cache."""
    found = _CACHED.search(reference)
    return found[3] if found else None


def without_paths(text: str) -> str:
    """The text with the last part of each path that starts at the root or in a home folder."""
    return _PATH.sub(r"\1", text)


def portable(values: Mapping[str, Any], *, base: str, own_trainer: str | None) -> dict[str, Any]:
    """The values of a spec with names in place of this machine's paths, and `base` for its base.

    `own_trainer`: the path in the project of a trainer of dimba's, which means the same everywhere.
    """
    found = {key: value for key, value in values.items() if key not in SITE}
    found["base_checkpoint"] = base
    found["dataset"] = _dataset(values["dataset"])
    if values.get("output_dir"):
        found["output_dir"] = _relative(values["output_dir"])
    if values.get("trainer"):
        found["trainer"] = own_trainer or _name(values["trainer"])
    if args := values.get("trainer_args"):
        found["trainer_args"] = {name: _argument(name, value) for name, value in args.items()}
    if container := values.get("container"):
        found["container"] = _container(container)
    if resources := values.get("resources"):
        found["resources"] = _resources(resources)
    return found


def source_names(value: Any) -> list[str]:
    """The name of each data set of a spec's `dataset`, under which others have it too."""
    found = _dataset(value)
    return [each.get("path") or each["name"] for each in (found if isinstance(found, list) else [found])]


def _dataset(value: Any) -> Any:
    taken: set[str] = set()
    sources = value if isinstance(value, list) else [value]
    found = [{**each, "path": _unique(each["path"], taken)} if each.get("path") else each for each in sources]
    return found if isinstance(value, list) else found[0]


def _unique(path: str, taken: set[str]) -> str:
    """The name of a path that no other source has."""
    name = public_name(path, local=True)
    stem, dot, suffix = name.partition(".")
    names = (name, *(f"{stem}-{number}{dot}{suffix}" for number in range(2, 1000)))
    chosen = next(each for each in names if each not in taken)
    taken.add(chosen)
    return chosen


def _name(path: str) -> str:
    name = PurePath(path.rstrip("/")).name
    return name if name not in ("", "..", "~") else "files"


def _relative(path: str) -> str:
    """A path below the folder that dimba is run in."""
    is_below = not path.startswith(("/", "~")) and ".." not in PurePath(path).parts
    return path if is_below else str(PurePath("checkpoints", _name(path)))


def _argument(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_argument(name, each) for each in value]
    if name == "reward" and (file := reward_file(str(value))):
        return str(value).replace(file, _name(file), 1)
    starts = PATH_STARTS if name == REWARD_MODEL.name else _PATH_STARTS
    is_path = isinstance(value, str) and value.startswith(starts)
    return _name(value) if is_path else value


def reward_file(reward: str) -> str | None:
    """The file that a reward names."""
    try:
        return file_of_reward(parse_reward(reward))
    except BadInput:
        return None


def _container(container: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(container)
    if names := container.get("env"):
        found["env"] = [each.partition("=")[0] for each in names]  # values may be of this machine
    if mounts := container.get("mounts"):
        found["mounts"] = [":".join([_name(source), *rest]) for source, *rest in (each.split(":") for each in mounts)]
    return found


def _resources(resources: Mapping[str, Any]) -> dict[str, Any]:
    gpus = resources.get("gpus")
    return {**resources, "gpus": len(gpus)} if isinstance(gpus, list) else dict(resources)
