"""Sampled completions as rewards see them, and rewards as TRL calls them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase, TrainerState

from dimba.trainers.objectives.grpo.prompts import Prompt, Prompts
from dimba.trainers.rewards import Completions, Reward
from dimba.trainers.rewards.reasoning import closing_of, is_mark

_TRIAL_PROMPTS = 4


def completions_of(
    prompts: Sequence[Prompt], token_ids: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase, limit: int
) -> Completions:
    """The completions with the given token ids, one per prompt; `limit` is the most tokens of one."""
    return Completions(
        examples=[each.example for each in prompts],
        places=[each.where for each in prompts],
        texts=decode(tokenizer, prompts, token_ids),
        token_ids=token_ids,
        limit=limit,
    )


def decode(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], token_ids: Sequence[Sequence[int]]
) -> list[str]:
    """The text of each completion, behind the mark of reasoning that its prompt ends in.

    Of the special tokens only those stay that mark reasoning.
    """
    special = {number: each.content for number, each in tokenizer.added_tokens_decoder.items() if each.special}
    dropped = _dropped(tokenizer, special)
    shown = [[each for each in ids if each not in dropped] for ids in token_ids]
    texts: list[str] = tokenizer.batch_decode(shown)
    return [prompt.opening + text for prompt, text in zip(prompts, texts, strict=True)]


def _dropped(tokenizer: PreTrainedTokenizerBase, special: Mapping[int, str]) -> set[int]:
    names = frozenset(special.values())
    return {*tokenizer.all_special_ids, *special} - {each for each, name in special.items() if is_mark(name, names)}


def trial_completions(prompts: Prompts, limit: int, steps: int) -> Completions:
    """Completions of the first prompts, made of their references, to try reward functions on before sampling.

    The trainer's state is that before the first of `steps`.
    """
    first = prompts.train[:_TRIAL_PROMPTS]
    texts = [closing_of(each.opening) + (each.example.reference or "An answer.") for each in first]
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
