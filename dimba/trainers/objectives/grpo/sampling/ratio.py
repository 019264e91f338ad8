"""The probabilities of sampled tokens by the sampler and by the trainer: how far they are apart, and the correction.

Both compute the same model in other kernels and another precision. The gradient is that of the sampler's policy times
the ratio of the two (truncated importance sampling; Espeholt et al., IMPALA, arXiv:1802.01561, section 4.1), per token:
the ratio of a whole completion is a product of hundreds of roundings, and would mask long ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from dimba.common.errors import RunFailed

CAP = 2.0  # the largest ratio that a token's loss is multiplied by
CORRECTION: dict[str, Any] = {  # of GRPOConfig
    "vllm_importance_sampling_correction": True,
    "vllm_importance_sampling_mode": "token_truncate",
    "vllm_importance_sampling_clip_max": CAP,
    "vllm_importance_sampling_clip_min": None,
}
# Mean distance in nats at which the sampler has another model's weights. The same weights in bf16 are at 0.01 to 0.05,
# a random one at 5 and more.
_ANOTHER_MODEL = 0.5
_OUTLIER = 2.0  # nats: a token beyond counts as this in the divergence, which one token would make else
_HINT = (
    "leave out --sampler (in a spec `trainer_args.sampler`): transformers samples then, with the trained model itself"
)


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Of all ranks' sampled tokens: trainer's probability over the sampler's, before it is truncated."""

    ratio_mean: float
    ratio_max: float
    distance: float  # mean absolute difference of log-probabilities, in nats
    divergence: float  # KL(sampler || trainer), estimated per token, in nats
    truncated: float  # share of the tokens whose ratio is above CAP

    def metrics(self) -> dict[str, float]:
        """The figures by their names in metrics.jsonl."""
        return {
            "sampler_ratio_mean": self.ratio_mean,
            "sampler_ratio_max": self.ratio_max,
            "sampler_distance": self.distance,
            "sampler_kl": self.divergence,
            "sampler_truncated": self.truncated,
        }

    def required(self, sampler: str, step: int) -> Agreement:
        """Itself; raises RunFailed if the sampler cannot have the trainer's weights."""
        if self.distance <= _ANOTHER_MODEL:
            return self
        raise RunFailed(
            f"{sampler} does not have the trainer's weights at step {step}: the log-probabilities of its tokens are "
            f"{self.distance:.2f} nats from the trainer's on average",
            _HINT,
        )


def agreement(batch: dict[str, torch.Tensor], accelerator: Any) -> Agreement:
    """The agreement on a batch of TRL's, over all ranks. All must call it.

    `old_per_token_logps` (the trainer's) and `sampling_per_token_logps` have the shape (rows, tokens).
    """
    gap = batch["old_per_token_logps"].float() - batch["sampling_per_token_logps"].float()
    gap = gap[batch["completion_mask"].bool() & ~gap.isnan()]
    ratio = gap.exp()
    bounded = gap.clamp(max=_OUTLIER)
    divergence = bounded.exp() - 1 - bounded  # Schulman, Approximating KL Divergence (2020), k3: never negative
    sums = [ratio.sum(), gap.abs().sum(), divergence.sum(), (ratio > CAP).sum(), gap.numel()]
    largest = ratio.max() if gap.numel() else torch.zeros(())
    values = torch.stack([torch.as_tensor(each, dtype=torch.float64, device=gap.device) for each in [*sums, largest]])
    ranks = accelerator.gather(values).view(-1, len(values))
    count = max(1.0, float(ranks[:, 4].sum()))
    mean, distance, apart, truncated = (float(each) / count for each in ranks[:, :4].sum(dim=0))
    return Agreement(
        ratio_mean=mean,
        ratio_max=float(ranks[:, 5].max()),
        distance=distance,
        divergence=apart,
        truncated=truncated,
    )
