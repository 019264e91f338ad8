"""A list of turns, as any layout writes one: who says what, and whether it carries loss."""

import difflib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from dimba.common.errors import CORRECT
from dimba.dataset.files import kind

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
# What chat templates read besides `role`, `content` and `tool_calls`.
_KEPT = ("name", "tool_call_id", "reasoning_content", "thinking")


class Unfit(ValueError):
    """What is wrong with a row; the text begins with the column."""

    def __init__(self, why: str, hint: str = CORRECT) -> None:
        super().__init__(why)
        self.hint = hint


class Turn(NamedTuple):
    """One message, where in the row what it says stands, and whether it carries loss."""

    place: str
    message: Message
    trained: bool


def text_of(value: object, place: str) -> str:
    """The value as it is, where it is whole text; raises Unfit."""
    if not isinstance(value, str):
        raise Unfit(f"`{place}` is {kind(value)}, expected text")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise Unfit(f"`{place}` holds half a character ({value[error.start]!a}, a lone surrogate)") from None
    return value


def is_blank(text: str) -> bool:
    """Whether nothing is written there."""
    return not text or text.isspace()


def turns_in(value: object, column: str) -> list[Turn]:
    """The turns of a list, in any of its layouts; raises Unfit."""
    found = listed(value, column)
    if not found:
        raise Unfit(f"`{column}` is empty, expected a list of turns")
    return [_turn(each, f"{column}[{n}]") for n, each in enumerate(found)]


def listed(value: object, column: str) -> list[Any]:
    """The value as a list, which may be written as JSON; raises Unfit."""
    found = _unpacked(value, column) if isinstance(value, str) else value
    if isinstance(found, dict):
        found = _transposed(found)
    if not isinstance(found, list):
        raise Unfit(f"`{column}` is {kind(found)}, expected a list")
    return found


def _unpacked(text: str, column: str) -> object:
    """A list as JSON text, which is how tables hold one."""
    if is_blank(text):
        raise Unfit(f"`{column}` is blank, expected a list")
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        python = text.lstrip().startswith("[{'")
        hint = "that is how Python shows a list: write it with `json.dumps`" if python else CORRECT
        raise Unfit(f"`{column}` is text, expected a list or one written as JSON ({error})", hint) from None
    return value


def _transposed(columns: dict[str, Any]) -> Any:
    """{"role": […], "content": […]}, as older layouts on the Hub hold turns, as a list of turns."""
    lists = list(columns.values())
    if not lists or not all(isinstance(each, list) and len(each) == len(lists[0]) for each in lists):
        return columns
    return [dict(zip(columns, values, strict=True)) for values in zip(*lists, strict=True)]


def _turn(turn: object, place: str) -> Turn:
    if not isinstance(turn, dict):
        raise Unfit(f"`{place}` is {kind(turn)}, expected an object with `role` and `content`")
    role = _role(turn, place)
    calls = _tool_calls(turn, place) if role == "assistant" else []
    key = "content" if turn.get("content") is not None or "value" not in turn else "value"
    message: Message = {"role": role, "content": _content(turn, key, place, optional=bool(calls))}
    if calls:
        message["tool_calls"] = calls
    for kept in _KEPT:
        if isinstance(turn.get(kept), str):
            message[kept] = text_of(turn[kept], f"{place}.{kept}")
    return Turn(f"{place}.{key}", message, _carries_loss(turn, place) and role == "assistant")


def _role(turn: Row, place: str) -> str:
    key = "role" if turn.get("role") is not None or "from" not in turn else "from"
    if key not in turn:
        raise Unfit(f"`{place}` has no `role` (or `from`)")
    role = turn[key]
    if isinstance(role, str) and role in ROLES:
        return ROLES[role]
    what = f"`{_short(role)}`" if isinstance(role, str) else kind(role)
    near = difflib.get_close_matches(str(role).strip().lower(), ROLES, n=1)
    meant = f"did you mean `{near[0]}`?" if near else f"known roles: {', '.join(ROLES)}"
    raise Unfit(f"`{place}.{key}` is {what}, no known role; {meant}")


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}…"


def _content(turn: Row, key: str, place: str, *, optional: bool) -> str:
    if key not in turn and not optional:
        raise Unfit(f"`{place}` has no `content` (or `value`)")
    content = turn.get(key)
    if content is None and optional:
        return ""
    if isinstance(content, list):
        return "".join(_part(part, f"{place}.{key}[{n}]") for n, part in enumerate(content))
    return text_of(content, f"{place}.{key}")


def _part(part: object, place: str) -> str:
    if isinstance(part, dict) and part.get("type") == "text":
        return text_of(part.get("text"), f"{place}.text")
    what = f"of type `{_short(str(part.get('type')))}`" if isinstance(part, dict) else kind(part)
    raise Unfit(f"`{place}` is {what}, expected a part of type `text`")


def _tool_calls(turn: Row, place: str) -> list[Any]:
    calls = turn.get("tool_calls")
    if calls is None:
        return []
    if not isinstance(calls, list):
        raise Unfit(f"`{place}.tool_calls` is {kind(calls)}, expected a list")
    for n, call in enumerate(calls):
        if not isinstance(call, dict):
            raise Unfit(f"`{place}.tool_calls[{n}]` is {kind(call)}, expected an object")
    return [_with_object(call) for call in calls]


def _with_object(call: dict[str, Any]) -> dict[str, Any]:
    """Arguments that are JSON text, as some interfaces give them, as the object that chat templates expect."""
    function = call.get("function")
    if isinstance(function, dict):
        return {**call, "function": _with_object(function)}
    try:
        arguments = json.loads(call["arguments"])
    except (KeyError, TypeError, ValueError):
        return call
    return {**call, "arguments": arguments} if isinstance(arguments, dict) else call


def _carries_loss(turn: Row, place: str) -> bool:
    for key in ("weight", "loss_weight"):
        weight = turn.get(key)
        if weight is None:
            continue
        if isinstance(weight, bool) or weight not in (0, 1):
            shown = f"`{weight}`" if isinstance(weight, int | float) else kind(weight)
            raise Unfit(f"`{place}.{key}` is {shown}: only 0 (no loss) and 1 are understood")
        if not weight:
            return False
    return True
