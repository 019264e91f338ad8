"""From a sample to tokens and a mask: loss on what the assistant says and on the token that ends its turn."""

import re
from collections.abc import Sequence
from typing import Any, Literal

from dimba.common.contract import DEFAULT_CHAT_TEMPLATE
from dimba.common.errors import BadInput, Location, UnusableRow
from dimba.dataset.formats import Sample
from dimba.trainers.data.marks import called, has_marks
from dimba.trainers.data.masks import Masker, Span
from dimba.trainers.data.omissions import left_out
from dimba.trainers.data.render import Messages, Renderer, Unmaskable
from dimba.trainers.data.tokens import IGNORED, Example, Rendered, encode_chats, encode_texts
from dimba.trainers.data.turns import Chat

__all__ = ["IGNORED", "ChatEncoder", "Example", "Rendered", "TrainOn", "Unmaskable", "encode", "prepare_tokenizer"]

TrainOn = Literal["all", "last"]  # of a chat's turns that carry loss


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


def encode(tokenizer: Any, messages: Messages, where: Location) -> Example:
    """Tokens and mask of one chat, every assistant turn trained; raises UnusableRow, Unmaskable."""
    trained = tuple(message["role"] == "assistant" for message in messages)
    encoder = ChatEncoder(tokenizer)
    [example] = encoder.encode_batch([encoder.render(Sample(messages=tuple(messages), trained=trained), where)])
    if isinstance(example, Unmaskable):
        raise example
    return example


class ChatEncoder:
    """Encodes samples with one tokenizer, which is left as it is.

    What the template itself writes behind the words that ask for a turn (an empty block of reasoning, a channel) is
    what the model must say there, and is trained. White space behind the end token is not.
    """

    def __init__(self, tokenizer: Any, *, train_on: TrainOn = "all") -> None:
        self._tokenizer = tokenizer
        self._train_on = train_on
        self._masker = Masker(Renderer(tokenizer), _special(tokenizer))

    @property
    def turn_ends(self) -> dict[str, int]:
        """The tokens that ended the trained turns so far, each with how often."""
        return dict(self._masker.turn_ends)

    def render(self, sample: Sample, where: Location) -> Rendered:
        """The sample as text, with the spans that carry loss; raises UnusableRow, or Unmaskable for the template."""
        if sample.text is not None:
            if not sample.text.strip():
                raise UnusableRow("the text is empty").at(where)
            return Rendered(where, sample.text)
        wanted = self._wanted(sample, where)
        masker = self._masker
        chat = Chat(sample.messages, sample.tools, where, masker.render.text(sample.messages, sample.tools, where))
        if has_marks(chat.text):
            cause = "the chat has characters (U+10F7D1, U+10F7D2) that are needed to find the turns"
            raise UnusableRow(cause).at(where)
        try:
            spans, altered, lost = masker.spans(chat, wanted)
        except Unmaskable:
            spans, altered = self._own_spans(chat, wanted), 0
            if not spans:
                raise
            lost = left_out(chat, None, wanted, masker.render)
        return Rendered(where, chat.text, tuple(spans), altered, lost)

    def encode_batch(self, rendered: Sequence[Rendered]) -> list[Example | Unmaskable]:
        """Tokens and mask of each, in order; an Unmaskable in the place of one whose tokens straddle a border."""
        chats = [row for row in rendered if row.spans is not None]
        texts = [row for row in rendered if row.spans is None]
        backend = self._tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        encoded_chats = iter(encode_chats(backend, chats))
        encoded_texts = iter(encode_texts(self._tokenizer, texts))
        return [next(encoded_texts if row.spans is None else encoded_chats) for row in rendered]

    def _wanted(self, sample: Sample, where: Location) -> list[int]:
        """The places of the turns that are trained; raises UnusableRow for those that cannot be."""
        turns = [
            place
            for place, (message, trained) in enumerate(zip(sample.messages, sample.trained, strict=True))
            if trained and message["role"] == "assistant"
        ]
        turns = turns[-1:] if self._train_on == "last" else turns
        for place in turns:
            message = sample.messages[place]
            if not (message.get("content") or "").strip() and not message.get("tool_calls"):
                raise UnusableRow("an assistant turn is empty, so the model would learn to say nothing").at(where)
        if 0 in turns:
            cause = "the chat begins with the assistant, and no question precedes it"
            raise UnusableRow(cause, "start the chat with a user's turn").at(where)
        return turns

    def _own_spans(self, chat: Chat, wanted: Sequence[int]) -> list[Span]:
        """What the template's own marks say of the wanted turns, each with its end; empty where they cannot be used."""
        text, spans = self._masker.render.own_marks(chat.messages, chat.tools, chat.where)
        turns = [place for place, message in enumerate(chat.messages) if message["role"] == "assistant"]
        if text != chat.text or len(spans) != len(turns):
            return []
        ended = [self._ended(text, *spans[turns.index(place)]) for place in wanted]
        ended = [
            span if span and not self._has_header(chat, place, span) else None
            for place, span in zip(wanted, ended, strict=True)
        ]
        whole = all(
            span and all(said in text[slice(*span)] for said in _said(chat.messages[place]))
            for place, span in zip(wanted, ended, strict=True)
        )
        return [span for span in ended if span] if whole else []

    def _has_header(self, chat: Chat, place: int, span: Span) -> bool:
        """Whether the marks take in the words that ask for the turn, as some do."""
        before = chat.messages[:place]
        plain = self._masker.render.text(before, chat.tools, chat.where)
        asking = self._masker.render.text(before, chat.tools, chat.where, ask=True)
        header = asking.removeprefix(plain).strip()
        return bool(header) and chat.text[slice(*span)].lstrip().startswith(header)

    def _ended(self, text: str, start: int, end: int) -> Span | None:
        special = self._masker.special
        inside = list(special.finditer(text, start, end))
        if inside and not text[inside[-1].end() : end].strip():
            return start, inside[-1].end()
        behind = special.match(text, end)
        return (start, behind.end()) if behind else None


def _said(message: dict[str, Any]) -> list[str]:
    return [(message.get("content") or "").strip(), *called(message)]


def _special(tokenizer: Any) -> re.Pattern[str]:
    """Matches any special token of the tokenizer, the longest first."""
    tokens = {
        *tokenizer.all_special_tokens,
        *(token.content for token in tokenizer.added_tokens_decoder.values() if token.special),
    }
    return re.compile("|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True) if token) or "(?!)")
