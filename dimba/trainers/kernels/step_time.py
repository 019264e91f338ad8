"""The time of a forward and backward pass of a job's largest batch, by the kernels that compute it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import torch

from dimba.trainers.kernels.blocks import repeated_blocks
from dimba.trainers.kernels.proof import Kernels
from dimba.trainers.kernels.timings import Timings, quickest
from dimba.trainers.models.memory import saved_counters

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Trainer

    from dimba.options.trainer import TrainerOptions
    from dimba.trainers.data.packing import Batch

OWN = "own"
_SHARES = (1, 4)  # of the batch's length: a part where the GPU cannot hold the activations of all
_PACKAGES = ("liger-kernel", "transformers", "peft")


@dataclass(frozen=True)
class Job:
    """A trainer that has not started, a batch of its largest size, its options, and its mixed precision."""

    trainer: Trainer
    batch: Callable[[], Batch]
    options: TrainerOptions
    mixed: str
    samples: bool = False  # the job samples completions from the model

    @property
    def base(self) -> PreTrainedModel:
        """The model, or the one under its adapter."""
        model = self.trainer.model
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    @property
    def passes(self) -> float:
        """Forward and backward passes of this rank in the job."""
        args = self.trainer.args
        if args.max_steps > 0:
            return float(args.max_steps * args.gradient_accumulation_steps)
        rows = args.per_device_train_batch_size * args.world_size
        return float(len(self.trainer.train_dataset) / rows * args.num_train_epochs)


def step_times(job: Job, candidates: Mapping[str, Kernels]) -> Timings:
    """Seconds of a pass by the model's own kernels and by `candidates`; of a part of the batch if all does not fit."""
    found = Timings({})
    for share in _SHARES:
        batch = {name: _part(value, share).to(job.trainer.args.device) for name, value in job.batch().items()}
        calls = {name: partial(_run, job, batch, each) for name, each in [(OWN, None), *candidates.items()]}
        found = quickest("-".join(["kernels", *candidates]), _key(job, batch), calls, job.trainer.args.device)
        if OWN in found.seconds:
            break
    return found


def _part(value: torch.Tensor, share: int) -> torch.Tensor:
    return value if share == 1 or value.dim() < 2 else value[:, : max(1, value.shape[1] // share)]


def _run(job: Job, batch: Batch, kernels: Kernels | None) -> None:
    """A pass that leaves no trace; `torch.autograd.grad` fills no gradients."""
    trainer = job.trainer
    counters = saved_counters(trainer)
    if kernels:
        kernels.use()
    try:
        with trainer.accelerator.autocast():
            loss = trainer.probed_loss(trainer.model, dict(batch))
        trained = [each for each in trainer.model.parameters() if each.requires_grad]
        torch.autograd.grad(loss, trained, allow_unused=True)
    finally:
        if kernels:
            kernels.leave()
        for name, value in counters.items():
            setattr(trainer, name, value)


def _key(job: Job, batch: Batch) -> dict[str, Any]:
    """What the times depend on beside the machine."""
    model, config = job.base, job.base.config.to_dict()
    text = json.dumps({name: config[name] for name in sorted(config) if name[0] != "_"}, default=str)
    return {
        "model": hashlib.sha256(text.encode()).hexdigest(),
        "trainer": type(job.trainer).__name__,
        "method": job.options.method,
        "rank": job.options.lora_r,
        "trained": sum(each.numel() for each in model.parameters() if each.requires_grad),
        "mixed": job.mixed,
        "attention": model.config._attn_implementation,
        "recomputes": any(each.gradient_checkpointing for each in repeated_blocks(model)),
        "shapes": {name: list(value.shape) for name, value in batch.items()},
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
