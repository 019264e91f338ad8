"""Texts of tasks as tokens: rendered by the chat template that the model was trained with, or as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dimba.common.errors import Location
from dimba.trainers.data.render import Renderer, TemplateSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_WHERE = Location("a prompt of the task")


class TaskPrompts:
    """Renders and encodes with one tokenizer; `is_chat`: texts are those of the chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, settings: TemplateSettings, *, is_chat: bool) -> None:
        self._tokenizer, self.is_chat = tokenizer, is_chat
        self._renderer, self._arguments = Renderer(tokenizer, settings), settings.arguments
        self._begin = _begin_of(tokenizer)

    def render(self, messages: Sequence[dict[str, Any]], add_generation_prompt: bool = True) -> str:
        """The chat with the generation prompt; without it, the last message is the beginning of the answer."""
        asked, begun = (messages, "") if add_generation_prompt else (messages[:-1], str(messages[-1]["content"]))
        return self._renderer.text(list(asked), None, _WHERE, arguments=self._arguments, ask=True) + begun

    def encode(self, text: str, *, begins: bool) -> list[int]:
        """The tokens of a text; where it `begins` a plain prompt, behind what the tokenizer puts in front."""
        ids = list(map(int, self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]))
        if self.is_chat or not begins or ids[: len(self._begin)] == self._begin:
            return ids
        return [*self._begin, *ids]


def _begin_of(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The tokens that a tokenizer puts in front of a text."""
    with_own, plain = (tokenizer("a", add_special_tokens=each)["input_ids"] for each in (True, False))
    return list(with_own[: with_own.index(plain[0])])
