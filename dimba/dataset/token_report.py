"""A report on tokenised data: made where the trainer runs, printed by the launcher."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from dimba.common.units import quantity

_BRACKETS = (("[[", "]]"), ("{{", "}}"), ("<<", ">>"), ("[[[[", "]]]]"))


@dataclass(frozen=True, kw_only=True)
class UnusableRowReport:
    """An unusable row."""

    where: str  # file:line
    why: str


def list_unusable_rows(bad: Iterable[tuple[str, str]], unusable: int, rows: int) -> list[str]:
    """The lines that list the first unusable rows, each with its location and cause, and how many there are."""
    lines = [f"{where}: {why}" for where, why in bad]
    return [*lines, f"{unusable:,} of {rows:,} rows cannot be used"] if len(lines) > 1 else lines


def longer_rows(number: int, most: int) -> str:
    """The sentence on how many rows are longer than max_length."""
    are = "is" if number == 1 else "are"
    return f"{quantity(number, 'row')} {are} longer than max_length {most:,}"


@dataclass(frozen=True, kw_only=True)
class Bar:
    """The number of rows of fewer than `below` tokens, from the end of the bar before; the last bar has no end."""

    below: int | None
    rows: int


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of an example's text, and whether it carries loss."""

    text: str
    trained: bool


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One example, decoded from its tokens."""

    where: str
    tokens: int
    parts: tuple[Part, ...]
    title: str = ""  # such as `the longest`

    def brackets(self) -> tuple[str, str]:
        """The brackets that mark trained text without colours: the first pair that the text does not contain."""
        text = "".join(part.text for part in self.parts)
        return next((pair for pair in _BRACKETS if not any(each in text for each in pair)), _BRACKETS[-1])


@dataclass(frozen=True, kw_only=True)
class SourceReport:
    """One of several data sets."""

    name: str
    format: str
    rows: int
    unusable: int
    tokens: int  # of its usable rows, once
    trained_tokens: int
    weight: float
    examples: int  # in an epoch

    def line(self, *, asks: bool) -> str:
        """The counts in one line."""
        unusable = f", {self.unusable:,} of them unusable" if self.unusable else ""
        tokens = quantity(self.tokens, "token")
        trained = " of prompts" if asks else f", {self.trained_tokens:,} of them trained"
        epoch = f"weight {self.weight:g}: {quantity(self.examples, 'prompt' if asks else 'example')} per epoch"
        return f"{self.name}: {self.format}, {quantity(self.rows, 'row')}{unusable}, {tokens}{trained}; {epoch}"


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """The data as the model will see them. Lengths are in tokens."""

    format: str
    columns: dict[str, str]  # ours: theirs, of the columns that the format reads
    rows: int  # read, usable or not
    unusable: int
    bad: tuple[UnusableRowReport, ...]  # the first few of those
    tokens: int  # of the usable rows, before long ones are cut
    trained_tokens: int  # that carry loss
    max_length: int
    on_long: str | None
    long_rows: int  # longer than max_length
    cut_tokens: int  # in no example
    cut_trained_tokens: int
    left_out: int  # rows with nothing trained within max_length, or dropped as too long
    examples: int  # in the training part
    validation: int  # held out
    median: int
    longest: int
    lengths: tuple[Bar, ...]
    shown: tuple[Shown, ...]
    notes: tuple[str, ...] = ()
    problem: str = ""  # that keeps these data from being trained on
    hint: str = ""
    cached: bool = False
    sources: tuple[SourceReport, ...] = ()  # of a list of data sets
    asks: bool = False  # GRPO: the rows are prompts, and completions are sampled
    shown_time: str = ""  # by the chat template in every row; empty if it does not ask the clock
    streamed: bool = False  # the rows are the first of a stream, whose others are read during training

    def lines(self) -> list[str]:
        """The report in lines, one for each fact."""
        rows = f"the first {quantity(self.rows, 'row')} of a stream" if self.streamed else quantity(self.rows, "row")
        read = f"{self.format}, {rows}, {quantity(self.tokens, 'token')}"
        lines = [f"{read} of prompts" if self.asks else f"{read}, {self.trained_tokens:,} of them trained"]
        lines += [each.line(asks=self.asks) for each in self.sources]
        if self.unusable:
            first = f"{self.bad[0].where}: {self.bad[0].why}"
            are = "is" if self.unusable == 1 else "are"
            lines.append(f"{quantity(self.unusable, 'unusable row')} {are} skipped, the first: {first}")
        if self.long_rows:
            lines.append(self.long_rows_summary())
        if self.validation or self.streamed:
            lines.append(self.split_summary())
        return [*lines, *self.notes]

    def split_summary(self) -> str:
        """The sentence on how many examples are trained on and held out."""
        noun, purpose = ("prompt", "test") if self.asks else ("example", "validate")
        held_out = f", {self.validation:,} held out to {purpose} on" if self.validation else ""
        if self.streamed:
            return f"rows are read during training, and checked then{held_out}"
        return f"{quantity(self.examples, noun)} to train on{held_out}"

    def long_rows_summary(self) -> str:
        """The sentence on how many rows are too long, and their outcome."""
        if self.asks:
            prompts = quantity(self.long_rows, "prompt")
            return f"{prompts} of more than {self.max_length:,} tokens: {self.long_rows_outcome()}"
        return f"{longer_rows(self.long_rows, self.max_length)}: {self.long_rows_outcome()}"

    def long_rows_outcome(self) -> str:
        """How training treats rows that are too long."""
        if self.asks:
            return "left out" if self.on_long == "drop" else "no room for a complete completion behind them"
        if self.on_long == "split":
            kept = "split; every trained token is kept, later pieces do not see what came before"
            return f"{kept}; {self.cut_tokens:,} tokens are in no piece with a trained one" if self.cut_tokens else kept
        lost = f"{self.cut_trained_tokens:,} trained tokens"
        if self.on_long == "drop":
            return f"left out, with {lost}"
        have = "has nothing trained left and is" if self.left_out == 1 else "have nothing trained left and are"
        left_out = f"; {self.left_out:,} {have} left out" if self.left_out else ""
        return f"cut, by {lost}{left_out}"

    def as_json(self) -> dict[str, Any]:
        """The fields as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "DataReport":
        """Reads the output of `as_json`; ignores keys that this version does not know."""
        known = {each.name for each in fields(cls)}
        given = {key: item for key, item in value.items() if key in known}
        given["bad"] = tuple(UnusableRowReport(**each) for each in given["bad"])
        given["lengths"] = tuple(Bar(**each) for each in given["lengths"])
        given["shown"] = tuple(_shown(each) for each in given["shown"])
        given["notes"] = tuple(given["notes"])
        given["sources"] = tuple(SourceReport(**each) for each in given.get("sources", ()))
        return cls(**given)


def _shown(value: Mapping[str, Any]) -> Shown:
    parts = tuple(Part(**part) for part in value["parts"])
    return Shown(where=value["where"], tokens=value["tokens"], parts=parts, title=value.get("title", ""))
