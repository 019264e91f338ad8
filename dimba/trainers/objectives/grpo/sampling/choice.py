"""The sampler that the options choose, started for a trainer."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

from dimba.common.contract import ENV_SAMPLER_URL
from dimba.common.errors import HostCannot
from dimba.common.units import size
from dimba.objectives.grpo import GrpoOptions
from dimba.objectives.samplers import CONTINUOUS
from dimba.objectives.vllm_memory import Sampled, VllmMemory, vllm_memory
from dimba.trainers.objectives.grpo.sampling.sampler import Sampler
from dimba.trainers.ranks import is_main_process

if TYPE_CHECKING:
    from transformers import PretrainedConfig
    from trl import GRPOTrainer

    from dimba.trainers.models.loading import Compute

_HALF_TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def start_sampler(options: GrpoOptions, trainer: GRPOTrainer, compute: Compute) -> Sampler | None:
    """The sampler, started; None for transformers' `generate`. All ranks must call it.

    Raises:
        HostCannot: vLLM does not start, or does not fit beside the model.
    """
    chosen = options.chosen_sampler
    if chosen.is_vllm:
        return _start_vllm(options, trainer, compute)
    if chosen.name == CONTINUOUS:
        from dimba.trainers.objectives.grpo.sampling.continuous import ContinuousSampler

        _report("sampling: transformers, in continuous batches")
        return ContinuousSampler(trainer)
    return None


def _start_vllm(options: GrpoOptions, trainer: GRPOTrainer, compute: Compute) -> Sampler:
    from dimba.trainers.objectives.grpo.sampling.vllm import VllmSampler, VllmSettings

    sampled = sampled_by(options, trainer)
    url = os.environ.get(ENV_SAMPLER_URL, "") if options.chosen_sampler.is_served else ""
    settings = VllmSettings(
        model=options.base_checkpoint,
        dtype=_HALF_TYPES.get(compute.mixed, torch.bfloat16),
        max_length=options.max_length,
        sequences=sampled.sequences,
        memory=0.0 if url else gpu_share(vllm_memory(sampled), *torch.cuda.mem_get_info()),
        url=url,
        trust_remote_code=options.trust_remote_code,
    )
    where = "on GPUs of its own" if url else f"with {settings.memory:.0%} of the GPU while it samples"
    _report(f"sampling: vLLM, {where}")
    return VllmSampler(trainer, settings)


def sampled_by(options: GrpoOptions, trainer: GRPOTrainer) -> Sampled:
    """The model and the batch of a process and an optimiser step, as vLLM samples them."""
    config: PretrainedConfig = trainer.model.config.get_text_config()
    base = trainer.model.get_base_model() if hasattr(trainer.model, "peft_config") else trainer.model
    heads = config.num_attention_heads
    return Sampled(
        parameters=sum(each.numel() for each in base.parameters()),
        layers=config.num_hidden_layers,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        hidden=config.hidden_size,
        intermediate=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        vocabulary=config.vocab_size,
        rows=options.batch_size * trainer.args.steps_per_generation,
        length=options.max_length,
    )


def gpu_share(needed: VllmMemory, free: int, total: int) -> float:
    """The share of a GPU of `total` bytes that vLLM is given, with `free` of them free now; raises HostCannot."""
    if needed.total > free:
        raise HostCannot(
            f"vLLM needs {size(needed.total)} of the GPU while it samples, and {size(free)} are free beside the model",
            "lower `training.max_length` or `training.grad_accumulation_steps`, or leave out --sampler vllm",
        )
    return round(needed.total / total + 0.0005, 3)


def _report(line: str) -> None:
    if is_main_process():
        print(line, flush=True)
