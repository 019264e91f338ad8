"""A model that also sees or hears: rows of text reach its language model alone, so only that is trained."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from torch import nn

from dimba.common.units import quantity

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def other_modules(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The modules of a multimodal model beside its language model, by name; empty for a language model."""
    decoder = model.get_decoder()
    text = {id(module) for part in (decoder, model.get_output_embeddings()) if part for module in part.modules()}
    if decoder is None or decoder is model or not _has_other_senses(model):
        return {}
    around = [module for module in model.modules() if any(id(child) in text for child in module.modules())]
    parents = {id(module) for module in around}
    return {
        f"{name}.{child}".lstrip("."): module
        for name, parent in model.named_modules()
        if id(parent) in parents and id(parent) not in text
        for child, module in parent.named_children()
        if id(module) not in parents
    }


def complete_names(model: PreTrainedModel) -> None:
    """Gives a model the names by which TRL finds its parts, where its class has those of its multimodal relative."""
    if not hasattr(model, model.base_model_prefix) and hasattr(model, "model"):
        model.base_model_prefix = "model"  # of Llama 4 and Mllama it is `language_model`
    config = model.config.get_text_config()
    if not hasattr(config, "num_experts") and hasattr(config, "num_local_experts"):
        config.num_experts = config.num_local_experts  # PhiMoE


def _has_other_senses(model: PreTrainedModel) -> bool:
    return model.config.get_text_config(decoder=True) is not model.config


def freeze_other_modules(model: PreTrainedModel) -> str:
    """Freezes what rows of text do not reach; returns one line on it, empty for a language model."""
    others = other_modules(model)
    count = sum(each.numel() for module in others.values() for each in module.parameters())
    if not count:
        return ""
    for module in others.values():
        module.requires_grad_(False)
    named = ", ".join(f"`{name}`" for name in others)
    return f"only the text part is trained: {named} ({quantity(count, 'parameter')}) stays as it is, and is saved too"


def excluded_pattern(model: PreTrainedModel) -> str | None:
    """peft's `exclude_modules`: everything below the modules that rows of text do not reach."""
    names = "|".join(map(re.escape, other_modules(model)))
    return rf"({names})(\..*)?" if names else None


def beyond_context(model: PreTrainedModel, max_length: int) -> str:
    """One line for rows that may be longer than the model was made for; empty otherwise."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(context, int) or max_length <= context:
        return ""
    return f"max_length {max_length:,} is beyond the base's context of {context:,} tokens: quality may suffer"
