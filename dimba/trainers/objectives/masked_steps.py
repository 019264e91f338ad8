"""What the trainers of masked-diffusion models share: the masks of an optimiser step, and its rows on all ranks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from transformers import Trainer

from dimba.trainers.models.checkpoints import CompleteCheckpoints
from dimba.trainers.models.masked_diffusion.answers import Answers, Rows
from dimba.trainers.models.masked_diffusion.forward import mask_id
from dimba.trainers.models.masked_diffusion.noise import TAIL
from dimba.trainers.models.masked_diffusion.scoring import add_scoring

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Batch = dict[str, torch.Tensor]


class MaskedSteps(CompleteCheckpoints, Trainer):
    """A trainer that draws the masks of each step, the same ones for any division of the step into batches.

    An objective gives `drawn`, the masks of a batch, and `counted`, the examples in it; the loss of a step is the mean
    over its examples.
    """

    def __init__(self, *args: Any, most: int, has_tails: bool, **options: Any) -> None:
        """`has_tails`: masked tokens follow each answer, up to `most` tokens a row."""
        super().__init__(*args, **options)
        self._most, self._has_tails = most, has_tails
        self.scoring = add_scoring(self.base)
        self.model_accepts_loss_kwargs = True  # the loss of a batch is a part of the step's, not a mean of its own
        self._tokens = torch.zeros((), dtype=torch.long, device=self.args.device)

    def drawn(self, batch: Batch, first: int) -> Batch:
        """A collated batch with its masks; its first example has this place in the step."""
        raise NotImplementedError

    def counted(self, batch: Batch) -> torch.Tensor:
        """The number of examples with a loss in a batch with masks."""
        raise NotImplementedError

    @property
    def base(self) -> PreTrainedModel:
        """The model without its adapter."""
        return self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model

    @property
    def examples(self) -> int:
        """Examples per optimiser step, on all ranks."""
        step = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
        return int(step * self.accelerator.num_processes)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], torch.Tensor]:
        """(the batches of an optimiser step, each with its masks; the examples with a loss on all ranks)."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        batches = [self.drawn(batch, self._place(number)) for number, batch in enumerate(batches)]
        counts = [self.counted(batch) for batch in batches]
        examples = torch.stack(counts).sum() if counts else torch.zeros(())
        return batches, self.accelerator.reduce(examples.to(device), "sum")

    def _place(self, number: int) -> int:
        """The place of the first example in this rank's batch of this number: ranks take batches in turns."""
        ranks, size = self.accelerator.num_processes, self.args.per_device_train_batch_size
        return int(number * ranks + self.accelerator.process_index) * size

    def part_of_step(self, total: torch.Tensor, examples: torch.Tensor | int | None) -> torch.Tensor:
        """What the summed losses of a batch add to the loss of a step with this many examples on all ranks."""
        # Gradients are averaged over the ranks.
        return total * self.accelerator.num_processes / torch.as_tensor(examples).clamp(min=1)

    def with_tails(self, answers: Answers, lengths: list[int]) -> Answers:
        """The answers with this many masked tokens behind each, where answers have such tails."""
        return answers.with_tails(lengths, self._most, mask_id(self.base)) if self._has_tails else answers

    def evaluated_answers(self, rows: Rows) -> Iterator[Answers]:
        """The answers of rows, one of each row at a time, with the tails that evaluations have."""
        for cut in rows.all(self._most_answers(rows)):
            yield self.with_tails(cut, [TAIL // 2] * len(cut.ids))

    def _most_answers(self, rows: Rows) -> int:
        """Of a row on any rank: the ranks of a sharded model must call it equally often."""
        here = torch.tensor([max(rows.counts)], device=self.args.device)
        return int(self.accelerator.gather(here).max())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the tokens so far. All ranks must call it together."""
        logs["num_tokens"] = int(self.accelerator.reduce(self._tokens, "sum"))
        super().log(logs, start_time)
