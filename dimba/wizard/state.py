"""The answers so far, and the probes that look up facts for them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from dimba.objectives.objective import Objective
from dimba.objectives.registry import OBJECTIVES
from dimba.wizard.probes import Probes

T = TypeVar("T")


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


class Waiting(Protocol):
    """Shows that something takes a while."""

    def __call__(self, what: str, job: Callable[[Callable[[str], None]], T]) -> T:
        """The job's result; the job may say how far it is."""


def _just_do_it(what: str, job: Callable[[Callable[[str], None]], T]) -> T:
    return job(lambda _text: None)


@dataclass
class State:
    """The answers by question; one that was only accepted follows its default when what it rests on changes."""

    folder: Path
    questions: Mapping[str, Answerable]
    probes: Probes
    answers: dict[str, Any] = field(default_factory=dict)
    given: frozenset[str] = frozenset()  # by flag: never asked
    passed: set[str] = field(default_factory=set)
    offered: dict[str, Any] = field(default_factory=dict)  # better answers, after a wrong one
    waiting: Waiting = _just_do_it
    asking: bool = False  # somebody is there to answer

    def value(self, key: str) -> Any:
        """The answer, else the default; None where the question does not apply or has neither."""
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
        """Keeps an answer; one that is the default goes on following it."""
        key = question.key
        if key in self.passed and self.value(key) != value:
            self._forget(question.invalidates)
        if key not in self.given:
            self.answers.pop(key, None)
            if value != question.default(self):
                self.answers[key] = value
        self.passed.add(key)
        self.offered.pop(key, None)

    def _forget(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.answers.pop(key, None)
            self.passed.discard(key)

    def look(self, name: object, what: str, job: Callable[[], T]) -> T:
        """The result of a look, made once; shows that it goes on where it takes a while."""
        if self.probes.is_ready(name):
            return self.probes.result(name, job)
        return self.waiting(what, lambda _say: self.probes.result(name, job))

    def unseen(self) -> "State":
        """The same for a thread in the background: it may not write on the screen."""
        return replace(self, waiting=_just_do_it)
