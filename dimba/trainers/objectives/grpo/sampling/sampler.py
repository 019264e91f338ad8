"""The interface of a sampler, and the contract that each one's completions are held to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dimba.common.errors import RunFailed

Ids = list[list[int]]
_HINT = "leave out --sampler (in a spec `trainer_args.sampler`): transformers samples then"


@dataclass(frozen=True)
class Completions:
    """The sampled token ids of each prompt, with the end token, and the log-probability that each was drawn with."""

    ids: Ids
    logprobs: list[list[float]]


class Sampler(Protocol):
    """Samples with the weights that the trainer has now."""

    name: str

    def sample(self, prompts: Ids, generations: int) -> Completions:
        """One completion for each prompt; of `generations` prompts in a row all are equal. All ranks must call it."""


def checked(
    name: str,
    prompts: Ids,
    seen: Sequence[Sequence[int]],
    completions: Completions,
    *,
    scored: Sequence[Sequence[int]] = (),
) -> Completions:
    """The completions; raises RunFailed unless they are of exactly these prompts, and scored token by token.

    `seen` are the prompts as the sampler read them, `scored` the tokens that its log-probabilities belong to.
    """
    if [list(each) for each in seen] != prompts:
        raise RunFailed(f"{name} sampled from other tokens than those of the prompts", _HINT)
    lengths = [len(each) for each in completions.ids]
    if len(lengths) != len(prompts) or not all(lengths):
        raise RunFailed(f"{name} returned {len(list(filter(None, lengths)))} completions of {len(prompts)}", _HINT)
    if [len(each) for each in completions.logprobs] != lengths:
        raise RunFailed(f"{name} returned tokens without their log-probabilities", _HINT)
    if scored and [list(each) for each in scored] != completions.ids:
        raise RunFailed(f"{name} returned the log-probabilities of other tokens than it sampled", _HINT)
    return completions
