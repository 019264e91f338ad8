"""From a chat to tokens and labels: loss on what the assistant says and on the token that ends its turn."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dimba.contract import DEFAULT_CHAT_TEMPLATE
from dimba.errors import BadInput
from dimba.formats import BadRow, Message

IGNORED = -100

# Private-use characters: in no vocabulary, and in no text that anybody writes.
_MARK = "\ue0d1{}\ue0d2"
_ANY_MARK = re.compile("\ue0d1(\\d+)\ue0d2")


@dataclass(frozen=True)
class Example:
    """Token ids of one chat, and the same ids as labels with IGNORED where no loss goes."""

    input_ids: list[int]
    labels: list[int]


def prepare_tokenizer(tokenizer: Any) -> str:
    """Gives a tokenizer what training needs; returns what was added, to be said. Raises BadInput."""
    if not tokenizer.is_fast:
        raise BadInput("the tokenizer has no tokenizer.json", "convert it with `AutoTokenizer(...).save_pretrained`")
    if tokenizer.eos_token is None:
        raise BadInput("the tokenizer has no end-of-sequence token", "set `eos_token` in tokenizer_config.json")
    said = []
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
        said.append("padding with the end-of-sequence token (its loss is kept where it ends a turn)")
    if not tokenizer.chat_template:
        tokenizer.chat_template = DEFAULT_CHAT_TEMPLATE
        said.append("the tokenizer has no chat template: using `### User:` / `### Assistant:`, saved with the result")
    return "; ".join(said)


def encode(tokenizer: Any, messages: Sequence[Message], where: str) -> Example:
    """Tokens and labels of one chat; raises BadRow where the template cannot be masked faithfully."""
    text = _render(tokenizer, messages, where)
    spans = _assistant_spans(tokenizer, messages, text, where)
    # The template writes the special tokens itself: adding them again would double BOS.
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    if any(start < first < end for first, _ in spans for start, end in offsets):
        raise _unmaskable(where, "a token reaches from the words that open the assistant's turn into what it says")
    labels = [
        token if any(start < end <= last and start >= first for first, last in spans) else IGNORED
        for token, (start, end) in zip(ids, offsets, strict=True)
    ]
    return Example(ids, labels)


def _render(tokenizer: Any, messages: Sequence[Message], where: str, **options: bool) -> str:
    from jinja2.exceptions import TemplateError

    try:
        text: str = tokenizer.apply_chat_template(list(messages), tokenize=False, **options)
    except TemplateError as error:
        hint = "correct the row, or give the checkpoint a template that allows it"
        raise BadRow(where, f"the chat template refuses this chat: {error}", hint) from error
    return text


def _assistant_spans(tokenizer: Any, messages: Sequence[Message], text: str, where: str) -> list[tuple[int, int]]:
    """(start, end) in `text` of what each assistant turn says, its end token included."""
    special = {
        *tokenizer.all_special_tokens,
        *(token.content for token in tokenizer.added_tokens_decoder.values() if token.special),
    }
    spans: list[tuple[int, int]] = []
    after = 0
    for turn, content_end in _content_ends(tokenizer, messages, text, where):
        opening = _opening(tokenizer, messages[: turn + 1], where)
        start = _turn_start(opening, messages[: turn + 1], text[:content_end], after, where)
        after = content_end + _turn_end(opening, special, tokenizer.eos_token, text[content_end:], where)
        spans.append((start, after))
    return spans


@dataclass(frozen=True)
class _Opening:
    """What comes before an assistant's turn, rendered without (`plain`) and with the words that ask for it."""

    plain: str
    asking: str

    @property
    def added(self) -> str:
        return self.asking[len(self.plain) :]

    @property
    def header(self) -> str:
        """The words that ask for the turn; empty where there are none to be told apart."""
        return self.added if self.asking.startswith(self.plain) and self.added.strip() else ""


def _opening(tokenizer: Any, messages: Sequence[Message], where: str) -> _Opening:
    *before, turn = messages
    if not turn["content"].strip():
        raise BadRow(where, "an assistant turn is empty, so the model would learn to say nothing")
    if not before:
        raise BadRow(where, "the assistant speaks first, and nobody asked", "start the chat with a user's turn")
    plain = _render(tokenizer, before, where)
    return _Opening(plain, _render(tokenizer, before, where, add_generation_prompt=True))


def _content_ends(tokenizer: Any, messages: Sequence[Message], text: str, where: str) -> list[tuple[int, int]]:
    """(turn, position in `text` where its content ends), found by marking the contents and rendering again."""
    turns = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
    marked = [_marked(message, n) if n in turns else message for n, message in enumerate(messages)]
    rendered = _render(tokenizer, marked, where)
    found = [int(match[1]) for match in _ANY_MARK.finditer(rendered)]
    if _ANY_MARK.sub("", rendered) != text or found != turns:
        raise _unmaskable(where, "it changes or drops what the assistant said")
    ends, removed = [], 0
    for match in _ANY_MARK.finditer(rendered):
        ends.append((int(match[1]), match.start() - removed))
        removed += len(match[0])
    return ends


def _marked(message: Message, turn: int) -> Message:
    # Before trailing white space, which templates may strip.
    content = message["content"]
    kept = content.rstrip()
    return {**message, "content": kept + _MARK.format(turn) + content[len(kept) :]}


def _turn_start(opening: _Opening, messages: Sequence[Message], text: str, after: int, where: str) -> int:
    """Where the last of `messages` begins in `text`, which ends with it: behind the words that ask for it."""
    *before, turn = messages
    header = opening.header
    if text.startswith(opening.asking):
        start = len(opening.asking)
    elif header and text.count(header, after) == 1 and not any(header in message["content"] for message in before):
        # A template that renders earlier turns differently once there are later ones.
        start = text.index(header, after) + len(header)
    else:
        raise _unmaskable(where, "the text that opens the assistant's turn is not there exactly once")
    if not text[start:].strip():
        raise _unmaskable(where, "it changes or drops what the assistant said")
    if not header and text[start:].strip() != turn["content"].strip():
        raise _unmaskable(where, "it opens the assistant's turn with words that it does not ask with")
    return start


def _turn_end(opening: _Opening, special: set[str], eos: str, rest: str, where: str) -> int:
    """How far into `rest`, the text behind the content, the end token reaches; only white space may come before it."""
    found = [(rest.find(token), token) for token in special]
    position, token = min(((at, token) for at, token in found if at >= 0), default=(-1, ""))
    opens_a_turn = opening.added.lstrip().startswith(token or "-")
    if position < 0 or rest[:position].strip() or (opens_a_turn and token != eos):
        raise _unmaskable(where, "it ends the assistant's turn with no special token, so the model would never stop")
    return position + len(token)


def _unmaskable(where: str, why: str) -> BadRow:
    hint = "use a checkpoint whose chat template keeps the turns as they are, or correct the row"
    return BadRow(where, f"the chat template cannot be masked faithfully here: {why}", hint)
