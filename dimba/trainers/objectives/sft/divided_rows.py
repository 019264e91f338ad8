"""A trainer whose ranks share each row, where one row does not fit a card."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from dimba.trainers.data.division import Batch, divide, gather_turns
from dimba.trainers.kernels.sequence import SequenceGroup


class DividedRows:
    """A mixin for a trainer of transformers, first among the bases. Without a `sequence` it changes nothing."""

    sequence: SequenceGroup | None = None

    def training_step(
        self, model: torch.nn.Module, inputs: Batch, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """This rank's part of the loss of the batches of all ranks that share rows, each trained in its turn."""
        trainer: Any = super()
        if self.sequence is None:
            loss: torch.Tensor = trainer.training_step(model, inputs, num_items_in_batch)
            return loss
        turns, losses = self._turns(inputs), []
        for turn in turns:
            with self._without_sync(model, last=turn is turns[-1]):
                losses.append(trainer.training_step(model, turn, num_items_in_batch))
        return torch.stack(losses).sum()

    def prediction_step(
        self, model: torch.nn.Module, inputs: Batch, *args: Any, **named: Any
    ) -> tuple[Any, None, None]:
        """As the trainer's, for the batches of all ranks that share rows."""
        trainer: Any = super()
        turns = self._turns(inputs) if self.sequence else [inputs]
        losses = [trainer.prediction_step(model, turn, *args, **named)[0] for turn in turns]
        return torch.stack(losses).mean(), None, None

    def part_of(self, inputs: Batch) -> dict[str, Any]:
        """This rank's part of a batch, as the model takes it; all of it without a `sequence`."""
        return divide(inputs, self.sequence) if self.sequence else inputs

    def _turns(self, inputs: Batch) -> list[Batch]:
        assert self.sequence is not None
        return gather_turns(self._prepare_inputs(inputs), self.sequence)  # type: ignore[attr-defined]

    def _without_sync(self, model: torch.nn.Module, *, last: bool) -> AbstractContextManager[None]:
        """DDP sums the gradients of all turns at once; FSDP2 would have to keep complete ones until then."""
        accelerator = self.accelerator  # type: ignore[attr-defined]
        return nullcontext() if last or accelerator.is_fsdp2 else accelerator.no_sync(model)
