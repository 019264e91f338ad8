"""The turns of a chat, in any layout: their roles, their texts, and whether they carry loss."""

import difflib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from dimba.common.errors import CORRECT, UnusableRow
from dimba.dataset.files import kind
from dimba.dataset.values import check_characters, check_json, plain

Row = Mapping[str, Any]
Message = dict[str, Any]

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "observation": "tool",
}
# Keys that chat templates read besides `role`, `content` and `tool_calls`.
_KEPT = ("name", "tool_call_id", "reasoning_content", "thinking")
_USUAL = frozenset({"role", "content", "from", "value"})
_READ = _USUAL | {"tool_calls", "weight", "loss_weight"}


class Turn(NamedTuple):
    """One message, the column that holds its text (as `messages[0].content`), and whether it carries loss."""

    column: str
    message: Message
    trained: bool


def text_of(value: object, column: str) -> str:
    """The value, if it is valid text; raises UnusableRow."""
    if not isinstance(value, str):
        raise UnusableRow(f"is {kind(value)}, expected text", column=column)
    if not value.isascii():  # most text is: a context manager for each costs more than the check
        with _causes_at(column):
            check_characters(value)
    return value


@contextmanager
def _causes_at(column: str) -> Iterator[None]:
    """Raises the cause in a ValueError as the UnusableRow of a column."""
    try:
        yield
    except ValueError as error:
        raise UnusableRow(str(error), column=column) from None


def plain_at(value: object, column: str) -> Any:
    """The value as JSON has it; raises UnusableRow for one that JSON cannot hold."""
    with _causes_at(column):
        check_json(value)
    return plain(value)


def is_blank(text: str) -> bool:
    """Whether the text is empty or white space alone."""
    return not text or text.isspace()


def turns_in(value: object, column: str) -> list[Turn]:
    """The turns of a list, in any of its layouts; raises UnusableRow."""
    found = list_in(value, column)
    if not found:
        raise UnusableRow("is empty, expected a list of turns", column=column)
    return [_turn(each, f"{column}[{n}]") for n, each in enumerate(found)]


def list_in(value: object, column: str) -> list[Any]:
    """The value as a list, which may be written as JSON; raises UnusableRow."""
    found = _parse_list(value, column) if isinstance(value, str) else value
    if isinstance(found, dict):
        found = _rows_of(found)
    if not isinstance(found, list):
        raise UnusableRow(f"is {kind(found)}, expected a list", column=column)
    return found


def _parse_list(text: str, column: str) -> object:
    """Parses a list written as JSON, as tables hold one."""
    if is_blank(text):
        raise UnusableRow("is blank, expected a list", column=column)
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        python = text.lstrip().startswith("[{'")
        hint = "this is the form in which Python prints a list: write it with `json.dumps`" if python else CORRECT
        raise UnusableRow(f"is text, expected a list or one written as JSON ({error})", hint, column=column) from None
    return value


def _rows_of(columns: dict[str, Any]) -> Any:
    """The list of turns of {"role": […], "content": […]}, the layout of older data sets on the Hub."""
    lists = list(columns.values())
    if not lists or not all(isinstance(each, list) and len(each) == len(lists[0]) for each in lists):
        return columns
    return [dict(zip(columns, values, strict=True)) for values in zip(*lists, strict=True)]


def _turn(turn: object, place: str) -> Turn:
    if not isinstance(turn, dict):
        raise UnusableRow(f"is {kind(turn)}, expected an object with `role` and `content`", column=place)
    role = _role(turn, place)
    usual = _USUAL.issuperset(turn)  # most turns are, and a survey reads millions of them
    calls = [] if usual or role != "assistant" else _tool_calls(turn, place)
    key = "content" if turn.get("content") is not None or "value" not in turn else "value"
    message: Message = {"role": role, "content": _content(turn, key, place, optional=bool(calls))}
    if calls:
        message["tool_calls"] = calls
    for kept in () if usual else _KEPT:
        if isinstance(turn.get(kept), str):
            message[kept] = text_of(turn[kept], f"{place}.{kept}")
    return Turn(f"{place}.{key}", message, (usual or _carries_loss(turn, place)) and role == "assistant")


def unread_keys(value: object) -> list[str]:
    """The keys of turns that hold something and are not read; none for a value that is no list of turns."""
    if isinstance(value, str):
        value = _parse_turns(value)
    turns = [value] if isinstance(value, dict) else value if isinstance(value, list) else []
    unusual = [turn for turn in turns if isinstance(turn, dict) and not _USUAL.issuperset(turn)]
    return [
        key
        for turn in unusual
        if not turn.keys().isdisjoint(("role", "from"))
        for key, held in turn.items()
        if _is_unread(key, held)
    ]


def _parse_turns(text: str) -> object:
    if not text.startswith(("[", "{")) or ('"role"' not in text and '"from"' not in text):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_unread(key: str, value: object) -> bool:
    is_read = key in _READ or (key in _KEPT and isinstance(value, str))
    return not is_read and value not in (None, "", [], {})


def _role(turn: Row, place: str) -> str:
    key = "role" if turn.get("role") is not None or "from" not in turn else "from"
    if key not in turn:
        raise UnusableRow("has no `role` (or `from`)", column=place)
    role = turn[key]
    if isinstance(role, str) and role in ROLES:
        return ROLES[role]
    given = f"`{_short(role)}`" if isinstance(role, str) else kind(role)
    near = difflib.get_close_matches(str(role).strip().lower(), ROLES, n=1)
    meant = f"did you mean `{near[0]}`?" if near else f"known roles: {', '.join(ROLES)}"
    raise UnusableRow(f"is {given}, no known role; {meant}", column=f"{place}.{key}")


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}…"


def _content(turn: Row, key: str, place: str, *, optional: bool) -> str:
    if key not in turn and not optional:
        raise UnusableRow("has no `content` (or `value`)", column=place)
    content = turn.get(key)
    if content is None and optional:
        return ""
    if isinstance(content, list):
        return "".join(_part(part, f"{place}.{key}[{n}]") for n, part in enumerate(content))
    return text_of(content, f"{place}.{key}")


def _part(part: object, place: str) -> str:
    if isinstance(part, dict) and part.get("type") == "text":
        return text_of(part.get("text"), f"{place}.text")
    given = f"of type `{_short(str(part.get('type')))}`" if isinstance(part, dict) else kind(part)
    raise UnusableRow(f"is {given}, expected a part of type `text`", column=place)


def _tool_calls(turn: Row, place: str) -> list[Any]:
    calls, column = turn.get("tool_calls"), f"{place}.tool_calls"
    if is_absent(calls):
        return []
    return [_with_parsed_arguments(call, column) for call in plain_at(objects_in(calls, column), column)]


def is_absent(value: object) -> bool:
    """Whether a column that may be left out holds nothing: null, an empty list or text, or JSON text of null."""
    return not value or (isinstance(value, str) and value.strip() in ("", "null"))


def objects_in(value: object, column: str) -> list[dict[str, Any]]:
    """The objects of a list; the list, or each of them, may be written as JSON. Raises UnusableRow."""
    found: list[Any] = [_parse_object(each) for each in list_in(value, column)]
    for n, each in enumerate(found):
        if not isinstance(each, dict):
            raise UnusableRow(f"is {kind(each)}, expected an object", column=f"{column}[{n}]")
    return found


def _parse_object(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return found if isinstance(found, dict) else value


def _with_parsed_arguments(call: dict[str, Any], column: str) -> dict[str, Any]:
    """The call with arguments that are JSON text, as some interfaces give them, parsed as chat templates expect.

    A null in such text is kept: this is how an argument that is null is written.
    """
    function = call.get("function")
    if isinstance(function, dict):
        return {**call, "function": _with_parsed_arguments(function, column)}
    try:
        arguments = json.loads(call["arguments"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return call
    with _causes_at(column):
        check_json(arguments)
    return {**call, "arguments": arguments} if isinstance(arguments, dict) else call


def _carries_loss(turn: Row, place: str) -> bool:
    for key in ("weight", "loss_weight"):
        weight = turn.get(key)
        if weight is None:
            continue
        if isinstance(weight, bool) or weight not in (0, 1):
            shown = f"`{weight}`" if isinstance(weight, int | float) else kind(weight)
            raise UnusableRow(f"is {shown}: only 0 (no loss) and 1 are understood", column=f"{place}.{key}")
        if not weight:
            return False
    return True
