"""The rewards that come with the trainer, as objects that score completions."""

from collections.abc import Callable
from dataclasses import dataclass

from dimba.dataset.dialogue import Message
from dimba.objectives.rewards import RewardSpec
from dimba.trainers.rewards.completions import Completions
from dimba.trainers.rewards.expressions import equal_expressions
from dimba.trainers.rewards.schemas import json_valid
from dimba.trainers.rewards.verifiers import (
    Verifier,
    contains,
    exact_match,
    has_word,
    length,
    matches,
    numeric,
    similarity,
)

FREE_SHARE = 0.8  # of the limit, up to which `length` is 0 by default

_PLAIN: dict[str, Callable[[str, str], float]] = {
    "numeric": numeric,
    "math": equal_expressions,
    "exact_match": exact_match,
    "contains": contains,
}


@dataclass(frozen=True)
class VerifierReward:
    """A verifier, called for each completion."""

    name: str
    score: Verifier

    def __call__(self, completions: Completions) -> list[float | None]:
        """One score per completion."""
        pairs = zip(completions.texts, completions.examples, strict=True)
        return [self.score(text, example.reference or "") for text, example in pairs]


@dataclass(frozen=True)
class LengthReward:
    """0 for completions up to `free` tokens, below 0 for longer ones; meant to be used beside other rewards."""

    name: str
    free: int | None

    def __call__(self, completions: Completions) -> list[float | None]:
        """One score per completion."""
        free = int(completions.limit * FREE_SHARE) if self.free is None else self.free
        return [length(len(ids), free, completions.limit) for ids in completions.token_ids]


@dataclass(frozen=True)
class SimilarityReward:
    """Imitation of the chosen texts; it does not measure correctness."""

    name: str

    def __call__(self, completions: Completions) -> list[float | None]:
        """One score per completion."""
        pairs = zip(completions.texts, completions.examples, strict=True)
        return [similarity(text, _text(example.chosen), _text(example.rejected)) for text, example in pairs]


def make_builtin(spec: RewardSpec) -> VerifierReward | LengthReward | SimilarityReward:
    """The reward with the spec's name; raises BadInput for an unusable JSON Schema."""
    if spec.name == "length":
        return LengthReward(spec.logged, int(spec.parameter) if spec.parameter else None)
    if spec.name == "similarity":
        return SimilarityReward(spec.logged)
    return VerifierReward(spec.logged, _verifier(spec))


def _verifier(spec: RewardSpec) -> Verifier:
    if spec.name == "regex":
        return matches(spec.parameter or "")
    if spec.name == "json_valid":
        return json_valid(spec.parameter)
    if spec.name == "contains" and spec.parameter is not None:
        wanted = spec.parameter
        return lambda text, _reference: has_word(text, wanted)
    return _PLAIN[spec.name]


def _text(messages: tuple[Message, ...] | None) -> str:
    return "\n".join(str(message["content"]) for message in messages or ())
