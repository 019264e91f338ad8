"""The answers so far, and the probes that look up facts for them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from dimba.objectives.objective import Objective
from dimba.objectives.registry import OBJECTIVES
from dimba.wizard.probes import Probes

T = TypeVar("T")
Report = Callable[[str], None]  # takes the progress of a job, such as `20,000 rows`


@dataclass(frozen=True)
class Missing:
    """Stands for the default of a question that has none."""


MISSING = Missing()


class Answerable(Protocol):
    """The part of a question that decides its value."""

    @property
    def key(self) -> str:
        """The name of its answer."""

    @property
    def applies(self) -> Callable[["State"], bool]:
        """Whether the job has this value at all."""

    @property
    def default(self) -> Callable[["State"], Any]:
        """The value without an answer, or MISSING."""

    @property
    def invalidates(self) -> tuple[str, ...]:
        """Answers that lose their meaning once this one changes."""


class Wait(Protocol):
    """Runs a job, and shows its progress if it takes long."""

    def __call__(self, label: str, job: Callable[[Report], T]) -> T:
        """The job's result."""


def _wait_silently(label: str, job: Callable[[Report], T]) -> T:
    return job(lambda _text: None)


@dataclass
class State:
    """The answers by question. An accepted default is not kept as an answer: it follows the answers before it."""

    folder: Path
    questions: Mapping[str, Answerable]
    probes: Probes
    answers: dict[str, Any] = field(default_factory=dict)
    flag_keys: frozenset[str] = frozenset()  # answered by a flag: never asked
    passed_keys: set[str] = field(default_factory=set)
    suggestions: dict[str, Any] = field(default_factory=dict)  # better answers after an invalid one
    wait_for: Wait = _wait_silently
    interactive: bool = False

    def value(self, key: str) -> Any:
        """The answer, else the default; None if the question does not apply or has neither."""
        question = self.questions[key]
        if not question.applies(self):
            return None
        if key in self.answers:
            return self.answers[key]
        default = question.default(self)
        return None if default is MISSING else default

    @property
    def objective(self) -> Objective[Any]:
        """The objective of the chosen mode."""
        return OBJECTIVES[self.value("mode")]

    def accept(self, question: Answerable, value: Any) -> None:
        """Keep an answer; one that equals the default continues to follow it."""
        key = question.key
        if key in self.passed_keys and self.value(key) != value:
            self._drop(question.invalidates)
        if key not in self.flag_keys:
            self.answers.pop(key, None)
            if value != question.default(self):
                self.answers[key] = value
        self.passed_keys.add(key)
        self.suggestions.pop(key, None)

    def _drop(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.answers.pop(key, None)
            self.passed_keys.discard(key)

    def probe(self, name: object, label: str, job: Callable[[], T]) -> T:
        """The result of a probe, which runs once; `label` is shown if it takes long."""
        if self.probes.is_ready(name):
            return self.probes.result(name, job)
        return self.wait_for(label, lambda _report: self.probes.result(name, job))

    def in_background(self) -> "State":
        """The same state for a background thread, which may not write on the screen."""
        return replace(self, wait_for=_wait_silently)
