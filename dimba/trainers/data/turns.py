"""Where the turns of a rendered chat lie, by the marks of its contents."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dimba.common.errors import Location
from dimba.trainers.data import marks
from dimba.trainers.data.marks import CALLS, ENDS, TAG, Mark
from dimba.trainers.data.render import Messages, Unmaskable

DROPS = "it changes or drops what the assistant said"


@dataclass(frozen=True)
class Chat:
    """A chat being masked; `text` is its render."""

    messages: Messages
    tools: Any
    where: Location
    text: str = ""
    unmarked: bool = False  # only the assistant's contents are marked: others' may lie between

    def hides(self, header: str, before: int) -> bool:
        """Whether words that are not marked may be mistaken for the template's header."""
        return self.unmarked and any(header in str(message.get("content")) for message in self.messages[:before])

    def refused(self, why: str) -> Unmaskable:
        """The reason as an exception."""
        return Unmaskable(self.where, why)


@dataclass(frozen=True)
class Turn:
    """Where one assistant turn lies: template's text, what it says from `first` to `last`, template's text."""

    index: int
    before: int
    first: int
    last: int
    next: int
    altered: bool


def turn_at(chat: Chat, found: Sequence[Mark], index: int) -> Turn:
    """Where the turn of this index lies, by its marks and the nearest ones around; raises Unmaskable."""
    message = chat.messages[index]
    own = _own_marks(chat, found, index)
    content = [mark for mark in own if mark.kind != CALLS]
    contents, calls = marks.expected(message)
    if len(own) - len(content) != calls:
        raise chat.refused("it drops what the assistant calls")
    if not calls and (not content or content[-1].kind != ENDS or content[0].kind == ENDS):
        raise chat.refused(DROPS)
    first, last = own[0].at, own[-1].at
    if not chat.text[first:last].strip():
        raise chat.refused(DROPS)
    others = [mark.at for mark in found if mark.turn != index]
    before = max((at for at in others if at <= first), default=0)
    following = min((at for at in others if at >= last), default=len(chat.text))
    shown = sum(mark.kind != TAG for mark in content)
    altered = shown != contents or _reads_otherwise(chat.text, content, message)
    return Turn(index, before, first, last, following, altered)


def _own_marks(chat: Chat, found: Sequence[Mark], index: int) -> list[Mark]:
    """The turn's marks in the order of the text; a call's name may come again with the tool's answer."""
    own: dict[tuple[str, int], Mark] = {}
    for mark in found:
        if mark.turn == index and own.setdefault((mark.kind, mark.number), mark) is not mark and mark.kind != CALLS:
            raise chat.refused("it shows what the assistant said twice")
    ordered = list(own.values())
    if any(mark.turn != index and ordered[0].at < mark.at < ordered[-1].at for mark in (found if ordered else ())):
        raise chat.refused("it mixes what the assistant said with other turns")
    return ordered


def _reads_otherwise(text: str, content: Sequence[Mark], message: dict[str, Any]) -> bool:
    if not content:
        return False
    shown, meant = text[content[0].at : content[-1].at], marks.said(message, content[0])
    return shown != meant and "".join(shown.split()) != "".join(meant.split())
