"""A conversation with one model, or with two at once, each of which remembers its own answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dimba.commands.talk.session import ModelSession, OnPart
from dimba.common.inference import Answer, Prompt, Sampling

Message = Mapping[str, Any]


@dataclass
class Chat:
    """The turns so far: one list of messages per model."""

    session: ModelSession
    sampling: Sampling
    models: int = 1
    system: str | None = None
    tools: tuple[Any, ...] | None = None
    turns: list[list[Message]] = field(default_factory=list)
    _asked: str = ""

    def __post_init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forgets every turn but the system prompt."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        self.turns = [list(system) for _ in range(self.models)]

    def begin_with(self, system: str | None) -> None:
        """Begins again with another system prompt."""
        self.system = system
        self.clear()

    @property
    def asked(self) -> str:
        """The last question; empty before the first."""
        return self._asked

    def ask(self, text: str, on_part: OnPart, model: int = 0) -> Answer:
        """One model's answer, which joins its turns; a question without an answer joins none. Raises DimbaError."""
        self._asked = text
        messages = (*self.turns[model], {"role": "user", "content": text})
        answer = self.session.ask(Prompt(messages=messages, tools=self.tools), self.sampling, on_part, model)
        self.turns[model] = [*messages, _turn(answer)]
        return answer

    def forget_last(self) -> None:
        """Removes the last question and its answers."""
        for number, turns in enumerate(self.turns):
            while turns and turns[-1]["role"] == "assistant":
                turns.pop()
            self.turns[number] = turns[:-1] if turns and turns[-1]["role"] == "user" else turns


def _turn(answer: Answer) -> Message:
    """The answer as templates take it, its reasoning in a key of its own."""
    reasoning = {"reasoning_content": answer.reasoning} if answer.reasoning else {}
    return {"role": "assistant", "content": answer.text, **reasoning}
