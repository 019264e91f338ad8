"""Rows that compare two answers: what both are an answer to, and whether they compare anything."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from dimba.dataset.dialogue import Message, Row, Turn, Unfit, is_blank, text_of
from dimba.dataset.samples import said, side, with_system

# Why a row that is fine compares nothing.
BEST = "the best of several answers, which the others are compared with"
TIE = "both answers have the same score"
EMPTY = "an answer, or the question, is empty"
EQUAL = "both answers are the same"
APART = "the two transcripts do not share a question"
_DEGENERATE = (EMPTY, EQUAL, APART)
_MOST = 1 / 20  # of the pairs that may compare nothing; ties are honest

_SPEAKER = re.compile(r"(?:\A|\r?\n\r?\n)(Human|Assistant):[ \t]*")
_ROLES = {"Human": "user", "Assistant": "assistant"}


class Nothing(Exception):
    """A row compares nothing; the text is one of the reasons."""


class LeftOut(NamedTuple):
    """A row that is fine, and compares nothing."""

    where: str
    why: str


class Pair(NamedTuple):
    """What is asked, and the two ways to go on, the better one first."""

    asked: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]


@dataclass
class Tally:
    """How many pairs compare nothing, why, and where the first of each kind stands."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Pairs that are left out."""
        return self.counts.total()

    def add(self, row: LeftOut) -> None:
        """Counts a row, unless other rows are compared with it."""
        if row.why != BEST:
            self.counts[row.why] += 1
            self.first.setdefault(row.why, row.where)

    def notes(self, comparing: int) -> Iterator[str]:
        """A line for each reason, with how many pairs it left out beside those `comparing`."""
        pairs = comparing + self.total
        return (f"{count:,} of {pairs:,} pairs are left out: {why}" for why, count in self.counts.items())

    def problem(self, comparing: int) -> tuple[str, str] | None:
        """(what, hint) where too many compare nothing for those `comparing` to be trusted; ties are no fault."""
        pairs, faults = comparing + self.total, sum(self.counts[why] for why in _DEGENERATE)
        if faults <= _MOST * pairs:
            return None
        told = "; ".join(
            f"{self.counts[why]:,} times {why} (first: {self.first[why]})" for why in _DEGENERATE if self.counts[why]
        )
        what = f"{faults:,} of {pairs:,} pairs compare nothing, more than one in twenty: {told}"
        return (
            what,
            "name the right columns with `dataset.columns`, or look at how the pairs were made and remove these",
        )


def transcript(text: str, place: str) -> list[Turn] | None:
    """The turns of a text that has `Human:` and `Assistant:` at the start of its paragraphs; None for another."""
    parts = _SPEAKER.split(text.strip("\r\n"))
    if len(parts) < 3 or parts[0].strip():
        return None
    roles, contents = parts[1::2], parts[2::2]
    return [said(place, _ROLES[role], content.strip()) for role, content in zip(roles, contents, strict=True)]


def pair_of(row: Row, asked: Sequence[Turn] | None) -> Pair:
    """The pair of a row with `chosen` and `rejected`; `asked` is what stands beside them, if anything.

    Raises:
        Unfit: one of them is no answer; Nothing: they compare nothing.
    """
    chosen, rejected = (_turns(row, column, alone=asked is None) for column in ("chosen", "rejected"))
    if not chosen or not rejected:
        raise Nothing(EMPTY)
    if asked is None or (_is_whole(chosen) and _is_whole(rejected)):
        return _parted(_opened(row, asked, chosen), _opened(row, asked, rejected))
    for column, turns in (("chosen", chosen), ("rejected", rejected)):
        if turns and turns[0].message["role"] != "assistant":
            role = turns[0].message["role"]
            raise Unfit(f"`{column}` begins with what the {role} says, expected the assistant's answer")
    return checked(_messages(asked), _messages(chosen), _messages(rejected))


def _messages(turns: Iterable[Turn]) -> tuple[Message, ...]:
    return tuple(turn.message for turn in turns)


def checked(asked: tuple[Message, ...], chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> Pair:
    """A pair that compares something; raises Nothing."""
    if is_blank(asked[-1]["content"]) or any(not turns or _is_empty(turns) for turns in (chosen, rejected)):
        raise Nothing(EMPTY)
    if _spoken(chosen) == _spoken(rejected):
        raise Nothing(EQUAL)
    return Pair(asked, chosen, rejected)


def _turns(row: Row, column: str, *, alone: bool) -> list[Turn]:
    value = row[column]
    if value in (None, [], {}) or (isinstance(value, str) and is_blank(value)):
        return []
    if isinstance(value, str):
        return _of_text(row, text_of(value, column), column, alone=alone)
    return side(row, column, "assistant")


def _of_text(row: Row, text: str, column: str, *, alone: bool) -> list[Turn]:
    turns = transcript(text, column)
    # Beside a question, a text is the answer, whatever it quotes.
    if turns and (alone or turns[0].message["role"] == "user"):
        return turns
    turns = side(row, column, "assistant")  # tables hold lists as JSON text
    if alone and turns[0].place == column:
        why = f"`{column}` is a text, and nothing beside it says what was asked"
        raise Unfit(why, "name the column that asks: `dataset.columns: {prompt: …}`")
    return turns


def _is_whole(turns: Sequence[Turn]) -> bool:
    return bool(turns) and turns[0].message["role"] in ("system", "user")


def _opened(row: Row, asked: Sequence[Turn] | None, turns: list[Turn]) -> tuple[Message, ...]:
    """A whole chat, behind the system turn that stands beside it."""
    if asked is None and turns:
        turns = with_system(row, turns)
    elif asked and asked[0].message["role"] == "system" and turns[0].message["role"] != "system":
        turns = [asked[0], *turns]
    return _messages(turns)


def _parted(chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> Pair:
    """What both transcripts begin with is what is asked."""
    shared = next((n for n, (one, other) in enumerate(zip(chosen, rejected, strict=False)) if one != other), None)
    shared = min(len(chosen), len(rejected)) if shared is None else shared
    if len(chosen) == len(rejected) == shared and shared:
        raise Nothing(EQUAL)
    asked = chosen[:shared]
    rests = chosen[shared:], rejected[shared:]
    if asked and asked[-1]["role"] == "assistant" and any(not rest for rest in rests):
        raise Nothing(EMPTY)
    answered = all(not rest or rest[0]["role"] == "assistant" for rest in rests)
    if not asked or asked[-1]["role"] not in ("user", "tool") or not answered:
        raise Nothing(APART)
    return checked(asked, *rests)


def _is_empty(turns: Sequence[Message]) -> bool:
    """Whether an answer is blank, or the last question has none."""
    answers = [turn for turn in turns if turn["role"] == "assistant" and "tool_calls" not in turn]
    return turns[-1]["role"] == "user" or any(is_blank(turn["content"]) for turn in answers)


def _spoken(turns: Sequence[Message]) -> list[tuple[str, str, object]]:
    return [(turn["role"], turn["content"].strip(), turn.get("tool_calls")) for turn in turns]
