"""Calls of tools in an answer, found by how the model's own chat template writes them: as JSON objects.

Calls in other forms stay in the text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dimba.common.errors import Location, UnusableRow
from dimba.common.inference import TEXT, Prompt
from dimba.common.until import Until
from dimba.trainers.data.render import Renderer
from dimba.trainers.models.trained import Loaded

OnPart = Callable[[str, str], None]  # (kind, text)
Render = Callable[[list[dict[str, Any]], bool], str]  # (messages, with the generation prompt)
Call = dict[str, str]  # `name`, and `arguments` as JSON

_NAME, _ARGUMENTS, _CONTENT = "probe_name", {"probe_key": "probe value"}, "probe content"
_FUNCTION = {"name": _NAME, "arguments": _ARGUMENTS}
_CALLS = [{"id": "probecall", "type": "function", "function": _FUNCTION}]
_QUESTION = {"role": "user", "content": "Hi"}
_LONGEST_OPENING = 80  # characters


@dataclass(frozen=True)
class CallFormat:
    """Calls as JSON objects behind `opening`; without one, the whole answer is JSON."""

    opening: str
    name: str  # keys of an object
    arguments: str

    def parse(self, text: str) -> tuple[str, list[Call]]:
        """The text in front of the calls, and the calls; all of the text if it has none."""
        place = text.find(self.opening) if self.opening else 0
        if place < 0 or (not self.opening and text.strip()[:1] not in ("{", "[")):
            return text, []
        behind = text[place + len(self.opening) :]
        calls = [call for value in _json_values(behind) for call in self._calls(value)]
        return (text[:place].rstrip(), calls) if calls else (text, [])

    def _calls(self, value: object) -> Iterator[Call]:
        for each in value if isinstance(value, list) else [value]:
            function = each.get("function", each) if isinstance(each, dict) else None
            if not isinstance(function, dict) or not isinstance(function.get(self.name), str):
                continue
            arguments = function.get(self.arguments, {})
            text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
            yield {"name": function[self.name], "arguments": text}


class PartsWithoutCalls:
    """Passes the parts of an answer on, and holds back what may be calls until they are known."""

    def __init__(self, form: CallFormat, on_part: OnPart) -> None:
        self._is_marked, self._on_part = bool(form.opening), on_part
        self._until = Until((form.opening,) if form.opening else ("{", "["))

    def part(self, kind: str, text: str) -> None:
        """Takes a part."""
        if kind == TEXT:
            text = self._until.feed(text)
            if not self._is_marked and self._until.passed.strip():  # a call would be the whole answer
                text += self._released()
        if text:
            self._on_part(kind, text)

    def end(self, calls: Sequence[Call]) -> None:
        """Passes on what is held back if it was no call."""
        if not calls and (text := self._released()):
            self._on_part(TEXT, text)

    def _released(self) -> str:
        text, self._until = self._until.held, Until(())
        return text


def format_for(loaded: Loaded, prompt: Prompt) -> CallFormat | None:
    """How calls of a prompt's tools are written; None if they are to stay in the text, or cannot be told apart."""
    if not prompt.tools or not prompt.splits_calls:
        return None
    renderer = Renderer(loaded.tokenizer, loaded.settings)

    def render(messages: list[dict[str, Any]], ask: bool) -> str:
        where = Location("a call of a tool")
        return renderer.text(messages, prompt.tools, where, arguments=prompt.arguments, ask=ask)

    return call_format(render)


def call_format(render: Render) -> CallFormat | None:
    """How a chat template writes calls; None if it shows none, or not as JSON objects."""
    for content in (_CONTENT, ""):
        message = {"role": "assistant", "content": content, "tool_calls": _CALLS}
        try:
            whole, asked = render([_QUESTION, message], False), render([_QUESTION], True)
        except UnusableRow:  # a template may refuse text beside calls, or all of them
            continue
        if content in whole and (found := _format_in(_behind(whole, content, asked))):
            return found
    return None


def _behind(whole: str, content: str, asked: str) -> str:
    """The chat behind the assistant's text; without one, behind what it shares with the generation prompt."""
    if content:
        return whole.partition(content)[2]
    shared = next((at for at, (one, other) in enumerate(zip(whole, asked, strict=False)) if one != other), len(asked))
    return whole[shared:]


def _format_in(tail: str) -> CallFormat | None:
    for value, start in _placed_values(tail):
        function = value[0] if isinstance(value, list) and value else value
        function = function.get("function", function) if isinstance(function, dict) else None
        if isinstance(function, dict) and _NAME in function.values():
            name = next(key for key, each in function.items() if each == _NAME)
            arguments = next((key for key, each in function.items() if _is_arguments(each)), "")
            opening = tail[:start].strip()
            return CallFormat(opening, name, arguments) if arguments and len(opening) <= _LONGEST_OPENING else None
    return None


def _is_arguments(value: object) -> bool:
    try:
        return (json.loads(value) if isinstance(value, str) else value) == _ARGUMENTS
    except ValueError:
        return False


def _json_values(text: str) -> Iterator[Any]:
    return (value for value, _ in _placed_values(text))


def _placed_values(text: str) -> Iterator[tuple[Any, int]]:
    """The JSON objects and arrays in a text, each with its place."""
    decoder, place = json.JSONDecoder(), 0
    while place < len(text):
        starts = [at for at in (text.find("{", place), text.find("[", place)) if at >= 0]
        if not starts:
            return
        start = min(starts)
        try:
            value, place = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            place = start + 1
            continue
        yield value, start
