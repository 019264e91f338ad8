"""Rows that are read while they are trained on, for data whose tokens do not fit the disk.

Every row has one place in the order of training, whether it is usable or not: so a place needs no tokens of the rows
before it, each process tokenises its own rows alone, and a run continues at any place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from dimba.common.errors import BadInput, Location, UnusableRow
from dimba.dataset.samples import Sample
from dimba.objectives.sft import SftOptions
from dimba.options.stream_table import NO_LISTS, ONE_SET, SAMPLE_ROWS, STREAM, stream_refusal
from dimba.trainers.data.chat import ChatEncoder
from dimba.trainers.data.encoding import Example
from dimba.trainers.data.render import Rendered
from dimba.trainers.data.rows import Source
from dimba.trainers.data.tokenization import without_loss
from dimba.trainers.progress import row_printer

BLOCK = 10_000  # rows that are shuffled together, and in memory at once
_LISTED = 5  # unusable rows that are printed one by one


def streamed_parts(
    sources: Sequence[Source], options: SftOptions, held_out: float, split: str | None
) -> tuple[list[Source], list[Source], Source]:
    """(the rows to read beforehand, those to validate on, those to train on).

    Raises:
        BadInput: the options do not fit a stream.
    """
    if options.mixture:
        raise BadInput(f"a list of data sets {NO_LISTS}", ONE_SET, key=STREAM.flag)
    wanted = options.validation_split
    if refusal := stream_refusal(max_steps=options.max_steps, held_out=wanted, on_long=options.on_long):
        key, problem, hint = refusal
        raise BadInput(problem, hint, key=key)
    source, first = replace(sources[0], stream=True), int(held_out)
    validation = [replace(source, split=split)] if split else [replace(source, stop=first)] if first else []
    train = replace(source, start=first)
    return [replace(train, stop=first + SAMPLE_ROWS)], validation, train


def filler() -> Example:
    """An example of one token without loss, which only takes a place."""
    return Example(np.zeros(1, dtype=np.int32), np.zeros(1, dtype=bool))


@dataclass
class LeftOut:
    """Numbers of rows that were read and not trained on."""

    unusable: int = 0
    too_long: int = 0  # nothing trained within max_length, or dropped

    def __add__(self, other: LeftOut) -> LeftOut:
        return LeftOut(self.unusable + other.unusable, self.too_long + other.too_long)

    @property
    def summary(self) -> str:
        """The numbers in words; empty if there are none."""
        kinds = {"unusable": self.unusable, "too long": self.too_long}
        parts = [f"{number:,} {kind}" for kind, number in kinds.items() if number]
        return f"streamed rows that were left out: {', '.join(parts)}" if parts else ""


class RowStream:
    """The examples of a stream by their place: pass after pass over the rows, which are shuffled by blocks.

    Places are cheap to go through in their order; one before the last block reads from the beginning again. The order
    depends on the seed alone. `refused` is the first unusable row, unless these are skipped.
    """

    def __init__(self, source: Source, encoder: ChatEncoder, options: SftOptions) -> None:
        self.left_out = LeftOut()
        self.refused: UnusableRow | None = None
        self._source, self._encoder, self._options = source, encoder, options
        self._restart()

    def __getstate__(self) -> dict[str, Any]:
        # `datasets` names a data set by a hash of what makes its rows, and open files have none.
        return {"identity": self._source.identity(), "seed": self._options.seed}

    def _restart(self) -> None:
        self._start = 0  # the place of the first row of the block
        self._rows: list[tuple[Location, Sample | UnusableRow]] = []
        self._results = self._source.samples()[1]

    def examples(self, places: Sequence[int]) -> list[Example]:
        """The tokens at these places, a filler for a row without any."""
        rendered = [self._rendered(*self._row(place)) for place in places]
        encoded = iter(self._encoder.encode_batch([each for each in rendered if each]))
        return [self._cut(each, next(encoded)) if each else filler() for each in rendered]

    def _row(self, place: int) -> tuple[Location, Sample | UnusableRow]:
        if place < self._start:
            self._restart()
        progress = row_printer("skipped")
        while place >= self._start + len(self._rows):
            progress(self._start)
            self._read_block()
        return self._rows[place - self._start]

    def _read_block(self) -> None:
        self._start += len(self._rows)
        rows = list(islice(self._results, BLOCK))
        if not rows:  # another pass
            self._results = self._source.samples()[1]
            rows = list(islice(self._results, BLOCK))
        order = np.random.default_rng([self._options.seed, self._start]).permutation(len(rows))
        self._rows = [rows[at] for at in order]

    def _rendered(self, where: Location, row: Sample | UnusableRow) -> Rendered | None:
        try:
            if isinstance(row, UnusableRow):
                raise row
            return self._encoder.render(row, where)
        except UnusableRow as error:
            self._leave_out(error)
            return None

    def _cut(self, rendered: Rendered, example: Example | UnusableRow) -> Example:
        if isinstance(example, UnusableRow):
            self._leave_out(example)
        elif problem := without_loss([example]):
            self._leave_out(UnusableRow(problem).at(rendered.where))
        elif len(example.input_ids) <= self._options.max_length:
            return example
        else:
            most = 0 if self._options.on_long == "drop" else self._options.max_length
            if example.trained[:most].any():
                return Example(example.input_ids[:most], example.trained[:most])
            self.left_out.too_long += 1
        return filler()

    def _leave_out(self, error: UnusableRow) -> None:
        self.left_out.unusable += 1
        if not self._options.skip_bad_rows:
            self.refused = self.refused or error
        elif self.left_out.unusable <= _LISTED:
            print(f"data: left out: {error.location}: {error.finding}", flush=True)
