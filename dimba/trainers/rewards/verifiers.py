"""Rules that look at one completion: pure functions of it and of the row's reference."""

import json
import re
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from dimba.common.errors import BadInput
from dimba.objectives.rewards import RewardSpec
from dimba.trainers.rewards.expressions import has_expression
from dimba.trainers.rewards.numbers import clear_answer, final_number

Verifier = Callable[[str, str], float]
_FENCE = re.compile(r"```[ \t]*[\w+-]*[ \t]*\r?\n(.*)\r?\n[ \t]*```", re.DOTALL)


def check_reference(spec: RewardSpec, reference: str | None, *, clear: bool = False) -> str | None:
    """Why a row's reference cannot be used for this reward; None where it can.

    With `clear` a number has to be all that the reference says, as nobody said that it ends in one.
    """
    if not needs_reference(spec):
        return None
    if reference is None:
        return "no reference answer"
    if spec.name == "numeric":
        if clear:
            return None if clear_answer(reference) else "the reference answer is not one plain number"
        return None if final_number(reference) else "no number in the reference answer"
    if spec.name == "math":
        return None if has_expression(reference) else "the reference answer is neither a number nor an expression"
    return None if answer_part(reference) else "the reference answer is empty"


def needs_reference(spec: RewardSpec) -> bool:
    """Whether it compares with what the row says is right."""
    return spec.name in ("numeric", "math", "exact_match") or (spec.name == "contains" and spec.parameter is None)


def answer_part(reference: str) -> str:
    """What follows the last `####` of a worked solution, else all of it."""
    return reference.rpartition("####")[2].strip()


def numeric(text: str, reference: str) -> float:
    """1 where both end in the same number."""
    mine, right = final_number(text), final_number(reference)
    return float(mine is not None and right is not None and mine.equals(right))


def exact_match(text: str, reference: str) -> float:
    """1 where both are the same, white space at the ends aside, or what follows `####` in both."""
    return float(answer_part(reference) in (text.strip(), answer_part(text)))


def contains(text: str, reference: str) -> float:
    """1 where the reference is there as a word of its own: 72 is not in 1720, 72.5 or x72."""
    return has_word(text, answer_part(reference))


def has_word(text: str, wanted: str) -> float:
    """`contains`, for a text that is the same for all rows."""
    sign = r"(?<!-)" if wanted[:1].isdecimal() else ""
    before = r"(?<![^\W_])(?<!\d[.,])(?<![^\W_]_)" + sign if wanted[:1].isalnum() else ""
    after = r"(?![^\W_]|_[^\W_]|[.,]\d)" if wanted[-1:].isalnum() else ""
    return float(bool(wanted) and re.search(before + re.escape(wanted) + after, text) is not None)


def similarity(text: str, chosen: str, rejected: str) -> float:
    """s(text, chosen) - s(text, rejected), in [-1, 1].

    s(a, b) is the mean of F1 over words and F1 over pairs of neighbouring words, both lower case, where
    F1 = 2 |A ∩ B| / (|A| + |B|) of the two multisets, 0 where both are empty. Only words are compared
    where both texts have fewer than two.
    """
    return _likeness(text, chosen) - _likeness(text, rejected)


def _likeness(one: str, other: str) -> float:
    first, second = re.findall(r"\w+", one.lower()), re.findall(r"\w+", other.lower())
    words = _f1(first, second)
    if max(len(first), len(second)) < 2:
        return words
    return (words + _f1(list(pairwise(first)), list(pairwise(second)))) / 2


def _f1(first: list[Any], second: list[Any]) -> float:
    total = len(first) + len(second)
    return 2 * (Counter(first) & Counter(second)).total() / total if total else 0.0


def length(tokens: int, free: int, limit: int) -> float:
    """0 up to `free` tokens, then down in a straight line to -1 at the limit."""
    if tokens <= free:
        return 0.0
    return -min(1.0, (tokens - free) / max(1, limit - free))


def found(pattern: str) -> Verifier:
    """A verifier: 1 where the pattern is found."""
    compiled = re.compile(pattern)
    return lambda text, _reference: float(compiled.search(text) is not None)


def json_valid(schema: str | None = None) -> Verifier:
    """A verifier: 1 where the text is JSON and, with a schema's file, fits it."""
    fits = _schema(Path(schema).expanduser()) if schema else lambda _value: True

    def score(text: str, _reference: str) -> float:
        try:
            return float(fits(strict_json(unfenced(text))))
        except (ValueError, RecursionError, ArithmeticError):  # the last of a schema's `multipleOf`, on huge numbers
            return 0.0

    return score


def unfenced(text: str) -> str:
    """Without one Markdown fence around it."""
    fence = _FENCE.fullmatch(text.strip())
    return fence[1] if fence else text


def strict_json(text: str) -> Any:
    """What RFC 8259 calls JSON: Python would take NaN and Infinity too."""
    return json.loads(text.strip(" \t\r\n"), parse_constant=_refuse)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _schema(path: Path) -> Callable[[Any], bool]:
    import jsonschema
    from jsonschema.validators import validator_for
    from jsonschema_specifications import REGISTRY

    schema = _schema_file(path)
    kind = validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema, format_checker=kind.FORMAT_CHECKER)
    except (jsonschema.SchemaError, RecursionError) as error:
        why = getattr(error, "message", "it is nested too deeply")
        raise BadInput(f"{path} is no JSON Schema: {why}", "correct the schema of the reward `json_valid`") from error
    # With a registry of its own the library fetches nothing.
    validator = kind(schema, registry=REGISTRY)
    _look_up(path, validator, schema)
    return lambda value: bool(validator.is_valid(value))


def _look_up(path: Path, validator: Any, schema: Any) -> None:
    """Follows every reference now: one that leads nowhere would end the training."""
    from referencing.exceptions import Unresolvable

    for reference in _references(schema):
        try:
            validator._resolver.lookup(reference)
        except Unresolvable as error:
            raise BadInput(
                f"the reference `{reference}` leads nowhere in this file, and nothing is fetched",
                "copy what it means into the schema's `$defs`",
                file=path,
            ) from error


def _references(schema: Any) -> list[str]:
    if isinstance(schema, list):
        return [found for item in schema for found in _references(item)]
    if not isinstance(schema, dict):
        return []
    own = [schema["$ref"]] if isinstance(schema.get("$ref"), str) else []
    parts = [item for key, item in schema.items() if key not in ("enum", "const", "default", "examples")]
    return own + [found for part in parts for found in _references(part)]


def _schema_file(path: Path) -> Any:
    try:
        schema = strict_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(
            str(error.strerror), "give the schema of the reward `json_valid` an existing file", file=path
        ) from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is no JSON: {error}", "correct the schema of the reward `json_valid`") from error
    if not isinstance(schema, dict | bool):
        raise BadInput(f"{path} is no JSON Schema: it is neither an object nor true or false", "correct the schema")
    return schema
