"""Sampling from a masked-diffusion model: blocks of masked tokens, of which the surest are kept at each step.

The tokens of all blocks are there from the start, masked. The blocks are filled from the left; at each step the model
predicts every masked token of the block, the predictions with the highest probability stay, the others are masked
again (Nie et al., Large Language Diffusion Models, arXiv:2502.09992, section 2.4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from dimba.trainers.models.masked_diffusion.forward import logits_of, mask_id

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Ids = list[int]


@dataclass(frozen=True, kw_only=True)
class Unmasking:
    """How answers are sampled: `new_tokens` in blocks of `block` tokens, each filled in `steps` steps at most.

    With `ahead` the masked tokens of later blocks are seen; without, they are added when their turn comes.
    `guidance` above 0 moves the logits away from those without the prompt (classifier-free guidance).
    """

    new_tokens: int
    block: int = 32
    steps: int = 32
    ahead: bool = False
    temperature: float = 0.0
    guidance: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Sampled:
    """The answers up to their end tokens, and the logits of each row's first token at the first step [rows, words]."""

    tokens: list[Ids]
    first_logits: torch.Tensor


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    prompts: Sequence[Ids],
    how: Unmasking,
    *,
    ends: Sequence[int] = (),
    pad_id: int = 0,
    numbers: Sequence[int] | None = None,
    fills_all: bool = False,
    is_stopped: Callable[[], bool] = lambda: False,
    on_step: Callable[[list[Ids]], None] | None = None,
) -> Sampled:
    """Answers to prompts, several at once; a row is done once a filled block of it holds one of `ends`.

    The last block is the one in which all rows are done; with `fills_all` all blocks have their steps nevertheless.

    The random numbers of a row depend on the seed and its number alone, by default its place. `on_step` gets each
    answer up to its first masked token.
    """
    rows = _Rows(model, prompts, how, pad_id, ends)
    rows.seed(range(len(prompts)) if numbers is None else numbers)
    first: torch.Tensor | None = None
    for start in range(0, how.new_tokens, how.block):
        for kept in _counts(min(how.block, how.new_tokens - start), how.steps):
            found = rows.step(start, kept)
            first = found if first is None else first
            if on_step:
                on_step(rows.answers(ends))
            if is_stopped():
                return Sampled(rows.answers(ends), first)
        if not fills_all and all(rows.is_done(row, ends) for row in range(len(prompts))):
            break
    assert first is not None, "at least one token is asked for"
    return Sampled(rows.answers(ends), first)


def _counts(tokens: int, steps: int) -> Iterator[int]:
    """How many tokens of a block are kept at each of its steps, as evenly as they divide."""
    steps = min(tokens, steps)
    edges = np.linspace(0, tokens, steps + 1).round().astype(int)
    return (int(count) for count in np.diff(edges))


class _Rows:
    """Prompts with masked tokens behind them, padded on the right."""

    def __init__(
        self, model: PreTrainedModel, prompts: Sequence[Ids], how: Unmasking, pad_id: int, ends: Sequence[int]
    ) -> None:
        self._ends = torch.tensor(list(ends), dtype=torch.long, device=next(model.parameters()).device)
        self._model, self._how, self._mask = model, how, mask_id(model)
        self._starts = [len(each) for each in prompts]
        device = next(model.parameters()).device
        width = max(self._starts) + how.new_tokens
        padded = [
            [*each, *[self._mask] * how.new_tokens, *[pad_id] * (width - len(each) - how.new_tokens)]
            for each in prompts
        ]
        self._ids = torch.tensor(padded, device=device)
        places = torch.arange(width, device=device)[None]
        starts = torch.tensor(self._starts, device=device)[:, None]
        self._answer = (places >= starts) & (places < starts + how.new_tokens)
        self._place = places - starts  # of a token within its answer

    def seed(self, numbers: Sequence[int]) -> None:
        """Gives each row the random numbers of its own number."""
        self._random = [np.random.default_rng((self._how.seed, number)) for number in numbers]

    def step(self, start: int, kept: int) -> torch.Tensor:
        """Fills `kept` tokens of the block from `start` on in every row; returns the first token's logits."""
        end = self._how.new_tokens if self._how.ahead else min(start + self._how.block, self._how.new_tokens)
        width = max(self._starts) + end  # what lies behind is not there yet
        place = self._place[:, :width]
        seen = place < end
        masked = (self._ids[:, :width] == self._mask) & self._answer[:, :width] & seen
        logits = self._logits(masked, seen, end)
        rows = torch.arange(len(logits), device=logits.device)
        first = logits[rows, torch.tensor(self._starts, device=logits.device)]
        logits[..., self._mask] = -torch.inf  # a masked token is no answer
        block = masked & (place >= start) & (place < start + self._how.block)
        for row, open_ in enumerate(block):
            self._fill(row, open_, logits[row], kept)
        return first

    def _logits(self, masked: torch.Tensor, seen: torch.Tensor, tokens: int) -> torch.Tensor:
        """The logits with `tokens` tokens of each answer there, of which some are masked."""
        share, attended = masked.sum(dim=1).float().clamp(min=1) / tokens, seen.long()
        ids, answer = self._ids[:, : seen.shape[1]], self._answer[:, : seen.shape[1]]
        found = logits_of(self._model, ids, attended, share).float()
        if self._how.guidance:
            unprompted = ids.masked_fill(seen & ~answer, self._mask)
            without = logits_of(self._model, unprompted, attended, share).float()
            found.sub_(without).mul_(1 + self._how.guidance).add_(without)  # in place: logits are of whole rows
        return found

    def _fill(self, row: int, open_: torch.Tensor, logits: torch.Tensor, kept: int) -> None:
        places = open_[: self._limit(row)].nonzero().flatten()
        if not len(places):
            return
        of_block = logits[places].double()
        chosen = self._drawn(row, of_block)
        sureness = of_block.softmax(dim=-1).gather(-1, chosen[:, None])[:, 0]
        best = sureness.topk(min(kept, len(places))).indices
        self._ids[row, places[best]] = chosen[best]

    def _limit(self, row: int) -> int:
        """The place of an answer's first end token, behind which nothing is filled any more; the width without one."""
        found = (torch.isin(self._ids[row], self._ends) & self._answer[row]).nonzero()
        return int(found[0]) if len(found) else self._ids.shape[1]

    def _drawn(self, row: int, logits: torch.Tensor) -> torch.Tensor:
        """The likeliest tokens, or by the Gumbel-max trick in float64, in which its tail is exact."""
        if not self._how.temperature:
            return logits.argmax(dim=-1)
        uniform = torch.from_numpy(self._random[row].random(tuple(logits.shape))).to(logits.device)
        gumbel = -torch.log(-torch.log(uniform.clamp(min=1e-300)))
        return (logits / self._how.temperature + gumbel).argmax(dim=-1)

    def is_done(self, row: int, ends: Sequence[int]) -> bool:
        """Whether an end token is among the tokens in front of the first masked one."""
        return any(token in ends for token in self._filled(row))

    def _filled(self, row: int) -> Ids:
        """The tokens of an answer in front of the first that is still masked."""
        start = self._starts[row]
        tokens = self._ids[row, start : start + self._how.new_tokens].tolist()
        return tokens[: tokens.index(self._mask)] if self._mask in tokens else tokens

    def answers(self, ends: Sequence[int]) -> list[Ids]:
        """The answers, each with its end token."""
        found = [self._filled(row) for row in range(len(self._starts))]
        return [each[: next((n + 1 for n, token in enumerate(each) if token in ends), len(each))] for each in found]
