"""Rendered rows to token ids and a mask, many at a time: one call of the tokenizer, which knows where each lies."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dimba.common.errors import Location
from dimba.trainers.data.render import Unmaskable

IGNORED = -100

_STRADDLES = "a token reaches from the words that open the assistant's turn into what it says"
_OVERRUNS = "a token reaches from the end of the assistant's turn into what follows"


@dataclass(frozen=True, eq=False)
class Example:
    """One row: `input_ids` (int32) and, for each, whether it is `trained` (bool), that is carries loss."""

    input_ids: np.ndarray
    trained: np.ndarray

    def labels(self) -> np.ndarray:
        """The ids (int32), with IGNORED where no loss goes."""
        return np.where(self.trained, self.input_ids, np.int32(IGNORED))


@dataclass(frozen=True)
class Rendered:
    """One row as text, and the (start, end) in it that carry loss; without any (None) it is plain text, all trained.

    `altered` counts the trained turns that the template shows only a part of, as where it drops earlier reasoning;
    `left_out` is what else it does not show (names of losses.py).
    """

    where: Location
    text: str
    spans: tuple[tuple[int, int], ...] | None = None
    altered: int = 0
    left_out: tuple[str, ...] = ()


def encode_chats(backend: Any, rows: Sequence[Rendered]) -> list[Example | Unmaskable]:
    """Each chat's tokens, or why they cannot be told apart; the text has its special tokens, so none are added."""
    encodings = backend.encode_batch([row.text for row in rows], add_special_tokens=False)
    return [_chat_example(encoding, row) for encoding, row in zip(encodings, rows, strict=True)]


def encode_texts(tokenizer: Any, rows: Sequence[Rendered]) -> list[Example]:
    """Each plain text's tokens, begun as the tokenizer begins a text and ended with its end-of-sequence token."""
    encodings = tokenizer.backend_tokenizer.encode_batch([row.text for row in rows], add_special_tokens=True)
    return [_text_example(encoding.ids, tokenizer.bos_token_id, tokenizer.eos_token_id) for encoding in encodings]


def _text_example(ids: list[int], bos: int | None, eos: int) -> Example:
    if len(ids) > 1 and ids[0] == ids[1] == bos:
        ids = ids[1:]
    if not ids or ids[-1] != eos:
        ids = [*ids, eos]
    trained = np.ones(len(ids), dtype=bool)
    trained[0] = False
    return Example(np.array(ids, dtype=np.int32), trained)


def _chat_example(encoding: Any, row: Rendered) -> Example | Unmaskable:
    trained = np.zeros(len(encoding), dtype=bool)
    for start, end in row.spans or ():
        first, last = _tokens(encoding, start, end)
        skipped = _skipped(row.text, encoding.token_to_chars(first)[0], start, encoding.token_to_chars(first)[1])
        if skipped is None:
            return Unmaskable(row.where, _STRADDLES)
        if row.text[end : encoding.token_to_chars(last)[1]].strip():
            return Unmaskable(row.where, _OVERRUNS)
        trained[first + skipped : last + 1] = True
    trained[:1] = False  # nothing predicts a first token
    return Example(np.array(encoding.ids, dtype=np.int32), trained)


def _tokens(encoding: Any, start: int, end: int) -> tuple[int, int]:
    """The first and the last token of text[start:end]; white space may be in none, a character in several."""
    found = (encoding.char_to_token(at) for at in range(start, end))
    first = next(token for token in found if token is not None)
    found = (encoding.char_to_token(at) for at in range(end - 1, start - 1, -1))
    last = next(token for token in found if token is not None)
    while last + 1 < len(encoding) and encoding.token_to_chars(last + 1)[0] < end:
        last += 1
    return first, last


def _skipped(text: str, token_start: int, start: int, token_end: int) -> int | None:
    """How many tokens (0 or 1) at the border are left out; None where the one there has words of both sides.

    A token that brings but white space from before is what the model says (` word` behind `[/INST] `); one that
    brings but white space from behind is what it is asked with (a special token that takes in a line's end).
    """
    if not text[token_start:start].strip():
        return 0
    return None if text[start:token_end].strip() else 1
