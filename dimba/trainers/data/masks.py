"""Which part of a rendered chat carries loss: each assistant turn, from behind what asks for it to what ends it.

Every content is marked (marks.py), so that between two of them there is nothing but the template's own text. A turn's
header is looked for there and nowhere else, and so is its end: what somebody says cannot be mistaken for either.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dimba.common.errors import UnusableRow
from dimba.trainers.data import marks
from dimba.trainers.data.marks import Mark
from dimba.trainers.data.omissions import left_out
from dimba.trainers.data.render import Renderer
from dimba.trainers.data.turns import DROPS, Chat, Turn, turn_at

Span = tuple[int, int]

_LONG = 400  # text between two turns that is not worth remembering
_NEVER_ENDS = "it ends the assistant's turn with no special token, so the model would never stop"
_TAGS = re.compile(r"(?:\s|</?think>)*")
_TAGS_AT_END = re.compile(r"(?:\s|</?think>)+$")


@dataclass
class Masker:
    """Finds what carries loss in chats of one tokenizer; what it proved of a piece of the template, it remembers."""

    render: Renderer
    special: re.Pattern[str]
    headers: dict[bool, str | None] = field(default_factory=dict)
    starts: dict[Any, int] = field(default_factory=dict)
    ends: dict[Any, Span] = field(default_factory=dict)
    turn_ends: dict[str, int] = field(default_factory=dict)

    def spans(self, chat: Chat, wanted: Sequence[int]) -> tuple[list[Span], int, tuple[str, ...]]:
        """(start, end) in the text of each wanted turn, how many of them show only in part, and what else is lost."""
        chat, found = self._marks(chat)
        turns = [turn_at(chat, found, index) for index in wanted]
        spans = [self._span(chat, turn) for turn in turns]
        return spans, sum(turn.altered for turn in turns), left_out(chat, found, wanted, self.render)

    def _marks(self, chat: Chat) -> tuple[Chat, list[Mark]]:
        """The marks that change nothing: of all messages, or of the assistant's where others' are looked into."""
        everybody = range(len(chat.messages))
        assistants = [turn for turn in everybody if chat.messages[turn]["role"] == "assistant"]
        for turns, tags in ((everybody, True), (everybody, False), (assistants, True), (assistants, False)):
            marked = marks.mark(chat.messages, turns, tags=tags)
            try:
                text, found = marks.read(self.render.text(marked, chat.tools, chat.where))
            except UnusableRow:
                continue
            if text == chat.text:
                return chat if turns is everybody else replace(chat, unmarked=len(turns) < len(everybody)), found
        raise chat.refused(DROPS)

    def _span(self, chat: Chat, turn: Turn) -> Span:
        start = self._start(chat, turn)
        gap, end = self._end(chat, turn)
        token = chat.text[turn.last + gap : turn.last + end]
        self.turn_ends[token] = self.turn_ends.get(token, 0) + 1
        return start, turn.last + end

    def _start(self, chat: Chat, turn: Turn) -> int:
        asks_alike = self._asks_alike(chat, turn)
        header = asks_alike or ""
        start = _behind(header, chat, turn)
        if start is not None:
            return start
        gap = chat.text[turn.before : turn.first]
        key = (_kinds(chat, turn.index - 1, turn.index), gap)
        if asks_alike is None or len(gap) > _LONG:
            return self._start_by_asking(chat, turn)
        if key not in self.starts:
            self.starts[key] = self._start_by_asking(chat, turn) - turn.first
        return turn.first + self.starts[key]

    def _asks_alike(self, chat: Chat, turn: Turn) -> str | None:
        """The words that ask for any turn; None where they depend on what was said."""
        has_tools = bool(chat.tools)
        if has_tools not in self.headers:
            alike = self.render.asks_alike(chat.tools)
            self.headers[has_tools] = self._asking(chat, turn)[2] if alike else None
        return self.headers[has_tools]

    def _asking(self, chat: Chat, turn: Turn) -> tuple[str, str, str]:
        """What comes before the turn, without and with the words that ask for it, and these words."""
        before = chat.messages[: turn.index]
        plain = self.render.text(before, chat.tools, chat.where)
        asking = self.render.text(before, chat.tools, chat.where, ask=True)
        if not asking.startswith(plain):
            plain = self._without_end_of_chat(plain)
        return plain, asking, asking[len(plain) :] if asking.startswith(plain) else ""

    def _without_end_of_chat(self, plain: str) -> str:
        """Some templates close a chat with a token that they leave out where they ask for more."""
        *_, last = [None, *self.special.finditer(plain)]
        return plain[: last.start()] if last and not plain[last.end() :].strip() else plain

    def _start_by_asking(self, chat: Chat, turn: Turn) -> int:
        plain, asking, header = self._asking(chat, turn)
        between = chat.text[len(plain) : turn.first]
        follows = chat.text.startswith(plain) and turn.before <= len(plain) <= turn.first
        asked = chat.text.startswith(asking) and turn.before <= len(asking) < turn.last
        if asked and (header.strip() or not between.strip()):
            return len(asking)
        start = _behind(header, chat, turn)
        if start is None and follows and header.startswith(between) and (between.strip() or not header.strip()):
            start = turn.first  # the template asks with more than history shows: an opening tag
        if start is None:
            calls = bool(chat.messages[turn.index].get("tool_calls"))
            start = _behind_tags(header, chat, turn, calls=calls)
        if start is not None:
            return start
        if not header.strip() and between.strip():
            raise chat.refused("it opens the assistant's turn with words that it does not ask with")
        raise chat.refused("the text that opens the assistant's turn is not there exactly once")

    def _end(self, chat: Chat, turn: Turn) -> Span:
        """(start, end) of the end token behind the turn's last word."""
        rest = chat.text[turn.last : turn.next]
        key = (_kinds(chat, turn.index, turn.index + 1), rest, bool(chat.messages[turn.index].get("tool_calls")))
        if len(rest) > _LONG:
            return self._proven_end(chat, turn, rest)
        if key not in self.ends:
            self.ends[key] = self._proven_end(chat, turn, rest)
        return self.ends[key]

    def _proven_end(self, chat: Chat, turn: Turn, rest: str) -> Span:
        other = self._other_rest(chat, turn)
        if chat.messages[turn.index].get("tool_calls"):
            return self._call_end(chat, turn, rest, other)
        here = _run(self.special, rest)
        there = _run(self.special, other or "")
        ends = [span for span, same in zip(here, there, strict=False) if rest[: span[1]] == (other or "")[: same[1]]]
        is_last = turn.index == len(chat.messages) - 1
        if not ends and (is_last or (there and len(here) > 1)):
            # The last turn of a chat may have a token of its own; where nothing may follow, all that is there ends it.
            ends = here if other is None else here[:1]
        if not ends:
            raise chat.refused(_NEVER_ENDS)
        return ends[0][0], ends[-1][1]

    def _call_end(self, chat: Chat, turn: Turn, rest: str, other: str | None) -> Span:
        common = rest if other is None else _common(rest, other)
        ends = [match.span() for match in self.special.finditer(common)]
        ending = rest if turn.index == len(chat.messages) - 1 else other or ""
        if not ends or self.special.sub("", ending[ends[-1][1] :]).strip():
            raise chat.refused(_NEVER_ENDS)
        token = common[slice(*ends[-1])]
        if self._ends_each_call(chat, turn, token):
            raise chat.refused(_NEVER_ENDS)
        return ends[-1]

    def _ends_each_call(self, chat: Chat, turn: Turn, token: str) -> bool:
        """Whether `token` comes behind each call of several, so that it does not end the turn."""
        message = chat.messages[turn.index]
        counts = []
        for times in (1, 2):
            calls = {**message, "tool_calls": list(message["tool_calls"]) * times}
            try:
                text = self.render.text([*chat.messages[: turn.index], calls], chat.tools, chat.where)
            except UnusableRow:
                return False
            counts.append(text.count(token))
        return counts[0] != counts[1]

    def _other_rest(self, chat: Chat, turn: Turn) -> str | None:
        """What the template writes behind the turn where the chat goes on otherwise: on, or not at all."""
        is_last = turn.index == len(chat.messages) - 1
        more = [{"role": "user", "content": "Go on."}] if is_last else []
        messages = [*chat.messages[: turn.index + 1], *more]
        marked = marks.mark(messages, [turn.index], tags=False)
        try:
            text, found = marks.read(self.render.text(marked, chat.tools, chat.where))
            other = turn_at(Chat(messages, chat.tools, chat.where, text), found, turn.index)
        except UnusableRow:
            return None
        return text[other.last : other.next]


def _behind(header: str, chat: Chat, turn: Turn) -> int | None:
    """The place behind the header, where it begins exactly once between the content before and this one."""
    if not header.strip() or chat.hides(header, turn.index):
        return None
    window = chat.text[turn.before : min(turn.first + len(header) - 1, turn.last)]
    at = window.find(header)
    if at < 0 or turn.before + at >= turn.first or 0 <= window.find(header, at + 1) < turn.first - turn.before:
        return None
    return turn.before + at + len(header)


def _behind_tags(header: str, chat: Chat, turn: Turn, *, calls: bool) -> int | None:
    """The place behind the header where only the tags of reasoning in it are others than history has.

    What the template writes between these tags and a call is part of the call.
    """
    core = _TAGS_AT_END.sub("", header)
    gap = chat.text[turn.before : turn.first]
    if not core or chat.hides(core, turn.index) or gap.count(core) != 1:
        return None
    at = gap.index(core) + len(core)
    tags = _TAGS.match(gap, at)
    return turn.before + tags.end() if tags and (calls or tags.end() == len(gap)) else None


def _common(one: str, other: str) -> str:
    """How both begin."""
    shorter = min(len(one), len(other))
    return one[: next((at for at in range(shorter) if one[at] != other[at]), shorter)]


def _run(special: re.Pattern[str], rest: str) -> list[Span]:
    """The special tokens side by side with which `rest` begins, white space aside."""
    at = len(rest) - len(rest.lstrip())
    run: list[Span] = []
    while match := special.match(rest, at):
        run.append(match.span())
        at = match.end()
    return run


def _kinds(chat: Chat, *places: int) -> tuple[Any, ...]:
    """What sort of messages lie at these places, as far as templates tell them apart."""
    there = [chat.messages[place] if 0 <= place < len(chat.messages) else {} for place in places]
    return bool(chat.tools), *((each.get("role"), bool(each.get("tool_calls"))) for each in there)
