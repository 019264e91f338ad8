"""From a batch to a loss, for masked-diffusion models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from transformers import Trainer

from dimba.trainers.data.encoding import IGNORED
from dimba.trainers.models.checkpoints import CompleteCheckpoints
from dimba.trainers.models.masked_diffusion.answers import Answers, Rows
from dimba.trainers.models.masked_diffusion.forward import mask_id
from dimba.trainers.models.masked_diffusion.noise import TAIL, Noise, drawn, drawn_numbers, drawn_tails
from dimba.trainers.models.masked_diffusion.scoring import add_scoring, bounds, losses

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Batch = dict[str, torch.Tensor]


class MaskedTrainer(CompleteCheckpoints, Trainer):
    """A trainer with batches of `collate_padded`, whose rows all count alike, however long their answers are.

    The loss of a row is the mean over its L trained tokens of the masked ones' losses, each divided by the probability
    with which it was masked: in the mean over all masks an upper bound on the negative log-likelihood of a token.
    """

    def __init__(self, *args: Any, most: int, has_tails: bool, **options: Any) -> None:
        """`has_tails`: masked tokens follow each answer, up to `most` tokens a row."""
        super().__init__(*args, **options)
        self._most, self._has_tails = most, has_tails
        self.scoring = add_scoring(self._base)
        self.model_accepts_loss_kwargs = True  # the loss of a batch is a part of the step's, not a mean of its own
        self._bound = torch.zeros(2, dtype=torch.float64, device=self.args.device)  # nats, and their tokens
        self._tokens = torch.zeros((), dtype=torch.long, device=self.args.device)

    @property
    def _base(self) -> PreTrainedModel:
        return self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], torch.Tensor]:
        """(the batches of an optimiser step, each with its masks; the number of rows with a loss on all ranks)."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        batches = [self._drawn(batch, number) for number, batch in enumerate(batches)]
        counts = [batch["trained"].any(dim=1).sum() for batch in batches]
        rows = torch.stack(counts).sum() if counts else torch.zeros(())
        return batches, self.accelerator.reduce(rows.to(device), "sum")

    def _drawn(self, batch: Batch, number: int) -> Batch:
        """This rank's batch with this number in the step, cut and masked: ranks take batches in turns."""
        ranks, size = self.accelerator.num_processes, self.args.per_device_train_batch_size
        first = (number * ranks + self.accelerator.process_index) * size
        rows = Rows(batch["input_ids"], batch["attention_mask"], batch["labels"])
        where = self.args.seed, self.state.global_step, range(first, first + len(rows.counts))
        answers = self._with_tails(rows.cut(drawn_numbers(*where, rows.counts)), drawn_tails(*where))
        noise = drawn(*where, size * ranks * self.args.gradient_accumulation_steps, answers.trained)
        return {**vars(answers), **vars(noise), "tokens": batch["tokens"]}

    def _with_tails(self, answers: Answers, lengths: list[int]) -> Answers:
        return answers.with_tails(lengths, self._most, mask_id(self._base)) if self._has_tails else answers

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """The loss of one batch; `num_items_in_batch` is the number of rows of the optimiser step on all ranks."""
        noise = Noise(inputs["masked"], inputs["share"])
        found = losses(model, self._base, inputs["ids"], inputs["attended"], noise)
        of_rows = found.sum(dim=1) / noise.share / inputs["trained"].sum(dim=1).clamp(min=1)
        self._tokens += inputs["tokens"]
        # Gradients are averaged over the ranks.
        return of_rows.sum() * self.accelerator.num_processes / torch.as_tensor(num_items_in_batch).clamp(min=1)

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
            for cut in rows.all(self._most_answers(rows)):
                answers = self._with_tails(cut, [TAIL // 2] * len(cut.ids))
                bound += torch.stack([bounds(model, self._base, answers).sum(), answers.trained.sum()])
        self._bound += bound
        return (bound[0] / bound[1].clamp(min=1)).float(), None, None

    def _most_answers(self, rows: Rows) -> int:
        """Of a row on any rank: the ranks of a sharded model must call it equally often."""
        here = torch.tensor([max(rows.counts)], device=self.args.device)
        return int(self.accelerator.gather(here).max())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the tokens so far, and the bound a validation token. All ranks must call it together."""
        if "eval_loss" in logs:
            nats, tokens = self.accelerator.reduce(self._bound, "sum").tolist()
            logs["eval_loss"] = nats / max(tokens, 1)
            self._bound.zero_()
        logs["num_tokens"] = int(self.accelerator.reduce(self._tokens, "sum"))
        super().log(logs, start_time)
