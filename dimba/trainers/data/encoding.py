"""From rendered rows to token ids and a loss mask, many rows per call of the tokenizer, which reports offsets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from dimba.trainers.data.literals import LiteralEncoder
from dimba.trainers.data.render import Rendered, Unmaskable

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer
    from transformers import PreTrainedTokenizerFast

IGNORED = -100  # the label of a token without loss

_STRADDLES_START = "a token covers the end of the assistant's header and the start of the turn"
_STRADDLES_END = "a token covers the end of the assistant's turn and text behind it"


@dataclass(frozen=True, eq=False)
class Example:
    """One row: `input_ids` (int32 [tokens]) and `trained` (bool [tokens]), which marks the tokens that carry loss.

    `has_control`: control tokens that stand in the words of the row are control tokens here too.
    """

    input_ids: np.ndarray
    trained: np.ndarray
    has_control: bool = False

    def labels(self) -> np.ndarray:
        """The ids (int32 [tokens]), IGNORED for tokens without loss."""
        return np.where(self.trained, self.input_ids, np.int32(IGNORED))


def encode_chats(
    backend: Tokenizer, rows: Sequence[Rendered], literal: Callable[[], LiteralEncoder]
) -> list[Example | Unmaskable]:
    """The tokens of each chat, or why its turns have no token borders; `literal` makes the encoder of literals.

    No special tokens are added: the chat template has written them.
    """
    encodings = backend.encode_batch([row.text for row in rows], add_special_tokens=False)
    return [
        _literal_example(encoding, row, literal()) if row.literals else _chat_example(encoding, row)
        for encoding, row in zip(encodings, rows, strict=True)
    ]


def _literal_example(encoding: Encoding, row: Rendered, literal: LiteralEncoder) -> Example | Unmaskable:
    found = literal.encode(row)
    example = _chat_example(*found) if found else _chat_example(encoding, row)
    if isinstance(example, Unmaskable):
        return example
    if not found:
        return replace(example, has_control=True)
    return replace(example, input_ids=np.array(literal.own_ids(example.input_ids.tolist()), dtype=np.int32))


def encode_texts(tokenizer: PreTrainedTokenizerFast, rows: Sequence[Rendered]) -> list[Example]:
    """The tokens of each plain text, with the tokenizer's own start and one end-of-sequence token at its end."""
    encodings = tokenizer.backend_tokenizer.encode_batch([row.text for row in rows], add_special_tokens=True)
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    return [_text_example(encoding.ids, bos, eos) for encoding in encodings]


def _text_example(ids: list[int], bos: int | None, eos: int) -> Example:
    if len(ids) > 1 and ids[0] == ids[1] == bos:
        ids = ids[1:]
    if not ids or ids[-1] != eos:
        ids = [*ids, eos]
    trained = np.ones(len(ids), dtype=bool)
    trained[0] = False
    return Example(np.array(ids, dtype=np.int32), trained)


def _chat_example(encoding: Encoding, row: Rendered) -> Example | Unmaskable:
    trained = np.zeros(len(encoding), dtype=bool)
    for start, end in row.spans or ():
        first, last = _tokens_of(encoding, start, end)
        skipped = _skipped_tokens(row.text, encoding.token_to_chars(first)[0], start, encoding.token_to_chars(first)[1])
        if skipped is None:
            return Unmaskable(row.where, _STRADDLES_START)
        if row.text[end : encoding.token_to_chars(last)[1]].strip():
            return Unmaskable(row.where, _STRADDLES_END)
        trained[first + skipped : last + 1] = True
    trained[:1] = False  # nothing predicts a first token
    return Example(np.array(encoding.ids, dtype=np.int32), trained, bool(row.control and not row.literals))


def _tokens_of(encoding: Encoding, start: int, end: int) -> tuple[int, int]:
    # White space may belong to no token, and one character to several.
    forwards = (encoding.char_to_token(at) for at in range(start, end))
    first = next(token for token in forwards if token is not None)
    backwards = (encoding.char_to_token(at) for at in range(end - 1, start - 1, -1))
    last = next(token for token in backwards if token is not None)
    while last + 1 < len(encoding) and encoding.token_to_chars(last + 1)[0] < end:
        last += 1
    return first, last


def _skipped_tokens(text: str, token_start: int, start: int, token_end: int) -> int | None:
    """How many tokens (0 or 1) at the start of a turn are not trained; None for a token with words of both sides.

    A token that adds only white space in front belongs to the turn (` word` behind `[/INST] `). One that adds only
    white space behind belongs to the header (a special token that includes the line break).
    """
    if not text[token_start:start].strip():
        return 0
    return None if text[start:token_end].strip() else 1
