"""Compare two answers as mathematics: numbers, roots, polynomials, equations, sets, intervals and matrices."""

import logging
import re
from functools import cache, lru_cache
from typing import Any

from dimba.common.errors import BadInput
from dimba.common.project import project_root
from dimba.trainers.rewards.numbers import final_number, is_clear_answer, last_box, whole_number

_LONGEST = 1_000  # characters of one answer
_SECONDS = 5  # to parse an answer, and to compare two: `9^{9^{9^9}}` would never end
_KEPT = 4096  # comparisons: the completions of a group often share an answer, and a slow one is compared once
_DELIMITED = re.compile(r"\$\$([^$]+)\$\$|\$([^$]+)\$|\\\((.+)\\\)|\\\[(.+)\\\]", re.DOTALL)
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox)\s{0,3}\{[^{}]{0,200}\}")
_PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}\s+[A-Za-z]{2,}|\n|\$[^$]*\$")
_HINT = (
    f"`pip install math-verify -c {project_root()}/docker/constraints.txt` where the trainer runs; "
    "dimba builds its own image with it"
)


def equal_expressions(text: str, reference: str) -> float:
    r"""1 when the final answer of the text equals the reference's, else 0: `\boxed{2\sqrt{2}}` equals `\sqrt{8}`.

    Two numbers are compared exactly. math-verify compares all else, decimals to six places; a comparison that takes
    longer than five seconds gives 0.

    Raises:
        BadInput: math-verify is not installed.
    """
    is_number = is_clear_answer(reference)
    if is_number and _is_same_number(text, reference):
        return 1.0
    if is_number and is_clear_answer(text):
        return 0.0
    return float(_is_equal(_boxed(text) or text[-_LONGEST:], _boxed(reference) or ""))


def has_expression(reference: str) -> bool:
    """Whether the reference's answer is a number or an expression, not prose; raises BadInput without math-verify."""
    _library()
    return is_clear_answer(reference) or bool(_parsed(_boxed(reference) or ""))


def _is_same_number(text: str, reference: str) -> bool:
    mine, right = final_number(text), final_number(reference)
    return mine is not None and right is not None and mine.equals(right)


def _boxed(text: str) -> str | None:
    r"""The text's answer in a `\boxed{…}`, without which `2\sqrt{3}` would be parsed as 2; None when it is prose."""
    answer = last_box(text)
    if answer is None:
        _, mark, tail = text.rpartition("####")
        answer = tail.strip().split("\n", 1)[0] if mark else text
    answer = answer.strip()
    if len(answer) > _LONGEST:
        return None
    delimited = _DELIMITED.fullmatch(answer)
    answer = next(filter(None, delimited.groups())) if delimited else answer
    return None if not answer or _PROSE.search(_TEXT.sub("", answer)) else rf"\boxed{{{answer}}}"


@lru_cache(maxsize=_KEPT)
def _is_equal(text: str, reference: str) -> bool:
    return bool(_library().verify(_reference(reference), _parsed(text), timeout_seconds=_SECONDS))


def _reference(boxed: str) -> Any:
    from sympy import Rational

    number = whole_number(last_box(boxed) or "")  # math-verify parses `1 1/2` as 1
    return _parsed(boxed) if number is None else Rational(number.value.numerator, number.value.denominator)


@lru_cache(maxsize=_KEPT)
def _parsed(text: str) -> list[Any]:
    library = _library()
    # LaTeX only: math-verify's plain numbers find 2 in an unmarked `2^{10}`, and 5 in `7 \bmod 5`.
    latex = library.LatexExtractionConfig(boxed_match_priority=0, try_extract_without_anchor=False)
    return list(library.parse(text, [latex], fallback_mode="no_fallback", parsing_timeout=_SECONDS))


@cache
def _library() -> Any:
    try:
        import math_verify
    except ImportError as error:
        raise BadInput(f"the reward `math` needs math-verify: {error}", _HINT) from error
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # its warnings print every answer that takes too long
    return math_verify
