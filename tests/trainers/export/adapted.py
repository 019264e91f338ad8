"""Tiny bases of real families with adapters whose values are random, as a run leaves them."""

from pathlib import Path
from typing import Any

import torch

from dimba.common.trained import TrainedModel
from dimba.objectives.sft import SFT
from tests.families import make_family

METHODS = {
    "lora": (),
    "rslora": ("--use-rslora",),
    "dora": ("--use-dora",),
    "head": ("--lora-modules-to-save", "lm_head"),
    "tokens": ("--lora-trainable-tokens", "<|end|>"),
}


def make_adapter(
    base: Path, folder: Path, *flags: str, size: float = 0.05, dtype: torch.dtype | None = None
) -> TrainedModel:
    """Writes to `folder` an adapter with random values of about `size`, as the trainer would save it."""
    from peft import get_peft_model

    from dimba.trainers.data.chat import prepare_tokenizer
    from dimba.trainers.models.adapters import adapter_config
    from dimba.trainers.models.loading import Compute, load_model, load_tokenizer, prepare_base

    argv = [
        "--base-checkpoint",
        str(base),
        "--dataset",
        "none.jsonl",
        "--output-dir",
        str(folder),
        "--max-length",
        "128",
    ]
    options = SFT.parse([*argv, "--use-lora", "--lora-r", "4", "--lora-alpha", "8", *flags])
    tokenizer = load_tokenizer(str(base), code=options.trust_remote_code)
    prepare_tokenizer(tokenizer)
    model = load_model(options, Compute(on_cpu=True, mixed="no"))
    new = prepare_base(model, options, tokenizer)
    model = get_peft_model(model, adapter_config(options, model, tokenizer, new))
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += size * torch.randn_like(parameter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return TrainedModel(folder=str(folder), base=str(base))


def family(name: str, folder: Path, **changes: Any) -> Path:
    """A tiny checkpoint of a family, made once; `changes` go to its configuration."""
    if not folder.exists():
        make_family(name, folder)
    return folder
