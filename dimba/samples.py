"""From a row's columns to a sample: turns with their roles, what carries loss, and what is wrong with them."""

import difflib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from dimba.errors import CORRECT
from dimba.files import kind

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


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One row, ready for a tokenizer: a chat, or plain text (`messages` is then empty).

    A message has `role`, `content` (text) and, where an assistant calls tools, `tool_calls`, as chat templates take
    them. `trained` says of each message whether what it says carries loss; only an assistant's can.
    """

    messages: tuple[dict[str, Any], ...] = ()
    trained: tuple[bool, ...] = ()
    tools: tuple[Any, ...] | None = None
    text: str | None = None


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


Convert = Callable[[Row], list[Turn]]


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


# A list of turns.


def turns(column: str) -> Convert:
    """Rows whose `column` is a list of turns; a `system` column beside it comes first."""

    def convert(row: Row) -> list[Turn]:
        return with_system(row, _turns(row[column], column))

    return convert


def _turns(value: object, column: str) -> list[Turn]:
    listed = _listed(value, column)
    if not listed:
        raise Unfit(f"`{column}` is empty, expected a list of turns")
    return [_turn(each, f"{column}[{n}]") for n, each in enumerate(listed)]


def _listed(value: object, column: str) -> list[Any]:
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


def tools_of(row: Row) -> tuple[Any, ...] | None:
    """The tools of a row: a list of objects, or one as JSON text; None where it has none."""
    tools = row.get("tools")
    if not tools or (isinstance(tools, str) and is_blank(tools)):
        return None
    listed = _listed(tools, "tools")
    for n, tool in enumerate(listed):
        if not isinstance(tool, dict):
            raise Unfit(f"`tools[{n}]` is {kind(tool)}, expected an object")
    return tuple(listed) or None


# Columns that ask and answer.


def pair(ask: str, answer: str) -> Convert:
    """Rows that ask in one column and answer in another; either may be text or a list of turns."""

    def convert(row: Row) -> list[Turn]:
        asked, said = side(row, ask, "user"), side(row, answer, "assistant")
        if said[0].message["role"] in ("user", "system"):
            why = f"`{answer}` begins with what the {said[0].message['role']} says, expected the assistant's answer"
            raise Unfit(why, f"if it is the whole chat: `dataset.columns: {{messages: {answer}}}`")
        return [*with_system(row, [turn._replace(trained=False) for turn in asked]), *said]

    return convert


def instruction(row: Row) -> list[Turn]:
    """`instruction` and `input` ask, `output` answers; the pairs of `history` come first."""
    return [*instructed(row), *side(row, "output", "assistant")]


def instructed(row: Row) -> list[Turn]:
    """What `instruction` and `input` ask, behind the pairs of `history`; raises Unfit."""
    parts = [text_of(row["instruction"], "instruction")]
    if row.get("input"):
        parts.append(text_of(row["input"], "input"))
    asked = "\n\n".join(part for part in parts if not is_blank(part))
    return with_system(row, [*_history(row), said("instruction", "user", asked)])


def _history(row: Row) -> list[Turn]:
    rounds = _listed(row["history"], "history") if row.get("history") else []
    found = []
    for n, each in enumerate(rounds):
        if not isinstance(each, list) or len(each) != 2:
            raise Unfit(f"`history[{n}]` is {kind(each)}, expected a list of a question and its answer")
        for at, role in enumerate(("user", "assistant")):
            place = f"history[{n}][{at}]"
            found.append(said(place, role, text_of(each[at], place)))
    return found


def side(row: Row, column: str, role: str) -> list[Turn]:
    """One side of a pair: a text that `role` says, one message, or a list of turns; raises Unfit."""
    value = row[column]
    if isinstance(value, str) and not _is_turns_as_text(value):
        return [said(column, role, text_of(value, column))]
    if isinstance(value, dict) and not isinstance(value.get("role", value.get("from")), list):
        value = [value]
    if not isinstance(value, str | list | dict):
        raise Unfit(f"`{column}` is {kind(value)}, expected text")
    return _turns(value, column)


def _is_turns_as_text(text: str) -> bool:
    if not text.startswith("[") or not text.rstrip().endswith("}]"):
        return False
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return all(isinstance(each, dict) and ("role" in each or "from" in each) for each in value)


def said(place: str, role: str, content: str) -> Turn:
    """A turn of a row that has its text in a column."""
    return Turn(place, {"role": role, "content": content}, role == "assistant")


def with_system(row: Row, chat: list[Turn]) -> list[Turn]:
    """The chat behind what the row's `system` column says; raises Unfit where the chat says other."""
    value = row.get("system")
    if not value:
        return chat
    system = said("system", "system", text_of(value, "system"))
    if is_blank(value) or (chat[0].message["role"] == "system" and chat[0].message["content"] == value):
        return chat
    if chat[0].message["role"] == "system":
        raise Unfit(f"`system` says other than the system turn `{chat[0].place}`")
    return [system, *chat]


# What a chat has to be, to be learnt from.


def check_chat(chat: list[Turn]) -> None:
    """Raises Unfit where nothing can be learnt from a chat, or where somebody says nothing."""
    for place, message, _ in chat:
        if message["role"] in ("user", "assistant") and is_blank(message["content"]) and "tool_calls" not in message:
            what = "there is nothing to train on" if message["role"] == "assistant" else "nothing is asked"
            raise Unfit(f"`{place}` is blank, so {what}")
    roles = [turn.message["role"] for turn in chat]
    if "assistant" not in roles:
        raise Unfit("no assistant turn with text, so there is nothing to train on")
    opening = next(n for n, role in enumerate(roles) if role != "system")
    if roles[opening] == "assistant":
        raise Unfit(f"`{chat[opening].place}`: the assistant speaks first, and nobody asked")
    if not any(turn.trained for turn in chat):
        raise Unfit("every assistant turn has the weight 0, so there is nothing to train on")
