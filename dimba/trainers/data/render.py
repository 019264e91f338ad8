"""A chat template as a function from messages to text that gives the same text every time."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from jinja2 import TemplateSyntaxError, meta, nodes
from transformers.utils import chat_template_utils
from transformers.utils.chat_template_utils import _compile_jinja_template, render_jinja_template

from dimba.common.errors import Location, UnusableRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, Any]
Messages = Sequence[Message]
Tools = Sequence[dict[str, Any]] | None

NO_ARGUMENTS: Mapping[str, Any] = {}
REASONING_KEYS = ("reasoning_content", "thinking")  # keys of a message for reasoning apart from its content


@dataclass(frozen=True)
class Rendered:
    """One row as text; `spans` are the (start, end) in it that carry loss, None for plain text, which is all trained.

    `altered` counts the trained turns that the template shows in part only, as where it drops earlier reasoning;
    `omitted` names other parts of the chat that it does not show (keys of omissions.NAMES). `control` are the control
    tokens that people wrote, `literals` their spans; without spans they look like the template's own.
    """

    where: Location
    text: str
    spans: tuple[tuple[int, int], ...] | None = None
    altered: int = 0
    omitted: tuple[str, ...] = ()
    control: tuple[str, ...] = ()
    literals: tuple[tuple[int, int], ...] = ()


class TemplateFault(UnusableRow):
    """A row on which the chat template fails; `reason` is equal for rows with the same fault."""

    def __init__(self, where: Location, failure: str, reason: str, hint: str) -> None:
        super().__init__(f"the chat template {failure}: {reason}", hint)
        self.at(where)
        self.reason = reason


class Unmaskable(TemplateFault):
    """A row of which the template's text does not show where the assistant's turns begin and end."""

    def __init__(self, where: Location, reason: str) -> None:
        hint = "use a checkpoint whose chat template shows every turn unchanged, or correct the row"
        super().__init__(where, "allows no exact loss mask", reason, hint)


def template_refusal(where: Location, reason: str) -> TemplateFault:
    """The error for a chat on which the template itself raises."""
    hint = "correct the row, or give the checkpoint a chat template that accepts it"
    return TemplateFault(where, "refuses this chat", reason, hint)


class TemplateOptions(Protocol):
    """The flags of chat templates, as dimba.options.template_table declares them."""

    @property
    def chat_template_kwargs(self) -> str | None: ...  # noqa: D102

    @property
    def template_date(self) -> str | None: ...  # noqa: D102

    @property
    def control_tokens(self) -> str: ...  # noqa: D102


@dataclass(frozen=True)
class TemplateSettings:
    """What a job sets for every row: arguments of the chat template, and the time that its clock shows (None: now).

    `keeps_control_tokens`: those in the words of a row stay control tokens.
    """

    arguments: Mapping[str, Any] = field(default_factory=dict)
    time: datetime.datetime | None = None
    keeps_control_tokens: bool = False

    @classmethod
    def of(cls, options: TemplateOptions) -> TemplateSettings:
        """The settings that a trainer's flags name."""
        return cls(
            arguments=json.loads(options.chat_template_kwargs or "{}"),
            time=datetime.datetime.fromisoformat(options.template_date) if options.template_date else None,
            keeps_control_tokens=options.control_tokens == "keep",
        )

    def identity(self) -> list[Any]:
        """Values that are equal for settings that render alike."""
        return [self.arguments, str(self.time), self.keeps_control_tokens]


@dataclass
class StoppedClock:
    """Takes the place of `datetime.datetime`; notes whether it was asked."""

    time: datetime.datetime
    is_asked: bool = False

    def now(self, *_: Any) -> datetime.datetime:
        """The same time always."""
        self.is_asked = True
        return self.time


class Renderer:
    """The chat template of a tokenizer; its clock shows the time of the settings, or when this object was made."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, settings: TemplateSettings | None = None) -> None:
        self._tokenizer = tokenizer
        self._settings = settings or TemplateSettings()
        self.clock = StoppedClock(self._settings.time or datetime.datetime.now())
        self._variables: dict[str, frozenset[str]] = {}  # source of a template → the variables that it reads
        self._special = {**tokenizer.special_tokens_map}
        self._broken: dict[str, str] = {}  # source of a template that does not compile → reason
        self._uses_parts = False
        self._uses_parts = self._needs_parts()
        self.clock.is_asked = False

    def text(
        self,
        messages: Messages,
        tools: Tools,
        where: Location,
        *,
        arguments: Mapping[str, Any] = NO_ARGUMENTS,
        ask: bool = False,
        with_tools: bool = True,
    ) -> str:
        """The chat as text, followed by the generation prompt if `ask`; raises UnusableRow.

        Without `with_tools`, the template for chats with these tools is rendered without them. `arguments` are the
        row's own, before which those of the settings give way.
        """
        source, shown_tools = self.template(tools), tools if with_tools else None
        return self._render(source, messages, shown_tools, where, arguments, add_generation_prompt=ask)[0][0]

    def generation_spans(
        self, messages: Messages, tools: Tools, where: Location, arguments: Mapping[str, Any] = NO_ARGUMENTS
    ) -> tuple[str, list[tuple[int, int]]]:
        """The chat as text and the (start, end) of its generation blocks; both empty for a template without any."""
        source = self.template(tools)
        if not re.search(r"\{%-?\s*generation\s*-?%\}", source):
            return "", []
        texts, spans = self._render(source, messages, tools, where, arguments, return_assistant_tokens_mask=True)
        return texts[0], spans[0]

    def template(self, tools: Tools = None) -> str:
        """The template's source: a tokenizer may have another one for chats with tools."""
        source: str = self._tokenizer.get_chat_template(None, tools)
        return source

    def has_constant_prompt(self, tools: Tools) -> bool:
        """Whether the source shows that the generation prompt does not depend on the messages."""
        source = self.template(tools)
        tree = _compile_jinja_template(source).environment.parse(source)
        asking = [node for node in tree.body if isinstance(node, nodes.If) and _is_prompt_flag(node.test)]
        names = [name.name for node in asking for name in node.find_all(nodes.Name)]
        all_names = list(tree.find_all(nodes.Name))
        changing = {"messages", "tools", "documents", "loop"} | {name.name for name in all_names if name.ctx == "store"}
        elsewhere = sum(_is_prompt_flag(name) for name in all_names) - names.count("add_generation_prompt")
        return not elsewhere and not changing & set(names)

    def ignores(self, name: str, tools: Tools) -> bool:
        """Whether the template reads no variable of this name."""
        source = self.template(tools)
        if source not in self._variables:
            tree = _compile_jinja_template(source).environment.parse(source)
            self._variables[source] = frozenset(meta.find_undeclared_variables(tree))
        return name not in self._variables[source]

    def _render(
        self,
        source: str,
        messages: Messages,
        tools: Tools,
        where: Location,
        arguments: Mapping[str, Any],
        **options: bool,
    ) -> tuple[list[str], list[Any]]:
        if source in self._broken:
            raise template_refusal(where, self._broken[source])
        chat = [{key: value for key, value in each.items() if value is not None} for each in messages]
        try:
            with self._clock_stopped():
                texts, spans = render_jinja_template(
                    conversations=[[_with_parts(each) for each in chat] if self._uses_parts else chat],
                    tools=list(tools) if tools else None,
                    chat_template=source,
                    **options,
                    **{**self._special, **self._settings.arguments, **arguments},
                )
        except Exception as error:  # a template is a program from elsewhere: it may raise anything
            raise template_refusal(where, self._reason(source, error)) from error
        return texts, spans

    def _reason(self, source: str, error: Exception) -> str:
        if not isinstance(error, TemplateSyntaxError):
            return str(error)
        self._broken[source] = f"line {error.lineno}: {error.message}"  # so that it is not compiled for every row
        return self._broken[source]

    def _needs_parts(self) -> bool:
        """Whether the template shows text only in a list of parts, as templates of models with images do."""
        try:
            shows_plain_text = self._shows_text()
        except UnusableRow:
            shows_plain_text = False
        self._uses_parts = True
        try:
            return not shows_plain_text and self._shows_text()
        except UnusableRow:
            return False

    def _shows_text(self) -> bool:
        contents = {"user": "lorem", "assistant": "ipsum"}
        chat = [{"role": role, "content": content} for role, content in contents.items()]
        text = self.text(chat, None, Location("probe"))
        return all(content in text for content in contents.values())

    @contextmanager
    def _clock_stopped(self) -> Iterator[None]:
        # The template function `strftime_now` looks `datetime` up in this module at each call.
        real = chat_template_utils.datetime
        chat_template_utils.datetime = self.clock
        try:
            yield
        finally:
            chat_template_utils.datetime = real


def _is_prompt_flag(node: nodes.Node) -> bool:
    return getattr(node, "name", None) == "add_generation_prompt"


def _with_parts(message: Message) -> Message:
    content = message.get("content")
    return {**message, "content": [{"type": "text", "text": content}]} if isinstance(content, str) else message
