"""Reads a file as a JobSpec, and reports every problem at its line."""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from dimba.common.errors import BadInput, DimbaError, Location, SeveralErrors
from dimba.spec.dataset import ONE, SEVERAL
from dimba.spec.model import JobSpec
from dimba.spec.recipe import BLOCK, Recipe, read_recipe
from dimba.spec.secrets import secrets_in
from dimba.spec.yaml12 import Document, Key, key_path

_ITEMS = re.compile(r"(.*?)((?:\[\d{1,9}\])*)", re.DOTALL)  # of lists, in a key of --set
_SHOWN = 80  # characters of a value in a message


@dataclass(frozen=True, kw_only=True)
class LoadedSpec:
    """A checked spec, and the bytes that it was read from."""

    spec: JobSpec
    source: str
    data: bytes
    overrides: tuple[str, ...]
    lines: dict[str, int]
    recipe: Recipe | None = None  # of a file that `dimba pack` wrote
    found: tuple[str, ...] = ()  # overrides by dimba itself: where the files of a recipe lie here

    def location(self, key: str) -> Location:
        """The line of a key; the file alone if it does not have the key."""
        return Location(self.source, self.lines.get(key))

    def locate(self, error: DimbaError) -> DimbaError:
        """The error, located at the line of its key in this spec."""
        for each in error.errors if isinstance(error, SeveralErrors) else (error,):
            if each.key and each.key in self.lines:
                each.at(self.location(each.key))
        return error


class BadSpec(BadInput):
    """All problems of a file in the order of its lines; its message has a line for each."""

    def __init__(self, file: str, problems: Iterable[BadInput], hint: str = "") -> None:
        super().__init__("the file has mistakes", hint, file=file)
        self.problems = tuple(sorted((_placed(each, file) for each in problems), key=lambda each: each.line or 0))

    @property
    def message(self) -> str:
        """`file:line: key: cause` of every problem, a line each."""
        return "\n".join(each.message for each in self.problems)


def _placed(problem: BadInput, file: str) -> BadInput:
    if problem.line:
        return problem.at(Location(file, problem.line))
    problem.key = f"--set {problem.key}"  # the command line has no lines
    return problem


def load_spec(path: Path, overrides: Sequence[str] = ()) -> LoadedSpec:
    """Reads and checks the spec in `path`; raises BadInput with all its problems."""
    try:
        data = path.read_bytes()
    except OSError as error:
        hint = "give the path of a job spec; `dimba wizard` writes one"
        raise BadInput(str(error.strerror), hint, file=path) from None
    return parse_spec(data, source=str(path), overrides=overrides)


def parse_spec(data: bytes, *, source: str, overrides: Sequence[str] = (), found: Sequence[str] = ()) -> LoadedSpec:
    """The spec in `data`, checked; raises BadInput with all its problems.

    `overrides` are the command line's, `found` are dimba's own, which need the same trust as the file.
    """
    document = Document(data)
    problems = list(document.problems)
    if not isinstance(document.value, dict):
        problems = problems or [BadInput("expected a mapping of keys such as `version: 1`", line=1)]
        raise BadSpec(source, problems)
    recipe, mistakes = read_recipe(document)
    block, value = document.value.pop(BLOCK, None), document.value
    for override in (*overrides, *found):
        _drop_line(document, apply_override(value, override))
    problems += [*mistakes, *(_at(document, key, cause) for key, cause in secrets_in({**value, BLOCK: block}))]
    try:
        spec = JobSpec.model_validate(value)
    except ValidationError as error:
        problems += _invalid(document, [dict(each) for each in error.errors()])
        raise BadSpec(source, _without_repeats(problems), _hint(mistakes)) from None
    if problems:
        raise BadSpec(source, problems, _hint(mistakes))
    lines = {key_path(key): line for key, line in document.lines.items()}
    changes = {"overrides": tuple(overrides), "found": tuple(found)}
    return LoadedSpec(spec=spec, source=source, data=data, lines=lines, recipe=recipe, **changes)


def spec_values(data: bytes, overrides: Sequence[str]) -> dict[str, Any]:
    """The values that a valid spec has, with `overrides` and without defaults or a recipe."""
    value = {key: item for key, item in Document(data).value.items() if key != BLOCK}
    for override in overrides:
        apply_override(value, override)
    return value


def _hint(mistakes: Sequence[BadInput]) -> str:
    return mistakes[0].hint if mistakes else ""


def apply_override(value: dict[str, Any], override: str) -> Key:
    """Sets `a.b=value` in `value`; returns the key."""
    name, equals, text = override.partition("=")
    if not name or not equals:
        raise BadInput(f"--set {override}: expected key=value", "for example --set training.batch_size=2")
    parsed = Document(text.encode())
    if parsed.problems:
        raise BadInput(f"--set {override}: {parsed.problems[0].cause}", "quote the value as in YAML")
    *parents, last = key = _parts(name)
    place: Any = value
    for number, parent in enumerate(parents, 1):
        place = _child(place, parent, override, is_item=isinstance(key[number], int))
    if isinstance(last, int):
        _require_item(place, last, override)
    place[last] = parsed.value
    return key


def _parts(name: str) -> Key:
    """`dataset[1].weight` as `("dataset", 1, "weight")`."""
    parts: list[str | int] = []
    for piece in name.split("."):
        text, items = _ITEMS.fullmatch(piece).groups()  # type: ignore[union-attr]  # it matches any text
        parts += [text, *map(int, re.findall(r"\d+", items))]
    return tuple(parts)


def _child(place: Any, part: str | int, override: str, *, is_item: bool) -> Any:
    """The section or the list that a part of a key names."""
    if isinstance(part, int):
        _require_item(place, part, override)
        child = place[part]
    else:
        # `training:` without a value is an empty section.
        child = place.get(part)
        place[part] = child = {} if child is None else child
    if isinstance(child, list) and not is_item:
        hint = f"name one of its items: `--set {part}[0].{override.partition('.')[2]}`"
        raise BadInput(f"--set {override}: `{part}` is a list", hint)
    if not isinstance(child, list if is_item else dict):
        kind = "list" if is_item else "section"
        raise BadInput(f"--set {override}: `{part}` is not a {kind}", "see `dimba schema` for the keys")
    return child


def _require_item(place: list[Any], number: int, override: str) -> None:
    if number >= len(place):
        raise BadInput(f"--set {override}: the list has {len(place)} items, counted from 0", "name one of them")


def _drop_line(document: Document, key: Key) -> None:
    """Marks a key of the command line, and the sections that exist for it alone, as having no line."""
    document.lines[key] = 0
    for end in range(1, len(key)):
        document.lines.setdefault(key[:end], 0)


def _invalid(document: Document, errors: list[dict[str, Any]]) -> list[BadInput]:
    errors = [each for each in errors if not _is_of_other_kind(each, errors)]
    choices = {_key(each): each["ctx"]["expected"] for each in errors if each["type"] == "literal_error"}
    return [_problem(document, each, choice=choices.get(_key(each))) for each in errors]


def _is_of_other_kind(error: dict[str, Any], errors: list[dict[str, Any]]) -> bool:
    """Whether another member of a union, of the kind that was given, reports what is wrong inside of the value."""
    key = _key(error)
    inside = (other for other in map(_key, errors) if len(other) > len(key))
    return error["type"].endswith("_type") and any(other[: len(key)] == key for other in inside)


def _problem(document: Document, error: dict[str, Any], choice: str | None) -> BadInput:
    key = _key(error)
    return _at(document, _known(document, key), _cause(error, key, choice), shown=key)


def _key(error: dict[str, Any]) -> Key:
    return tuple(part for part in error["loc"] if not _is_union_tag(part, error["loc"]))


def _is_union_tag(part: str | int, loc: Key) -> bool:
    # pydantic adds the member of a union that it tried: `literal[…]`, `int`, `list[…]`.
    tags = ("literal[", "list[", "function-", "constrained-", "nullable")
    return (
        isinstance(part, str)
        and loc.index(part) > 0
        and (part in {"int", "float", "str", "bool", ONE, SEVERAL} or part.startswith(tags))
    )


def _known(document: Document, key: Key) -> Key:
    while key and key not in document.lines:
        key = key[:-1]
    return key


def _at(document: Document, key: Key, cause: str, shown: Key | None = None) -> BadInput:
    line = document.lines.get(_known(document, key), 1)
    return BadInput(cause, key=key_path(key if shown is None else shown), line=line)


def _cause(error: dict[str, Any], key: Key, choice: str | None) -> str:
    """The mistake in words; `choice` names the texts that are allowed in place of a number."""
    given = error.get("input")
    match error["type"]:
        case "extra_forbidden":
            return "unknown key" + _nearest(str(key[-1]), _keys(key[:-1]))
        case "missing":
            return "required, and not given"
        case "literal_error":
            return f"`{_clipped(given)}` is not one of {error['ctx']['expected'].replace(chr(39), '')}"
        case "value_error":
            return str(error["ctx"]["error"])
        case "string_pattern_mismatch":
            return f"`{_clipped(given)}`: letters, digits, dots, dashes and underscores, 64 at most"
        case "int_type" if choice:
            return f"expected an integer or {choice.replace(chr(39), '`')}, not {_shown(given)}"
        case "bool_type" if choice:
            return f"expected true, false, {choice.replace(chr(39), '`')}, not {_shown(given)}"
        case "model_type" if key == ("dataset",):
            return f"expected a section of keys or a list of them, not {_shown(given)}"
        case "model_type" | "dict_type":
            return f"expected a section of keys, not {_shown(given)}"
        case _:
            return f"{_sentence(error['msg'])}, not {_shown(given)}"


def _sentence(message: str) -> str:
    text = message.removeprefix("Input ").replace("should be", "expected").replace("valid ", "")
    return text.replace("a integer", "an integer")


def _shown(value: Any) -> str:
    kinds = {type(None): "nothing", dict: "a section", list: "a list"}
    text = _clipped(value)
    return kinds.get(type(value)) or (f"the text `{text}`" if isinstance(value, str) else f"`{text}`".lower())


def _clipped(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _keys(section: Key) -> list[str]:
    model: type[BaseModel] = JobSpec
    names = [part for part in section if isinstance(part, str)]
    for part in names:
        field = model.model_fields.get(part)
        models = _models(field.annotation) if field else []
        if not models:
            return []
        model = models[-1 if len(names) < len(section) else 0]  # of a list and a section, the list's comes last
    return list(model.model_fields)


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The sections in a type, in its order."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for each in get_args(annotation) for model in _models(each)]


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean `{close[0]}`?"
    return f"; known here: {', '.join(known)}" if known else ""


def _without_repeats(problems: list[BadInput]) -> list[BadInput]:
    # A union reports a key once for each of its members; the first report is enough.
    seen: dict[tuple[int | None, str], BadInput] = {}
    for problem in problems:
        seen.setdefault((problem.line, problem.key), problem)
    return list(seen.values())
