"""The answers of a row, one at a time: what stands behind an answer would give it away to a model that sees it.

A causal model learns all turns of a chat at once. Here a row is cut behind one of its answers, that answer is scored,
and those before it are context, as they are when the model is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import pad

from dimba.trainers.data.encoding import IGNORED


@dataclass(frozen=True)
class Answers:
    """Rows cut behind one answer each, all [rows, tokens]: ids, which are no padding, and which are of the answer."""

    ids: torch.Tensor
    attended: torch.Tensor
    trained: torch.Tensor

    def with_tails(self, lengths: Sequence[int], most: int, mask_id: int) -> Answers:
        """The rows with this many masked tokens behind each answer, up to `most` tokens: they have no loss.

        Without them the number of masked tokens would tell the length of the answer, which is unknown when the model is
        asked: there are then masked tokens behind the end too.
        """
        places = torch.arange(self.ids.shape[1] + max(lengths), device=self.ids.device)
        starts = self.attended.sum(dim=1, keepdim=True)  # rows are padded on the right
        ends = starts + torch.tensor(lengths, device=self.ids.device)[:, None] * self.trained.any(dim=1, keepdim=True)
        ends = torch.maximum(starts, ends.clamp(max=most))
        width = int(ends.max())
        places, more = places[:width], max(0, width - self.ids.shape[1])
        tail = (places >= starts) & (places < ends)
        ids, attended, trained = (pad(each, (0, more))[:, :width] for each in (self.ids, self.attended, self.trained))
        return Answers(ids.masked_fill(tail, mask_id), attended.masked_fill(tail, 1), trained)


class Rows:
    """Padded rows, `labels` IGNORED where no loss is computed; an answer is a run of tokens with one."""

    def __init__(self, ids: torch.Tensor, attended: torch.Tensor, labels: torch.Tensor) -> None:
        self._ids, self._attended = ids, attended
        trained = labels != IGNORED
        begins = trained & ~pad(trained[:, :-1], (1, 0))
        self._number = begins.cumsum(dim=1) * trained  # of the answer that a token is in, 0 outside
        self.counts: list[int] = self._number.amax(dim=1).tolist()

    def cut(self, numbers: list[int]) -> Answers:
        """The rows, each cut behind its answer of this number (the first is 1); a row without it has no answer."""
        wanted = torch.tensor(numbers, device=self._ids.device)[:, None]
        trained = (self._number == wanted) & (wanted > 0)
        places = torch.arange(trained.shape[1], device=trained.device)
        ends = torch.where(trained, places, 0).amax(dim=1)
        width = max(1, int(ends.max()) + 1)
        attended = self._attended * (places <= ends[:, None])
        return Answers(self._ids[:, :width], attended[:, :width], trained[:, :width])

    def all(self, most: int) -> Iterator[Answers]:
        """All answers: the first of every row, then the second of those that have one, up to number `most`."""
        return (self.cut([number if number <= count else 0 for count in self.counts]) for number in range(1, most + 1))
