"""A numerical proof of divided rows, on the model, the ranks and the precision at hand, before the first step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dimba.common.errors import BadInput
from dimba.objectives.sft import SftOptions
from dimba.options.speed_table import SEQUENCE_PARALLEL
from dimba.trainers.data.packing import Batch, Collator, Feature, collate_packed, collate_padded
from dimba.trainers.data.packing_probe import documents_for
from dimba.trainers.kernels.attending import attending
from dimba.trainers.kernels.sequence import SequenceGroup
from dimba.trainers.models.dividing import WITHOUT
from dimba.trainers.models.saved_model import evaluating
from dimba.trainers.ranks import is_main_process

if TYPE_CHECKING:
    from dimba.trainers.objectives.sft.causal_trainer import CausalTrainer

_ROUNDING = 1e-4  # in float32: nats of a token, and the share of a gradient's length
# In 16 bits everything rounds. The mean error may be a share of the one if half of each document were not seen, and
# gradients may differ by a share of their length: an exchange that goes wrong changes them by far more.
_SHARE, _GRADIENT = 0.2, 0.1
_COMPARED = 8  # gradients, spread over the model
_LARGEST = 1 << 26  # parameters of a matrix whose gradient is compared: copies must not decide what fits

Inputs = Mapping[str, Any]


@dataclass(frozen=True)
class Measured:
    """Losses in nats of the trained tokens [tokens], in the order of their documents, and some gradients."""

    losses: torch.Tensor
    gradients: list[torch.Tensor]


def share_rows(trainer: CausalTrainer, options: SftOptions, *, packed: bool) -> None:
    """Lets the ranks share rows if the options want it, once they prove before the first step that they train alike.

    Raises:
        BadInput: the model adds a loss of whole batches.
    """
    if options.ranks_per_row == 1:
        return
    if trainer.aux_loss_enabled:
        problem = "the loss of its router is a mean over complete rows"
        raise BadInput(f"rows cannot be divided among ranks: {problem}", WITHOUT, key=SEQUENCE_PARALLEL.flag)
    trainer.sequence = own_group(options.ranks_per_row)
    trainer.add_callback(ProveDivision(trainer, packed=packed))


def own_group(ranks: int) -> SequenceGroup:
    """This rank's group: neighbours, which are on one machine if its number of GPUs is a multiple of the ranks."""
    handle, _ = torch.distributed.new_subgroups(group_size=ranks)
    return SequenceGroup(ranks, torch.distributed.get_rank(handle), handle)


class ProveDivision(TrainerCallback):
    """Ends a job before its first step if divided rows have other losses or gradients than complete ones."""

    def __init__(self, trainer: CausalTrainer, *, packed: bool) -> None:
        self._trainer, self._collate = trainer, partial(_in_one_row if packed else collate_padded, pad_id=0)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Compares, and prints by how much they differ; raises BadInput on all ranks."""
        trainer = self._trainer
        assert trainer.sequence is not None
        among = f"among {trainer.sequence.size} ranks"
        try:
            with evaluating(trainer.model), torch.enable_grad():
                found = _compare(trainer, trainer.sequence, self._collate)
        except Exception as error:  # the same on every rank
            message = next(iter(str(error).strip().splitlines()), "")
            problem = f"rows cannot be divided {among} ({type(error).__name__}: {message})"
            raise BadInput(problem, WITHOUT, key=SEQUENCE_PARALLEL.flag) from None
        if not found.is_rounding(in_float32=_is_in_float32(trainer)):
            problem = f"rows divided {among} train differently from complete ones: {found}"
            raise BadInput(problem, WITHOUT, key=SEQUENCE_PARALLEL.flag)
        if is_main_process():
            print(f"rows are divided {among}, proved on this model: {found}", flush=True)


@dataclass(frozen=True)
class Difference:
    """By how much divided rows differ from complete ones: losses in nats, gradients as a share of their length.

    `unseen` is the mean difference of a loss if half of each document is not seen.
    """

    largest: float
    mean: float
    gradient: float
    unseen: float

    def __str__(self) -> str:
        """The largest differences."""
        return f"losses differ by up to {self.largest:.2g} nats, gradients by {self.gradient:.2g} of their length"

    def is_rounding(self, *, in_float32: bool) -> bool:
        """Whether the differences are small enough; false if one is not a number."""
        if in_float32:
            return self.largest <= _ROUNDING and self.gradient <= _ROUNDING
        return self.mean <= _SHARE * self.unseen and self.gradient <= _GRADIENT


def _is_in_float32(trainer: CausalTrainer) -> bool:
    weights = {each.dtype for each in trainer.model.parameters()}
    return weights == {torch.float32} and trainer.accelerator.mixed_precision == "no"


def _compare(trainer: CausalTrainer, group: SequenceGroup, collate: Collator) -> Difference:
    documents = sorted(documents_for(trainer.model), key=lambda each: -len(each["input_ids"]))
    complete = _complete(trainer, documents)
    batch = _on_device(trainer, collate(documents))
    divided, unseen = (_divided(trainer, batch, group, halved=halved) for halved in (False, True))
    apart = (complete.losses - divided.losses).abs()
    of_gradients = _squares([one - other for one, other in zip(complete.gradients, divided.gradients, strict=True)])
    # All ranks compare the same sums: of a sharded model each has other gradients.
    squares = trainer.accelerator.reduce(torch.stack([of_gradients, _squares(complete.gradients)]), "sum")
    means = torch.stack([apart.mean(), (unseen.losses - divided.losses).abs().mean()])
    mean, without = trainer.accelerator.reduce(means, "mean").tolist()
    largest = trainer.accelerator.gather(apart.max().reshape(1)).max().item()
    return Difference(largest, mean, (squares[0] / squares[1]).sqrt().item(), without)


def _squares(gradients: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack([each.square().sum() for each in gradients]).sum()


def _complete(trainer: CausalTrainer, documents: list[Feature]) -> Measured:
    """Each document in a row of its own, under torch's attention."""
    batch = _on_device(trainer, collate_padded(documents, pad_id=0))
    with attending(trainer.model, "sdpa"):
        losses, mask, gradients = _measured(trainer, batch, 1)
    return Measured(losses[mask], gradients)


def _in_one_row(documents: Sequence[Feature], *, pad_id: int) -> Batch:
    return collate_packed(documents, max_length=sum(len(each["input_ids"]) for each in documents), pad_id=pad_id)


def _divided(trainer: CausalTrainer, batch: Batch, group: SequenceGroup, *, halved: bool) -> Measured:
    """Documents in rows as training has them, of which each rank has a part; with `halved`, half of each unseen."""
    part = trainer.part_of(batch)
    if halved:
        halves = [each for length in part["complete_rows"].lengths for each in (length // 2, length - length // 2)]
        part["complete_rows"] = replace(part["complete_rows"], lengths=[each for each in halves if each])
    losses, mask, gradients = _measured(trainer, part, group.size)
    complete, scored = (_all_parts(each, group) for each in (losses, mask.float()))
    return Measured(complete[scored > 0], gradients)


def _all_parts(part: torch.Tensor, group: SequenceGroup) -> torch.Tensor:
    """The parts of all ranks [rows, length]."""
    parts = [torch.empty_like(part) for _ in range(group.size)]
    torch.distributed.all_gather(parts, part.contiguous(), group=group.handle)
    return torch.cat(parts, dim=1)


def _on_device(trainer: CausalTrainer, batch: Inputs) -> dict[str, Any]:
    return {name: value.to(trainer.args.device) for name, value in batch.items() if name != "tokens"}


def _measured(
    trainer: CausalTrainer, inputs: Inputs, parts: int
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """(losses in nats of all positions, which of them have one, gradients of the sum over the `parts` of a row)."""
    model = trainer.model_wrapped
    with trainer.compute_loss_context_manager():
        outputs = model(**inputs, use_cache=False, fused_lm_head=True)
    scored, mask = -outputs.log_probs.float(), outputs.label_mask
    losses = scored if scored.dim() == 2 else scored.new_zeros(mask.shape).masked_scatter(mask, scored)
    trainer.accelerator.backward(losses.sum() * parts)  # gradients are averaged over the ranks
    trained = [each for each in model.parameters() if each.grad is not None and each.numel() <= _LARGEST]
    chosen = trained[:: max(1, len(trained) // _COMPARED)]
    gradients = [_local(each.grad).detach().clone() for each in chosen]
    model.zero_grad(set_to_none=True)
    return losses.detach(), mask, gradients


def _local(gradient: torch.Tensor | None) -> torch.Tensor:
    assert gradient is not None
    return (gradient.to_local() if isinstance(gradient, DTensor) else gradient).float()
