"""How a batch becomes a loss, and what is counted beside it: next-token prediction, as TRL computes it."""

from typing import Any

import torch
from trl import SFTTrainer

from dimba.trainers.packing import REAL_TOKENS


class NextTokenTrainer(SFTTrainer):
    """TRL's trainer, for batches that bring the number of their tokens that are no padding.

    TRL's own count takes the padding of packed rows for tokens, and several such rows for one.
    """

    _real_tokens = 0

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **options: Any) -> Any:
        """The mean loss of the scored tokens; the count is taken out before the model sees the batch."""
        count = torch.tensor(inputs.pop(REAL_TOKENS), device=self.args.device)
        loss = super().compute_loss(model, inputs, *args, **options)
        if self.model.training:
            self._real_tokens += int(self.accelerator.gather(count).sum())
            self._metrics["train"]["num_tokens"] = [self._real_tokens]
        return loss
