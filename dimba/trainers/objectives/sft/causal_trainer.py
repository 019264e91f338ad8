"""From a batch to a loss, for causal models."""

from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import ModelOutput
from trl import SFTTrainer

from dimba.trainers.kernels.elementwise import replace_elementwise
from dimba.trainers.kernels.head import add_head
from dimba.trainers.models.checkpoints import CompleteCheckpoints
from dimba.trainers.models.sharding import is_sharded
from dimba.trainers.objectives.sft.divided_rows import DividedRows


class CausalTrainer(DividedRows, CompleteCheckpoints, SFTTrainer):
    """TRL's trainer, with batches of `dimba.trainers.data.packing` and the mean loss of their trained tokens.

    TRL's own loss computes an entropy and an accuracy over all logits at every step, waits for the device four times
    to log them, and counts one packed row's positions as the tokens of a batch.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        base = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        on_cpu = self.args.device.type == "cpu"
        self.scoring = add_head(base, on_cpu=on_cpu)
        if on_cpu and not self.args.bf16 and not is_sharded():
            replace_elementwise(base)
        # The sum of the loss and the number of the validation tokens: a mean of means would depend on the batches.
        self._validation = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        self._tokens = torch.zeros((), dtype=torch.long, device=self.args.device)

    def compute_loss(
        self,
        model: PreTrainedModel,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, ModelOutput]:
        """The loss of one batch; `num_items_in_batch` is the number of trained tokens of the optimiser step."""
        tokens = inputs["tokens"]
        inputs = self.part_of({name: value for name, value in inputs.items() if name != "tokens"})
        if self.aux_loss_enabled:
            inputs["output_router_logits"] = True
        outputs = model(**inputs, use_cache=False, fused_lm_head=True)
        total = -outputs.log_probs.sum()
        if self.model.training:
            self._tokens += tokens
        else:
            self._validation += torch.stack([total.detach(), outputs.label_mask.sum()])
        count = outputs.label_mask.sum() if num_items_in_batch is None else num_items_in_batch
        loss = total / torch.as_tensor(count).clamp(min=1)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # gradients are averaged over the ranks
        if self.aux_loss_enabled:
            loss = loss + self._router_loss(outputs, num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def probed_loss(self, model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The loss of a batch that is not trained on, for `dimba.trainers.models.memory`."""
        return self.compute_loss(model, inputs, num_items_in_batch=inputs["tokens"])

    def _router_loss(self, outputs: ModelOutput, num_items_in_batch: torch.Tensor | int | None) -> torch.Tensor:
        # It is the mean of a batch already, and an optimiser step takes the mean of these.
        batches = 1 if num_items_in_batch is None else self.current_gradient_accumulation_steps
        return self.router_aux_loss_coef * outputs.aux_loss / batches

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the tokens so far, without padding, and the mean validation loss per token. All ranks must call it."""
        if "eval_loss" in logs:
            loss, count = self.accelerator.reduce(self._validation, "sum").tolist()
            logs["eval_loss"] = loss / max(count, 1)
            self._validation.zero_()
        self._metrics["train"]["num_tokens"] = [int(self.accelerator.reduce(self._tokens, "sum"))]
        super().log(logs, start_time)
