"""wd1: likelihoods weighted by the rewards of a group, in place of ratios to an old policy.

Tang et al., wd1: Weighted Policy Optimization for Reasoning in Diffusion Language Models, arXiv:2507.08838. With the
advantage A_i = r_i - mean(r) of the completions o_i of a prompt q,

    loss = sum_i (w-_i - w+_i) log p(o_i | q),   w+ = softmax(A),   w- = softmax(-A)   over the group,

where log p is the sum of the estimates of diffu-GRPO over the tokens of a completion, of the trained policy alone. A
step takes the mean over its prompts. With `beta` the estimated divergence of each token is added, as in GRPO.
"""

from __future__ import annotations

from typing import Any

import torch

from dimba.trainers.objectives.grpo.masked_group_trainer import MaskedGroupTrainer

# Of GRPOConfig: the loss of a completion is the sum over its tokens, and advantages are not divided by their deviation.
SETTINGS: dict[str, Any] = {"loss_type": "luspo", "scale_rewards": "none"}


class WeightedGroupTrainer(MaskedGroupTrainer):
    """A trainer whose advantages are the weights of wd1.

    Its ratios are to the present policy: 1, with the gradient of the log-probability.
    """

    _unscored: torch.Tensor

    def _calculate_rewards(self, *batch: Any) -> torch.Tensor:
        rewards = super()._calculate_rewards(*batch)
        self._unscored = rewards.isnan().all(dim=1)
        return rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super()._generate_and_score_completions(inputs)
        advantages = self.accelerator.gather(batch["advantages"])
        weights = group_weights(advantages, self._unscored, self.num_generations)
        first = self.accelerator.process_index * len(inputs)
        return {**batch, "advantages": weights[first : first + len(inputs)] * self.num_generations}


def group_weights(advantages: torch.Tensor, unscored: torch.Tensor, group: int) -> torch.Tensor:
    """w+ - w- of completions [rows], `group` of a prompt in a row; 0 for those that no reward scores."""
    grouped, without = advantages.view(-1, group), unscored.view(-1, group)
    more, less = (each.masked_fill(without, -torch.inf).softmax(dim=1) for each in (grouped, -grouped))
    return (more - less).nan_to_num().flatten()
