"""Files that flags of our trainers name: seen by the job where they lie, at the same absolute path."""

import os
from collections.abc import Sequence
from pathlib import Path

from dimba.common.contract import absolute, names_a_path
from dimba.common.errors import BadInput
from dimba.host.facts import HostFacts
from dimba.host.places import why_not_read
from dimba.host.trainer import objective_of
from dimba.objectives.rewards import RewardSpec, parse_rewards
from dimba.options.table import REWARD, REWARD_MODEL
from dimba.spec import JobSpec

_REWARD, _MODEL = REWARD.name, REWARD_MODEL.name


def named_files(spec: JobSpec, facts: HostFacts) -> dict[str, Path]:
    """What stands in `trainer_args` for a file or folder, and its absolute path.

    Raises:
        BadInput: a reward is not known, or what is named does not exist.
    """
    own = objective_of(facts.trainer.path, facts.project)
    if own is None or not own.takes(REWARD):
        return {}
    named = {file: _REWARD for each in rewards(spec) if (file := each.file or _schema(each))}
    model = spec.trainer_args.get(_MODEL)
    if isinstance(model, str) and (names_a_path(model) or os.path.exists(absolute(model, facts.folder))):
        named[model] = _MODEL
    found = {text: absolute(text, facts.folder) for text in named}
    for text, path in found.items():
        if not os.path.exists(path):
            hint = "correct the path; it is relative to the folder that dimba is run in"
            raise BadInput(f"trainer_args.{named[text]}: {path} does not exist", hint)
        if why := why_not_read(path):
            raise BadInput(f"trainer_args.{named[text]}: {path} {why}", "give a file or folder of your own")
    return found


def rewards(spec: JobSpec) -> Sequence[RewardSpec]:
    """The rewards of a spec; raises BadInput for one that is not known, or named twice."""
    value = spec.trainer_args.get(_REWARD, [])
    texts = [str(each) for each in (value if isinstance(value, list) else [value])]
    try:
        return parse_rewards([text for text in texts if text != "auto"])
    except BadInput as error:
        error.message = f"trainer_args.{_REWARD}: {error.message}"
        raise


def _schema(spec: RewardSpec) -> str | None:
    return spec.parameter if spec.name == "json_valid" else None


def with_absolute_files(spec: JobSpec, files: dict[str, Path]) -> JobSpec:
    """The spec with these names in `trainer_args` made absolute: the job runs in another folder."""
    args = dict(spec.trainer_args)
    for name in {_REWARD, _MODEL} & set(args):
        value = args[name]
        args[name] = [_absolute(each, files) for each in value] if isinstance(value, list) else _absolute(value, files)
    return spec.model_copy(update={"trainer_args": args})


def _absolute(value: bool | int | float | str, files: dict[str, Path]) -> bool | int | float | str:
    """`score.py:reward`, `json_valid:schema.json` or a folder, with the file in it as it is found from anywhere."""
    text = str(value)
    for name, path in files.items():
        before, found, after = text.partition(name)
        if found and before in ("", "json_valid:") and after[:1] in ("", ":"):
            return f"{before}{path}{after}"
    return value
