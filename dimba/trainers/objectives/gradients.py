"""Which trained tensors ever got a gradient, and which of them changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dimba.trainers.models.precision import Precision
from dimba.trainers.ranks import world_size

if TYPE_CHECKING:
    from transformers import Trainer

_INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}
_EVERY_STEP = 16  # steps until tensors without a gradient are looked at more seldom

Sums = dict[str, tuple[int, int]]


class GradientWatch(TrainerCallback):
    """Looks at the gradients before each optimiser step, of the tensors that had none so far.

    `steps` counts these steps, `updates` those with a learning rate above 0.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.missing = {name for name, each in trainer.model.named_parameters() if each.requires_grad}
        self.trained = len(self.missing)
        self.steps = self.updates = 0
        self._had_update_before = False
        self._equal_rewards = list[bool]()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, optimizer: Any = None, **_: Any
    ) -> None:
        """Take the tensors off the list that have a finite gradient other than 0."""
        if self.steps < _EVERY_STEP or not self.steps & (self.steps - 1):
            self.missing -= set(_with_gradient(self._trainer.model, self.missing))
        self._had_update_before = self.updates > 0
        self.steps += 1
        self.updates += any(group["lr"] > 0 for group in getattr(optimizer, "param_groups", ()))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Note whether all rewards were equal within each group, where there are rewards."""
        if logs and "frac_reward_zero_std" in logs:
            self._equal_rewards.append(logs["frac_reward_zero_std"] >= 1 or logs.get("reward") is None)

    @property
    def has_equal_rewards(self) -> bool:
        """Whether in every step each group's completions had one reward."""
        return bool(self._equal_rewards) and all(self._equal_rewards)

    def without_gradient(self) -> list[str]:
        """The trained tensors that never had a gradient, on any rank. All ranks must call it together.

        Half of an adapter's tensors have none before its first update, as the other half starts at 0.
        """
        names = sorted(self.missing if world_size() == 1 else _everywhere(self._trainer, self.missing))
        return [name for name in names if self._had_update_before or ".lora_" not in name]


def _with_gradient(model: torch.nn.Module, names: set[str]) -> list[str]:
    if not names:
        return []
    named = [
        (name, _local(each.grad)) for name, each in model.named_parameters() if name in names and each.grad is not None
    ]
    named = [(name, each) for name, each in named if each.numel()]
    if not named:
        return []
    largest = torch.stack(torch._foreach_norm([each for _, each in named], float("inf"))).float()
    flags = ((largest > 0) & largest.isfinite()).tolist()
    return [name for (name, _), flag in zip(named, flags, strict=True) if flag]


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part of a sharded tensor."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _everywhere(trainer: Trainer, names: set[str]) -> set[str]:
    """The names that every rank has in its set."""
    every = [name for name, each in trainer.model.named_parameters() if each.requires_grad]
    flags = torch.tensor([float(name in names) for name in every], device=trainer.accelerator.device)
    counts = trainer.accelerator.reduce(flags, "sum").tolist()
    return {name for name, count in zip(every, counts, strict=True) if count >= world_size()}


def bit_sums(model: torch.nn.Module, precision: Precision) -> Sums:
    """A sum over the bits of each trained tensor on this rank: as it is, and in the precision that it is saved in."""
    trained = [(name, _local(each.detach())) for name, each in model.named_parameters() if each.requires_grad]
    sums = [_bit_sum(each) for _, each in trained]
    rounded = [_bit_sum(each.to(precision.of(name, each))) for name, each in trained]
    values = zip(_integers(sums), _integers(rounded), strict=True)
    return {name: pair for (name, _), pair in zip(trained, values, strict=True)}


def _bit_sum(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(_INTEGERS[tensor.element_size()]).sum(dtype=torch.int64)


def _integers(values: Sequence[torch.Tensor]) -> list[int]:
    found: list[int] = torch.stack(list(values)).tolist() if values else []
    return found


def changed_tensors(trainer: Trainer, before: Sums, after: Sums) -> tuple[int, int]:
    """(tensors that changed, those that still differ as saved) on any rank. All ranks must call it together."""
    flags = [[before[name][kind] != after[name][kind] for name in sorted(before)] for kind in (0, 1)]
    if world_size() > 1:
        tensor = torch.tensor(flags, dtype=torch.float, device=trainer.accelerator.device)
        flags = (trainer.accelerator.reduce(tensor, "sum") > 0).tolist()
    return sum(flags[0]), sum(flags[1])
