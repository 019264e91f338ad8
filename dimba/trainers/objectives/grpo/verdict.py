"""How far a reward model can be trusted: held-out pairs, by question, and what length alone explains."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dimba.common.errors import BadInput
from dimba.dataset.dialogue import Message
from dimba.dataset.prompt_examples import PromptExample
from dimba.options.grpo_table import WEAK_REWARD
from dimba.trainers.objectives.grpo.prompts import Asked, question

_HELD_OUT = 0.1  # of the questions
_MOST_HELD_OUT = 500  # questions
_Z = 1.96  # of a 95 % interval

Chat = tuple[Message, ...]
Score = Callable[[Sequence[Chat]], list[float]]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How often a reward model prefers the chosen answer of held-out pairs, and how often the longer one is chosen."""

    pairs: int
    right: int
    longer_chosen: float  # share of all pairs of unequal length
    longer_right: float  # share of the held-out pairs that preferring the longer answer gets right

    @property
    def accuracy(self) -> float:
        """Share of the held-out pairs that are ordered rightly."""
        return self.right / self.pairs

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % confidence interval of the accuracy."""
        n, share = self.pairs, self.accuracy
        middle = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        half = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2)) / (1 + _Z**2 / n)
        return max(0.0, middle - half), min(1.0, middle + half)

    def lines(self) -> list[str]:
        """For people."""
        low, high = self.interval
        told = [
            f"reward model: right on {self.accuracy:.1%} of {self.pairs:,} held-out pairs "
            f"(95 % interval {low:.1%} to {high:.1%})",
            f"length bias: the chosen answer is the longer one in {self.longer_chosen:.0%} of all pairs; "
            f"preferring the longer one would be right on {self.longer_right:.1%} of the held-out ones",
        ]
        if low < 0.5:
            told.append("warning: by these few pairs it may be no better than a coin: give more pairs")
        if self.longer_right >= self.accuracy:
            told.append("warning: preferring the longer answer does as well: it may score nothing but length")
        return told

    def check(self, *, allow_weak: bool) -> None:
        """Raises BadInput where the model is right too seldom, unless that is allowed."""
        if self.accuracy >= WEAK_REWARD or allow_weak:
            return
        raise BadInput(
            f"the reward model is right on {self.accuracy:.1%} of the held-out pairs, less than {WEAK_REWARD:.0%}: "
            "GRPO would learn its errors",
            "give more or cleaner pairs, raise --reward-epochs or --reward-learning-rate, give --reward-model, "
            "or go on all the same with --allow-weak-reward (in a spec `trainer_args: {allow-weak-reward: true}`)",
        )


def split_by_question(asked: Sequence[Asked], seed: int) -> tuple[list[PromptExample], list[PromptExample]]:
    """(to train on, held out): all pairs of one question are on the same side, whatever the order of the rows.

    Raises:
        BadInput: there are not two questions to tell apart.
    """
    ranked = sorted({question(each.task) for each in asked}, key=lambda text: _digest(text, seed))
    if len(ranked) < 2:
        raise BadInput("the pairs have one question only: none is left to test a reward model on", "give more pairs")
    held = set(ranked[: min(_MOST_HELD_OUT, max(1, round(len(ranked) * _HELD_OUT)))])
    sides: tuple[list[PromptExample], list[PromptExample]] = ([], [])
    for each in asked:
        sides[question(each.task) in held].append(each.task)
    return sides


def judge(score: Score, train: Sequence[PromptExample], held_out: Sequence[PromptExample]) -> Verdict:
    """Scores both answers of the held-out pairs; an equal score is not right."""
    scores = score([whole(task, chosen=chosen) for chosen in (True, False) for task in held_out])
    chosen, rejected = scores[: len(held_out)], scores[len(held_out) :]
    longer = [_longer(task) for task in (*train, *held_out)]
    unequal = [each for each in longer if each is not None]
    return Verdict(
        pairs=len(held_out),
        right=sum(one > other for one, other in zip(chosen, rejected, strict=True)),
        longer_chosen=sum(unequal) / max(1, len(unequal)),
        longer_right=sum(each is True for each in longer[len(train) :]) / len(held_out),
    )


def whole(task: PromptExample, *, chosen: bool) -> Chat:
    """What is asked, and one of the answers."""
    said = task.chosen if chosen else task.rejected
    assert said is not None, "only pairs get here"
    return (*task.messages, *said)


def _longer(task: PromptExample) -> bool | None:
    """Whether the chosen answer has more letters; None where both have as many."""
    chosen, rejected = (_letters(said) for said in (task.chosen, task.rejected))
    return None if chosen == rejected else chosen > rejected


def _letters(said: Sequence[Message] | None) -> int:
    return sum(len(str(message["content"])) for message in said or ())


def _digest(text: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}\0{text}".encode()).hexdigest()
