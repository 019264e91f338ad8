"""From a batch to a loss, for masked-diffusion models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from dimba.trainers.data.encoding import IGNORED
from dimba.trainers.models.masked_diffusion.answers import Rows
from dimba.trainers.models.masked_diffusion.noise import Noise, drawn, drawn_numbers, drawn_tails
from dimba.trainers.models.masked_diffusion.scoring import bounds, losses
from dimba.trainers.objectives.masked_steps import Batch, MaskedSteps

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class MaskedTrainer(MaskedSteps):
    """A trainer with batches of `collate_padded`, whose rows all count alike, however long their answers are.

    The loss of a row is the mean over its L trained tokens of the masked ones' losses, each divided by the probability
    with which it was masked: in the mean over all masks an upper bound on the negative log-likelihood of a token.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        """As `MaskedSteps`."""
        super().__init__(*args, **options)
        self._bound = torch.zeros(2, dtype=torch.float64, device=self.args.device)  # nats, and their tokens

    def drawn(self, batch: Batch, first: int) -> Batch:
        """The batch with its rows cut and masked."""
        rows = Rows(batch["input_ids"], batch["attention_mask"], batch["labels"])
        where = self.args.seed, self.state.global_step, range(first, first + len(rows.counts))
        answers = self.with_tails(rows.cut(drawn_numbers(*where, rows.counts)), drawn_tails(*where))
        noise = drawn(*where, self.examples, answers.trained)
        return {**vars(answers), **vars(noise), "tokens": batch["tokens"]}

    def counted(self, batch: Batch) -> torch.Tensor:
        """The rows with a loss: others only fill a step."""
        return batch["trained"].any(dim=1).sum()

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """The loss of one batch; `num_items_in_batch` is the number of rows of the optimiser step on all ranks."""
        noise = Noise(inputs["masked"], inputs["share"])
        found = losses(model, self.base, inputs["ids"], inputs["attended"], noise)
        of_rows = found.sum(dim=1) / noise.share / inputs["trained"].sum(dim=1).clamp(min=1)
        self._tokens += inputs["tokens"]
        return self.part_of_step(of_rows.sum(), num_items_in_batch)

    def probed_loss(self, model: PreTrainedModel, inputs: Batch) -> torch.Tensor:
        """The loss of a batch of which every trained token is masked, for `dimba.trainers.models.memory`."""
        ids, trained = inputs["input_ids"], inputs["labels"] != IGNORED
        every = {"ids": ids, "attended": inputs["attention_mask"], "trained": trained, "masked": trained}
        every |= {"share": torch.ones(len(ids), device=ids.device), "tokens": inputs["tokens"]}
        return self.compute_loss(model, every, num_items_in_batch=len(ids))

    def prediction_step(
        self, model: torch.nn.Module, inputs: Batch, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, None, None]:
        """(the bound in nats a token, None, None), from the fixed masks of each row."""
        inputs = self._prepare_inputs(inputs)
        bound = torch.zeros_like(self._bound)
        with torch.no_grad(), self.compute_loss_context_manager():
            rows = Rows(inputs["input_ids"], inputs["attention_mask"], inputs["labels"])
            for answers in self.evaluated_answers(rows):
                bound += torch.stack([bounds(model, self.base, answers).sum(), answers.trained.sum()])
        self._bound += bound
        return (bound[0] / bound[1].clamp(min=1)).float(), None, None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the bound a validation token. All ranks must call it together."""
        if "eval_loss" in logs:
            nats, tokens = self.accelerator.reduce(self._bound, "sum").tolist()
            logs["eval_loss"] = nats / max(tokens, 1)
            self._bound.zero_()
        super().log(logs, start_time)
