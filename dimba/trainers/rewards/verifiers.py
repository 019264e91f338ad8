"""Rules that score one completion: pure functions of its text and the row's reference."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise

from dimba.objectives.rewards import RewardSpec, needs_reference
from dimba.trainers.rewards.expressions import has_expression
from dimba.trainers.rewards.numbers import final_number, is_clear_answer

Verifier = Callable[[str, str], float]  # of a completion and a reference


def check_reference(spec: RewardSpec, reference: str | None, *, clear: bool = False) -> str | None:
    """The reason why a row's reference is unusable for this reward; None if it is usable.

    With `clear` the reference must be one plain number for `numeric`: the user did not say that it ends in a number.
    """
    if not needs_reference(spec):
        return None
    if reference is None:
        return "no reference answer"
    if spec.name == "math":
        return None if has_expression(reference) else "the reference answer is neither a number nor an expression"
    if spec.name != "numeric":
        return None if answer_part(reference) else "the reference answer is empty"
    if clear:
        return None if is_clear_answer(reference) else "the reference answer is not one plain number"
    return None if final_number(reference) else "no number in the reference answer"


def answer_part(reference: str) -> str:
    """The text after the last `####` of a worked solution, else all of it."""
    return reference.rpartition("####")[2].strip()


def numeric(text: str, reference: str) -> float:
    """1 if both end in the same number."""
    given, right = final_number(text), final_number(reference)
    return float(given is not None and right is not None and given.equals(right))


def exact_match(text: str, reference: str) -> float:
    """1 if both are the same apart from white space at the ends, or if the texts after `####` are."""
    return float(answer_part(reference) in (text.strip(), answer_part(text)))


def contains(text: str, reference: str) -> float:
    """1 if the text has the reference as a separate word: 72 is not in 1720, 72.5 or x72."""
    return has_word(text, answer_part(reference))


def has_word(text: str, wanted: str) -> float:
    """1 if the text has `wanted` as a separate word."""
    sign = r"(?<!-)" if wanted[:1].isdecimal() else ""
    before = r"(?<![^\W_])(?<!\d[.,])(?<![^\W_]_)" + sign if wanted[:1].isalnum() else ""
    after = r"(?![^\W_]|_[^\W_]|[.,]\d)" if wanted[-1:].isalnum() else ""
    return float(bool(wanted) and re.search(before + re.escape(wanted) + after, text) is not None)


def similarity(text: str, chosen: str, rejected: str) -> float:
    """s(text, chosen) - s(text, rejected), in [-1, 1].

    s(a, b) is the mean of F1 over words and F1 over pairs of neighbouring words, both in lower case, with
    F1 = 2 |A ∩ B| / (|A| + |B|) of the two multisets, 0 if both are empty. Only words are compared if both texts have
    fewer than two.
    """
    return _similarity(text, chosen) - _similarity(text, rejected)


def _similarity(one: str, other: str) -> float:
    first, second = re.findall(r"\w+", one.lower()), re.findall(r"\w+", other.lower())
    words = _f1(first, second)
    if max(len(first), len(second)) < 2:
        return words
    return (words + _f1(list(pairwise(first)), list(pairwise(second)))) / 2


def _f1(first: Sequence[object], second: Sequence[object]) -> float:
    total = len(first) + len(second)
    return 2 * (Counter(first) & Counter(second)).total() / total if total else 0.0


def length(tokens: int, free: int, limit: int) -> float:
    """0 up to `free` tokens, then falling linearly to -1 at the limit."""
    if tokens <= free:
        return 0.0
    return -min(1.0, (tokens - free) / max(1, limit - free))


def matches(pattern: str) -> Verifier:
    """A verifier: 1 if the text contains a match of the regular expression."""
    compiled = re.compile(pattern)
    return lambda text, _reference: float(compiled.search(text) is not None)
