"""What is known of the data once they are tokens: found out where the trainer runs, shown where the user sits."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

_BRACKETS = (("[[", "]]"), ("{{", "}}"), ("<<", ">>"), ("[[[[", "]]]]"))


@dataclass(frozen=True, kw_only=True)
class UnusableRowReport:
    """A row that cannot be trained on."""

    where: str  # file:line
    why: str


def bad_rows(bad: Iterable[tuple[str, str]], unusable: int, rows: int) -> list[str]:
    """The first rows that cannot be used, a line each with its place and why, and how many there are."""
    lines = [f"{where}: {why}" for where, why in bad]
    return [*lines, f"{unusable:,} of {rows:,} rows cannot be used"] if len(lines) > 1 else lines


def counted(number: int, what: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def longer_rows(number: int, most: int) -> str:
    """How many rows are longer than they may be."""
    are = "is" if number == 1 else "are"
    return f"{counted(number, 'row')} {are} longer than max_length {most:,}"


@dataclass(frozen=True, kw_only=True)
class Bar:
    """How many rows have fewer than `below` tokens, and no fewer than the bar before; the last has no end."""

    below: int | None
    rows: int


@dataclass(frozen=True, kw_only=True)
class Part:
    """A stretch of an example's text that carries loss, or does not."""

    text: str
    trained: bool


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One example, decoded from its tokens."""

    where: str
    tokens: int
    parts: tuple[Part, ...]
    title: str = ""  # which of them it is

    def brackets(self) -> tuple[str, str]:
        """What the trained part is put in where there are no colours: brackets that the text itself does not hold."""
        text = "".join(part.text for part in self.parts)
        return next((pair for pair in _BRACKETS if not any(each in text for each in pair)), _BRACKETS[-1])


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """The data as the model will see them. Lengths are in tokens."""

    format: str
    columns: dict[str, str]  # ours: theirs, as far as the format reads them
    rows: int  # all that were read, usable or not
    unusable: int
    bad: tuple[UnusableRowReport, ...]  # the first few of those
    tokens: int  # of the usable rows, before anything is cut
    trained_tokens: int  # those of them that carry loss
    max_length: int
    on_long: str | None
    long_rows: int  # longer than max_length
    cut_tokens: int  # in no example
    cut_trained_tokens: int
    left_out: int  # rows with nothing trained within max_length, or dropped as too long
    examples: int  # what training takes batches from
    validation: int  # what is held out
    median: int
    longest: int
    lengths: tuple[Bar, ...]
    shown: tuple[Shown, ...]
    notes: tuple[str, ...] = ()
    problem: str = ""  # why this cannot be trained on as it is
    hint: str = ""
    cached: bool = False
    asks: bool = False  # GRPO: the rows ask, and what is trained on is sampled

    def lines(self) -> list[str]:
        """One line a fact worth knowing."""
        read = f"{self.format}, {counted(self.rows, 'row')}, {counted(self.tokens, 'token')}"
        lines = [f"{read} of prompts" if self.asks else f"{read}, {self.trained_tokens:,} of them trained"]
        if self.unusable:
            first = f"{self.bad[0].where}: {self.bad[0].why}"
            are = "is" if self.unusable == 1 else "are"
            lines.append(f"{counted(self.unusable, 'row')} cannot be used and {are} left out, the first: {first}")
        if self.long_rows:
            lines.append(self.too_long())
        if self.validation:
            lines.append(self.halves())
        return [*lines, *self.notes]

    def halves(self) -> str:
        """What is trained on, and what is held out."""
        what, to = ("prompt", "test") if self.asks else ("example", "validate")
        held_out = f", {self.validation:,} held out to {to} on" if self.validation else ""
        return f"{counted(self.examples, what)} to train on{held_out}"

    def too_long(self) -> str:
        """How many rows are, and what becomes of them."""
        if self.asks:
            return f"{counted(self.long_rows, 'prompt')} of more than {self.max_length:,} tokens: {self.fate()}"
        return f"{longer_rows(self.long_rows, self.max_length)}: {self.fate()}"

    def fate(self) -> str:
        """What becomes of rows that are too long."""
        if self.asks:
            return "left out" if self.on_long == "drop" else "no room for a whole completion behind them"
        if self.on_long == "split":
            told = "split; every trained token is kept, later pieces do not see what came before"
            return f"{told}; {self.cut_tokens:,} tokens are in no piece with a trained one" if self.cut_tokens else told
        lost = f"{self.cut_trained_tokens:,} trained tokens"
        if self.on_long == "drop":
            return f"left out, with {lost}"
        have = "has nothing trained left and is" if self.left_out == 1 else "have nothing trained left and are"
        left_out = f"; {self.left_out:,} {have} left out" if self.left_out else ""
        return f"cut, by {lost}{left_out}"

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "DataReport":
        """Reads what `as_json` wrote; keys that this version does not know are left out."""
        known = {each.name for each in fields(cls)}
        given = {key: item for key, item in value.items() if key in known}
        given["bad"] = tuple(UnusableRowReport(**each) for each in given["bad"])
        given["lengths"] = tuple(Bar(**each) for each in given["lengths"])
        given["shown"] = tuple(_shown(each) for each in given["shown"])
        given["notes"] = tuple(given["notes"])
        return cls(**given)


def _shown(value: Mapping[str, Any]) -> Shown:
    parts = tuple(Part(**part) for part in value["parts"])
    return Shown(where=value["where"], tokens=value["tokens"], parts=parts, title=value.get("title", ""))
