"""Preference pairs: two answers to one question, and the reasons for which a pair is skipped."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self

from dimba.common.errors import Location, UnusableRow
from dimba.dataset.dialogue import Message, Row, Turn, is_blank, text_of
from dimba.dataset.samples import side_turns, text_turn, with_system

# The reasons for which a pair is skipped.
BEST = "the best of several answers, to which the others are compared"
TIE = "both answers have the same score"
EMPTY = "an answer, or the question, is empty"
EQUAL = "both answers are the same"
APART = "the two transcripts do not share a question"
_DEGENERATE = (EMPTY, EQUAL, APART)
_MOST = 1 / 20  # of the pairs may be degenerate; a tie is no fault of the data

_SPEAKER = re.compile(r"(?:\A|\r?\n\r?\n)(Human|Assistant):[ \t]*")
_ROLES = {"Human": "user", "Assistant": "assistant"}


class SkippedPair(Exception):
    """A valid row whose two answers cannot be compared, for one of the reasons above."""

    def __init__(self, reason: str, where: Location | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.where = where or Location()

    def at(self, where: Location) -> Self:
        """This pair, placed at `where`."""
        self.where = where
        return self


class Pair(NamedTuple):
    """A question and its two answers, the better one first."""

    question: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]


@dataclass
class Tally:
    """The number of skipped pairs and the first location, by reason."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, Location] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """The number of skipped pairs."""
        return self.counts.total()

    def add(self, pair: SkippedPair) -> None:
        """Counts a pair, unless it is the best answer, to which others are compared."""
        if pair.reason != BEST:
            self.counts[pair.reason] += 1
            self.first.setdefault(pair.reason, pair.where)

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.counts + other.counts, {**other.first, **self.first})

    def notes(self, usable: int) -> Iterator[str]:
        """A line per reason, with the number of pairs skipped for it beside the `usable` ones."""
        pairs = usable + self.total
        return (f"{count:,} of {pairs:,} pairs are skipped: {reason}" for reason, count in self.counts.items())

    def problem(self, usable: int) -> tuple[str, str] | None:
        """(cause, hint) if too many pairs are degenerate to trust the `usable` ones; ties do not count."""
        pairs, faults = usable + self.total, sum(self.counts[reason] for reason in _DEGENERATE)
        if faults <= _MOST * pairs:
            return None
        reasons = "; ".join(
            f"{self.counts[reason]:,} times {reason} (first: {self.first[reason]})"
            for reason in _DEGENERATE
            if self.counts[reason]
        )
        return (
            f"{faults:,} of {pairs:,} pairs compare nothing, more than one in twenty: {reasons}",
            "name the right columns with `dataset.columns`, or remove these pairs",
        )


def transcript(text: str, column: str) -> list[Turn] | None:
    """The turns of a text with `Human:` and `Assistant:` at the start of its paragraphs; None for other texts."""
    parts = _SPEAKER.split(text.strip("\r\n"))
    if len(parts) < 3 or parts[0].strip():
        return None
    roles, contents = parts[1::2], parts[2::2]
    return [text_turn(column, _ROLES[role], content.strip()) for role, content in zip(roles, contents, strict=True)]


def read_pair(row: Row, question: Sequence[Turn] | None) -> Pair:
    """The pair of a row with `chosen` and `rejected`; `question` is the one in a column beside them.

    Raises:
        UnusableRow: one of them is not an answer; SkippedPair: they cannot be compared.
    """
    chosen, rejected = (_turns(row, column, alone=question is None) for column in ("chosen", "rejected"))
    if not chosen or not rejected:
        raise SkippedPair(EMPTY)
    if question is None or (_is_complete(chosen) and _is_complete(rejected)):
        return _split_chats(_with_opening(row, question, chosen), _with_opening(row, question, rejected))
    for column, turns in (("chosen", chosen), ("rejected", rejected)):
        if turns and turns[0].message["role"] != "assistant":
            role = turns[0].message["role"]
            raise UnusableRow(f"begins with a turn of the {role}, expected the assistant's answer", column=column)
    return make_pair(_messages(question), _messages(chosen), _messages(rejected))


def _messages(turns: Iterable[Turn]) -> tuple[Message, ...]:
    return tuple(turn.message for turn in turns)


def make_pair(question: tuple[Message, ...], chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> Pair:
    """The pair of two different answers to a question; raises SkippedPair."""
    if is_blank(question[-1]["content"]) or any(not turns or _is_empty(turns) for turns in (chosen, rejected)):
        raise SkippedPair(EMPTY)
    if _contents(chosen) == _contents(rejected):
        raise SkippedPair(EQUAL)
    return Pair(question, chosen, rejected)


def _turns(row: Row, column: str, *, alone: bool) -> list[Turn]:
    value = row[column]
    if value in (None, [], {}) or (isinstance(value, str) and is_blank(value)):
        return []
    if isinstance(value, str):
        return _text_turns(row, text_of(value, column), column, alone=alone)
    return side_turns(row, column, "assistant")


def _text_turns(row: Row, text: str, column: str, *, alone: bool) -> list[Turn]:
    turns = transcript(text, column)
    # Beside a question, a text is the answer, even if it quotes a chat.
    if turns and (alone or turns[0].message["role"] == "user"):
        return turns
    turns = side_turns(row, column, "assistant")  # tables hold lists as JSON text
    if alone and turns[0].column == column:
        hint = "name the column of the question: `dataset.columns: {prompt: …}`"
        raise UnusableRow("is a text, and no column beside it holds the question", hint, column=column)
    return turns


def _is_complete(turns: Sequence[Turn]) -> bool:
    return bool(turns) and turns[0].message["role"] in ("system", "user")


def _with_opening(row: Row, question: Sequence[Turn] | None, turns: list[Turn]) -> tuple[Message, ...]:
    """A complete chat, behind the system turn of the column beside it."""
    if question is None and turns:
        turns = with_system(row, turns)
    elif question and question[0].message["role"] == "system" and turns[0].message["role"] != "system":
        turns = [question[0], *turns]
    return _messages(turns)


def _split_chats(chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> Pair:
    """The pair of two complete chats; the turns that both begin with are the question."""
    shared = next((n for n, (one, other) in enumerate(zip(chosen, rejected, strict=False)) if one != other), None)
    shared = min(len(chosen), len(rejected)) if shared is None else shared
    if len(chosen) == len(rejected) == shared and shared:
        raise SkippedPair(EQUAL)
    question = chosen[:shared]
    rests = chosen[shared:], rejected[shared:]
    if question and question[-1]["role"] == "assistant" and any(not rest for rest in rests):
        raise SkippedPair(EMPTY)
    answered = all(not rest or rest[0]["role"] == "assistant" for rest in rests)
    if not question or question[-1]["role"] not in ("user", "tool") or not answered:
        raise SkippedPair(APART)
    return make_pair(question, *rests)


def _is_empty(turns: Sequence[Message]) -> bool:
    """Whether an answer is blank, or the last question has none."""
    answers = [turn for turn in turns if turn["role"] == "assistant" and "tool_calls" not in turn]
    return turns[-1]["role"] == "user" or any(is_blank(turn["content"]) for turn in answers)


def _contents(turns: Sequence[Message]) -> list[Message]:
    return [{**turn, "content": turn["content"].strip()} for turn in turns]
