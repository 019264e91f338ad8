"""GRPO's trainer, put together from options, prompts and rewards."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from transformers import TrainerCallback
from trl import GRPOConfig

from dimba.common.contract import SAMPLES_FILE
from dimba.objectives.grpo import BETA_WITH_REWARD_MODEL, GRPO, GrpoOptions
from dimba.trainers.data.packing import Batch
from dimba.trainers.kernels.step_time import Job
from dimba.trainers.models.adapters import adapter_config
from dimba.trainers.models.families import family_of_model
from dimba.trainers.models.loading import Compute, load_model, prepare_base
from dimba.trainers.models.memory import add_probe, longest_completions
from dimba.trainers.models.saving import stop_where_turns_end
from dimba.trainers.models.sharding import connect_ranks
from dimba.trainers.objectives.callbacks import metrics_path
from dimba.trainers.objectives.grpo.alarms import Alarms
from dimba.trainers.objectives.grpo.group_trainer import GroupTrainer
from dimba.trainers.objectives.grpo.prompts import Prompts
from dimba.trainers.objectives.grpo.reward_choice import has_reward_model
from dimba.trainers.objectives.grpo.sample_log import SampleLog
from dimba.trainers.objectives.grpo.step_layout import fill_step, planned_steps, step_layout
from dimba.trainers.objectives.registry import family_half
from dimba.trainers.objectives.run_settings import can_fall_back, checkpoint_layers, configure, run_settings
from dimba.trainers.ranks import is_main_process
from dimba.trainers.rewards import Reward


def make_trainer(
    options: GrpoOptions,
    prompts: Prompts,
    rewards: Sequence[Reward],
    compute: Compute,
    callbacks: Sequence[TrainerCallback],
) -> GroupTrainer:
    """The trainer, its memory probed before the first step; prints the layout of a step."""
    connect_ranks()  # numbers that prove a base's claim come from the first
    model = load_model(options, compute)
    new = prepare_base(model, options, prompts.tokenizer, prompts.turn_ends)
    stop_where_turns_end(model, prompts.tokenizer, prompts.turn_ends)
    samples = metrics_path(options.output_dir).with_name(SAMPLES_FILE)
    layers = checkpoint_layers(model, options, compute, can_fall_back=can_fall_back(options, GRPO))
    if is_main_process():
        print(f"activation checkpointing {layers.words}", flush=True)
    half = family_half(GRPO, family_of_model(model))
    trainer: GroupTrainer = half.make_group_trainer(
        options,
        prompts,
        compute,
        rewards=rewards,
        filled=fill_step(options, prompts.train),
        samples=SampleLog(samples, every=options.sample_steps),
        model=model,
        args=_config(options, prompts, compute, half.trainer_settings(options, compute)),
        processing_class=prompts.tokenizer,
        peft_config=adapter_config(options, model, prompts.tokenizer, new),
        callbacks=[*callbacks, Alarms()],
    )
    batch = _longest_batch(trainer, options, prompts)
    tries = can_fall_back(options, GRPO)
    add_probe(trainer, batch, metrics_path(options.output_dir), layers, can_fall_back=tries)
    trainer.state.max_steps = planned_steps(options, len(prompts.train))  # for rewards that are called before training
    configure(trainer)
    half.choose_kernels(Job(trainer, batch, options, compute.mixed, samples=True))
    return trainer


def _longest_batch(trainer: GroupTrainer, options: GrpoOptions, prompts: Prompts) -> Callable[[], Batch]:
    return partial(
        longest_completions,
        rows=options.batch_size,
        prompt=max(1, min(prompts.report.longest, prompts.report.max_length)),
        completion=options.max_completion_length,
        reference=bool(trainer.beta),
        corrected=trainer.use_vllm,
    )


def _beta(options: GrpoOptions, prompts: Prompts) -> float:
    if options.beta is not None:
        return options.beta
    return BETA_WITH_REWARD_MODEL if has_reward_model(prompts.rewards) else 0.0


def _config(options: GrpoOptions, prompts: Prompts, compute: Compute, of_family: dict[str, Any]) -> GRPOConfig:
    layout = step_layout(options)
    return GRPOConfig(
        output_dir=options.output_dir,
        per_device_train_batch_size=options.batch_size,
        gradient_accumulation_steps=layout.accumulation,
        num_generations=layout.generations,
        max_completion_length=options.max_completion_length,
        temperature=options.temperature,
        beta=_beta(options, prompts),
        reward_weights=options.reward_weights,
        num_train_epochs=options.epochs,
        max_steps=options.max_steps or -1,
        learning_rate=options.learning_rate,
        **of_family,
        **run_settings(options, compute, can_fall_back=can_fall_back(options, GRPO)),
    )
