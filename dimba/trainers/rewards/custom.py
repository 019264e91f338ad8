"""Reward functions of the user's own, called as TRL calls them; what they give back is checked every time."""

import asyncio
import inspect
import numbers
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from dimba.common.errors import BadInput, Location, RunFailed
from dimba.objectives.rewards import RewardSpec
from dimba.trainers.rewards.answers import Answers
from dimba.trainers.rewards.loading import Function, load_function, place_in

_EXTRAS = ("trainer_state", "log_extra", "log_metric")
_OWN = (
    "prompt",
    "completion",
    "completion_ids",
    "prompts",
    "completions",
    *_EXTRAS,
)  # columns never stand in for these
_FAILURES = (Exception, SystemExit)  # `exit(0)` would end the job as if it had trained
_LARGEST = 3.4e38  # of a float32, which rewards become
_HINT = "a reward function gives back a list with a number or None for each completion"


_Kind = type[BadInput] | type[RunFailed]


class Custom:
    """One function. It gets texts where the row's prompt is a text and messages where it is a list, as with TRL."""

    def __init__(self, spec: RewardSpec) -> None:
        assert spec.file and spec.function
        self.name = spec.logged
        self.path = str(Path(spec.file).expanduser().absolute())
        self.function = load_function(spec.file, spec.function)
        self.parameters = _parameters(self.function)
        self.swapped = False  # whether it wants the other form than TRL's; `probe` finds out

    def __call__(self, answers: Answers) -> list[float | None]:
        """A score for each answer."""
        try:
            result = self.call(answers)
        except _FAILURES as error:
            raise self.failure(answers, error, RunFailed) from error
        return self.checked(result, answers, RunFailed)

    def call(self, answers: Answers) -> Any:
        """What the function gives back, unchecked."""
        result = self.function(**self._arguments(answers))
        return _loop().run(_awaited(result)) if inspect.isawaitable(result) else result

    def failure(self, answers: Answers, error: BaseException, kind: _Kind) -> BadInput | RunFailed:
        """The error for a function that fails, at the first row for which it does when called with one at a time."""
        where, first = _between(answers), error
        for index in range(len(answers) if len(answers) > 1 else 0):
            try:
                self.call(answers.part(index, index + 1))
            except _FAILURES as alone:
                where, first = answers.places[index], alone
                break
        problem = f"{type(first).__name__}: {first}".rstrip(": ")
        cause = f"the reward `{self.name}` fails: {problem} ({place_in(self.path, first)})"
        return kind(cause, _next_step(self.path, answers)).at(where)

    def checked(self, result: Any, answers: Answers, kind: _Kind) -> list[float | None]:
        """The result as floats and None, or an error that names the row."""
        values = _items(result)
        if values is None:
            raise kind(f"the reward `{self.name}` gave back {_shown(result)}, no list", _HINT).at(_between(answers))
        if len(values) != len(answers):
            count = f"{len(values)} values for {len(answers)} completions"
            raise kind(f"the reward `{self.name}` gave back {count}", _HINT).at(_between(answers))
        return [self._number(value, place, kind) for value, place in zip(values, answers.places, strict=True)]

    def _number(self, value: Any, place: Location, kind: _Kind) -> float | None:
        number = _number(value)
        if number is None and value is not None:
            raise kind(f"the reward `{self.name}` gave {_shown(value)}, which is no number", _HINT).at(place)
        if number is not None and not abs(number) <= _LARGEST:
            raise kind(f"the reward `{self.name}` gave {number}, nothing can be learnt from that", _HINT).at(place)
        return number

    def _arguments(self, answers: Answers) -> dict[str, Any]:
        plain = all(task.plain for task in answers.tasks) != self.swapped
        given = _columns(answers) | {name: answers.extras.get(name, _EXTRA_DEFAULTS[name]) for name in _EXTRAS}
        given |= {
            "prompts": [_prompt(task.messages, plain) for task in answers.tasks],
            "completions": [text if plain else [{"role": "assistant", "content": text}] for text in answers.texts],
            "completion_ids": [list(ids) for ids in answers.token_ids],
        }
        return given if self.parameters is None else {key: given[key] for key in given if key in self.parameters}


def probe(reward: Any, answers: Answers) -> str | None:
    """Tries a function before training, in the other form too where TRL's fails; what to say about it, if anything."""
    if not isinstance(reward, Custom):
        return None
    error = _tried(reward, answers)
    if error is None:
        return None
    reward.swapped = True
    if _tried(reward, answers) is None:
        form = "lists of messages" if all(task.plain for task in answers.tasks) else "plain texts"
        return f"the reward `{reward.name}` works on {form} only; it gets its prompts and completions so"
    reward.swapped = False
    raise error


def _tried(reward: Custom, answers: Answers) -> BadInput | RunFailed | None:
    try:
        result = reward.call(answers)
    except _FAILURES as error:
        failure = reward.failure(answers, error, BadInput)
        failure.__cause__ = error
        return failure
    try:
        reward.checked(result, answers, BadInput)
    except BadInput as refusal:
        return refusal
    return None


def _nothing(*_args: Any, **_kwargs: Any) -> None:
    """Stands in for TRL's loggers before training."""


_EXTRA_DEFAULTS: dict[str, Any] = {"trainer_state": None, "log_extra": _nothing, "log_metric": _nothing}


def _parameters(function: Function) -> frozenset[str] | None:
    """The names it takes; None where it takes all."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return frozenset(parameter.name for parameter in parameters if parameter.kind is not parameter.POSITIONAL_ONLY)


def _columns(answers: Answers) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for task in answers.tasks for name in task.row if name not in _OWN)
    return {name: [task.row.get(name) for task in answers.tasks] for name in names}


def _prompt(messages: Sequence[Mapping[str, Any]], plain: bool) -> Any:
    if plain:
        return "\n".join(str(message["content"]) for message in messages)
    return [dict(message) for message in messages]


@cache
def _loop() -> asyncio.Runner:
    """One for the whole job, as with TRL: a semaphore or client of the function's module belongs to its first loop."""
    return asyncio.Runner()


async def _awaited(result: Any) -> Any:
    return await result


def _items(result: Any) -> list[Any] | None:
    """A list, tuple, array or tensor of one dimension as a list."""
    if isinstance(result, list | tuple):
        return list(result)
    if getattr(result, "ndim", None) == 1 and hasattr(result, "tolist"):
        return list(result.tolist())
    return None


def _number(value: Any) -> float | None:
    if isinstance(value, numbers.Real):
        try:
            return float(value)
        except OverflowError:
            return float("inf")
    # Scalars of numpy and tensors without dimensions.
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        item = value.item()
        return float(item) if isinstance(item, int | float) else None
    return None


def _between(answers: Answers) -> Location:
    places = list(dict.fromkeys(answers.places))
    if len(places) == 1:
        return places[0]
    return Location(f"{places[0]} to {places[-1]}" if places else "no rows")


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text[:60]}{'…' if len(text) > 60 else ''} ({type(value).__name__})"


def _next_step(path: str, answers: Answers) -> str:
    columns = ", ".join(_columns(answers)) or "none"
    return f"correct {path}; columns of the row come as keyword arguments, one list each: {columns}"
