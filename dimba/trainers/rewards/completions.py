"""The input of a reward, and the interface of one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

from dimba.common.errors import Location
from dimba.dataset.prompt_examples import PromptExample
from dimba.trainers.rewards.reasoning import Split, split_reasoning


@dataclass(frozen=True)
class Completions:
    """Completions, each with its prompt example; all sequences have one element per completion.

    `texts` are complete: a mark that opens the reasoning and stands at the end of the prompt is put back before them.
    """

    examples: Sequence[PromptExample]
    places: Sequence[Location]  # of the examples
    texts: Sequence[str]
    token_ids: Sequence[Sequence[int]]
    limit: int  # the most tokens of a completion
    extras: Mapping[str, Any] = field(default_factory=dict)  # TRL's state and loggers, by the name of the argument

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def splits(self) -> list[Split]:
        """Each text as reasoning and answer."""
        return [split_reasoning(text) for text in self.texts]

    def part(self, start: int, end: int) -> "Completions":
        """The completions from `start` up to `end`."""
        cut = slice(start, end)
        return replace(
            self,
            examples=self.examples[cut],
            places=self.places[cut],
            texts=self.texts[cut],
            token_ids=self.token_ids[cut],
        )


class Reward(Protocol):
    """Scores completions; None for one that it does not apply to."""

    @property
    def name(self) -> str: ...  # noqa: D102
    def __call__(self, completions: Completions) -> list[float | None]: ...  # noqa: D102
