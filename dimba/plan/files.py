"""Files that `trainer_args` name: mounted at the same absolute path."""

import difflib
from collections.abc import Sequence
from pathlib import Path

from dimba.common.contract import looks_like_path
from dimba.common.errors import BadInput
from dimba.host.facts import HostFacts
from dimba.host.named_paths import file_of_reward
from dimba.host.trainer import objective_of
from dimba.objectives.rewards import RewardSpec, parse_rewards
from dimba.options.grpo_table import REWARD, REWARD_MODEL
from dimba.plan.job import ResolvedJob
from dimba.spec import JobSpec

_REWARD, _MODEL = REWARD.name, REWARD_MODEL.name


def named_files(spec: JobSpec, facts: HostFacts) -> dict[str, Path]:
    """The files and folders that `trainer_args` name, with their absolute paths.

    Raises:
        BadInput: a reward is not known, or what is named does not exist.
    """
    own = objective_of(facts.trainer.path, facts.project)
    if own is None or not own.takes(REWARD):
        return {}
    keys = {file: _REWARD for each in rewards(spec) if (file := file_of_reward(each))}
    model = spec.trainer_args.get(_MODEL)
    if isinstance(model, str) and (looks_like_path(model) or facts.named[model].exists):
        keys[model] = _MODEL
    for text, key in keys.items():
        named = facts.named[text]
        if not named.exists:
            hint = "correct the path; it is relative to the folder that dimba is run in"
            raise BadInput(f"{named.path} does not exist", hint, key=f"trainer_args.{key}")
        if why := named.why_not_read:
            raise BadInput(f"{named.path} {why}", "give a file or folder that you own", key=f"trainer_args.{key}")
    for reward in rewards(spec):
        _require_function(reward, facts)
    return {text: facts.named[text].path for text in keys}


def _require_function(reward: RewardSpec, facts: HostFacts) -> None:
    """Raises BadInput for a function that its file does not define."""
    names = facts.named[reward.file].names if reward.file else None
    if names is None or not reward.function or reward.function in names:
        return
    near = difflib.get_close_matches(reward.function, names, n=1, cutoff=0.6)
    hint = f"did you mean `{near[0]}`?" if near else "name a function that the file defines"
    path = facts.named[str(reward.file)].path
    raise BadInput(f"{path} has no function `{reward.function}`", hint, key=f"trainer_args.{_REWARD}")


def rewards(spec: JobSpec) -> Sequence[RewardSpec]:
    """The rewards of a spec; raises BadInput for one that is unknown, or named twice."""
    value = spec.trainer_args.get(_REWARD, [])
    texts = [str(each) for each in (value if isinstance(value, list) else [value])]
    try:
        return parse_rewards([text for text in texts if text != "auto"])
    except BadInput as error:
        error.key = f"trainer_args.{_REWARD}"
        raise


def with_absolute_files(job: ResolvedJob, files: dict[str, Path]) -> ResolvedJob:
    """The job with absolute paths for these names in `trainer_args`, as it runs in another folder."""
    args = dict(job.trainer_args)
    for name in {_REWARD, _MODEL} & set(args):
        value = args[name]
        args[name] = [_absolute(each, files) for each in value] if isinstance(value, list) else _absolute(value, files)
    return job.with_args(args)


def _absolute(value: bool | int | float | str, files: dict[str, Path]) -> bool | int | float | str:
    """`score.py:reward`, `json_valid:schema.json` or a folder, with an absolute path."""
    text = str(value)
    for name, path in files.items():
        before, found, after = text.partition(name)
        if found and before in ("", "json_valid:") and after[:1] in ("", ":"):
            return f"{before}{path}{after}"
    return value
