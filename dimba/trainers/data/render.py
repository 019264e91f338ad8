"""A chat template as a function from messages to text, the same text every time."""

import datetime
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from dimba.common.errors import Location, UnusableRow

Message = dict[str, Any]
Messages = Sequence[Message]

ASIDE = ("reasoning_content", "thinking")  # keys of a message for what is thought before it is said


class TemplateFault(UnusableRow):
    """A row that the chat template does not get along with; `reason` is the same for rows with the same fault."""

    def __init__(self, where: Location, told: str, reason: str, hint: str) -> None:
        super().__init__(f"the chat template {told}: {reason}", hint)
        self.at(where)
        self.reason = reason


class Unmaskable(TemplateFault):
    """The template's fault rather than the row's: what the assistant says cannot be told apart in its text."""

    def __init__(self, where: Location, why: str) -> None:
        hint = "use a checkpoint whose chat template keeps the turns as they are, or correct the row"
        super().__init__(where, "cannot be masked faithfully here", why, hint)


class Renderer:
    """The chat template of a tokenizer, with transformers' clock stopped at the time this was made."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        now = datetime.datetime.now()
        self._stopped = type("Stopped", (), {"now": staticmethod(lambda *_: now)})
        self._special = {**tokenizer.special_tokens_map}
        self._broken: dict[str, str] = {}  # templates that do not compile: why
        self._typed = False
        self._typed = self._wants_typed_parts()

    def text(
        self, messages: Messages, tools: Any, where: Location, *, ask: bool = False, with_tools: bool = True
    ) -> str:
        """The chat as text, with the words that ask for the next turn where `ask`; raises UnusableRow.

        Without `with_tools` the template for chats with these tools is not given them.
        """
        source, given = self.template(tools), tools if with_tools else None
        return self._render(source, messages, given, where, add_generation_prompt=ask)[0][0]

    def own_marks(self, messages: Messages, tools: Any, where: Location) -> tuple[str, list[tuple[int, int]]]:
        """The chat as text, and what lies between the template's generation marks (empty where it has none)."""
        source = self.template(tools)
        if not re.search(r"\{%-?\s*generation\s*-?%\}", source):
            return "", []
        texts, marks = self._render(source, messages, tools, where, return_assistant_tokens_mask=True)
        return texts[0], marks[0]

    def template(self, tools: Any = None) -> str:
        """The template's source: a tokenizer may have one of its own for chats with tools."""
        source: str = self._tokenizer.get_chat_template(None, tools)
        return source

    def asks_alike(self, tools: Any) -> bool:
        """Whether the words that ask for a turn are the same whatever was said before, as the source shows."""
        from jinja2 import nodes
        from transformers.utils.chat_template_utils import _compile_jinja_template

        source = self.template(tools)
        tree = _compile_jinja_template(source).environment.parse(source)
        asking = [node for node in tree.body if isinstance(node, nodes.If) and _is_asking(node.test)]
        names = [name.name for node in asking for name in node.find_all(nodes.Name)]
        everywhere = list(tree.find_all(nodes.Name))
        changing = {"messages", "tools", "loop"} | {name.name for name in everywhere if name.ctx == "store"}
        elsewhere = sum(_is_asking(name) for name in everywhere) - names.count("add_generation_prompt")
        return not elsewhere and not changing & set(names)

    def _render(
        self, source: str, messages: Messages, tools: Any, where: Location, **options: bool
    ) -> tuple[list[str], list[Any]]:
        from transformers.utils.chat_template_utils import render_jinja_template

        if source in self._broken:
            raise refused(where, self._broken[source])
        chat = [{key: value for key, value in each.items() if value is not None} for each in messages]
        try:
            with self._stopped_clock():
                texts, marks = render_jinja_template(
                    conversations=[[_typed(each) for each in chat] if self._typed else chat],
                    tools=list(tools) if tools else None,
                    chat_template=source,
                    **options,
                    **self._special,
                )
        except Exception as error:  # a template is a program of somebody else's: it may fail in any way
            raise refused(where, self._reason(source, error)) from error
        return texts, marks

    def _reason(self, source: str, error: Exception) -> str:
        from jinja2 import TemplateSyntaxError

        if not isinstance(error, TemplateSyntaxError):
            return str(error)
        self._broken[source] = f"line {error.lineno}: {error.message}"  # not to be compiled for each row
        return self._broken[source]

    def _wants_typed_parts(self) -> bool:
        """Whether text shows only as a list of parts, as in templates of models that also see."""
        try:
            plain = self._shows_text()
        except UnusableRow:
            plain = False
        self._typed = True
        try:
            return not plain and self._shows_text()
        except UnusableRow:
            return False

    def _shows_text(self) -> bool:
        said = {"user": "lorem", "assistant": "ipsum"}
        chat = [{"role": role, "content": content} for role, content in said.items()]
        text = self.text(chat, None, Location("probe"))
        return all(content in text for content in said.values())

    @contextmanager
    def _stopped_clock(self) -> Iterator[None]:
        from transformers.utils import chat_template_utils

        # `strftime_now` looks the class up in its module at each call.
        real = chat_template_utils.datetime
        chat_template_utils.datetime = self._stopped
        try:
            yield
        finally:
            chat_template_utils.datetime = real


def refused(where: Location, reason: str) -> TemplateFault:
    """A chat that the template fails on, for that reason."""
    hint = "correct the row, or give the checkpoint a template that allows it"
    return TemplateFault(where, "refuses this chat", reason, hint)


def _is_asking(node: Any) -> bool:
    return getattr(node, "name", None) == "add_generation_prompt"


def _typed(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    return {**message, "content": [{"type": "text", "text": content}]} if isinstance(content, str) else message
