"""Groups of completions of causal models: sampled by transformers, its continuous batching, or vLLM."""

from collections.abc import Sequence
from typing import Any

from dimba.objectives.grpo import GrpoOptions
from dimba.trainers.kernels.choice import use_quickest_kernels
from dimba.trainers.models.loading import Compute, reference_settings
from dimba.trainers.objectives.grpo.group_trainer import GroupTrainer
from dimba.trainers.objectives.grpo.prompts import Prompt, Prompts
from dimba.trainers.objectives.grpo.sampling.choice import start_sampler
from dimba.trainers.objectives.grpo.sampling.ratio import CORRECTION

choose_kernels = use_quickest_kernels


def trainer_settings(options: GrpoOptions, compute: Compute) -> dict[str, Any]:
    """Keyword arguments of GRPOConfig: how TRL loads a reference, and corrects for another sampler."""
    return CORRECTION | {
        "model_init_kwargs": reference_settings(options, compute) if options.method == "full" else None
    }


def make_group_trainer(
    options: GrpoOptions, _prompts: Prompts, compute: Compute, *, filled: Sequence[Prompt], **arguments: Any
) -> GroupTrainer:
    """The trainer with the sampler that the options choose; `filled` are the prompts of an epoch."""
    trainer = GroupTrainer(prompts=filled, **arguments)
    if sampler := start_sampler(options, trainer, compute):
        trainer.sample_with(sampler)
    return trainer
