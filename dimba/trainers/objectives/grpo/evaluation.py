"""The evaluation of a reward model on held-out pairs, beside the effect of length alone."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dimba.common.errors import BadInput
from dimba.dataset.dialogue import Message
from dimba.dataset.prompt_examples import PromptExample
from dimba.options.grpo_table import WEAK_REWARD
from dimba.trainers.objectives.grpo.prompts import Prompt, question

_HELD_OUT = 0.1  # of the questions
_MOST_HELD_OUT = 500  # questions
_Z = 1.96  # of a 95 % interval

Chat = tuple[Message, ...]
Score = Callable[[Sequence[Chat]], list[float]]


@dataclass(frozen=True, kw_only=True)
class RewardModelEvaluation:
    """How often a reward model prefers the chosen answer, and how often the chosen answer is the longer one."""

    pairs: int  # held out
    right: int
    longer_chosen: float  # share of all pairs of unequal length
    longer_right: float  # share of the held-out pairs that preferring the longer answer gets right

    @property
    def accuracy(self) -> float:
        """The share of the held-out pairs whose chosen answer gets the higher score."""
        return self.right / self.pairs

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % confidence interval of the accuracy."""
        n, share = self.pairs, self.accuracy
        middle = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        half = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2)) / (1 + _Z**2 / n)
        return max(0.0, middle - half), min(1.0, middle + half)

    def lines(self) -> list[str]:
        """The accuracy and the length bias in words, with warnings."""
        low, high = self.interval
        lines = [
            f"reward model: right on {self.accuracy:.1%} of {self.pairs:,} held-out pairs "
            f"(95 % interval {low:.1%} to {high:.1%})",
            f"length bias: the chosen answer is the longer one in {self.longer_chosen:.0%} of all pairs; "
            f"preferring the longer one would be right on {self.longer_right:.1%} of the held-out pairs",
        ]
        if low < 0.5:
            lines.append("warning: with these few pairs it may be no better than a coin: give more pairs")
        if self.longer_right >= self.accuracy:
            lines.append("warning: preferring the longer answer does as well: it may score nothing but length")
        return lines

    def require_accuracy(self, *, allow_weak: bool) -> None:
        """Raise BadInput if the accuracy is below WEAK_REWARD, unless `allow_weak`."""
        if self.accuracy >= WEAK_REWARD or allow_weak:
            return
        raise BadInput(
            f"the reward model is right on {self.accuracy:.1%} of the held-out pairs, less than {WEAK_REWARD:.0%}: "
            "GRPO would learn its errors",
            "give more or cleaner pairs, raise --reward-epochs or --reward-learning-rate, give --reward-model, "
            "or continue anyway with --allow-weak-reward (in a spec `trainer_args: {allow-weak-reward: true}`)",
        )


def split_by_question(prompts: Sequence[Prompt], seed: int) -> tuple[list[PromptExample], list[PromptExample]]:
    """(pairs for training, held-out pairs): all pairs of a question are on the same side, in any order of the rows.

    Raises:
        BadInput: all pairs have the same question.
    """
    ranked = sorted({question(each.example) for each in prompts}, key=lambda text: _digest(text, seed))
    if len(ranked) < 2:
        problem = "all pairs have the same question: none is left to evaluate a reward model on"
        raise BadInput(problem, "give pairs with other questions")
    held_out = set(ranked[: min(_MOST_HELD_OUT, max(1, round(len(ranked) * _HELD_OUT)))])
    sides: tuple[list[PromptExample], list[PromptExample]] = ([], [])
    for each in prompts:
        sides[question(each.example) in held_out].append(each.example)
    return sides


def evaluate(score: Score, train: Sequence[PromptExample], held_out: Sequence[PromptExample]) -> RewardModelEvaluation:
    """Score both answers of the held-out pairs; equal scores count as wrong."""
    scores = score([pair_chat(pair, chosen=chosen) for chosen in (True, False) for pair in held_out])
    chosen, rejected = scores[: len(held_out)], scores[len(held_out) :]
    longer = [_is_chosen_longer(pair) for pair in (*train, *held_out)]
    unequal = [each for each in longer if each is not None]
    return RewardModelEvaluation(
        pairs=len(held_out),
        right=sum(one > other for one, other in zip(chosen, rejected, strict=True)),
        longer_chosen=sum(unequal) / max(1, len(unequal)),
        longer_right=sum(each is True for each in longer[len(train) :]) / len(held_out),
    )


def pair_chat(pair: PromptExample, *, chosen: bool) -> Chat:
    """The prompt of a pair with its chosen or its rejected answer."""
    answer = pair.chosen if chosen else pair.rejected
    assert answer is not None, "the example is not a pair"
    return (*pair.messages, *answer)


def _is_chosen_longer(pair: PromptExample) -> bool | None:
    """Whether the chosen answer has more letters; None if both have as many."""
    chosen, rejected = (_letters(answer) for answer in (pair.chosen, pair.rejected))
    return None if chosen == rejected else chosen > rejected


def _letters(answer: Sequence[Message] | None) -> int:
    return sum(len(str(message["content"])) for message in answer or ())


def _digest(text: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}\0{text}".encode()).hexdigest()
