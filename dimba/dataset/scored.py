"""Scored responses: two in a row, or one per row, where those to the same instruction are compared."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from dimba.common.errors import BadInput, Location, UnusableRow
from dimba.dataset.dialogue import Message, Row, is_blank, text_of
from dimba.dataset.files import kind
from dimba.dataset.formats import check_present, with_our_names, with_their_name
from dimba.dataset.pairs import BEST, TIE, SkippedPair, make_pair
from dimba.dataset.prompt_formats import CRITERIA, SCORED, PromptExample, PromptFormat

Found = Iterator[tuple[Location, PromptExample | UnusableRow | SkippedPair]]


def two_responses(row: Row, _form: PromptFormat) -> PromptExample:
    """The better of responses A and B against the other; raises UnusableRow, SkippedPair."""
    scores = [_score(row.get(name), name) for name in ("orig_score_A", "orig_score_B")]
    better = _better(scores, row.get("orig_preference"))
    named = ("orig_response_A", "orig_response_B")
    best, worse = named if better == "A" else named[::-1]
    return _pair_example(row, *("" if row[name] is None else _response(row, name) for name in (best, worse)))


def _better(scores: list[float | None], preference: object) -> str:
    """A or B: by the scores, or without two of them by the preference. Raises UnusableRow, SkippedPair."""
    a, b = scores
    if a is not None and b is not None:
        if a == b:
            raise SkippedPair(TIE)
        return "A" if a > b else "B"
    preferred = str(preference).strip().upper()
    if preferred not in ("A", "B"):
        raise UnusableRow("is neither A nor B, and there are not two scores", column="orig_preference")
    return preferred


def _score(value: object, name: str) -> float | None:
    if value is None or (isinstance(value, str) and is_blank(value)):
        return None
    try:
        score = float(value if not isinstance(value, bool) else "")  # type: ignore[arg-type]  # a TypeError is caught
    except OverflowError:
        score = math.inf
    except (TypeError, ValueError):
        shown = f"`{value}`" if isinstance(value, str) else kind(value)
        raise UnusableRow(f"is {shown}, expected a number", column=name) from None
    if not math.isfinite(score):
        raise UnusableRow("is not a finite number", column=name)
    return score


def _response(row: Row, name: str) -> str:
    return text_of(row.get(name), name)


def prompt_alone(row: Row, _form: PromptFormat) -> PromptExample:
    """The prompt of a response, without the other responses to it; raises UnusableRow."""
    return PromptExample(messages=_question(row), row=row, plain=True)


def _question(row: Row) -> tuple[Message, ...]:
    return ({"role": "user", "content": text_of(row["orig_instruction"], "orig_instruction")},)


def _pair_example(row: Row, best: str, worse: str) -> PromptExample:
    answers = [({"role": "assistant", "content": text},) for text in (best, worse)]
    pair = make_pair(_question(row), *answers)
    return PromptExample(messages=pair.question, chosen=pair.chosen, rejected=pair.rejected, row=row, plain=True)


_Scored = tuple[float, Location, str, Row]  # score, location, response, row


def compare_responses(rows: Iterable[tuple[Location, Row | UnusableRow]], columns: Mapping[str, str]) -> Found:
    """Yields the best response to an instruction against each that scored less.

    Holds all rows, as responses to one instruction may lie apart.

    Raises:
        BadInput: no instruction has two responses of different scores.
    """
    groups: dict[tuple[str, str], list[_Scored]] = {}
    for where, row in rows:
        try:
            if isinstance(row, UnusableRow):
                raise row
            key, scored = _read_scored(row, columns, where)
            groups.setdefault(key, []).append(scored)
        except UnusableRow as error:
            yield where, error
    compared = 0
    for group in groups.values():
        for where, found in _pairs_of(group, columns):
            compared += not (isinstance(found, SkippedPair) and found.reason in (TIE, BEST))
            yield where, found
    if not compared and groups:
        raise BadInput(
            "each response has a score and nothing to compare it with: no instruction has two of different scores",
            "give pairs (`prompt`, `chosen`, `rejected`), rows with an `answer`, or two scored responses to the same "
            "`orig_instruction`; prometheus-eval/Preference-Collection has pairs of this kind",
        )


def _read_scored(row: Row, columns: Mapping[str, str], where: Location) -> tuple[tuple[str, str], _Scored]:
    """((instruction, criteria), the scored response) of a row; raises UnusableRow."""
    try:
        check_present(row, SCORED, columns)
        ours = with_our_names(row, columns)
        key = text_of(ours.get("orig_instruction"), "orig_instruction"), str(ours.get(CRITERIA))
        score = _score(ours.get("orig_score"), "orig_score")
        if score is None:
            raise UnusableRow("is missing, expected a number", column="orig_score")
        return key, (score, where, _response(ours, "orig_response"), row)
    except UnusableRow as error:
        raise with_their_name(error, columns).at(where) from None


def _pairs_of(group: list[_Scored], columns: Mapping[str, str]) -> Found:
    best = max(group, key=lambda each: each[0])
    for each in group:
        score, where, response, row = each
        if each is best:
            yield where, SkippedPair(TIE if len(group) == 1 else BEST, where)
            continue
        try:
            if score == best[0]:
                raise SkippedPair(TIE)
            yield where, replace(_pair_example(with_our_names(row, columns), best[2], response), row=row)
        except SkippedPair as pair:
            yield where, pair.at(where)
