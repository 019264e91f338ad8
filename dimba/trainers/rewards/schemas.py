"""The verifier `json_valid`: JSON by the standard, and JSON Schema."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
from jsonschema.validators import validator_for
from jsonschema_specifications import REGISTRY
from referencing.exceptions import Unresolvable

from dimba.common.errors import BadInput
from dimba.trainers.rewards.verifiers import Verifier

_FENCE = re.compile(r"```[ \t]*[\w+-]*[ \t]*\r?\n(.*)\r?\n[ \t]*```", re.DOTALL)
_CORRECT = "correct the schema of the reward `json_valid`"


def json_valid(schema: str | None = None) -> Verifier:
    """A verifier: 1 if the text is JSON and conforms to the schema in that file, if one is given; raises BadInput."""
    conforms = _conforms_to(Path(schema).expanduser()) if schema else lambda _value: True

    def score(text: str, _reference: str) -> float:
        try:
            return float(conforms(strict_json(unfenced(text))))
        except (ValueError, RecursionError, ArithmeticError):  # ArithmeticError: `multipleOf` on huge numbers
            return 0.0

    return score


def unfenced(text: str) -> str:
    """The text without a Markdown fence around it."""
    fence = _FENCE.fullmatch(text.strip())
    return fence[1] if fence else text


def strict_json(text: str) -> Any:
    """The value of a JSON text by RFC 8259, without the NaN and Infinity that Python accepts; raises ValueError."""
    return json.loads(text.strip(" \t\r\n"), parse_constant=_refuse)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _conforms_to(path: Path) -> Callable[[Any], bool]:
    schema = _read_schema(path)
    kind = validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema, format_checker=kind.FORMAT_CHECKER)
    except jsonschema.SchemaError as error:
        raise BadInput(f"{path} is no JSON Schema: {error.message}", _CORRECT) from error
    except RecursionError as error:
        raise BadInput(f"{path} is no JSON Schema: it is nested too deeply", _CORRECT) from error
    validator = kind(schema, registry=REGISTRY)  # without a registry the library fetches references
    _resolve_references(path, validator, schema)
    return lambda value: bool(validator.is_valid(value))


def _resolve_references(path: Path, validator: Any, schema: Any) -> None:
    """Raise BadInput now for a reference that would fail while training."""
    for reference in _references(schema):
        try:
            validator._resolver.lookup(reference)
        except Unresolvable as error:
            raise BadInput(
                f"the reference `{reference}` is not defined in this file, and nothing is fetched",
                "copy its definition into the schema's `$defs`",
                file=path,
            ) from error


def _references(schema: Any) -> list[str]:
    if isinstance(schema, list):
        return [reference for item in schema for reference in _references(item)]
    if not isinstance(schema, dict):
        return []
    own = [schema["$ref"]] if isinstance(schema.get("$ref"), str) else []
    parts = [item for key, item in schema.items() if key not in ("enum", "const", "default", "examples")]
    return own + [reference for part in parts for reference in _references(part)]


def _read_schema(path: Path) -> Any:
    try:
        schema = strict_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(str(error.strerror), "give the reward `json_valid` an existing file", file=path) from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is no JSON: {error}", _CORRECT) from error
    if not isinstance(schema, dict | bool):
        raise BadInput(f"{path} is no JSON Schema: it is neither an object nor true or false", _CORRECT)
    return schema
