"""What a reward looks at, and what a reward is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from dimba.common.errors import Location
from dimba.dataset.prompt_examples import PromptExample


@dataclass(frozen=True)
class Answers:
    """Completions, and the task of each; `places` are the tasks' files and lines."""

    tasks: Sequence[PromptExample]
    places: Sequence[Location]
    texts: Sequence[str]
    token_ids: Sequence[Sequence[int]]
    limit: int
    extras: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.texts)

    def part(self, start: int, end: int) -> "Answers":
        """Some of them, in order."""
        cut = slice(start, end)
        return replace(
            self,
            tasks=self.tasks[cut],
            places=self.places[cut],
            texts=self.texts[cut],
            token_ids=self.token_ids[cut],
        )


class Reward(Protocol):
    """Scores answers."""

    @property
    def name(self) -> str: ...  # noqa: D102
    def __call__(self, answers: Answers) -> list[float | None]: ...  # noqa: D102
