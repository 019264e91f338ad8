"""The likeliest continuations of a few rows, before and after training."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from dimba.common.errors import first_line, printable
from dimba.trainers.data.encoding import Example
from dimba.trainers.models.families import half_of
from dimba.trainers.models.saved_model import evaluating
from dimba.trainers.models.sharding import is_sharded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Trainer

ROWS = 3
_NEW_TOKENS = 32
_PROMPT_TOKENS = 256  # the last ones of a longer prompt
_SECONDS = 5.0  # after which continuations are cut
_LETTERS = 160  # of a text in the log and in run.json

Ids = list[int]


@dataclass(frozen=True)
class Continuations:
    """The likeliest tokens after each prompt, and the logits of the first of them [prompts, vocabulary]."""

    tokens: list[Ids]
    logits: torch.Tensor

    @property
    def is_finite(self) -> bool:
        """Whether all logits are numbers."""
        return bool(self.logits.isfinite().all())


def prompt_of(example: Example, length: int | None = None) -> Ids:
    """The tokens in front of the first trained one (or `length` tokens); of a text that is all trained, a half."""
    start = int(example.trained.argmax()) if length is None else length
    if start < 2:
        start = max(1, len(example.input_ids) // 2)
    return last_tokens(list(map(int, example.input_ids[:start])))


def last_tokens(ids: Ids) -> Ids:
    """The end of a prompt, as far as it is continued."""
    return ids[-_PROMPT_TOKENS:]


def continuations(trainer: Trainer, prompts: Sequence[Ids]) -> Continuations | None:
    """Continue the prompts; None without prompts, or if the model cannot. All ranks of a sharded job must call it."""
    if not prompts:
        return None
    tokenizer = trainer.processing_class
    try:
        new, first = _likeliest(trainer, prompts)
    except Exception as error:  # a model without a cache, or of another interface, trains all the same
        if is_sharded():
            raise
        print(f"no continuations are compared: {first_line(error)}", flush=True)
        return None
    ends = {tokenizer.eos_token_id, tokenizer.pad_token_id}
    return Continuations([_until_end(each, ends) for each in new], first.float().cpu())


def _likeliest(trainer: Trainer, prompts: Sequence[Ids]) -> tuple[list[Ids], torch.Tensor]:
    from trl.models import unwrap_model_for_generation  # with trl, which a preview of the data does not need

    with (
        unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator) as model,
        evaluating(model),
        trainer.accelerator.autocast(),  # as training puts around the model, so that both times are computed alike
    ):
        return half_of(model).likeliest(
            model,
            prompts,
            trainer.processing_class,
            new_tokens=_NEW_TOKENS,
            # Ranks that stop at different tokens would wait for each other.
            seconds=None if is_sharded() else _SECONDS,
        )


def _until_end(ids: Ids, ends: set[int | None]) -> Ids:
    return ids[: next((n + 1 for n, token in enumerate(ids) if token in ends), len(ids))]


def is_changed(before: Ids, after: Ids) -> bool:
    """Whether two continuations differ; one that was cut by time is compared as far as it goes."""
    shared = min(len(before), len(after))
    return before[:shared] != after[:shared]


def shown(tokenizer: PreTrainedTokenizerBase, ids: Ids, *, end: bool = False) -> str:
    """The text of tokens on one line; with `end`, the last part of a long one."""
    text = printable(" ".join(tokenizer.decode(ids).split()))
    if end:
        return text if len(text) <= _LETTERS else f"… {text[-_LETTERS:]}"
    return textwrap.shorten(text, _LETTERS, placeholder=" …") if " " in text else text[:_LETTERS]
