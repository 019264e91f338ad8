"""Text from tokens as they come: no half characters, no end token, reasoning apart from the answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from transformers.generation.streamers import BaseStreamer

from dimba.common.inference import REASONING, TEXT
from dimba.trainers.rewards.reasoning import Split, split_reasoning

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

_UNFINISHED = "�"  # how a tokenizer decodes the first bytes of a character
_LONGEST_MARK = 40  # characters that may be the beginning of a mark of reasoning


class TextStream(BaseStreamer):
    """Passes (kind, text) on: `reasoning` or `text`; `first` is the time of the first token."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        ends: set[int],
        on_part: Callable[[str, str], None],
        *,
        opening: str = "",
    ) -> None:
        self._tokenizer, self._ends, self._on_part = tokenizer, ends, on_part
        self._opening = opening
        self._ids: list[int] = []
        self._sent = {REASONING: "", TEXT: ""}
        self._has_prompt = False
        self.first: float | None = None

    def put(self, value: torch.Tensor) -> None:
        """Takes the prompt first, then one token at a time."""
        if not self._has_prompt:
            self._has_prompt = True
            return
        self.first = self.first or time.monotonic()
        self._ids += [each for each in value.reshape(-1).tolist() if each not in self._ends]
        text = self._tokenizer.decode(self._ids, skip_special_tokens=False)
        if not text.endswith(_UNFINISHED):
            self._send(split_reasoning(self._opening + text), text, is_last=False)

    def end(self) -> None:
        """Sends the rest."""
        text = self._tokenizer.decode(self._ids, skip_special_tokens=False)
        self._send(split_reasoning(self._opening + text), text, is_last=True)

    def _send(self, split: Split, text: str, *, is_last: bool) -> None:
        held = "" if is_last else _possible_mark(text)
        for kind, whole in ((REASONING, split.reasoning), (TEXT, split.answer)):
            ready = whole.removesuffix(held) if held else whole
            sent = self._sent[kind]
            # Bytes that turn out to be no character are decoded anew, together with those in front of them.
            is_longer = ready.startswith(sent) or _UNFINISHED in ready[: len(sent)]
            if len(ready) > len(sent) and is_longer:
                self._on_part(kind, ready[len(sent) :])
                self._sent[kind] = ready


def _possible_mark(text: str) -> str:
    """The end of a text that may become a mark of reasoning with the next tokens."""
    start = max(text.rfind(each) for each in "<[◁")
    is_open = start >= max(0, len(text) - _LONGEST_MARK) and not set(text[start:]) & set(">]▷")
    return text[start:] if is_open else ""
