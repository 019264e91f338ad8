"""Users' reward functions, called as TRL calls them; every result is checked."""

import asyncio
import inspect
from collections.abc import Awaitable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from dimba.common.errors import BadInput, RunFailed
from dimba.objectives.rewards import RewardSpec
from dimba.trainers.rewards.completions import Completions
from dimba.trainers.rewards.loading import Function, load_function, place_in
from dimba.trainers.rewards.results import Kind, place_range, scores_of

FAILURES = (Exception, SystemExit)  # `exit(0)` would end the job as if it had trained


def _ignore(*_args: Any, **_kwargs: Any) -> None:
    """Stands in for TRL's loggers before training."""


_EXTRAS: Mapping[str, Any] = {"trainer_state": None, "log_extra": _ignore, "log_metric": _ignore}
# A column of the data never takes the place of these arguments.
_SPLIT = ("completion_answers", "completion_reasoning")
_RESERVED = ("prompt", "completion", "completion_ids", "prompts", "completions", *_SPLIT, *_EXTRAS)


class CustomReward:
    """One function. As in TRL it gets texts if the rows' prompts are texts, and messages if they are lists."""

    def __init__(self, spec: RewardSpec) -> None:
        assert spec.file and spec.function
        self.name = spec.logged
        self.path = str(Path(spec.file).expanduser().absolute())
        self.function = load_function(spec.file, spec.function)
        self.parameters = _parameters(self.function)
        self.has_other_form = False  # set by `probe` for a function that needs texts in place of messages or vice versa

    def __call__(self, completions: Completions) -> list[float | None]:
        """One score per completion; raises RunFailed with the row if the function fails or returns anything else."""
        try:
            result = self.call(completions)
        except FAILURES as error:
            raise self.failure(completions, error, RunFailed) from error
        return scores_of(result, self.name, completions.places, RunFailed)

    def call(self, completions: Completions) -> Any:
        """The function's result, unchecked."""
        result = self.function(**self._arguments(completions))
        return _loop().run(_awaited(result)) if inspect.isawaitable(result) else result

    def failure(self, completions: Completions, error: BaseException, kind: Kind) -> BadInput | RunFailed:
        """The error for a function that fails, at the first row for which it does when called with one at a time."""
        place, cause = place_range(completions.places), error
        for index in range(len(completions) if len(completions) > 1 else 0):
            try:
                self.call(completions.part(index, index + 1))
            except FAILURES as single:
                place, cause = completions.places[index], single
                break
        problem = f"{type(cause).__name__}: {cause}".rstrip(": ")
        columns = ", ".join(_columns(completions)) or "none"
        return kind(
            f"the reward `{self.name}` fails: {problem} ({place_in(self.path, cause)})",
            f"correct {self.path}; columns of the row come as keyword arguments, one list each: {columns}",
        ).at(place)

    def _arguments(self, completions: Completions) -> dict[str, Any]:
        examples = completions.examples
        plain = all(example.plain for example in examples) != self.has_other_form
        texts = completions.texts
        arguments = {
            **_columns(completions),
            **{name: completions.extras.get(name, default) for name, default in _EXTRAS.items()},
            "prompts": [_prompt(example.messages, plain) for example in examples],
            "completions": [text if plain else [{"role": "assistant", "content": text}] for text in texts],
            "completion_answers": [split.answer for split in completions.splits],
            "completion_reasoning": [split.reasoning for split in completions.splits],
            "completion_ids": [list(ids) for ids in completions.token_ids],
        }
        taken = arguments if self.parameters is None else self.parameters
        return {name: value for name, value in arguments.items() if name in taken}


def _parameters(function: Function) -> frozenset[str] | None:
    """The names of its keyword arguments; None if it accepts any."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return frozenset(parameter.name for parameter in parameters if parameter.kind is not parameter.POSITIONAL_ONLY)


def _columns(completions: Completions) -> dict[str, list[Any]]:
    examples = completions.examples
    names = dict.fromkeys(name for example in examples for name in example.row if name not in _RESERVED)
    return {name: [example.row.get(name) for example in examples] for name in names}


def _prompt(messages: Sequence[Mapping[str, Any]], plain: bool) -> str | list[dict[str, Any]]:
    if plain:
        return "\n".join(str(message["content"]) for message in messages)
    return [dict(message) for message in messages]


@cache
def _loop() -> asyncio.Runner:
    # One for the job, as in TRL: a semaphore or client of the function's module belongs to its first event loop.
    return asyncio.Runner()


async def _awaited(result: Awaitable[Any]) -> Any:
    return await result
