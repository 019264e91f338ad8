"""The bound on the log-likelihood of an answer, estimated from a few masks that compared models share.

With l of its L tokens masked, uniformly drawn, the mean of (L / l) × the sum of their losses is an upper bound on an
answer's negative log-likelihood (Nie et al., arXiv:2502.09992, equation 6). The estimate of a preference varies least
with one mask for each share of masked tokens, and with the same masks for the model and its reference (Zhu et al.,
LLaDA 1.5, arXiv:2505.19223). Here the shares are also spread evenly, the masks of an answer take its tokens in turns,
and both answers of a pair have the same shares. Each mask alone is uniformly drawn, so the mean stays what it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from dimba.trainers.models.masked_diffusion.noise import EPSILON, Level, Noise, drawn_tails
from dimba.trainers.models.masked_diffusion.scoring import losses

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from dimba.trainers.models.masked_diffusion.answers import Answers

_MASKS = 3  # of the random numbers of a place, beside those of `dimba.trainers.models.masked_diffusion.noise`


@dataclass(frozen=True, kw_only=True)
class PairDraws:
    """The draws of an optimiser step for the pairs at these `places` in it; they depend on nothing else.

    They are for rows [draws × (chosen sides, then rejected ones)]: all pairs with the first mask, then with the next.
    A side with several answers has one of them masked at a time: its share t of (0, 1) stands for a part of the
    tokens of all its answers, laid end to end.
    """

    seed: int
    step: int
    places: range
    pairs: int  # of the step
    draws: int

    def times(self) -> np.ndarray:
        """t [rows]: one draw, moved evenly from mask to mask of a pair, and by less from pair to pair."""
        first = np.random.default_rng((self.seed, self.step)).random()
        moved = np.arange(self.draws)[:, None] / self.draws + np.asarray(self.places) / (self.pairs * self.draws)
        return np.tile((first + moved) % 1, 2).ravel()

    def numbers(self, counts: list[int]) -> list[int]:
        """Which of its answers (`counts`) is masked in each row, the first is 1; 0 for a row without any."""
        return [int(time * count) + (count > 0) for time, count in zip(self.times(), counts, strict=True)]

    def tails(self) -> list[int]:
        """How many masked tokens without a loss stand behind the answer of each row: as many for all rows of a pair."""
        return drawn_tails(self.seed, self.step, self.places) * (2 * self.draws)

    def masks(self, trained: torch.Tensor, counts: list[int]) -> Level:
        """The masks of rows whose answer is `trained` [rows, tokens]; `counts` as in `numbers`."""
        answers = trained.cpu().numpy()
        lengths, within = answers.sum(axis=1), self.times() * counts % 1
        masked = np.minimum((within * lengths).astype(int) + 1, lengths)
        found = np.zeros_like(answers)
        for row, (start, turn) in enumerate(zip(answers.argmax(axis=1), self._turns(masked), strict=True)):
            order = np.roll(self._order(row, lengths[row]), -turn)
            found[row, start + order[: masked[row]]] = True
        share = torch.from_numpy(masked / np.maximum(lengths, 1)).float().clamp(min=EPSILON)
        weight = torch.from_numpy(counts * lengths / np.maximum(masked, 1)).float()
        device = trained.device
        return Level(Noise(torch.from_numpy(found).to(device), share.to(device)), weight.to(device))

    def _turns(self, masked: np.ndarray) -> np.ndarray:
        """Where each mask begins in its side's order of tokens: where the one with the next fewer tokens ended."""
        numbers = masked.reshape(self.draws, -1)
        ranks = numbers.argsort(axis=0, kind="stable")
        ends, turns = np.take_along_axis(numbers, ranks, axis=0).cumsum(axis=0), np.zeros_like(numbers)
        np.put_along_axis(turns, ranks[1:], ends[:-1], axis=0)
        return turns.ravel()

    def _order(self, row: int, length: int) -> np.ndarray:
        """The order in which tokens of an answer are masked: that of both sides of a pair, as far as both have them."""
        place = self.places[row % len(self.places)]
        return np.argsort(np.random.default_rng((self.seed, self.step, place, _MASKS)).random(length))


def estimated(
    wrapped: torch.nn.Module, model: PreTrainedModel, answers: Answers, level: Level, draws: int
) -> torch.Tensor:
    """Estimates [sides] of lower bounds on the log-likelihoods of sides in nats, each from its rows' masks."""
    nats = losses(wrapped, model, answers.ids, answers.attended, level.noise).sum(dim=1) * level.weight
    return -nats.view(draws, -1).mean(dim=0)
