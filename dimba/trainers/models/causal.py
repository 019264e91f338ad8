"""Causal language models: each token is predicted from those before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig

from dimba.common.checkpoints import asks_for_code
from dimba.common.errors import BadInput
from dimba.trainers.kernels.attending import WITHOUT_CACHE
from dimba.trainers.models.direction import influence

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from dimba.common.trained import TrainedModel
    from dimba.options.trainer import TrainerOptions

Ids = list[int]
_ROUNDING = 1e-2  # as a share of the logits


def prepare(model: PreTrainedModel, options: TrainerOptions, tokenizer: PreTrainedTokenizerBase) -> Sequence[str]:
    """Nothing to do; raises BadInput if code of the checkpoint's own makes tokens attend to later ones."""
    if not asks_for_code(model.config.to_dict()):
        return ()
    found = influence(model, lambda ids: logits(model, ids))
    if found is not None and found.of_later > _ROUNDING:
        problem = f"its tokens attend to later ones: {found}, so that next-token loss is meaningless"
        hint = "give a causal language model, or a masked-diffusion model with its own `model_type`"
        raise BadInput(f"{options.base_checkpoint}: {problem}", hint, key="--base-checkpoint")
    return ()


def name_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, trained: TrainedModel) -> None:
    """Nothing to do: there is no token beside those of the tokenizer."""


def logits(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """The logits of the tokens behind each one."""
    found: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return found


def likeliest(
    model: PreTrainedModel,
    prompts: Sequence[Ids],
    tokenizer: PreTrainedTokenizerBase,
    *,
    new_tokens: int,
    seconds: float | None,
) -> tuple[list[Ids], torch.Tensor]:
    """By transformers' `generate`; a model without a cache, or of another interface, raises whatever it does."""
    pad, longest = tokenizer.pad_token_id, max(map(len, prompts))
    device = next(model.parameters()).device
    ids = torch.tensor([[pad] * (longest - len(each)) + each for each in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(each)) + [1] * len(each) for each in prompts], device=device)
    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=new_tokens,
        max_time=seconds,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=pad,
        return_dict_in_generate=True,
        output_logits=True,
    )
    with _own_settings(model, settings):
        output = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
    return output.sequences[:, longest:].tolist(), output.logits[0]


def retraced(model: PreTrainedModel, prompt: Ids, tokens: Ids) -> Ids:
    """The likeliest token behind the prompt and behind each of `tokens` but the last."""
    ids = torch.tensor([[*prompt, *tokens]], device=next(model.parameters()).device)
    found: Ids = logits(model, ids)[0, len(prompt) - 1 : -1].argmax(-1).tolist()
    return found


@contextmanager
def _own_settings(model: Any, settings: GenerationConfig) -> Iterator[None]:
    """Surrounds a generation: the base's settings (beams, penalties) would be added to ours.

    Attention of packed rows has no cache: the model's default takes its place.
    """
    own = model.get_base_model() if hasattr(model, "peft_config") else model
    before, own.generation_config = own.generation_config, settings
    trained_with = own.config._attn_implementation
    try:
        if trained_with in WITHOUT_CACHE:
            own.set_attn_implementation(own.get_correct_attn_implementation(None))
        yield
    finally:
        own.generation_config = before
        if trained_with in WITHOUT_CACHE:
            own.set_attn_implementation(trained_with)
