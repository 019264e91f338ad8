"""The names of GRPO's rewards and their syntax, for the trainers, the launcher and the wizard."""

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import NoReturn

from dimba.common.errors import BadInput

# A verifier decides whether an answer is right.
VERIFIERS = {
    "numeric": "1 if the final number of the completion equals the reference's, else 0",
    "math": "1 if the answer of the completion equals the reference's as a number or an expression, else 0",
    "exact_match": "1 if the completion equals the reference, without white space at both ends, else 0",
    "contains": "1 if the reference (or the text in `contains:TEXT`) occurs as a separate word, else 0",
    "regex": "1 if the pattern in `regex:PATTERN` is found in the completion, else 0",
    "json_valid": "1 if the completion is JSON, with `json_valid:schema.json` JSON that fits the schema, else 0",
}
REWARDS = {
    **VERIFIERS,
    "length": "0 up to N tokens (`length:N`, else 80 % of the limit), then down to -1 at the limit",
    "similarity": "imitation, not correctness: words shared with the chosen text, less those with the rejected one",
    "preference": "the score of a reward model, trained on the pairs first",
    "auto": "by the data: a verifier if answers can be checked, else `preference` for pairs",
}
IMITATION = "imitation_similarity"

_FUNCTION = re.compile(r"(?P<file>.*\.py):(?P<function>[^\W\d]\w*)", re.DOTALL)
_FREE = ("regex", "contains")  # their parameter is any text, such as `x.py:f`
_BARE = ("numeric", "math", "exact_match", "similarity", "preference", "auto")


@dataclass(frozen=True)
class RewardSpec:
    """One reward of a job; `file` and `function` are those of a custom function.

    `alias` is its name in logs if another reward of the job has the same name.
    """

    name: str
    parameter: str | None = None
    file: str | None = None
    function: str | None = None
    alias: str | None = None

    @property
    def logged(self) -> str:
        """Its name in logs and metrics; imitation is always named as such."""
        return IMITATION if self.name == "similarity" else self.alias or self.function or self.name

    def __str__(self) -> str:
        return self.name if self.parameter is None else f"{self.name}:{self.parameter}"


def needs_reference(spec: RewardSpec) -> bool:
    """Whether the reward compares completions with the row's reference."""
    return spec.name in ("numeric", "math", "exact_match") or (spec.name == "contains" and spec.parameter is None)


def reward_label(names: Iterable[str]) -> str:
    """The label for the sum of rewards with these logged or metric names; it names imitation."""
    return "reward (imitation)" if any(IMITATION in name for name in names) else "reward"


def parse_reward(text: str) -> RewardSpec:
    """The reward that `numeric`, `regex:^yes$`, `length:200` or `path/to/file.py:function` names."""
    text = text.lstrip()
    text = text if text.partition(":")[0] in _FREE else text.rstrip()  # trailing blanks belong to a pattern
    name, colon, parameter = text.partition(":")
    own = None if name in _FREE else _FUNCTION.fullmatch(text)
    if own and own["file"] != ".py":
        return RewardSpec(text, file=own["file"], function=own["function"])
    if name not in REWARDS:
        _unknown(text, name)
    _check(name, parameter, bool(colon))
    return RewardSpec(name, parameter if colon else None)


def parse_rewards(texts: Sequence[str]) -> tuple[RewardSpec, ...]:
    """The rewards of a job, each with its own name in logs; raises BadInput for one that is named twice."""
    specs = [parse_reward(text) for text in texts]
    twice = next((spec for spec, count in Counter(specs).items() if count > 1), None)
    if twice:
        raise BadInput(f"the reward `{twice}` is named twice", "name it once; --reward-weights sets its weight")
    for name_of in (_short, str):
        counts = Counter(spec.logged for spec in specs)
        specs = [spec if counts[spec.logged] == 1 else replace(spec, alias=name_of(spec)) for spec in specs]
    return tuple(specs)


def _short(spec: RewardSpec) -> str:
    return f"{PurePath(spec.file).name}:{spec.function}" if spec.file else str(spec)


def _unknown(text: str, name: str) -> NoReturn:
    if ".py" in text:
        raise BadInput(
            f"the reward `{text}` names a file but no function in it", "write `path/to/file.py:function`, a Python name"
        )
    near = difflib.get_close_matches(name.lower(), REWARDS, n=1, cutoff=0.6)
    guess = f"did you mean `{near[0]}`? " if near else ""
    known = ", ".join(REWARDS)
    raise BadInput(f"there is no reward `{name}`", f"{guess}known are {known} and `path/to/file.py:function`")


def _check(name: str, parameter: str, given: bool) -> None:
    if name in _BARE and given:
        raise BadInput(f"the reward `{name}` takes no parameter, got `{parameter}`", f"write `{name}` alone")
    if name == "regex":
        _check_pattern(parameter)
    if given and not parameter:
        raise BadInput(f"the reward `{name}:` has no parameter", f"write `{name}`, or a value after the colon")
    if name == "length" and given and not (parameter.isascii() and parameter.isdigit() and len(parameter) < 10):
        raise BadInput(
            f"`{parameter}` in `length:{parameter}` is not a number of tokens", "write for example `length:200`"
        )


def _check_pattern(pattern: str) -> None:
    if not pattern:
        raise BadInput("the reward `regex` has no pattern", r"write one after a colon, for example `regex:^\d+$`")
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise BadInput(
            f"the pattern `{pattern}` is not a regular expression: {error}", "correct it; Python's syntax is used"
        ) from error
