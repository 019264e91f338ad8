"""The losses of pairs, from the changes of their answers' log-likelihoods. The names are those of TRL's DPOTrainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.nn.functional import logsigmoid


@dataclass(frozen=True)
class Changes:
    """By how much a model's log-likelihoods of both answers exceed the reference's, and their tokens; all [pairs]."""

    chosen: torch.Tensor
    rejected: torch.Tensor
    chosen_tokens: torch.Tensor
    rejected_tokens: torch.Tensor

    @property
    def margin(self) -> torch.Tensor:
        """The change of the chosen answer minus that of the rejected one, in nats."""
        return self.chosen - self.rejected

    @property
    def margin_a_token(self) -> torch.Tensor:
        """The same of the mean changes of their tokens."""
        return self.chosen / self.chosen_tokens.clamp(min=1) - self.rejected / self.rejected_tokens.clamp(min=1)


def pair_losses(name: str, changes: Changes, beta: float) -> torch.Tensor:
    """The loss [pairs] of this name."""
    return _LOSSES[name](changes, beta)


def _sigmoid(changes: Changes, beta: float) -> torch.Tensor:
    """Rafailov et al., arXiv:2305.18290, equation 7."""
    return -logsigmoid(beta * changes.margin)


def _hinge(changes: Changes, beta: float) -> torch.Tensor:
    """Zhao et al., arXiv:2305.10425, section 2.2."""
    return torch.relu(1 - beta * changes.margin)


def _ipo(changes: Changes, beta: float) -> torch.Tensor:
    """Azar et al., arXiv:2310.12036, equation 17, of mean changes of the tokens."""
    return (changes.margin_a_token - 1 / (2 * beta)) ** 2


def _nca_pair(changes: Changes, beta: float) -> torch.Tensor:
    """Chen et al., arXiv:2402.05369, for two answers."""
    chosen, rejected = beta * changes.chosen, beta * changes.rejected
    return -logsigmoid(chosen) - 0.5 * logsigmoid(-chosen) - 0.5 * logsigmoid(-rejected)


def _bco_pair(changes: Changes, beta: float) -> torch.Tensor:
    """Jung et al., arXiv:2404.04656, without a shift of the rewards."""
    return -logsigmoid(beta * changes.chosen) - logsigmoid(-beta * changes.rejected)


def _apo_zero(changes: Changes, beta: float) -> torch.Tensor:
    """D'Oosterlinck et al., arXiv:2408.06266, equation 7."""
    return 1 - torch.sigmoid(beta * changes.chosen) + torch.sigmoid(beta * changes.rejected)


def _apo_down(changes: Changes, beta: float) -> torch.Tensor:
    """D'Oosterlinck et al., arXiv:2408.06266, equation 8."""
    return torch.sigmoid(beta * changes.chosen) + 1 - torch.sigmoid(beta * changes.margin)


def _sigmoid_norm(changes: Changes, beta: float) -> torch.Tensor:
    """As `sigmoid`, of mean changes of the tokens."""
    return -logsigmoid(beta * changes.margin_a_token)


_LOSSES: Mapping[str, Callable[[Changes, float], torch.Tensor]] = {
    "sigmoid": _sigmoid,
    "hinge": _hinge,
    "ipo": _ipo,
    "nca_pair": _nca_pair,
    "bco_pair": _bco_pair,
    "apo_zero": _apo_zero,
    "apo_down": _apo_down,
    "sigmoid_norm": _sigmoid_norm,
}
