"""Which tokens of a row are masked. The draws depend on the seed, the optimiser step and the row's place in it alone.

So they are the same after a resumption, and for any number of processes and batches that share a step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

EPSILON = 1e-3  # the least share of the tokens that is masked: their losses are divided by it
TAIL = 32  # masked tokens behind an answer at most
LEVELS = 8  # shares of masked tokens at which a row is evaluated


@dataclass(frozen=True)
class Noise:
    """`masked` [rows, tokens], and the `share` [rows] of the trained tokens with which each row was drawn."""

    masked: torch.Tensor
    share: torch.Tensor


def drawn_numbers(seed: int, step: int, places: Sequence[int], counts: Sequence[int]) -> list[int]:
    """Which of its answers (`counts`) each row is trained on in this step, the first is 1; 0 for a row without any."""
    draws = (np.random.default_rng((seed, step, place, 1)).random() for place in places)
    return [int(draw * count) + (count > 0) for draw, count in zip(draws, counts, strict=True)]


def drawn_tails(seed: int, step: int, places: Sequence[int]) -> list[int]:
    """How many masked tokens without a loss stand behind each row's answer in this step: from 0 to TAIL, all alike."""
    return [int(np.random.default_rng((seed, step, place, 2)).integers(TAIL + 1)) for place in places]


def drawn(seed: int, step: int, places: Sequence[int], rows: int, trained: torch.Tensor) -> Noise:
    """Masks for some of the `rows` of an optimiser step, by their `places` in it; `trained` [rows here, tokens].

    The shares t of a step's rows are one draw, moved by 1 / `rows` from row to row: each alone is uniform on (0, 1),
    and together they are spread evenly (Kingma et al., Variational Diffusion Models, arXiv:2107.00630, appendix I.1).
    """
    first = np.random.default_rng((seed, step)).random()
    times = (first + np.asarray(places) / rows) % 1
    share = (1 - EPSILON) * times + EPSILON
    width = trained.shape[1]
    uniform = np.stack([np.random.default_rng((seed, step, place)).random(width) for place in places])
    masked = torch.from_numpy(uniform < share[:, None]).to(trained.device) & trained
    return Noise(masked, torch.from_numpy(share).float().to(trained.device))


def drawn_prompts(seed: int, step: int, ids: torch.Tensor, attended: torch.Tensor, share: float) -> torch.Tensor:
    """Masks [rows, tokens] of some tokens of sampled rows, each with the probability `share`.

    They depend on the seed, the optimiser step and the row's own tokens: the same for every policy that scores the row,
    in any batch and on any rank, and other ones when the row is trained again at the next step.
    """
    width = ids.shape[1]
    draws = [
        np.random.default_rng((seed, step, _digest(row[here]))) for row, here in zip(ids, attended.bool(), strict=True)
    ]
    uniform = np.stack([each.random(width) for each in draws])
    return torch.from_numpy(uniform < share).to(ids.device) & attended.bool()


@dataclass(frozen=True)
class Level:
    """One of the evaluations of a batch: its masks, and the `weight` [rows] of a masked token's loss."""

    noise: Noise
    weight: torch.Tensor


def evaluated(ids: torch.Tensor, trained: torch.Tensor) -> Iterator[Level]:
    """The masks of LEVELS evaluations of rows [rows, tokens], which a row's own tokens determine.

    The losses of the masked tokens, times the weights and added up, are an upper bound on the negative log-likelihood
    of a row's trained tokens, in nats. With l of L tokens masked the bound is the mean over l of (L / l) × their losses
    (Nie et al., arXiv:2502.09992, equation 6): exactly as many are masked as a level says, so that a model without
    knowledge has log V nats a token, whatever the masks.
    """
    counts = trained.sum(dim=1).tolist()
    orders = [_order(row[here]) for row, here in zip(ids, trained, strict=True)]
    numbers = np.array([[_masked_at(level, count) for level in range(LEVELS)] for count in counts])
    for level in range(LEVELS):
        masked, weights = torch.zeros_like(trained), list[float]()
        for row, (order, count) in enumerate(zip(orders, counts, strict=True)):
            number = int(numbers[row, level])
            places = trained[row].nonzero().flatten()
            masked[row, places[order[:number].to(places.device)]] = True
            weights.append(_weight(numbers[row], number, count))
        share = [numbers[row, level] / max(count, 1) for row, count in enumerate(counts)]
        noise = Noise(masked, torch.tensor(share, device=ids.device).float().clamp(min=EPSILON))
        yield Level(noise, torch.tensor(weights, device=ids.device))


def _order(tokens: torch.Tensor) -> torch.Tensor:
    """The order in which a row's trained tokens are masked, the more the higher the level."""
    return torch.from_numpy(np.random.default_rng(_digest(tokens)).permutation(len(tokens)))


def _digest(tokens: torch.Tensor) -> int:
    content = tokens.cpu().numpy().astype("<i8").tobytes()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def _masked_at(level: int, count: int) -> int:
    """How many of `count` tokens are masked at a level: the middles of equal parts of (0, 1]."""
    return min(count, int((level + 0.5) / LEVELS * count) + 1)


def _weight(numbers: np.ndarray, number: int, count: int) -> float:
    """L / l, divided by the number of evaluations that a number of masked tokens has, and by that of such numbers."""
    if not number:
        return 0.0
    return count / number / (int((numbers == number).sum()) * len(set(numbers.tolist())))
