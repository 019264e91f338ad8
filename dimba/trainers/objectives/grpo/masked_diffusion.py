"""Groups of completions of masked-diffusion models: sampled by blocks of masked tokens, scored by one estimate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import GenerationConfig, PreTrainedModel

from dimba.objectives.grpo import GrpoOptions
from dimba.options.grpo_table import WD1
from dimba.trainers.kernels.step_time import Job
from dimba.trainers.models.loading import Compute, load_reference
from dimba.trainers.models.masked_diffusion.preparing import require_none_masked
from dimba.trainers.models.masked_diffusion.sampler import Unmasking
from dimba.trainers.models.saving import end_ids
from dimba.trainers.models.vocabulary import add_rows
from dimba.trainers.objectives.grpo.masked_group_trainer import MaskedGroupTrainer
from dimba.trainers.objectives.grpo.prompts import Prompt, Prompts
from dimba.trainers.objectives.grpo.weighted import SETTINGS, WeightedGroupTrainer
from dimba.trainers.ranks import is_main_process


def choose_kernels(_job: Job) -> None:
    """Nothing to choose: others are not proved to train masked diffusion."""


def trainer_settings(options: GrpoOptions, _compute: Compute) -> dict[str, Any]:
    """Keyword arguments of GRPOConfig for the loss that the options name."""
    return SETTINGS if options.loss_type == WD1 else {}


def make_group_trainer(
    options: GrpoOptions,
    prompts: Prompts,
    compute: Compute,
    *,
    model: PreTrainedModel,
    filled: Sequence[Prompt],
    **arguments: Any,
) -> MaskedGroupTrainer:
    """The trainer, with a frozen copy of the base where `beta` needs one; `filled` are the prompts of an epoch."""
    require_none_masked(model, (each.ids for each in prompts.train), options.base_checkpoint)
    kind = WeightedGroupTrainer if options.loss_type == WD1 else MaskedGroupTrainer
    own = getattr(model, "generation_config", None)
    if own is None:  # TRL reads the end tokens in it, and it must not be saved
        model.generation_config = GenerationConfig(eos_token_id=sorted(end_ids(prompts.tokenizer, prompts.turn_ends)))
    trainer = kind(
        how=_unmasking(options), p_mask_prompt=options.p_mask_prompt, prompts=filled, model=model, **arguments
    )
    model.generation_config = own
    if trainer.beta and options.method == "full":
        trainer.compare_with(_reference(options, prompts, compute))
    if is_main_process():
        print(f"log-probabilities by {trainer.scoring}", flush=True)
    return trainer


def _unmasking(options: GrpoOptions) -> Unmasking:
    return Unmasking(
        new_tokens=options.max_completion_length,
        block=options.block_length,
        steps=options.diffusion_steps or options.block_length,
        temperature=options.temperature,
        guidance=options.guidance,
        seed=options.seed,
    )


def _reference(options: GrpoOptions, prompts: Prompts, compute: Compute) -> PreTrainedModel:
    reference = load_reference(options, compute)
    add_rows(reference, prompts.tokenizer)
    return reference
