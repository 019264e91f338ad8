"""What the host asks of the code that runs lm-eval's tasks, and what it answers. Standard library only."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

MODULE = "dimba.trainers.tasks"
TRUST = "--trust-task-code"


class _Json:
    """Reads and writes the fields of a dataclass as JSON."""

    def as_json(self) -> dict[str, Any]:
        """The value as JSON."""
        return asdict(self)  # type: ignore[call-overload,no-any-return]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Reads `as_json`; ignores unknown keys."""
        known = {each.name for each in fields(cls)}  # type: ignore[arg-type]
        return cls(**{key: _frozen(item) for key, item in value.items() if key in known})


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@dataclass(frozen=True, kw_only=True)
class TaskRequest(_Json):
    """The tasks, each by its name or by the absolute path of its file, and how their documents become prompts.

    `limit`: the first documents alone; `fewshot`: examples in front of each, in place of the task's own number; `chat`:
    prompts are rendered by the chat template; `trusts_code`: Python that a task brings along may run.
    """

    names: tuple[str, ...]
    limit: int | None = None
    fewshot: int | None = None
    chat: bool = True
    trusts_code: bool = False
    batch_size: int = 16


@dataclass(frozen=True, kw_only=True)
class TaskFacts(_Json):
    """A task as it is before any model answers.

    `metric` is what its documents are compared in, `label` the same in words. `per_document`: each document has a
    value; else there is one figure of all.
    """

    name: str
    metric: str
    label: str
    higher_is_better: bool
    per_document: bool
    documents: int
    fewshot: int
    output_type: str


@dataclass(frozen=True, kw_only=True)
class NamedTasks(_Json):
    """A name of the request with the tasks that it stands for: one, or those of a group, a tag or a folder.

    `by_size`: the figure of a group is that of all documents together, else the mean of its tasks' figures.
    """

    name: str
    tasks: tuple[str, ...]
    by_size: bool = True


@dataclass(frozen=True, kw_only=True)
class TaskValues(_Json):
    """What a model achieves in a task: a value for each document by its number, and all figures of lm-eval.

    `cut`: prompts of which the model's context had no room for the beginning.
    """

    name: str
    values: Mapping[str, float]
    figures: Mapping[str, float] = field(default_factory=dict)
    requests: int = 0
    cut: int = 0
