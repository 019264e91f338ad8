"""Drawing tokens so that a row's answer depends on its seed alone, not on the rows beside it in a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from dimba.common.errors import RunFailed
from dimba.common.inference import Sampling


class GumbelNoise(LogitsProcessor):
    """Adds Gumbel noise from a generator per row: the likeliest token then is a draw from the distribution."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Takes and returns scores [rows, vocabulary]."""
        noise = torch.stack([self._row(generator, scores.shape[1]) for generator in self._generators])
        return scores + noise.to(scores.device)

    def _row(self, generator: torch.Generator, size: int) -> torch.Tensor:
        return -torch.empty(size, dtype=torch.float64).exponential_(generator=generator).log()


class Finite(LogitsProcessor):
    """Raises RunFailed if the first token's logits are not numbers: the likeliest of them would be token 0."""

    def __init__(self) -> None:
        self._is_checked = False

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Takes and returns scores [rows, vocabulary]."""
        if not self._is_checked and scores.isnan().any():
            raise RunFailed("the model's logits are not numbers (NaN)", "`dimba logs` shows where training lost them")
        self._is_checked = True
        return scores


def processors(sampling: Sampling, numbers: Sequence[int]) -> LogitsProcessorList:
    """The processors under which the likeliest token is the drawn one."""
    if not sampling.temperature:
        return LogitsProcessorList([Finite()])
    found: list[LogitsProcessor] = [Finite(), TemperatureLogitsWarper(sampling.temperature)]
    found += [TopKLogitsWarper(sampling.top_k)] if sampling.top_k else []
    found += [TopPLogitsWarper(sampling.top_p)] if sampling.top_p < 1 else []
    seeds = [(sampling.seed * 1_000_003 + number) % (1 << 63) for number in numbers]
    return LogitsProcessorList([*found, GumbelNoise(seeds)])
