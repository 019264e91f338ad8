"""Rows that also stand in the training data: to the letter, or nearly.

Both are compared as words in lower case, without punctuation at their borders and without system prompts. A row is a
copy if a training row has the same words in the same order. It is nearly one if a single training row has at least
half of its sequences of four words, not counting those that three or more of the compared rows share: what many rows
share is a template, not an overlap. A row with fewer than seven such sequences is compared to the letter alone.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dimba.common.errors import BadInput, Location
from dimba.dataset.files import Read
from dimba.dataset.prompt_examples import PromptExample, prompts_of, with_answer
from dimba.dataset.samples import Sample
from dimba.dataset.summary import samples_of

COPY, NEAR = "copy", "near"
LENGTH = 4  # words of a sequence
SHARE = 0.5  # of a row's sequences that make it nearly a copy
_SHARED = 3  # rows with the same sequence, which then belongs to a template
_LEAST = 7  # sequences of a row that is compared by them
_BORDERS = ".,;:!?\"'…“”‘’„«»()[]{}*_`"
_APART = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")  # written without spaces between words

Words = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """A training row that a row stands in: its place, and the share of the row's sequences that it has."""

    kind: str  # COPY or NEAR
    where: str
    share: float = 1.0

    def as_json(self) -> dict[str, Any]:
        """The value as JSON."""
        return {"kind": self.kind, "training": self.where, "share": round(self.share, 4)}


def words_of(sample: Sample) -> Words:
    """The words of a row, as they are compared."""
    parts = [str(each.get("content") or "") for each in sample.messages if each.get("role") != "system"]
    text = "\n".join(parts) if sample.text is None else sample.text
    text = text.casefold()
    if not text.isascii():
        text = _APART.sub(r" \g<0> ", unicodedata.normalize("NFKC", text))
    words = (word if word.isalnum() else word.strip(_BORDERS) for word in text.split())
    return tuple(filter(None, words))


class OverlapIndex:
    """The rows of an evaluation, by their numbers; `found` grows as training rows are compared."""

    def __init__(self, rows: Mapping[int, Words]) -> None:
        self.found: dict[int, Overlap] = {}
        self.compared = 0  # training rows
        self._copies: dict[Words, list[int]] = {}
        for number, words in rows.items():
            self._copies.setdefault(words, []).append(number)
        sequences = {words: set(_sequences(words)) for words in self._copies}
        counts = Counter(each for found in sequences.values() for each in found)
        self._rows: dict[Words, list[Words]] = {}  # rows by sequence
        self._sizes: dict[Words, int] = {}  # sequences of a row
        for words, found in sequences.items():
            own = [each for each in found if counts[each] < _SHARED]
            if len(own) >= _LEAST:
                self._sizes[words] = len(own)
                for each in own:
                    self._rows.setdefault(each, []).append(words)

    def compare(self, rows: Iterable[tuple[str, Words]]) -> None:
        """Looks for the rows in training rows, each with its place."""
        contains = self._rows.__contains__
        for where, words in rows:
            self.compared += 1
            if words in self._copies:
                self._note(words, Overlap(kind=COPY, where=where))
            if any(map(contains, _every_other(words))):
                self._compare_sequences(where, set(filter(contains, _sequences(words))))

    def _compare_sequences(self, where: str, hits: set[Words]) -> None:
        for words, count in Counter(row for each in hits for row in self._rows[each]).items():
            share = count / self._sizes[words]
            if share >= SHARE:
                self._note(words, Overlap(kind=NEAR, where=where, share=share))

    def _note(self, words: Words, overlap: Overlap) -> None:
        self.add(dict.fromkeys(self._copies[words], overlap))

    def add(self, found: Mapping[int, Overlap], compared: int = 0) -> None:
        """Takes what another index of the same rows has found in further training rows."""
        self.compared += compared
        for number, overlap in found.items():
            known = self.found.get(number)
            if known is None or (known.kind == NEAR and (overlap.kind == COPY or overlap.share > known.share)):
                self.found[number] = overlap


def training_words(read: Callable[[], Read], columns: Mapping[str, str]) -> Iterator[tuple[Location, Words]]:
    """The words of every usable row of training data, in the format of answers or of prompts; raises BadInput."""
    try:
        found: Iterable[tuple[Location, Any]] = samples_of(read(), columns)[1]
    except BadInput:
        found = ((where, sample_of(each)) for where, each in prompts_of(read(), columns)[1])
    for where, sample in found:
        if isinstance(sample, Sample) and (words := words_of(sample)):
            yield where, words


def sample_of(example: object) -> Sample:
    """A prompt with the answer that it names; an empty sample for anything else, which has no words."""
    if not isinstance(example, PromptExample):
        return Sample()
    answer = ({"role": "assistant", "content": example.reference},) if example.reference else ()
    return with_answer(example, example.chosen or answer)


def _sequences(words: Sequence[str]) -> Iterable[Words]:
    return zip(*(words[at:] for at in range(LENGTH)), strict=False)


def _every_other(words: Sequence[str]) -> Iterable[Words]:
    """Half of the sequences: if half of a row's stand in a text, two neighbours do, and this has one of them."""
    return zip(*(words[at::2] for at in range(LENGTH)), strict=False)
