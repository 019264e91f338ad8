"""Responses that were scored: two in a row, or one a row, of which those to the same instruction are compared."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from dimba.common.errors import BadInput, BadRow
from dimba.dataset.dialogue import Message, Row, Unfit, is_blank, text_of
from dimba.dataset.files import kind
from dimba.dataset.formats import in_their_words, renamed
from dimba.dataset.pairs import BEST, TIE, LeftOut, Nothing, checked
from dimba.dataset.prompt_formats import CRITERIA, SCORED, Task, TaskForm, check_there

Found = Iterator[tuple[str, Task | BadRow | LeftOut]]


def two_responses(row: Row, _form: TaskForm) -> Task:
    """The better of responses A and B against the other; raises Unfit, Nothing."""
    scores = [_score(row.get(name), name) for name in ("orig_score_A", "orig_score_B")]
    better = _better(scores, row.get("orig_preference"))
    named = ("orig_response_A", "orig_response_B")
    best, worse = named if better == "A" else named[::-1]
    return _compared(row, *("" if row[name] is None else _response(row, name) for name in (best, worse)))


def _better(scores: list[float | None], preference: object) -> str:
    """A or B: by the scores, whatever the preference says; without them by the preference. Raises Nothing, Unfit."""
    a, b = scores
    if a is not None and b is not None:
        if a == b:
            raise Nothing(TIE)
        return "A" if a > b else "B"
    said = str(preference).strip().upper()
    if said not in ("A", "B"):
        raise Unfit("`orig_preference` is neither A nor B, and there are not two scores")
    return said


def _score(value: object, name: str) -> float | None:
    if value is None or (isinstance(value, str) and is_blank(value)):
        return None
    try:
        score = float(value if not isinstance(value, bool) else "")  # type: ignore[arg-type]  # the rest is told
    except OverflowError:
        score = math.inf
    except (TypeError, ValueError):
        shown = f"`{value}`" if isinstance(value, str) else kind(value)
        raise Unfit(f"`{name}` is {shown}, expected a number") from None
    if not math.isfinite(score):
        raise Unfit(f"`{name}` is no finite number")
    return score


def _response(row: Row, name: str) -> str:
    return text_of(row.get(name), name)


def asked_alone(row: Row, _form: TaskForm) -> Task:
    """What a response answers, without the others that it is compared with; raises Unfit."""
    return Task(messages=_asked(row), row=row, plain=True)


def _asked(row: Row) -> tuple[Message, ...]:
    return ({"role": "user", "content": text_of(row["orig_instruction"], "orig_instruction")},)


def _compared(row: Row, best: str, worse: str) -> Task:
    answers = [({"role": "assistant", "content": text},) for text in (best, worse)]
    pair = checked(_asked(row), *answers)
    return Task(messages=pair.asked, chosen=pair.chosen, rejected=pair.rejected, row=row, plain=True)


def compared_responses(rows: Iterable[tuple[str, Row | BadRow]], columns: Mapping[str, str]) -> Found:
    """The best response to an instruction against each that scored less; all rows are held, as they may be apart."""
    groups: dict[tuple[str, str], list[tuple[float, str, str, Row]]] = {}
    for where, row in rows:
        try:
            if isinstance(row, BadRow):
                raise row
            check_there(row, SCORED, columns)
            ours = renamed(row, columns)
            key = text_of(ours.get("orig_instruction"), "orig_instruction"), str(ours.get(CRITERIA))
            score = _score(ours.get("orig_score"), "orig_score")
            if score is None:
                raise Unfit("`orig_score` is missing, expected a number")
            response = _response(ours, "orig_response")
            groups.setdefault(key, []).append((score, where, response, row))
        except BadRow as error:
            yield where, error
        except Unfit as error:
            yield where, BadRow(where, in_their_words(str(error), columns), error.hint)
    compared = 0
    for group in groups.values():
        for where, found in _pairs_of(group, columns):
            compared += not (isinstance(found, LeftOut) and found.why in (TIE, BEST))
            yield where, found
    if not compared and groups:
        raise BadInput(
            "each response has a score and nothing to compare it with: no instruction has two of different scores",
            "give pairs (`prompt`, `chosen`, `rejected`), rows with an `answer`, or two scored responses to the same "
            "`orig_instruction`; prometheus-eval/Preference-Collection has pairs of this kind",
        )


def _pairs_of(group: list[tuple[float, str, str, Row]], columns: Mapping[str, str]) -> Found:
    best = max(group, key=lambda each: each[0])
    for each in group:
        score, where, response, row = each
        if each is best:
            yield where, LeftOut(where, TIE if len(group) == 1 else BEST)
            continue
        try:
            if score == best[0]:
                raise Nothing(TIE)
            yield where, replace(_compared(renamed(row, columns), best[2], response), row=row)
        except Nothing as nothing:
            yield where, LeftOut(where, str(nothing))
