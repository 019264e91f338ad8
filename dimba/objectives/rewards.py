"""The names of GRPO's rewards, and how one is written. The launcher and the wizard need them too."""

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import NoReturn

from dimba.common.errors import BadInput

# A verifier looks at an answer and says whether it is right.
VERIFIERS = {
    "numeric": "1 where the final number of the completion equals the reference's, else 0",
    "math": "1 where the answer of the completion equals the reference's as a number or an expression, else 0",
    "exact_match": "1 where the completion is the reference, white space at both ends aside, else 0",
    "contains": "1 where the reference (or the text in `contains:TEXT`) occurs as a word of its own, else 0",
    "regex": "1 where the pattern in `regex:PATTERN` is found in the completion, else 0",
    "json_valid": "1 where the completion is JSON, with `json_valid:schema.json` JSON that fits the schema, else 0",
}
REWARDS = {
    **VERIFIERS,
    "length": "never above 0: 0 up to N tokens (`length:N`, else 80 % of the limit), then down to -1 at the limit",
    "similarity": "imitation, not correctness: words in common with the chosen text, less those with the rejected one",
    "preference": "the score of a reward model, trained on the pairs first",
    "auto": "by the data: a verifier where answers can be checked, else `preference` where there are pairs",
}
IMITATION = "imitation_similarity"

_FUNCTION = re.compile(r"(?P<file>.*\.py):(?P<function>[^\W\d]\w*)", re.DOTALL)
_FREE = ("regex", "contains")  # whose parameter may look like anything, `x.py:f` too
_BARE = ("numeric", "math", "exact_match", "similarity", "preference", "auto")


@dataclass(frozen=True)
class RewardSpec:
    """One reward as it was asked for; `file` and `function` are those of a function of the user's own.

    `alias` is how it is logged, where another reward of the same job would have its name.
    """

    name: str
    parameter: str | None = None
    file: str | None = None
    function: str | None = None
    alias: str | None = None

    @property
    def logged(self) -> str:
        """How it is called in logs and metrics: imitation under no other name."""
        return IMITATION if self.name == "similarity" else self.alias or self.function or self.name

    def __str__(self) -> str:
        return self.name if self.parameter is None else f"{self.name}:{self.parameter}"


def reward_label(names: Iterable[str]) -> str:
    """What to call the sum of rewards that are logged under these names (of metrics, too): imitation is said."""
    return "reward (imitation)" if any(IMITATION in name for name in names) else "reward"


def parse_reward(text: str) -> RewardSpec:
    """What `numeric`, `regex:^yes$`, `length:200` or `path/to/file.py:function` asks for."""
    text = text.lstrip()
    text = text if text.partition(":")[0] in _FREE else text.rstrip()  # blanks at the end of a pattern count
    name, colon, parameter = text.partition(":")
    own = None if name in _FREE else _FUNCTION.fullmatch(text)
    if own and own["file"] != ".py":
        return RewardSpec(text, file=own["file"], function=own["function"])
    if name not in REWARDS:
        _unknown(text, name)
    _check(name, parameter, bool(colon))
    return RewardSpec(name, parameter if colon else None)


def parse_rewards(texts: Sequence[str]) -> tuple[RewardSpec, ...]:
    """What several ask for, each logged under a name of its own; raises BadInput where one is named twice."""
    specs = [parse_reward(text) for text in texts]
    twice = next((spec for spec, count in Counter(specs).items() if count > 1), None)
    if twice:
        raise BadInput(f"the reward `{twice}` is named twice", "name it once; --reward-weights says how much it counts")
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
        raise BadInput(f"the reward `{name}` takes nothing after it, got `{parameter}`", f"write `{name}` alone")
    if name == "regex":
        _check_pattern(parameter)
    if given and not parameter:
        raise BadInput(
            f"nothing follows the colon of the reward `{name}:`", f"write `{name}`, or a value after the colon"
        )
    if name == "length" and given and not (parameter.isascii() and parameter.isdigit() and len(parameter) < 10):
        raise BadInput(
            f"`{parameter}` in `length:{parameter}` is no number of tokens", "write for example `length:200`"
        )


def _check_pattern(pattern: str) -> None:
    if not pattern:
        raise BadInput("the reward `regex` has no pattern", r"write one after a colon, for example `regex:^\d+$`")
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise BadInput(
            f"the pattern `{pattern}` is no regular expression: {error}", "correct it; Python's syntax is used"
        ) from error
