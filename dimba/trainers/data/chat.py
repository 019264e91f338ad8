"""From a sample to tokens and a loss mask: loss on the assistant's content and on the token that ends its turn."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from dimba.common.contract import DEFAULT_CHAT_TEMPLATE
from dimba.common.errors import BadInput, Location, UnusableRow
from dimba.dataset.formats import Sample
from dimba.trainers.data.encoding import Example, encode_chats, encode_texts
from dimba.trainers.data.literals import LiteralEncoder, find_literals
from dimba.trainers.data.marks import call_texts, has_marks
from dimba.trainers.data.masks import Masker, Span
from dimba.trainers.data.omissions import omitted_parts
from dimba.trainers.data.render import Message, Messages, Rendered, Renderer, TemplateSettings, Unmaskable
from dimba.trainers.data.turns import Chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TrainOn = Literal["all", "last"]  # the turns of a chat that carry loss


_RENAME = "rename the one for chats to `default` in tokenizer_config.json"


def prepare_tokenizer(tokenizer: PreTrainedTokenizerFast) -> str:
    """Adds a padding token and a chat template to a tokenizer without them; returns a note of what it added.

    Raises:
        BadInput: the tokenizer has no tokenizer.json, no end-of-sequence token, or templates of which none is usual.
    """
    if not tokenizer.is_fast:
        raise BadInput("the tokenizer has no tokenizer.json", "convert it with `AutoTokenizer(...).save_pretrained`")
    if tokenizer.eos_token is None:
        raise BadInput("the tokenizer has no end-of-sequence token", "set `eos_token` in tokenizer_config.json")
    if isinstance(tokenizer.chat_template, dict) and "default" not in tokenizer.chat_template:
        named = ", ".join(f"`{name}`" for name in tokenizer.chat_template)
        raise BadInput(f"the tokenizer has chat templates named {named}, and none named `default`", _RENAME)
    notes = []
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
        notes.append("padding with the end-of-sequence token (its loss is kept where it ends a turn)")
    if not tokenizer.chat_template:
        tokenizer.chat_template = DEFAULT_CHAT_TEMPLATE
        notes.append("the tokenizer has no chat template: using `### User:` / `### Assistant:`, saved with the result")
    return "; ".join(notes)


def encode(tokenizer: PreTrainedTokenizerFast, messages: Messages, where: Location) -> Example:
    """The tokens and mask of one chat with every assistant turn trained; raises UnusableRow or Unmaskable."""
    trained = tuple(message["role"] == "assistant" for message in messages)
    encoder = ChatEncoder(tokenizer)
    [example] = encoder.encode_batch([encoder.render(Sample(messages=tuple(messages), trained=trained), where)])
    if isinstance(example, Unmaskable):
        raise example
    return example


class ChatEncoder:
    """Encodes samples with one tokenizer, which it does not change.

    Text that the template itself writes behind the generation prompt (an empty block of reasoning, a channel) is
    trained, as the model must write it there. White space behind the end token is not.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        *,
        train_on: TrainOn = "all",
        settings: TemplateSettings | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._train_on = train_on
        self._settings = settings or TemplateSettings()
        self._masker = Masker(Renderer(tokenizer, self._settings), special_tokens(tokenizer))
        self._literal: LiteralEncoder | None = None

    @property
    def turn_ends(self) -> dict[str, int]:
        """The tokens that ended the trained turns so far, each with its number of turns."""
        return dict(self._masker.turn_ends)

    @property
    def shown_time(self) -> str:
        """The time that the template showed so far; empty if it did not ask for it."""
        clock = self._masker.render.clock
        return clock.time.isoformat(" ", "minutes") if clock.is_asked else ""

    def render(self, sample: Sample, where: Location) -> Rendered:
        """The sample as text, with the spans that carry loss; raises UnusableRow or Unmaskable."""
        if sample.text is not None:
            if not sample.text.strip():
                raise UnusableRow("the text is empty").at(where)
            return Rendered(where, sample.text, control=tuple(self._masker.special.findall(sample.text)))
        wanted = self._trained_turns(sample, where)
        masker, chat = self._masker, self._chat(sample, where)
        try:
            spans, altered, omitted = masker.spans(chat, wanted)
        except Unmaskable:
            spans, altered = self._generation_spans(chat, wanted), 0
            if not spans:
                raise
            omitted = omitted_parts(chat, None, wanted, masker.render)
        return self._with_literals(Rendered(where, chat.text, tuple(spans), altered, omitted), chat)

    def render_prompt(self, sample: Sample, where: Location) -> Rendered:
        """The sample as text up to the generation prompt, without any loss; raises UnusableRow."""
        chat = self._chat(sample, where, ask=True)
        try:
            omitted = omitted_parts(self._chat(sample, where), None, (), self._masker.render)
        except UnusableRow:  # a template may accept a question only with the generation prompt behind it
            omitted = ()
        return self._with_literals(Rendered(where, chat.text, (), omitted=omitted), chat, ask=True)

    def _chat(self, sample: Sample, where: Location, *, ask: bool = False) -> Chat:
        chat = Chat(sample.messages, sample.tools, where, arguments=sample.arguments)
        chat = replace(chat, text=chat.render(self._masker.render, sample.messages, ask=ask))
        if has_marks(chat.text):
            raise UnusableRow("the chat contains one of U+10F7D1 to U+10F7D5, which dimba uses to find turns").at(where)
        return chat

    def _with_literals(self, row: Rendered, chat: Chat, *, ask: bool = False) -> Rendered:
        masker, keeps = self._masker, self._settings.keeps_control_tokens
        control, spans = find_literals(chat, masker.render, masker.special, ask=ask, keeps=keeps)
        return replace(row, control=control, literals=spans) if control else row

    def _literal_encoder(self) -> LiteralEncoder:
        self._literal = self._literal or LiteralEncoder(self._tokenizer, self._masker.special)
        return self._literal

    def encode_batch(self, rendered: Sequence[Rendered]) -> list[Example | Unmaskable]:
        """The tokens and mask of each row, in order; an Unmaskable for a row with a token across a turn's border."""
        chats = [row for row in rendered if row.spans is not None]
        texts = [row for row in rendered if row.spans is None]
        backend = self._tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        encoded_chats = iter(encode_chats(backend, chats, self._literal_encoder))
        encoded_texts = iter(encode_texts(self._tokenizer, texts))
        return [next(encoded_texts if row.spans is None else encoded_chats) for row in rendered]

    def _trained_turns(self, sample: Sample, where: Location) -> list[int]:
        turns = [
            place
            for place, (message, trained) in enumerate(zip(sample.messages, sample.trained, strict=True))
            if trained and message["role"] == "assistant"
        ]
        turns = turns[-1:] if self._train_on == "last" else turns
        for place in turns:
            message = sample.messages[place]
            if not (message.get("content") or "").strip() and not message.get("tool_calls"):
                raise UnusableRow("an assistant turn is empty, so the model would learn to answer nothing").at(where)
        if 0 in turns:
            raise UnusableRow("the chat starts with an assistant turn", "start the chat with a user's turn").at(where)
        return turns

    def _generation_spans(self, chat: Chat, wanted: Sequence[int]) -> list[Span]:
        """The wanted turns by the template's generation blocks, each with its end token; empty if they do not fit."""
        text, spans = self._masker.render.generation_spans(chat.messages, chat.tools, chat.where, chat.arguments)
        turns = [place for place, message in enumerate(chat.messages) if message["role"] == "assistant"]
        if text != chat.text or len(spans) != len(turns):
            return []
        found = []
        for place in wanted:
            span = self._with_end_token(text, *spans[turns.index(place)])
            if span is None or self._has_header(chat, place, span) or not _contains_all(text, span, chat, place):
                return []
            found.append(span)
        return found

    def _has_header(self, chat: Chat, place: int, span: Span) -> bool:
        """Whether the span includes the generation prompt, as the generation blocks of some templates do."""
        before = chat.messages[:place]
        plain = chat.render(self._masker.render, before)
        asking = chat.render(self._masker.render, before, ask=True)
        header = asking.removeprefix(plain).strip()
        return bool(header) and chat.text[slice(*span)].lstrip().startswith(header)

    def _with_end_token(self, text: str, start: int, end: int) -> Span | None:
        special = self._masker.special
        inside = list(special.finditer(text, start, end))
        if inside and not text[inside[-1].end() : end].strip():
            return start, inside[-1].end()
        behind = special.match(text, end)
        return (start, behind.end()) if behind else None


def _contains_all(text: str, span: Span, chat: Chat, place: int) -> bool:
    return all(part in text[slice(*span)] for part in _parts(chat.messages[place]))


def _parts(message: Message) -> list[str]:
    return [(message.get("content") or "").strip(), *call_texts(message)]


def special_tokens(tokenizer: PreTrainedTokenizerFast) -> re.Pattern[str]:
    """Matches any special token of the tokenizer, the longest first."""
    tokens = {
        *tokenizer.all_special_tokens,
        *(token.content for token in tokenizer.added_tokens_decoder.values() if token.special),
    }
    return re.compile("|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True) if token) or "(?!)")
