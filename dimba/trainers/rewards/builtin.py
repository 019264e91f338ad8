"""The rewards that come with the trainer, as objects that score completions."""

from collections.abc import Callable
from dataclasses import dataclass

from dimba.dataset.dialogue import Message
from dimba.objectives.rewards import RewardSpec
from dimba.trainers.rewards.completions import Completions
from dimba.trainers.rewards.expressions import equal_expressions
from dimba.trainers.rewards.reasoning import concerns_reasoning, split_reasoning
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
    """A verifier, called for each completion: for its answer, or for the text with the reasoning if it `sees_all`."""

    name: str
    score: Verifier
    sees_all: bool = False

    def __call__(self, completions: Completions) -> list[float | None]:
        """One score per completion; 0 for one whose reasoning does not end."""
        references = [_answer(example.reference or "") for example in completions.examples]
        if self.sees_all:
            return [self.score(text, right) for text, right in zip(completions.texts, references, strict=True)]
        pairs = zip(completions.splits, references, strict=True)
        return [self.score(split.answer, right) if split.finished else 0.0 for split, right in pairs]


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
        pairs = zip(completions.splits, completions.examples, strict=True)
        return [similarity(split.answer, _text(each.chosen), _text(each.rejected)) for split, each in pairs]


def make_builtin(spec: RewardSpec) -> VerifierReward | LengthReward | SimilarityReward:
    """The reward with the spec's name; raises BadInput for an unusable JSON Schema."""
    if spec.name == "length":
        return LengthReward(spec.logged, int(spec.parameter) if spec.parameter else None)
    if spec.name == "similarity":
        return SimilarityReward(spec.logged)
    sees_all = spec.name in ("regex", "contains") and concerns_reasoning(spec.parameter)
    return VerifierReward(spec.logged, _verifier(spec), sees_all)


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
    return _answer("\n".join(str(message["content"]) for message in messages or ()))


def _answer(text: str) -> str:
    """The text without its reasoning; all of it if that does not end."""
    split = split_reasoning(text)
    return split.answer if split.finished else text
