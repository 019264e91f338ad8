"""Sampled completions as rewards see them, and rewards as TRL calls them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase, TrainerState

from dimba.trainers.objectives.grpo.prompts import Prompt, Prompts
from dimba.trainers.rewards import Completions, Reward

_TRIAL_PROMPTS = 4


def completions_of(
    prompts: Sequence[Prompt], token_ids: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase, limit: int
) -> Completions:
    """The completions with the given token ids, one per prompt; `limit` is the most tokens of one."""
    return Completions(
        examples=[each.example for each in prompts],
        places=[each.where for each in prompts],
        texts=decode(tokenizer, token_ids),
        token_ids=token_ids,
        limit=limit,
    )


def decode(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[Sequence[int]]) -> list[str]:
    """The text of each completion without special tokens."""
    texts: list[str] = tokenizer.batch_decode(token_ids, skip_special_tokens=True)
    return texts


def trial_completions(prompts: Prompts, limit: int, steps: int) -> Completions:
    """Completions of the first prompts, made of their references, to try reward functions on before sampling.

    The trainer's state is that before the first of `steps`.
    """
    first = prompts.train[:_TRIAL_PROMPTS]
    texts = [each.example.reference or "An answer." for each in first]
    token_ids = prompts.tokenizer(texts, add_special_tokens=False)["input_ids"]
    extras = {"trainer_state": TrainerState(max_steps=steps)}
    return replace(completions_of(first, token_ids, prompts.tokenizer, limit), extras=extras)


def trl_reward(
    reward: Reward, prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerBase, limit: int
) -> Callable[..., list[float | None]]:
    """The reward as a function that TRL calls with token ids and the `row` column: indices into `prompts`."""

    def score(*, completion_ids: list[list[int]], row: list[int], **extras: Any) -> list[float | None]:
        completions = completions_of([prompts[each] for each in row], completion_ids, tokenizer, limit)
        kept = {name: extras[name] for name in ("trainer_state", "log_extra", "log_metric")}
        return reward(replace(completions, extras=kept))

    score.__name__ = reward.name
    return score
