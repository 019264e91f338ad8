"""Control tokens in the words of a row: they stay words, as far as template and tokenizer allow.

A template writes control tokens around the contents. The same text within a content was written by people: it is found
by a break inserted into it, which the template copies, and tokenised as any other text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Tokenizer

from dimba.common.errors import UnusableRow
from dimba.trainers.data.render import Rendered, Renderer
from dimba.trainers.data.turns import Chat

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerFast

# Private-use characters of the last plane, as in marks.py.
_BREAK = "\U0010f7d3"
_OPEN, _CLOSE = "\U0010f7d4", "\U0010f7d5"
_ROLE = "role"  # the one key of a message whose value is not the words of a person
# Tokens that an assistant's turn may hold by design, where a tokenizer declares them special.
_MEANT = re.compile(r"tool|func|think|thought|reason|solution", re.IGNORECASE)

Span = tuple[int, int]


@dataclass(frozen=True)
class _Words:
    """What a row gives to the template: messages, tools and arguments."""

    messages: Sequence[dict[str, Any]]
    tools: Any = None
    arguments: Any = None

    def tokens(self, special: re.Pattern[str]) -> list[str]:
        """The control tokens among the words."""
        found: list[str] = []

        def collect(match: re.Match[str]) -> str:
            found.append(match[0])
            return match[0]

        self.changed(special, collect)
        return found

    def broken(self, special: re.Pattern[str]) -> _Words:
        """The same words with a break behind the first character of each control token."""
        return self.changed(special, lambda match: f"{match[0][:1]}{_BREAK}{match[0][1:]}")

    def changed(self, special: re.Pattern[str], change: Callable[[re.Match[str]], str]) -> _Words:
        """The words with their control tokens changed."""
        everywhere = _Substitution(special, change)
        messages = [_changed_message(message, everywhere) for message in self.messages]
        return _Words(messages, everywhere.nested(self.tools), everywhere.nested(self.arguments))


@dataclass(frozen=True)
class _Substitution:
    special: re.Pattern[str]
    change: Callable[[re.Match[str]], str]
    keeps_meant: bool = False

    def text(self, text: str) -> str:
        return self.special.sub(self._one, text)

    def _one(self, match: re.Match[str]) -> str:
        return match[0] if self.keeps_meant and _MEANT.search(match[0]) else self.change(match)

    def nested(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list | tuple):
            return [self.nested(each) for each in value]
        if isinstance(value, Mapping):
            return {self.text(key): self.nested(each) for key, each in value.items()}
        return value


def _changed_message(message: dict[str, Any], everywhere: _Substitution) -> dict[str, Any]:
    here = replace(everywhere, keeps_meant=message["role"] == "assistant")
    return {key: value if key == _ROLE else here.nested(value) for key, value in message.items()}


def find_literals(
    chat: Chat, render: Renderer, special: re.Pattern[str], *, ask: bool, keeps: bool
) -> tuple[tuple[str, ...], tuple[Span, ...]]:
    """(the control tokens among the words of the chat, their spans in its text).

    There are no spans if the template's own control tokens look the same, or if the job `keeps` them.
    """
    words = _Words(chat.messages, chat.tools, chat.arguments)
    control = tuple(words.tokens(special))
    if not control or keeps:
        return control, ()
    broken = words.broken(special)
    marked = replace(chat, tools=broken.tools, arguments=broken.arguments)
    try:
        text, spans = _without_breaks(marked.render(render, broken.messages, ask=ask), special)
    except UnusableRow:
        return control, ()
    if text != chat.text:
        return control, ()
    return (control, spans) if spans else ((), ())  # the template may show none of them, as in earlier reasoning


def _without_breaks(broken: str, special: re.Pattern[str]) -> tuple[str, tuple[Span, ...]]:
    """(the text without breaks, the spans of the control tokens that had one)."""
    pieces = broken.split(_BREAK)
    text, at, spans = "".join(pieces), 0, []
    for piece in pieces[:-1]:
        at += len(piece)
        if match := special.match(text, at - 1):
            spans.append(match.span())
    return text, tuple(spans)


class LiteralEncoder:
    """Tokenises rows in which some control tokens are words.

    In a copy of the tokenizer the template's control tokens have other names, and the tokenizer's own are split.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, special: re.Pattern[str]) -> None:
        self._special = special
        tokens = {token.content: token for token in tokenizer.added_tokens_decoder.values()}
        names = [name for name in tokens if special.fullmatch(name)]
        self._alias = {name: f"{_OPEN}{number}{_CLOSE}" for number, name in enumerate(names)}
        self._backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.add_tokens([_renamed(tokens[name], alias) for name, alias in self._alias.items()])
        self._backend.encode_special_tokens = True
        ids = {name: tokenizer.convert_tokens_to_ids(name) for name in names}
        self._own = {self._backend.token_to_id(alias): ids[name] for name, alias in self._alias.items()}
        self._special_ids = frozenset(ids.values())

    def encode(self, row: Rendered) -> tuple[Encoding, Rendered] | None:
        """(tokens, the row that they are tokens of, with other names of control tokens); None if a word stays one."""
        named = self._with_aliases(row)
        encoding = self._backend.encode(named.text, add_special_tokens=False)
        return None if self._special_ids & set(encoding.ids) else (encoding, named)

    def own_ids(self, ids: Sequence[int]) -> list[int]:
        """The ids of the tokenizer itself."""
        return [self._own.get(each, each) for each in ids]

    def _with_aliases(self, row: Rendered) -> Rendered:
        starts = {start for start, _ in row.literals}
        pieces, moves, end, shift = [], [(0, 0)], 0, 0
        for match in self._written(row.text, starts):
            alias = self._alias.get(match[0], match[0])
            pieces += [row.text[end : match.start()], alias]
            end = match.end()
            shift += len(alias) - len(match[0])
            moves.append((end, shift))
        spans = tuple((_moved(moves, start), _moved(moves, stop)) for start, stop in row.spans or ())
        return replace(row, text="".join([*pieces, row.text[end:]]), spans=spans)

    def _written(self, text: str, literals: set[int]) -> Iterator[re.Match[str]]:
        """The control tokens of the template."""
        at = 0
        while match := self._special.search(text, at):
            at = match.end()
            if match.start() not in literals:
                yield match


def _moved(moves: Sequence[Span], place: int) -> int:
    return place + next(shift for end, shift in reversed(moves) if end <= place)


def _renamed(token: AddedToken, name: str) -> AddedToken:
    kept = {key: getattr(token, key) for key in ("single_word", "lstrip", "rstrip", "normalized")}
    return AddedToken(name, special=False, **kept)
