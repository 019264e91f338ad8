"""The parts of a rendered chat that carry loss: each assistant turn, from behind its header to its end token.

Every content gets markers (marks.py), so that only the template's own text lies between two contents. A turn's header
and its end token are searched for there and nowhere else: a message that contains such tokens cannot mislead.
"""

import json
import re
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from dimba.common.errors import UnusableRow
from dimba.trainers.data import marks
from dimba.trainers.data.marks import Mark
from dimba.trainers.data.omissions import omitted_parts
from dimba.trainers.data.render import Message, Renderer
from dimba.trainers.data.turns import DROPS_CONTENT, Chat, Turn, turn_at

Span = tuple[int, int]

_LONGEST_KEY = 400  # characters between two turns; longer texts hardly repeat, and are not worth caching
_NEVER_ENDS = "it ends the assistant's turn with no special token, so the model would never stop"
_HEADER_NOT_SHOWN = "it opens the assistant's turn with words that its generation prompt lacks"
_HEADER_NOT_UNIQUE = "the header of the assistant's turn does not occur exactly once"
_TAGS = re.compile(r"(?:\s|</?think>)*")
_TAGS_AT_END = re.compile(r"(?:\s|</?think>)+$")


@dataclass
class Masker:
    """Finds the parts of chats that carry loss, for one tokenizer; caches results by the template's text."""

    render: Renderer
    special: re.Pattern[str]
    headers: dict[Hashable, str | None] = field(default_factory=dict)  # Chat.setting → constant header
    starts: dict[Hashable, int] = field(default_factory=dict)
    ends: dict[Hashable, Span] = field(default_factory=dict)
    turn_ends: dict[str, int] = field(default_factory=dict)  # end tokens → turns

    def spans(self, chat: Chat, wanted: Sequence[int]) -> tuple[list[Span], int, tuple[str, ...]]:
        """(spans in the text of the `wanted` turns, how many of them show in part only, the omitted parts).

        Raises:
            Unmaskable: the text does not show where a turn begins or ends.
        """
        chat, found = self._marked(chat)
        turns = [turn_at(chat, found, index) for index in wanted]
        spans = [self._span(chat, turn) for turn in turns]
        return spans, sum(turn.altered for turn in turns), omitted_parts(chat, found, wanted, self.render)

    def _marked(self, chat: Chat) -> tuple[Chat, list[Mark]]:
        """The markers that leave the text unchanged: of all messages, or of the assistant's only.

        The second is for templates that inspect the other messages' contents.
        """
        everyone = range(len(chat.messages))
        assistants = [turn for turn in everyone if chat.messages[turn]["role"] == "assistant"]
        for turns, tags in ((everyone, True), (everyone, False), (assistants, True), (assistants, False)):
            marked = marks.add_marks(chat.messages, turns, tags=tags)
            try:
                text, found = marks.remove_marks(chat.render(self.render, marked))
            except UnusableRow:
                continue
            if text == chat.text:
                only_answers = turns is not everyone and len(turns) < len(everyone)
                return replace(chat, only_answers_marked=only_answers), found
        raise chat.unmaskable(DROPS_CONTENT)

    def _span(self, chat: Chat, turn: Turn) -> Span:
        start = self._start(chat, turn)
        gap, end = self._end(chat, turn)
        token = chat.text[turn.last + gap : turn.last + end]
        self.turn_ends[token] = self.turn_ends.get(token, 0) + 1
        return start, turn.last + end

    def _start(self, chat: Chat, turn: Turn) -> int:
        header = self._constant_header(chat, turn)
        start = _behind(header or "", chat, turn)
        if start is not None:
            return start
        gap = chat.text[turn.before : turn.first]
        if header is None or len(gap) > _LONGEST_KEY:
            return self._start_by_prompt(chat, turn)
        key = (_kinds(chat, turn.index - 1, turn.index), gap)
        if key not in self.starts:
            self.starts[key] = self._start_by_prompt(chat, turn) - turn.first
        return turn.first + self.starts[key]

    def _constant_header(self, chat: Chat, turn: Turn) -> str | None:
        """The generation prompt of every turn; None if it depends on the messages."""
        setting = chat.setting
        if setting not in self.headers:
            is_constant = self.render.has_constant_prompt(chat.tools)
            self.headers[setting] = self._prompt(chat, turn)[2] if is_constant else None
        return self.headers[setting]

    def _prompt(self, chat: Chat, turn: Turn) -> tuple[str, str, str]:
        """(the text before the turn, the same with the generation prompt, the generation prompt)."""
        before = chat.messages[: turn.index]
        plain = chat.render(self.render, before)
        asking = chat.render(self.render, before, ask=True)
        if not asking.startswith(plain):
            plain = self._without_end_of_chat(plain)
        return plain, asking, asking[len(plain) :] if asking.startswith(plain) else ""

    def _without_end_of_chat(self, plain: str) -> str:
        # Some templates end a chat with a token that they omit before a generation prompt.
        *_, last = [None, *self.special.finditer(plain)]
        return plain[: last.start()] if last and not plain[last.end() :].strip() else plain

    def _start_by_prompt(self, chat: Chat, turn: Turn) -> int:
        plain, asking, header = self._prompt(chat, turn)
        between = chat.text[len(plain) : turn.first]
        asked = chat.text.startswith(asking) and turn.before <= len(asking) < turn.last
        if asked and (header.strip() or not between.strip()):
            return len(asking)
        for start in self._possible_starts(chat, turn, plain, header):
            if start is not None:
                return start
        raise chat.unmaskable(_HEADER_NOT_SHOWN if not header.strip() and between.strip() else _HEADER_NOT_UNIQUE)

    def _possible_starts(self, chat: Chat, turn: Turn, plain: str, header: str) -> Iterator[int | None]:
        yield _behind(header, chat, turn)
        between = chat.text[len(plain) : turn.first]
        follows = chat.text.startswith(plain) and turn.before <= len(plain) <= turn.first
        if follows and header.startswith(between) and (between.strip() or not header.strip()):
            yield turn.first  # the generation prompt is longer than the header in history, by an opening tag
        yield _behind_tags(header, chat, turn, calls=bool(chat.messages[turn.index].get("tool_calls")))

    def _end(self, chat: Chat, turn: Turn) -> Span:
        """(start, end) of the end token, counted from the end of the turn's content."""
        rest = chat.text[turn.last : turn.next]
        if len(rest) > _LONGEST_KEY:
            return self._find_end(chat, turn, rest)
        key = (_kinds(chat, turn.index, turn.index + 1), rest, bool(chat.messages[turn.index].get("tool_calls")))
        if key not in self.ends:
            self.ends[key] = self._find_end(chat, turn, rest)
        return self.ends[key]

    def _find_end(self, chat: Chat, turn: Turn, rest: str) -> Span:
        other = self._other_rest(chat, turn)
        if chat.messages[turn.index].get("tool_calls"):
            return self._call_end(chat, turn, rest, other)
        here = _leading_tokens(self.special, rest)
        there = _leading_tokens(self.special, other or "")
        ends = [span for span, same in zip(here, there, strict=False) if rest[: span[1]] == (other or "")[: same[1]]]
        is_last = turn.index == len(chat.messages) - 1
        if not ends and (is_last or (there and len(here) > 1)):
            # The last turn may have an end token of its own; if no message may follow, all its tokens belong to it.
            ends = here if other is None else here[:1]
        if not ends:
            raise chat.unmaskable(_NEVER_ENDS)
        return ends[0][0], ends[-1][1]

    def _call_end(self, chat: Chat, turn: Turn, rest: str, other: str | None) -> Span:
        common = rest if other is None else _common_prefix(rest, other)
        ends = [match.span() for match in self.special.finditer(common)]
        ending = rest if turn.index == len(chat.messages) - 1 else other or ""
        if not ends or self.special.sub("", ending[ends[-1][1] :]).strip():
            raise chat.unmaskable(_NEVER_ENDS)
        token = common[slice(*ends[-1])]
        if self._ends_each_call(chat, turn, token):
            raise chat.unmaskable(_NEVER_ENDS)
        return ends[-1]

    def _ends_each_call(self, chat: Chat, turn: Turn, token: str) -> bool:
        """Whether the template writes `token` behind each of several calls, so that it does not end the turn."""
        message = chat.messages[turn.index]
        counts = []
        for times in (1, 2):
            calls = {**message, "tool_calls": _without_words(message["tool_calls"], token) * times}
            try:
                text = chat.render(self.render, [*chat.messages[: turn.index], calls])
            except UnusableRow:
                return False
            counts.append(text.count(token))
        return counts[0] != counts[1]

    def _other_rest(self, chat: Chat, turn: Turn) -> str | None:
        """The template's text behind the turn in a chat that continues differently; None if the template refuses it.

        That chat ends behind this turn, or has one more message if this turn is the last.
        """
        is_last = turn.index == len(chat.messages) - 1
        more: list[Message] = [{"role": "user", "content": "Go on."}] if is_last else []
        messages = [*chat.messages[: turn.index + 1], *more]
        marked = marks.add_marks(messages, [turn.index], tags=False)
        try:
            text, found = marks.remove_marks(chat.render(self.render, marked))
            other = turn_at(replace(chat, messages=messages, text=text), found, turn.index)
        except UnusableRow:
            return None
        return text[other.last : other.next]


def _without_words(calls: Sequence[object], token: str) -> list[object]:
    """The calls without a token that people wrote in them."""
    words, written = json.dumps(calls, ensure_ascii=False), json.dumps(token, ensure_ascii=False)[1:-1]
    found: list[object] = json.loads(words.replace(written, "word"))
    return found


def _behind(header: str, chat: Chat, turn: Turn) -> int | None:
    """The position behind the header, if it begins exactly once between the content before and this one."""
    if not header.strip() or chat.may_contain(header, turn.index):
        return None
    window = chat.text[turn.before : min(turn.first + len(header) - 1, turn.last)]
    at = window.find(header)
    if at < 0 or turn.before + at >= turn.first or 0 <= window.find(header, at + 1) < turn.first - turn.before:
        return None
    return turn.before + at + len(header)


def _behind_tags(header: str, chat: Chat, turn: Turn, *, calls: bool) -> int | None:
    """The position behind the header, if it differs from the one in history in its reasoning tags only.

    The text between these tags and a call is part of the call.
    """
    core = _TAGS_AT_END.sub("", header)
    gap = chat.text[turn.before : turn.first]
    if not core or chat.may_contain(core, turn.index) or gap.count(core) != 1:
        return None
    at = gap.index(core) + len(core)
    tags = _TAGS.match(gap, at)
    return turn.before + tags.end() if tags and (calls or tags.end() == len(gap)) else None


def _common_prefix(one: str, other: str) -> str:
    shorter = min(len(one), len(other))
    return one[: next((at for at in range(shorter) if one[at] != other[at]), shorter)]


def _leading_tokens(special: re.Pattern[str], rest: str) -> list[Span]:
    """The special tokens side by side at the start of `rest`, leading white space skipped."""
    at = len(rest) - len(rest.lstrip())
    tokens: list[Span] = []
    while match := special.match(rest, at):
        tokens.append(match.span())
        at = match.end()
    return tokens


def _kinds(chat: Chat, *places: int) -> Hashable:
    """The kinds of the messages at these places, as far as templates distinguish them."""
    there = [chat.messages[place] if 0 <= place < len(chat.messages) else {} for place in places]
    return chat.setting, *((each.get("role"), bool(each.get("tool_calls"))) for each in there)
