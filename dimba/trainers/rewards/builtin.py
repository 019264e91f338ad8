"""The rewards that come with the trainer, as objects that score answers."""

from collections.abc import Callable
from dataclasses import dataclass

from dimba.dataset.dialogue import Message
from dimba.objectives.rewards import RewardSpec
from dimba.trainers.rewards.answers import Answers
from dimba.trainers.rewards.expressions import equal_expressions
from dimba.trainers.rewards.verifiers import (
    Verifier,
    contains,
    exact_match,
    found,
    has_word,
    json_valid,
    length,
    numeric,
    similarity,
)

FREE_SHARE = 0.8  # of the limit, that `length` leaves alone


@dataclass(frozen=True)
class Verified:
    """A verifier, asked about each answer by itself."""

    name: str
    score: Verifier

    def __call__(self, answers: Answers) -> list[float | None]:
        """A score for each answer."""
        pairs = zip(answers.texts, answers.tasks, strict=True)
        return [self.score(text, task.reference or "") for text, task in pairs]


@dataclass(frozen=True)
class Length:
    """A soft companion of others: what is short enough gets 0, what is too long less. Never above 0."""

    name: str
    free: int | None

    def __call__(self, answers: Answers) -> list[float | None]:
        """A score for each answer."""
        free = int(answers.limit * FREE_SHARE) if self.free is None else self.free
        return [length(len(ids), free, answers.limit) for ids in answers.token_ids]


@dataclass(frozen=True)
class Similarity:
    """Imitation of the chosen texts: it knows nothing of what is right."""

    name: str

    def __call__(self, answers: Answers) -> list[float | None]:
        """A score for each answer."""
        pairs = zip(answers.texts, answers.tasks, strict=True)
        return [similarity(text, _text(task.chosen), _text(task.rejected)) for text, task in pairs]


def make_builtin(spec: RewardSpec) -> Verified | Length | Similarity:
    """The reward of that name."""
    if spec.name == "length":
        return Length(spec.logged, int(spec.parameter) if spec.parameter else None)
    if spec.name == "similarity":
        return Similarity(spec.logged)
    return Verified(spec.logged, _verifier(spec))


def _verifier(spec: RewardSpec) -> Verifier:
    if spec.name == "regex":
        return found(spec.parameter or "")
    if spec.name == "json_valid":
        return json_valid(spec.parameter)
    if spec.name == "contains" and spec.parameter is not None:
        wanted = spec.parameter
        return lambda text, _reference: has_word(text, wanted)
    known: dict[str, Callable[[str, str], float]] = {
        "numeric": numeric,
        "math": equal_expressions,
        "exact_match": exact_match,
        "contains": contains,
    }
    return known[spec.name]


def _text(messages: tuple[Message, ...] | None) -> str:
    return "\n".join(str(message["content"]) for message in messages or ())
