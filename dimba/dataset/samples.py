"""From a row's columns to a sample: which of them ask and answer, and what a chat has to be."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dimba.dataset.dialogue import Row, Turn, Unfit, is_blank, listed, text_of, turns_in
from dimba.dataset.files import kind


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


Convert = Callable[[Row], list[Turn]]


def turns(column: str) -> Convert:
    """Rows whose `column` is a list of turns; a `system` column beside it comes first."""

    def convert(row: Row) -> list[Turn]:
        return with_system(row, turns_in(row[column], column))

    return convert


def tools_of(row: Row) -> tuple[Any, ...] | None:
    """The tools of a row: a list of objects, or one as JSON text; None where it has none."""
    tools = row.get("tools")
    if not tools or (isinstance(tools, str) and is_blank(tools)):
        return None
    found = listed(tools, "tools")
    for n, tool in enumerate(found):
        if not isinstance(tool, dict):
            raise Unfit(f"`tools[{n}]` is {kind(tool)}, expected an object")
    return tuple(found) or None


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
    rounds = listed(row["history"], "history") if row.get("history") else []
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
    return turns_in(value, column)


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
