"""The positions of the turns in a rendered chat, from the markers of its contents."""

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dimba.common.errors import Location
from dimba.trainers.data import marks
from dimba.trainers.data.marks import CALLS, ENDS, TAG, Mark
from dimba.trainers.data.render import Message, Messages, Renderer, Tools, Unmaskable

DROPS_CONTENT = "it changes or drops the assistant's content"


@dataclass(frozen=True)
class Chat:
    """A chat and `text`, its render; `only_answers_marked`: other messages have no markers.

    `arguments` are given to the template beside the messages.
    """

    messages: Messages
    tools: Tools
    where: Location
    text: str = ""
    only_answers_marked: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def setting(self) -> Hashable:
        """What a template shows beside the messages; equal for chats between whose turns it writes the same."""
        named = {name: value for name, value in self.arguments.items() if name != "documents"}
        return bool(self.tools), json.dumps(named, sort_keys=True, default=str) if named else ""

    def render(self, renderer: Renderer, messages: Messages, *, ask: bool = False, with_tools: bool = True) -> str:
        """These messages in place of the chat's own, as text; raises UnusableRow."""
        options = {"ask": ask, "with_tools": with_tools}
        return renderer.text(messages, self.tools, self.where, arguments=self.arguments, **options)

    def may_contain(self, header: str, before: int) -> bool:
        """Whether an unmarked message before this turn contains text that looks like the template's header."""
        contents = (str(message.get("content")) for message in self.messages[:before])
        return self.only_answers_marked and any(header in content for content in contents)

    def unmaskable(self, reason: str) -> Unmaskable:
        """The error that names this chat."""
        return Unmaskable(self.where, reason)


@dataclass(frozen=True)
class Turn:
    """The positions of one assistant turn: template text from `before`, content from `first` to `last`, template text.

    `next` is the start of the next content or the end of the text; `altered`: the content shows in part only.
    """

    index: int
    before: int
    first: int
    last: int
    next: int
    altered: bool


def turn_at(chat: Chat, found: Sequence[Mark], index: int) -> Turn:
    """The positions of turn `index`, from its own markers and the nearest ones around them; raises Unmaskable."""
    message = chat.messages[index]
    own = _own_marks(chat, found, index)
    content = [mark for mark in own if mark.kind != CALLS]
    contents, calls = marks.expected_marks(message)
    if len(own) - len(content) != calls:
        raise chat.unmaskable("it drops the assistant's tool calls")
    if not calls and (not content or content[-1].kind != ENDS or content[0].kind == ENDS):
        raise chat.unmaskable(DROPS_CONTENT)
    first, last = own[0].at, own[-1].at
    if not chat.text[first:last].strip():
        raise chat.unmaskable(DROPS_CONTENT)
    others = [mark.at for mark in found if mark.turn != index]
    before = max((at for at in others if at <= first), default=0)
    following = min((at for at in others if at >= last), default=len(chat.text))
    shown = sum(mark.kind != TAG for mark in content)
    altered = shown != contents or _differs(chat.text, content, message)
    return Turn(index, before, first, last, following, altered)


def _own_marks(chat: Chat, found: Sequence[Mark], index: int) -> list[Mark]:
    own: dict[tuple[str, int], Mark] = {}
    for mark in found:
        # A call's name may appear again with the tool's answer.
        if mark.turn == index and own.setdefault((mark.kind, mark.number), mark) is not mark and mark.kind != CALLS:
            raise chat.unmaskable("it shows the assistant's content twice")
    ordered = list(own.values())
    if any(mark.turn != index and ordered[0].at < mark.at < ordered[-1].at for mark in (found if ordered else ())):
        raise chat.unmaskable("it mixes the assistant's content with other turns")
    return ordered


def _differs(text: str, content: Sequence[Mark], message: Message) -> bool:
    if not content:
        return False
    shown, original = text[content[0].at : content[-1].at], marks.content_from(message, content[0])
    return shown != original and "".join(shown.split()) != "".join(original.split())
